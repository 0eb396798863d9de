import { makeBatch } from "../../kernels/batch.ts";
import { operand } from "../../kernels/dispatch.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, gpuTest } from "../support.ts";
import { shares } from "./resize_support.ts";

const SIZE = { height: 10, width: 12 };
const mean = [0.485, 0.456, 0.406] as const, std = [0.229, 0.224, 0.225] as const;
const indices = new Uint32Array([2, 0, 1, 1]);
/** All of an image; parts between pixels, mirrored, and large one way only; a part of less than a pixel, at the edge. */
const windows = [[0, 0, 10, 12], [1.25, 9.5, 6.5, -7.75], [0.5, 2.25, 2.5, 9.75], [9.4, 0, 0.6, 0.5]];

for (const out of [3, 7, 14]) {
  gpuTest(`a window of each image is resized to the batch's size, ${out}x${out}`, async (device) => {
    const bytes = new Uint8Array(3 * SIZE.height * SIZE.width * 3);
    formula(bytes.length, 1).forEach((value, i) => bytes[i] = (value + 1) * 128);
    const rows = windows.length;
    const at = {
      images: operand("images", bytes.length / 4),
      labels: operand("labels", 1),
      indices: operand("indices", rows),
      window: operand("windows", rows * 4),
      x: operand("x", rows * out * out * 4),
      y: operand("y", rows),
    };
    const inputs = new Map<typeof at.x, ArrayBufferView<ArrayBuffer>>([
      [at.images, bytes],
      [at.labels, new Uint8Array(4)],
      [at.indices, indices],
      [at.window, new Float32Array(windows.flat())],
    ]);
    const spec = { rows, ...SIZE, outHeight: out, outWidth: out, mean, std, labelBytes: 1 as const };
    const [x] = await runOnce(device, makeBatch(at, spec, device.capabilities), inputs, [at.x]);

    const expected: number[] = [];
    const parts = (at: number, start: number, extent: number, length: number) =>
      shares(start + (at + 0.5) * extent / out, Math.abs(extent) / out, length);
    for (const [row, [top, left, height, width]] of windows.entries()) {
      for (let i = 0; i < out; i++) {
        for (let j = 0; j < out; j++) {
          for (let k = 0; k < 3; k++) {
            let value = 0;
            for (const [r, share] of parts(i, top, height, SIZE.height)) {
              for (const [c, part] of parts(j, left, width, SIZE.width)) {
                value += share * part * bytes[((indices[row] * SIZE.height + r) * SIZE.width + c) * 3 + k];
              }
            }
            expected.push((value / 255 - mean[k]) / std[k]);
          }
          expected.push(0);
        }
      }
    }
    assertClose(new Float32Array(x), Float32Array.from(expected), 1e-4, "windows");
  });
}
