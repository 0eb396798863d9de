/** What an optimizer does with gradients: clip them, then PyTorch's SGD. */

import type { Capabilities } from "../kernels/device.ts";
import type { Dispatch, Operand } from "../kernels/dispatch.ts";
import { gradNorm } from "../kernels/grad_norm.ts";
import { unscale, updateLossScale } from "../kernels/loss_scale.ts";
import { checkNesterov, sgd } from "../kernels/sgd.ts";
import { AMOUNT, checkSettings } from "./number_check.ts";
import type { OptimizerChunk } from "./training_memory.ts";

/** PyTorch's SGD. */
export interface SgdSettings {
  /** 0 or more. Default 0.9. */
  readonly momentum?: number;
  /** L2, added to the gradient; 0 or more. Default 0. */
  readonly weightDecay?: number;
  /** Whether batch norm's parameters and biases decay too, as PyTorch's do unless told otherwise. Default true. */
  readonly decayVectors?: boolean;
  /** Default false. */
  readonly nesterov?: boolean;
}

/** How parameters follow their gradients. */
export interface UpdateSettings {
  /** Default: momentum 0.9. */
  readonly optimizer?: SgdSettings;
  /** Scale the gradients down to this norm, 0 or more; see `grad_norm.ts`. Default: they are left as they are. */
  readonly clipGradNorm?: number;
}

/**
 * @internal The optimizer's settings, with the defaults of those that are not given.
 *
 * @throws {RangeError} for settings out of bounds.
 * @throws {UserError} for Nesterov's momentum without a momentum.
 */
export function checkUpdate({ optimizer = {}, clipGradNorm }: UpdateSettings): Required<SgdSettings> {
  const { momentum = 0.9, weightDecay = 0, decayVectors = true, nesterov = false } = optimizer;
  checkSettings("update", { momentum, weightDecay, ...(clipGradNorm !== undefined && { clipGradNorm }) }, AMOUNT);
  if (nesterov) checkNesterov(momentum);
  return { momentum, weightDecay, decayVectors, nesterov };
}

/**
 * @internal One update of all parameters that learn: by the sums of gradients where the chunks have them.
 *
 * @throws As {@linkcode checkUpdate}.
 */
export function updateDispatches(
  chunks: readonly OptimizerChunk[],
  { norms, settings, lossScale }: {
    readonly norms: Operand;
    readonly settings: Operand;
    /** What the gradients were multiplied by, if they were. */
    readonly lossScale?: Operand;
  },
  update: UpdateSettings,
  caps: Capabilities,
): Dispatch[] {
  const { momentum, weightDecay, decayVectors, nesterov } = checkUpdate(update), { clipGradNorm } = update;
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
  for (const { elements, matrixElements, parameters, gradients, momentum: momentumBuffer } of followed) {
    const decayed = decayVectors ? elements : matrixElements;
    dispatches.push(...sgd(
      { parameters, gradients, momentumBuffer, settings, lossScale },
      { elements, momentum, weightDecay, decayed, nesterov },
      caps,
    ));
  }
  if (lossScale) dispatches.push(...updateLossScale({ lossScale, norms, settings }));
  return dispatches;
}
