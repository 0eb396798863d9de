/**
 * Grouped convolution whose groups fall together with vec4s: 1, 2 or 4 n channels wide. Forward pass, input gradient and
 * weight gradient; other groupings are for `direct_conv.ts`.
 */

import { convFlops, type ConvGeometry, convKey } from "./conv_geometry.ts";
import type { ConvOptions } from "./conv_options.ts";
import type { Capabilities } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { groupedWeightGradientDispatches, type WeightGradientOperands } from "./grouped_weight_gradient.ts";
import { type Gather, gatherDispatch } from "./grouped_gather.ts";
import { type GatherPlan, gatherPlans } from "./grouped_gather_plan.ts";
import { type Grouping, grouping } from "./grouped_tiling.ts";
import { chosenDispatches } from "./tuning.ts";

/** Whether these kernels take a convolution: both widths of a group 1 or 2, or each a multiple of 4; some tap on the input. */
export function groupedSupports(geometry: ConvGeometry): boolean {
  return grouping(geometry) !== undefined;
}

/** Operands of a forward pass. */
export interface ForwardOperands {
  readonly x: Operand;
  readonly weight: Operand;
  readonly bias?: Operand;
  readonly y: Operand;
}

/** `y = conv(x, weight) + bias`. */
export function groupedForward(
  { x, weight, bias, y }: ForwardOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
  { loadNorm, norm, residual, relu }: ConvOptions = {},
): Dispatch[] {
  return gather("forward", geometry, caps, {
    label: norm ? "conv2d.grouped.forward+batch_norm" : "conv2d.grouped.forward",
    source: x,
    weight,
    target: y,
    loadNorm,
    epilogue: { bias, norm, addend: residual, relu },
    flops: convFlops(geometry),
    bytes: x.byteLength + weight.byteLength + y.byteLength + (residual?.byteLength ?? 0),
  });
}

/** Operands of an input gradient. */
export interface InputGradientOperands {
  readonly dy: Operand;
  readonly weight: Operand;
  readonly dx: Operand;
  /** As large as `dx`: another gradient of the same input. */
  readonly addend?: Operand;
}

/** `dx = conv^T(dy, weight) + addend`. */
export function groupedInputGradient(
  { dy, weight, dx, addend }: InputGradientOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  return gather("dx", geometry, caps, {
    label: "conv2d.grouped.dx",
    source: dy,
    weight,
    target: dx,
    epilogue: { addend },
    flops: convFlops(geometry),
    bytes: dx.byteLength * (addend ? 2 : 1) + weight.byteLength + dy.byteLength,
  });
}

/** The dispatches of a pass that gathers, however it is cut. */
function gather(
  pass: "forward" | "dx",
  geometry: ConvGeometry,
  caps: Capabilities,
  what: Omit<Gather, keyof GatherPlan>,
): Dispatch[] {
  const plans = gatherPlans(geometry, supported(geometry), pass === "dx", caps);
  const key = `grouped ${pass} ${convKey(geometry)}${what.source.type === "f16" ? " f16" : ""}`;
  const variants = new Map(
    [...plans].map(([name, plan]) => [name, () => [gatherDispatch({ ...what, ...plan })]] as const),
  );
  return chosenDispatches({ key, variants, likely: caps.software ? 1 : variants.size }, caps.tuning);
}

/** `dweight`, and `dbias` (the column sum of `dy`) when asked for. */
export function groupedWeightGradient(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
  { loadNorm }: ConvOptions = {},
): Dispatch[] {
  return groupedWeightGradientDispatches({ ...operands, loadNorm }, geometry, supported(geometry), caps);
}

function supported(geometry: ConvGeometry): Grouping {
  const found = grouping(geometry);
  if (!found) {
    throw new Error(
      `No grouped kernel for ${geometry.input.c} -> ${geometry.outChannels} in ${geometry.groups} groups`,
    );
  }
  return found;
}
