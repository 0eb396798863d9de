/** The sizes of one 2-d convolution. */

import type { FilterShape, Shape } from "./layout.ts";

/** What a convolution is given: PyTorch's `Conv2d` settings and the input's size. */
export interface ConvGeometry {
  readonly input: Shape;
  readonly outChannels: number;
  readonly kernelHeight: number;
  readonly kernelWidth: number;
  readonly stride: number;
  readonly padding: number;
  readonly groups: number;
}

/** The output's size: `floor((in + 2 padding - kernel) / stride) + 1` each way. */
export function convOutput(geometry: ConvGeometry): Shape {
  const { input, outChannels, kernelHeight, kernelWidth, stride, padding } = geometry;
  return {
    n: input.n,
    h: Math.floor((input.h + 2 * padding - kernelHeight) / stride) + 1,
    w: Math.floor((input.w + 2 * padding - kernelWidth) / stride) + 1,
    c: outChannels,
  };
}

/** The weight's size, as PyTorch tells it. */
export function convFilter(geometry: ConvGeometry): FilterShape {
  const { input, outChannels, kernelHeight, kernelWidth, groups } = geometry;
  return { o: outChannels, i: input.c / groups, h: kernelHeight, w: kernelWidth, groups };
}

/** Floating-point operations of the forward pass (a multiply-add counts two); each gradient takes as many. */
export function convFlops(geometry: ConvGeometry): number {
  const { n, h, w, c } = convOutput(geometry);
  const { i, h: kh, w: kw } = convFilter(geometry);
  return 2 * n * h * w * c * i * kh * kw;
}

/** A convolution in words, to tell it from others. */
export function convKey(geometry: ConvGeometry): string {
  const { input: { n, h, w, c }, outChannels, groups, kernelHeight, kernelWidth, stride, padding } = geometry;
  return `${n}x${h}x${w}x${c} to ${outChannels} of ${groups} groups ` +
    `kernel ${kernelHeight}x${kernelWidth} stride ${stride} padding ${padding}`;
}
