/** 2-d convolution with groups; a linear layer is the 1x1 convolution of a 1x1 image. */

import { batchNormApply } from "../../kernels/batch_norm.ts";
import { convFlops, type ConvGeometry, convOutput } from "../../kernels/conv_geometry.ts";
import { convKernels } from "../../kernels/conv2d.ts";
import type { Capabilities } from "../../kernels/device.ts";
import type { Operand } from "../../kernels/dispatch.ts";
import { padded, type Shape } from "../../kernels/layout.ts";
import { type RowChunks, rowChunks } from "../../kernels/row_sums.ts";
import type { Parameter } from "../state.ts";
import { apply, type Backward, type Lowering, type Operation, type Tensor } from "../tensor.ts";

/** PyTorch's settings of a convolution. */
export interface Conv2dSettings {
  /** Default 1. */
  readonly stride?: number;
  /** Zeros on each side. Default 0. */
  readonly padding?: number;
  /** Default 1. Divides the channels in and out. */
  readonly groups?: number;
}

/**
 * y = conv2d(x, weight) + bias, as `torch.nn.functional.conv2d`.
 *
 * @param weight `[out_channels, in_channels / groups, kernel, kernel]`, or `[out, in]` for a 1x1 kernel; made for as many
 * groups as the settings'.
 * @param bias `[out_channels]`
 * @throws {RangeError} when the sizes do not fit.
 */
export function conv2d(x: Tensor, weight: Parameter, bias?: Parameter, settings: Conv2dSettings = {}): Tensor {
  const { stride = 1, padding = 0, groups = 1 } = settings;
  const [outChannels, inPerGroup, kernelHeight = 1, kernelWidth = 1] = weight.shape;
  const geometry: ConvGeometry = { input: x.shape, outChannels, kernelHeight, kernelWidth, stride, padding, groups };
  const refuse = (why: string): never => {
    throw new RangeError(`Cannot convolve with stride ${stride}, padding ${padding} and ${groups} groups: ${why}`);
  };
  if (!(Number.isInteger(stride) && stride >= 1)) refuse("a stride is a whole number from 1 on");
  if (!(Number.isInteger(padding) && padding >= 0)) refuse("a padding is a whole number from 0 on");
  // The groups decide how the weight lies in memory.
  if (weight.groups !== groups) refuse(`the weight was made for ${weight.groups}`);
  if (bias && String(bias.shape) !== String([outChannels])) {
    refuse(`a bias of [${bias.shape}] for ${outChannels} outputs`);
  }
  if (x.shape.c !== inPerGroup * groups) {
    throw new RangeError(`Cannot convolve ${x.shape.c} channels: the weight takes ${inPerGroup * groups}`);
  }
  const y = convOutput(geometry);
  if (y.h < 1 || y.w < 1) {
    throw new RangeError(
      `Cannot convolve ${x.shape.h}x${x.shape.w} with a ${kernelHeight}x${kernelWidth} kernel and padding ${padding}: nothing is left`,
    );
  }
  return apply(new Conv2dOperation(weight, bias, { stride, padding, groups }), [x], y);
}

/** See {@linkcode conv2d}. */
export class Conv2dOperation implements Operation {
  readonly keepsPadding = true;

  /** A linear layer is a convolution of one pixel. */
  get name(): string {
    return this.weight.shape.length === 2 ? "linear" : "conv2d";
  }

  constructor(
    readonly weight: Parameter,
    readonly bias: Parameter | undefined,
    readonly settings: Required<Conv2dSettings>,
  ) {}

  get parameters(): readonly Parameter[] {
    return this.bias ? [this.weight, this.bias] : [this.weight];
  }

  /** The convolution's sizes for an input. */
  geometry(input: Shape): ConvGeometry {
    const [outChannels, , kernelHeight = 1, kernelWidth = 1] = this.weight.shape;
    return { input, outChannels, kernelHeight, kernelWidth, ...this.settings };
  }

  forward(lowering: Lowering, [input]: readonly Tensor[], y: Operand): Backward {
    const { caps } = lowering;
    const geometry = this.geometry(input.shape), kernels = convKernels(geometry);
    const { operand: x, norm: loadNorm } = lowering.load(input), weight = lowering.weight(this.weight);
    const bias = this.bias && lowering.state(this.bias);
    const moments = this.#moments(lowering, geometry, y);
    if (loadNorm && !forwardNormalizes(geometry, caps)) {
      const normal = lowering.activation("batch_norm.normalized", input.shape);
      const spec = { rows: pixels(input.shape), channels: input.shape.c, relu: loadNorm.relu };
      lowering.emit(batchNormApply({ x, statistics: loadNorm.statistics, y: normal }, spec, caps));
      lowering.emit(kernels.forward({ x: normal, weight, bias, y }, geometry, caps, { moments }));
    } else {
      lowering.emit(kernels.forward({ x, weight, bias, y }, geometry, caps, { loadNorm, moments }));
    }
    return (dy) => {
      const dweight = lowering.parameterGradient(this.weight);
      const dbias = this.bias && lowering.parameterGradient(this.bias);
      lowering.emit(kernels.weightGradient({ x, dy, dweight, dbias }, geometry, caps, { loadNorm }));
      lowering.addGradient(input, (addend, norm) => {
        const dx = lowering.activation("conv2d.dx", input.shape);
        const chunkRows = norm ? kernels.chunkRows.inputGradient(geometry, caps) : 0;
        const sums = norm && chunkRows > 0 ? { norm, chunks: chunksOf(input.shape, chunkRows) } : undefined;
        lowering.emit(kernels.inputGradient({ dy, weight, dx, addend }, geometry, caps, { sums }));
        if (sums) lowering.noteSums(dx, sums.norm, sums.chunks);
        return dx;
      });
    };
  }

  /** Where the output's moments go, if they are wanted and the kernels have them. */
  #moments(lowering: Lowering, geometry: ConvGeometry, y: Operand): RowChunks | undefined {
    if (!lowering.wantsMoments(y)) return undefined;
    const bias = this.bias && lowering.state(this.bias);
    const chunkRows = convKernels(geometry).chunkRows.forward(geometry, bias, lowering.caps);
    if (chunkRows === 0) return undefined;
    const moments = chunksOf(convOutput(geometry), chunkRows);
    lowering.noteMoments(y, moments);
    return moments;
  }

  flops([input]: readonly Tensor[]): number {
    return convFlops(this.geometry(input.shape));
  }
}

/**
 * Whether the forward pass should normalize what it loads, where it can. A matrix product in software should not: each of
 * its loads would take two more, beside which a pass that normalizes once is cheap. Its result is let go at once, and the
 * weight gradient, whose columns are the same from load to load, normalizes again.
 */
function forwardNormalizes({ groups }: ConvGeometry, { software }: Capabilities): boolean {
  return groups > 1 || !software;
}

function pixels({ n, h, w }: Shape): number {
  return n * h * w;
}

function chunksOf(shape: Shape, chunkRows: number): RowChunks {
  return rowChunks("batch_norm.partials", pixels(shape), padded(shape.c), chunkRows);
}
