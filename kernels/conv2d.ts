/**
 * 2-d convolution: which of the three families of kernels computes a geometry.
 *
 * Dense ones are matrix products; grouped ones of the usual widths have kernels that keep a group's filters in registers;
 * whatever is left (uneven or odd groups) has a plain kernel.
 */

import type { ConvGeometry } from "./conv_geometry.ts";
import type { ConvOptions, InputGradientOptions } from "./conv_options.ts";
import {
  denseForward,
  denseForwardChunkRows,
  denseInputGradient,
  denseInputGradientChunkRows,
  denseWeightGradient,
} from "./dense_conv.ts";
import type { Capabilities } from "./device.ts";
import { directForward, directInputGradient, directWeightGradient } from "./direct_conv.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { groupedForward, groupedInputGradient, groupedSupports, groupedWeightGradient } from "./grouped_conv.ts";

/** The kernels of one family. All activations NHWC, weights HWIO (see `layout.ts`). */
interface ConvKernels {
  forward(
    o: { x: Operand; weight: Operand; bias?: Operand; y: Operand },
    g: ConvGeometry,
    c: Capabilities,
    options?: ConvOptions,
  ): Dispatch[];
  inputGradient(
    o: { dy: Operand; weight: Operand; dx: Operand; addend?: Operand },
    g: ConvGeometry,
    c: Capabilities,
    options?: InputGradientOptions,
  ): Dispatch[];
  weightGradient(
    o: { x: Operand; dy: Operand; dweight: Operand; dbias?: Operand },
    g: ConvGeometry,
    c: Capabilities,
    options?: Pick<ConvOptions, "loadNorm">,
  ): Dispatch[];
  /** Rows that a pass can sum at a time, as {@linkcode ConvOptions} asks for; 0 where it cannot. */
  readonly chunkRows: {
    forward(g: ConvGeometry, bias: Operand | undefined, c: Capabilities): number;
    inputGradient(g: ConvGeometry, c: Capabilities): number;
  };
}

const noSums = { forward: () => 0, inputGradient: () => 0 };

const dense: ConvKernels = {
  forward: denseForward,
  inputGradient: denseInputGradient,
  weightGradient: denseWeightGradient,
  chunkRows: { forward: denseForwardChunkRows, inputGradient: denseInputGradientChunkRows },
};
const grouped: ConvKernels = {
  forward: groupedForward,
  inputGradient: groupedInputGradient,
  weightGradient: groupedWeightGradient,
  chunkRows: noSums,
};
const direct: ConvKernels = {
  forward: directForward,
  inputGradient: directInputGradient,
  weightGradient: directWeightGradient,
  chunkRows: noSums,
};

/** Whether a geometry's kernels take {@linkcode ConvOptions}. */
export function convTakesOptions(geometry: ConvGeometry): boolean {
  return convKernels(geometry) !== direct;
}

/** The kernels for a geometry. */
export function convKernels(geometry: ConvGeometry): ConvKernels {
  if (geometry.groups === 1) return dense;
  return groupedSupports(geometry) ? grouped : direct;
}
