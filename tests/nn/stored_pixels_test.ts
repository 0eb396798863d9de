import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { DeviceImages, ImageSource } from "../../nn/image_source.ts";
import type { LabelledImages, StoredPixels } from "../../nn/labelled_images.ts";
import { Program } from "../../kernels/program.ts";
import { formula, gpuTest, trackBuffers } from "../support.ts";
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
  const doubles = new Float64Array(windows) as unknown as Float32Array<ArrayBuffer>;
  assertThrows(() => parts.load({ indices, windows: doubles }), TypeError, "Cannot load windows in Float64Array");
  for (const each of [whole, parts, images]) each.destroy();
});

gpuTest("a window that shows nothing of its image is refused, and the image named", async (device) => {
  const images = await DeviceImages.create(device, { count: COUNT, images: stored, labels });
  const parts = await ImageSource.create(images, input, 3, { windows: true });
  const load = (window: readonly number[]) => {
    const all = windows.slice();
    all.set(window, 4);
    return parts.load({ indices, windows: all });
  };
  // The image is 5 high and 3 wide.
  const inside = [[0, 0, 5, 3], [-2, -2, 8, 8], [4, 2, 9, 9], [0, 3, 5, -3], [-1, -0.5, 1.25, 0.75], [4.5, 3.5, 1, -1]];
  for (const window of inside) assertEquals(load(window), 3);
  const outside = [
    ...[[NaN, 0, 5, 3], [0, NaN, 5, 3], [0, 0, 5, NaN], [0, 0, Infinity, 3], [0, 0, 5, -Infinity]],
    ...[[0, 0, 0, 0], [0, 0, 5, 0], [1, 0, -1, 3]],
    ...[[5, 0, 1, 3], [-1, 0, 1, 3], [0, 3, 5, 1], [0, -1, 5, 1], [0, 0, 5, -1], [0, 4, 5, -1]],
  ];
  for (const window of outside) {
    assertThrows(() => load(window), RangeError, `Cannot load image 0 by the window [${window}]: it must`);
  }
  for (const each of [parts, images]) each.destroy();
});

gpuTest("an image that is read later, or not at all, is refused, and no buffer left behind", async (device) => {
  using buffers = trackBuffers(device);
  const late: StoredPixels = {
    imageBytes: BYTES,
    // TypeScript takes it for a function without a result. What comes of it ends no program.
    read: async () => await Promise.reject(new Error("disk")),
  };
  const set = { count: COUNT, images: late, labels }, message = "Cannot read image 0: its read returned a promise";
  await assertRejects(() => DeviceImages.create(device, set), TypeError, message);
  const broken = () => {
    throw new Error("disk");
  };
  const failing = { ...set, images: { imageBytes: BYTES, read: broken } };
  await assertRejects(() => DeviceImages.create(device, failing), Error, "disk");
  assertEquals([buffers.made, buffers.left.size], [4, 0]);
  const images = await DeviceImages.create(device, set, { stream: true });
  const source = await ImageSource.create(images, input, 3);
  assertThrows(() => source.load(indices), TypeError, "Cannot read image 8: its read returned a promise");
  for (const each of [source, images]) each.destroy();
});
