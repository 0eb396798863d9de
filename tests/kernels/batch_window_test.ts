import { makeBatch } from "../../kernels/batch.ts";
import { operand } from "../../kernels/dispatch.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const SIZE = { height: 10, width: 12 }, OUT = 7;
const mean = [0.485, 0.456, 0.406] as const, std = [0.229, 0.224, 0.225] as const;
const indices = new Uint32Array([2, 0, 1]);
/** All of an image; a part between pixels, mirrored; a part of less than a pixel, at the edge. */
const windows = [[0, 0, 10, 12], [1.25, 9.5, 6.5, -7.75], [9.4, 0, 0.6, 0.5]];

gpuTest("a window of each image is resized to the batch's size", async (device) => {
  const bytes = new Uint8Array(3 * SIZE.height * SIZE.width * 3);
  formula(bytes.length, 1).forEach((value, i) => bytes[i] = (value + 1) * 128);
  const at = {
    images: operand("images", bytes.length / 4),
    labels: operand("labels", 1),
    indices: operand("indices", 3),
    window: operand("windows", 12),
    x: operand("x", 3 * OUT * OUT * 4),
    y: operand("y", 3),
  };
  const inputs = new Map<typeof at.x, ArrayBufferView<ArrayBuffer>>([
    [at.images, bytes],
    [at.labels, new Uint8Array(4)],
    [at.indices, indices],
    [at.window, new Float32Array(windows.flat())],
  ]);
  const spec = { rows: 3, ...SIZE, outHeight: OUT, outWidth: OUT, mean, std, labelBytes: 1 as const };
  const [x] = await runOnce(device, makeBatch(at, spec, device.capabilities), inputs, [at.x]);

  const expected: number[] = [];
  const taps = (out: number, start: number, extent: number, length: number) => {
    const place = Math.min(Math.max(start + (out + 0.5) * extent / OUT - 0.5, 0), length - 1);
    const low = Math.floor(place);
    return [[low, 1 - place + low], [Math.min(low + 1, length - 1), place - low]];
  };
  for (const [row, [top, left, height, width]] of windows.entries()) {
    for (let i = 0; i < OUT; i++) {
      for (let j = 0; j < OUT; j++) {
        for (let k = 0; k < 3; k++) {
          let value = 0;
          for (const [r, share] of taps(i, top, height, SIZE.height)) {
            for (const [c, part] of taps(j, left, width, SIZE.width)) {
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
