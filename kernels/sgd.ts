/** Stochastic gradient descent, by PyTorch's rule. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";
import { LOSS_SCALE, readLossScale } from "./loss_scale.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";
import { UserError } from "./user_error.ts";

/** Settings of {@linkcode sgd}; the learning rate comes with each step's settings. */
export interface SgdSpec {
  /** Floats, padding included. */
  readonly elements: number;
  readonly momentum: number;
  readonly weightDecay: number;
  /** Weight decay is for the first so many elements, a multiple of four; default all. */
  readonly decayed?: number;
  /** Nesterov's momentum, which needs a momentum above zero. */
  readonly nesterov: boolean;
}

/** Operands of {@linkcode sgd}, all of the same size but the settings. */
export interface SgdOperands {
  /** Read and updated. */
  readonly parameters: Operand;
  readonly gradients: Operand;
  /** Read and updated; zero before the first step. Needed with momentum only. */
  readonly momentumBuffer?: Operand;
  /** See `step_settings.ts`. */
  readonly settings: Operand;
  /** See `loss_scale.ts`: where it says that gradients overflowed, nothing is changed. */
  readonly lossScale?: Operand;
}

/**
 * One step over contiguous parameters, as `torch.optim.SGD` does it (dampening 0):
 *
 *     d = gradient + weightDecay * parameter
 *     buffer = momentum * buffer + d
 *     parameter -= learningRate * (nesterov ? d + momentum * buffer : buffer)
 *
 * A buffer of zeros makes the first step PyTorch's, whose buffer starts as `d`. Padding stays zero.
 *
 * @throws {UserError} for Nesterov without momentum.
 */
export function sgd(operands: SgdOperands, spec: SgdSpec, caps: Capabilities): Dispatch[] {
  const { parameters, gradients, momentumBuffer, settings, lossScale } = operands;
  const { elements, momentum, weightDecay, decayed = elements, nesterov } = spec;
  if (nesterov) checkNesterov(momentum);
  if (momentum !== 0 && !momentumBuffer) throw new Error("SGD with momentum needs a momentum buffer");
  const decays = weightDecay !== 0 && decayed > 0;
  const decay = (k: number) =>
    decayed < elements ? `select(0.0, WEIGHT_DECAY, at${k} < DECAYED) * p${k}` : `WEIGHT_DECAY * p${k}`;
  const buffer = momentum !== 0 ? momentumBuffer : undefined;
  return [each(
    "sgd",
    {
      parameters: write(parameters),
      gradients: read(gradients),
      ...(buffer && { momentum_buffer: write(buffer) }),
      settings: readStepSettings(settings),
      ...(lossScale && { loss_scale: readLossScale(lossScale) }),
    },
    {
      load: (k) =>
        `let p${k} = parameters[at${k}]; let g${k} = gradients[at${k}];` +
        (buffer ? `let b${k} = momentum_buffer[at${k}];` : ""),
      use: (k) => {
        const lines = [`let d${k} = g${k}${decays ? ` + ${decay(k)}` : ""};`];
        let direction = `d${k}`;
        if (buffer) {
          lines.push(`let m${k} = MOMENTUM * b${k} + d${k};`, `momentum_buffer[at${k}] = m${k};`);
          direction = nesterov ? `(d${k} + MOMENTUM * m${k})` : `m${k}`;
        }
        return [...lines, `parameters[at${k}] = p${k} - rate * ${direction};`].join("\n");
      },
    },
    {
      elements,
      caps,
      constants: {
        MOMENTUM: f32(momentum),
        WEIGHT_DECAY: f32(weightDecay),
        ...(decays && decayed < elements && { DECAYED: decayed / 4 }),
      },
      functions: STEP_SETTINGS + (lossScale ? LOSS_SCALE : ""),
      setup: `${lossScale ? "if (loss_scale.found != 0u) { return; }\n  " : ""}let rate = settings.learning_rate;`,
      flops: elements * (2 + (decays ? 2 : 0) + (buffer ? 2 : 0) + (nesterov ? 2 : 0)),
      bytes: elements * 4 * (buffer ? 5 : 3) + settings.byteLength,
    },
  )];
}

/** @throws {UserError} for a momentum that is not above zero. */
export function checkNesterov(momentum: number): void {
  if (momentum > 0) return;
  throw new UserError(`Cannot use Nesterov's momentum: the momentum is ${momentum}; set one above zero`);
}
