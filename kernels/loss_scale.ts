/**
 * Loss scaling, as PyTorch's `GradScaler` does it, without the host. Gradients of activations are small: as halves many
 * would be zero. So the loss's gradient is multiplied by a scale and the parameters' divided by it; where they overflow,
 * the step is left out and the scale halved; after many steps without one it is doubled.
 *
 * Micikevicius et al., "Mixed Precision Training" (2018), section 3.2.
 */

import type { Capabilities } from "./device.ts";
import { type Binding, type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";

/** The scale's state on the host. */
export interface LossScaleState {
  /** A power of two, so that scaling rounds nothing. */
  readonly scale: number;
  /** Steps since it last changed. */
  readonly goodSteps: number;
}

/** What `GradScaler` begins with. */
export const FIRST_LOSS_SCALE: LossScaleState = { scale: 65536, goodSteps: 0 };

/** Steps without an overflow after which the scale is doubled: `GradScaler`'s. */
export const GROWTH_INTERVAL = 2000;

/** The scale stays between these powers of two, whose reciprocals are float32 numbers too. */
export const LOSS_SCALE_BOUNDS: readonly [least: number, most: number] = [2 ** -100, 2 ** 100];

/** WGSL of the operand's type, in the order that {@linkcode encodeLossScale} writes. */
const lossScaleType = (found: "u32" | "atomic<u32>") => /* wgsl */ `
struct LossScale {
  scale: f32,
  inverse: f32,
  good_steps: u32,
  found: ${found},
}`;

/** For kernels that read the scale: their source includes it. */
export const LOSS_SCALE = lossScaleType("u32");

/** A new operand of the right size. */
export function lossScaleOperand(): Operand {
  return operand("loss scale", 4);
}

/** Binds the loss scale; the kernel's source includes {@linkcode LOSS_SCALE}. */
export function readLossScale(lossScale: Operand): Binding {
  return read(lossScale, "LossScale");
}

/** The operand's bytes. */
export function encodeLossScale({ scale, goodSteps }: LossScaleState): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(16));
  view.setFloat32(0, scale, true);
  view.setFloat32(4, 1 / scale, true);
  view.setUint32(8, goodSteps, true);
  return new Uint8Array(view.buffer);
}

/** Reads what {@linkcode encodeLossScale} wrote and kernels changed. */
export function decodeLossScale(bytes: ArrayBuffer): LossScaleState {
  const view = new DataView(bytes);
  return { scale: view.getFloat32(0, true), goodSteps: view.getUint32(8, true) };
}

/**
 * `gradients /= scale`, over contiguous parameters; where one is NaN or infinite, the state says so from then on.
 * `elements` are floats, padding included. Bits are compared, as compilers may take it for granted that there is no NaN.
 */
export function unscale(
  { gradients, lossScale }: { readonly gradients: Operand; readonly lossScale: Operand },
  elements: number,
  caps: Capabilities,
): Dispatch[] {
  return [each("unscale", { gradients: write(gradients), loss_scale: write(lossScale, "LossScale") }, {
    load: (k) => `let g${k} = gradients[at${k}];`,
    use: (k) =>
      `if (any((bitcast<vec4u>(g${k}) & vec4u(0x7f800000u)) == vec4u(0x7f800000u))) { atomicMax(&loss_scale.found, 1u); }
    gradients[at${k}] = g${k} * inverse;`,
  }, {
    elements,
    flops: elements,
    bytes: elements * 8 + lossScale.byteLength,
    caps,
    functions: lossScaleType("atomic<u32>"),
    setup: "let inverse = loss_scale.inverse;",
  })];
}

/**
 * What follows the optimizer: the scale halved where the step was left out, doubled after {@linkcode GROWTH_INTERVAL}
 * steps that were not. Tells the scale that the step had, and whether it was left out, in the last two floats of the
 * slot's entry of `norms` (see `grad_norm.ts`), whose norm it takes away where it is none.
 */
export function updateLossScale(
  { lossScale, norms, settings }: {
    readonly lossScale: Operand;
    readonly norms: Operand;
    /** See `step_settings.ts`. */
    readonly settings: Operand;
  },
): Dispatch[] {
  const [least, most] = LOSS_SCALE_BOUNDS;
  return [{
    label: "loss_scale.update",
    bindings: {
      loss_scale: write(lossScale, "LossScale"),
      norms: write(norms),
      settings: readStepSettings(settings),
    },
    constants: { GROWTH_INTERVAL, LEAST: { f32: least }, MOST: { f32: most } },
    source: /* wgsl */ `
${STEP_SETTINGS}
${LOSS_SCALE}
@compute @workgroup_size(1)
fn main() {
  let scale = loss_scale.scale;
  let found = loss_scale.found != 0u;
  norms[settings.slot] = select(vec4f(norms[settings.slot].xy, scale, 0.0), vec4f(0.0, 0.0, scale, 1.0), found);
  let good_steps = select(loss_scale.good_steps + 1u, 0u, found);
  let grows = good_steps >= GROWTH_INTERVAL;
  var factor = 1.0;
  if (found && scale > LEAST) { factor = 0.5; }
  if (grows && scale < MOST) { factor = 2.0; }
  loss_scale.scale = scale * factor;
  // Both are powers of two: exact, where a division may be a bit off.
  loss_scale.inverse *= select(select(1.0, 2.0, factor < 1.0), 0.5, factor > 1.0);
  loss_scale.good_steps = select(good_steps, 0u, grows);
  loss_scale.found = 0u;
}`,
    workgroups: [1, 1, 1],
    flops: 2,
    bytes: 64,
  }];
}
