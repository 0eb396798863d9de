/** Convolution by its definition, in float64, NCHW: what kernels are held against where PyTorch's values are lacking. */

import { convFilter, type ConvGeometry, convOutput } from "../../kernels/conv_geometry.ts";

/** Output and gradients of one convolution. Layouts are PyTorch's. */
export function referenceConv(
  geometry: ConvGeometry,
  { x, weight, bias, dy }: { x: Float32Array; weight: Float32Array; bias?: Float32Array; dy: Float32Array },
) {
  const { input, stride, padding, groups } = geometry;
  const out = convOutput(geometry), filter = convFilter(geometry);
  const y = new Float64Array(out.n * out.c * out.h * out.w);
  const dx = new Float64Array(x.length), dweight = new Float64Array(weight.length), dbias = new Float64Array(out.c);
  const outPerGroup = out.c / groups;
  for (let n = 0; n < out.n; n++) {
    for (let o = 0; o < out.c; o++) {
      const firstChannel = Math.floor(o / outPerGroup) * filter.i;
      for (let oh = 0; oh < out.h; oh++) {
        for (let ow = 0; ow < out.w; ow++) {
          const at = ((n * out.c + o) * out.h + oh) * out.w + ow;
          y[at] = bias?.[o] ?? 0;
          dbias[o] += dy[at];
          for (let i = 0; i < filter.i; i++) {
            for (let kh = 0; kh < filter.h; kh++) {
              const h = oh * stride - padding + kh;
              if (h < 0 || h >= input.h) continue;
              for (let kw = 0; kw < filter.w; kw++) {
                const w = ow * stride - padding + kw;
                if (w < 0 || w >= input.w) continue;
                const from = ((n * input.c + firstChannel + i) * input.h + h) * input.w + w;
                const tap = ((o * filter.i + i) * filter.h + kh) * filter.w + kw;
                y[at] += x[from] * weight[tap];
                dx[from] += dy[at] * weight[tap];
                dweight[tap] += dy[at] * x[from];
              }
            }
          }
        }
      }
    }
  }
  return {
    y: Float32Array.from(y),
    dx: Float32Array.from(dx),
    dweight: Float32Array.from(dweight),
    dbias: Float32Array.from(dbias),
  };
}
