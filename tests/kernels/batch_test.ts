import { assertEquals } from "@std/assert";
import { type BatchSpec, makeBatch } from "../../kernels/batch.ts";
import type { Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";
import { resizedBytes, shares } from "./resize_support.ts";

const COUNT = 6;
const mean = [0.49, 0.48, 0.45] as const, std = [0.25, 0.24, 0.26] as const;
const indices = new Uint32Array([4, 0, 5, 5, 1]);

function images({ height, width }: BatchSpec): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(Math.ceil(COUNT * height * width * 3 / 4) * 4);
  formula(bytes.length, 1).forEach((value, i) => bytes[i] = (value + 1) * 128);
  return bytes;
}

async function run(device: Device, spec: BatchSpec) {
  const bytes = images(spec);
  const labels = spec.labelBytes === 4
    ? Uint32Array.from({ length: COUNT }, (_, i) => 70000 + i)
    : Uint8Array.from({ length: 8 }, (_, i) => 200 + i);
  const at = {
    images: operand("images", bytes.length / 4),
    labels: operand("labels", labels.byteLength / 4),
    indices: operand("indices", spec.rows),
    x: operand("x", spec.rows * spec.outHeight * spec.outWidth * 4),
    y: operand("y", spec.rows),
  };
  const inputs = new Map<typeof at.x, ArrayBufferView<ArrayBuffer>>([
    [at.images, bytes],
    [at.labels, labels],
    [at.indices, indices],
  ]);
  const results = await runOnce(device, makeBatch(at, spec, device.capabilities), inputs, [at.x, at.y]);
  return { x: new Float32Array(results[0]), y: [...new Uint32Array(results[1], 0, spec.rows)], labels };
}

/** torchvision's order: to 0..1, resize with antialias, normalize. */
function reference(spec: BatchSpec): Float64Array {
  const { rows, height, width, outHeight, outWidth } = spec;
  const bytes = images(spec);
  const out = new Float64Array(rows * outHeight * outWidth * 4);
  const parts = (at: number, from: number, to: number) => shares((at + 0.5) * from / to, from / to, from);
  for (let row = 0; row < rows; row++) {
    const texel = (i: number, j: number, channel: number) =>
      bytes[((indices[row] * height + i) * width + j) * 3 + channel] / 255;
    for (let i = 0; i < outHeight; i++) {
      for (let j = 0; j < outWidth; j++) {
        for (let channel = 0; channel < 3; channel++) {
          let value = 0;
          for (const [r, a] of parts(i, height, outHeight)) {
            for (const [k, b] of parts(j, width, outWidth)) value += a * b * texel(r, k, channel);
          }
          out[((row * outHeight + i) * outWidth + j) * 4 + channel] = (value - mean[channel]) / std[channel];
        }
      }
    }
  }
  return out;
}

for (
  const [height, width, outHeight, outWidth, labelBytes] of [
    [8, 8, 8, 8, 1],
    [7, 5, 7, 5, 4],
    [7, 5, 16, 11, 1],
    [9, 11, 4, 5, 1],
    [13, 7, 5, 9, 1],
    [6, 31, 6, 3, 1],
    [32, 32, 12, 12, 1],
    [32, 32, 56, 56, 1],
  ] as const
) {
  const spec: BatchSpec = { rows: 5, height, width, outHeight, outWidth, mean, std, labelBytes };
  const what = `${height}x${width} to ${outHeight}x${outWidth}, labels of ${labelBytes} bytes`;
  gpuTest(`batch: ${what}`, async (device) => {
    const { x, y, labels } = await run(device, spec);
    assertClose(x, reference(spec), 1e-5, "x");
    assertEquals(x.find((value, i) => i % 4 === 3 && value !== 0), undefined, "the fourth channel");
    assertEquals(y, [...indices].map((index) => labels[index]));
  });
}

const golden = goldens("antialias"), [n, c, h, w] = golden.shape("antialias.x");

for (const key of golden.file.tensors.keys()) {
  const [, height, width] = key.match(/to(\d+)x(\d+)$/)?.map(Number) ?? [];
  if (!height) continue;
  gpuTest(`batch: PyTorch's antialiased ${h}x${w} to ${height}x${width}`, async (device) => {
    const y = await resizedBytes(device, golden.values("antialias.x"), { n, c, h, w }, height, width);
    assertClose(y, golden.values(key), 5e-6, key);
  });
}
