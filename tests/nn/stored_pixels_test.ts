import { assertEquals, assertThrows } from "@std/assert";
import { DeviceImages, ImageSource, type LabelledImages, type StoredPixels } from "../../nn/image_source.ts";
import { Program } from "../../kernels/program.ts";
import { formula, gpuTest } from "../support.ts";
import type { Device } from "../../kernels/device.ts";

/** Odd sizes: an image is no whole number of words. */
const COUNT = 9, HEIGHT = 5, WIDTH = 3, BYTES = HEIGHT * WIDTH * 3;
const all = Uint8Array.from(formula(COUNT * BYTES, 2), (value) => (value + 1) * 127);
const labels = Uint32Array.from({ length: COUNT }, (_, i) => 300 + i);
const stored: StoredPixels = {
  imageBytes: BYTES,
  read: (image, into) => into.set(all.subarray(image * BYTES, (image + 1) * BYTES)),
};
const input = { height: HEIGHT, width: WIDTH, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4], imageSize: 8 } as const;
const indices = new Uint32Array([8, 0, 3]);
const windows = new Float32Array([0, 0, 5, 3, 1.5, 2.5, 2, -2, 0, 1, 4, 1]);

/** What the batch is on the device: pixels and labels. */
async function batch(device: Device, set: LabelledImages, stream: boolean, crops: boolean) {
  const images = await DeviceImages.create(device, set, { stream });
  const source = await ImageSource.create(images, input, 3, { windows: crops });
  const x = await device.buffer("x", source.x.byteLength), y = await device.buffer("y", source.labels.byteLength);
  const program = await Program.create(device, source.dispatches(device.capabilities), (operand) => {
    if (operand === source.x) return { buffer: x, offset: 0 };
    return operand === source.labels ? { buffer: y, offset: 0 } : source.place(operand)!;
  });
  source.load(crops ? { indices, windows } : indices);
  program.submit(device);
  const pixels = new Float32Array(await device.read(x, 0, x.size));
  const found = [...new Uint32Array(await device.read(y, 0, 12))];
  for (const each of [x, y]) each.destroy();
  source.destroy();
  images.destroy();
  return { pixels: [...pixels], labels: found };
}

gpuTest("images in memory or in a file, on the device or streamed, make the same batch", async (device) => {
  for (const crops of [false, true]) {
    const wanted = await batch(device, { count: COUNT, images: all, labels }, false, crops);
    assertEquals(wanted.labels, [308, 300, 303]);
    for (const [images, stream] of [[stored, false], [stored, true], [all, true]] as const) {
      assertEquals(await batch(device, { count: COUNT, images, labels }, stream, crops), wanted);
    }
  }
});

gpuTest("windows are given where the source is for them, and nowhere else", async (device) => {
  const images = await DeviceImages.create(device, { count: COUNT, images: stored, labels });
  const whole = await ImageSource.create(images, input, 3);
  const parts = await ImageSource.create(images, input, 3, { windows: true });
  assertThrows(() => whole.load({ indices, windows }), RangeError, "window numbers");
  assertThrows(() => parts.load(indices), RangeError, "window numbers");
  assertThrows(() => parts.load({ indices, windows: windows.subarray(4) }), RangeError, "window numbers");
  for (const each of [whole, parts, images]) each.destroy();
});
