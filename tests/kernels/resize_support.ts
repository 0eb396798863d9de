/** What the tests of resizing share: the definition in float64, and a batch made of PyTorch's pixels. */

import { makeBatch } from "../../kernels/batch.ts";
import type { Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { fromNhwc, type Shape } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";

/**
 * Which of `length` pixels are in an output pixel about `centre`, and how much of each, by the definition of PyTorch's
 * `interpolate(mode="bilinear", antialias=True)`: a triangle that reaches `scale` pixels, or one where that is more. A centre
 * beyond the outer pixels' stands for theirs.
 */
export function shares(centre: number, scale: number, length: number): [pixel: number, share: number][] {
  const inside = Math.min(Math.max(centre, 0.5), length - 0.5), reach = Math.max(scale, 1);
  const all = Array.from({ length }, (_, i) => Math.max(0, 1 - Math.abs(i + 0.5 - inside) / reach));
  const sum = all.reduce((total, share) => total + share, 0);
  return all.flatMap((share, i): [number, number][] => share > 0 ? [[i, share / sum]] : []);
}

/** RGB images of whole numbers from 0 to 255, NCHW, as the library resizes a data set's: NCHW, from 0 to 1. */
export async function resizedBytes(
  device: Device,
  x: Float32Array,
  { n, h, w }: Shape,
  outHeight: number,
  outWidth: number,
): Promise<Float32Array> {
  const bytes = new Uint8Array(Math.ceil(n * h * w * 3 / 4) * 4);
  for (let i = 0; i < n * h * w * 3; i++) {
    const channel = i % 3, pixel = Math.floor(i / 3) % (h * w), image = Math.floor(i / 3 / h / w);
    bytes[i] = x[(image * 3 + channel) * h * w + pixel];
  }
  const at = {
    images: operand("images", bytes.length / 4),
    labels: operand("labels", n),
    indices: operand("indices", n),
    x: operand("x", n * outHeight * outWidth * 4),
    y: operand("y", n),
  };
  const inputs = new Map<typeof at.x, ArrayBufferView<ArrayBuffer>>([
    [at.images, bytes],
    [at.labels, new Uint32Array(n)],
    [at.indices, Uint32Array.from({ length: n }, (_, i) => i)],
  ]);
  const mean = [0, 0, 0] as const, std = [1, 1, 1] as const;
  const spec = { rows: n, height: h, width: w, outHeight, outWidth, mean, std, labelBytes: 4 as const };
  const [pixels] = await runOnce(device, makeBatch(at, spec, device.capabilities), inputs, [at.x]);
  return fromNhwc(new Float32Array(pixels), { n, h: outHeight, w: outWidth, c: 3 });
}
