/**
 * AdamW, by PyTorch's rule. What its rule needs of how many steps have been done lies on the device, as only there it is
 * known: in half precision a step whose gradients overflowed does not count.
 *
 * Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2.
 */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";
import { LOSS_SCALE, readLossScale } from "./loss_scale.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";

/** The least `eps`: padding is 0 / eps, for which it must be a number that float32 holds and no device takes for zero. */
export const LEAST_EPS = 1e-30;

/** Decays of the two averages, each from 0 to below 1. */
export type Betas = readonly [first: number, second: number];

/** Settings of {@linkcode adamw}; the learning rate comes with each step's settings. */
export interface AdamWSpec {
  /** Floats, padding included. */
  readonly elements: number;
  readonly betas: Betas;
  /** At least {@linkcode LEAST_EPS}. */
  readonly eps: number;
  readonly weightDecay: number;
  /** Weight decay is for the first so many elements, a multiple of four; default all. */
  readonly decayed?: number;
}

/** Operands of {@linkcode adamw}, all of the same size but the last three. */
export interface AdamWOperands {
  /** Read and updated. */
  readonly parameters: Operand;
  readonly gradients: Operand;
  /** The gradients' moving average: read and updated; zero before the first step. */
  readonly expAvg: Operand;
  /** As `expAvg`, of their squares. */
  readonly expAvgSq: Operand;
  /** Of {@linkcode countStep}, which comes first. */
  readonly steps: Operand;
  /** See `step_settings.ts`. */
  readonly settings: Operand;
  /** See `loss_scale.ts`: where it says that gradients overflowed, nothing is changed. */
  readonly lossScale?: Operand;
}

/** WGSL of the type of the steps' operand: their count, and what follows from it. */
const STEPS = /* wgsl */ `
struct Steps {
  count: u32,
  first: f32,
  second: f32,
}`;

/** A new operand of the right size. */
export function stepsOperand(): Operand {
  return operand("optimizer steps", 4);
}

/** The operand's bytes. */
export function encodeSteps(count: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Uint32Array.of(count, 0, 0, 0).buffer);
}

/** Reads the count that {@linkcode encodeSteps} wrote and {@linkcode countStep} changed. */
export function decodeSteps(bytes: ArrayBuffer): number {
  return new Uint32Array(bytes)[0];
}

/**
 * Counts a step, unless it is left out, and prepares the corrections of averages that began at zero, for all elements alike:
 * `first = 1 / (1 - beta1^count)`, `second = 1 / sqrt(1 - beta2^count)`.
 *
 * A power near 1 would leave few digits of the difference. So it is the difference `e(t) = 1 - beta^t` that is multiplied
 * up, from `e(1)`, which the host knows, by `e(s + t) = e(s) + e(t) (1 - e(s))`: nothing cancels, and of sums and products
 * alone come the same bits on every device.
 */
export function countStep(
  { steps, lossScale }: Pick<AdamWOperands, "steps" | "lossScale">,
  [first, second]: Betas,
): Dispatch[] {
  return [{
    label: "adamw.count",
    bindings: { steps: write(steps, "Steps"), ...(lossScale && { loss_scale: readLossScale(lossScale) }) },
    constants: { REST1: f32(1 - first), REST2: f32(1 - second) },
    source: /* wgsl */ `
${STEPS}
${lossScale ? LOSS_SCALE : ""}
fn missing(rest: f32, count: u32) -> f32 {
  var sum = 0.0;
  var power = rest;
  for (var left = count; left > 0u; left >>= 1u) {
    if ((left & 1u) != 0u) { sum += power * (1.0 - sum); }
    power *= 2.0 - power;
  }
  return sum;
}

@compute @workgroup_size(1)
fn main() {
  ${lossScale ? "if (loss_scale.found != 0u) { return; }" : ""}
  let count = steps.count + 1u;
  steps.count = count;
  steps.first = 1.0 / missing(REST1, count);
  steps.second = 1.0 / sqrt(missing(REST2, count));
}`,
    workgroups: [1, 1, 1],
    flops: 0,
    bytes: 2 * steps.byteLength,
  }];
}

/**
 * One step over contiguous parameters, as `torch.optim.AdamW` does it (without `amsgrad`):
 *
 *     parameter -= learningRate * weightDecay * parameter
 *     expAvg     = beta1 * expAvg + (1 - beta1) * gradient
 *     expAvgSq   = beta2 * expAvgSq + (1 - beta2) * gradient^2
 *     parameter -= learningRate * first * expAvg / (sqrt(expAvgSq) * second + eps)
 *
 * Padding stays zero.
 */
export function adamw(operands: AdamWOperands, spec: AdamWSpec, caps: Capabilities): Dispatch[] {
  const { parameters, gradients, expAvg, expAvgSq, steps, settings, lossScale } = operands;
  const { elements, betas: [first, second], eps, weightDecay, decayed = elements } = spec;
  const decays = weightDecay !== 0 && decayed > 0;
  const decay = (k: number) => decayed < elements ? `select(0.0, decay, at${k} < DECAYED) * p${k}` : `decay * p${k}`;
  return [each(
    "adamw",
    {
      parameters: write(parameters),
      gradients: read(gradients),
      exp_avg: write(expAvg),
      exp_avg_sq: write(expAvgSq),
      steps: read(steps, "Steps"),
      settings: readStepSettings(settings),
      ...(lossScale && { loss_scale: readLossScale(lossScale) }),
    },
    {
      load: (k) =>
        `let p${k} = parameters[at${k}]; let g${k} = gradients[at${k}];
    let a${k} = exp_avg[at${k}]; let s${k} = exp_avg_sq[at${k}];`,
      use: (k) =>
        `let m${k} = BETA1 * a${k} + REST1 * g${k};
    let v${k} = BETA2 * s${k} + REST2 * g${k} * g${k};
    exp_avg[at${k}] = m${k};
    exp_avg_sq[at${k}] = v${k};
    let d${k} = ${decays ? `p${k} - ${decay(k)}` : `p${k}`};
    parameters[at${k}] = d${k} - size * (m${k} / (sqrt(v${k}) * steps.second + EPS));`,
    },
    {
      elements,
      caps,
      constants: {
        BETA1: f32(first),
        BETA2: f32(second),
        REST1: f32(1 - first),
        REST2: f32(1 - second),
        EPS: f32(eps),
        ...(decays && { WEIGHT_DECAY: f32(weightDecay) }),
        ...(decays && decayed < elements && { DECAYED: decayed / 4 }),
      },
      functions: STEP_SETTINGS + STEPS + (lossScale ? LOSS_SCALE : ""),
      setup: [
        lossScale ? "if (loss_scale.found != 0u) { return; }" : "",
        "let size = settings.learning_rate * steps.first;",
        decays ? "let decay = settings.learning_rate * WEIGHT_DECAY;" : "",
      ].join("\n  "),
      flops: elements * (13 + (decays ? 2 : 0)),
      bytes: elements * 28 + steps.byteLength + settings.byteLength,
    },
  )];
}
