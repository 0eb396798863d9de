/** What is done with gradients: clip them, then the optimizer's step. */

import type { Capabilities } from "../kernels/device.ts";
import type { Dispatch, Operand } from "../kernels/dispatch.ts";
import { gradNorm } from "../kernels/grad_norm.ts";
import { unscale, updateLossScale } from "../kernels/loss_scale.ts";
import { AMOUNT, checkSettings } from "./number_check.ts";
import { type Optimizer, optimizerOf, type OptimizerOperands, type OptimizerSettings } from "./optimizers.ts";
import type { OptimizerChunk } from "./training_memory.ts";

/** How parameters follow their gradients. */
export interface UpdateSettings {
  /** Default: SGD with momentum 0.9. */
  readonly optimizer?: OptimizerSettings;
  /** Scale the gradients down to this norm, 0 or more; see `grad_norm.ts`. Default: they are left as they are. */
  readonly clipGradNorm?: number;
}

/** @internal An update that was asked for. */
export interface Update {
  readonly optimizer: Optimizer;
  readonly clipGradNorm?: number;
}

/** @internal Reads settings. @throws As {@linkcode optimizerOf}; {RangeError} for a norm out of bounds. */
export function updateOf({ optimizer, clipGradNorm }: UpdateSettings): Update {
  const found = optimizerOf(optimizer);
  if (clipGradNorm !== undefined) checkSettings("update", { clipGradNorm }, AMOUNT);
  return { optimizer: found, clipGradNorm };
}

/** @internal One update of all parameters that learn: by the sums of gradients where the chunks have them. */
export function updateDispatches(
  chunks: readonly OptimizerChunk[],
  { norms, ...operands }: OptimizerOperands & { readonly norms: Operand },
  { optimizer, clipGradNorm }: Update,
  caps: Capabilities,
): Dispatch[] {
  const { settings, lossScale } = operands;
  const followed = chunks.map((chunk) => ({ ...chunk, gradients: chunk.sums ?? chunk.gradients }));
  const dispatches: Dispatch[] = [];
  if (lossScale) {
    dispatches.push(
      ...followed.flatMap(({ gradients, elements }) => unscale({ gradients, lossScale }, elements, caps)),
    );
  }
  if (clipGradNorm !== undefined) {
    dispatches.push(...gradNorm({ chunks: followed, norms, settings, lossScale }, { maxNorm: clipGradNorm }, caps));
  }
  dispatches.push(...optimizer.dispatches(followed, operands, caps));
  if (lossScale) dispatches.push(...updateLossScale({ lossScale, norms, settings }));
  return dispatches;
}
