import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { fromNhwc } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { DeviceImages, type ImageBatch, type ImageInput, ImageSource } from "../../nn/image_source.ts";
import { checkLabels, type LabelledImages } from "../../nn/labelled_images.ts";
import { AugmentedSource, drawChanges } from "../../nn/augment.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { trainStep } from "../../nn/train_step.ts";
import { Arena, Plan } from "../../nn/plan.ts";
import { assertClose, gpuTest } from "../support.ts";

const { train: SET, mean, std } = shapes({ train: 37, test: 0, seed: 11 });

function input(imageSize: number): ImageInput {
  return { height: 32, width: 32, mean, std, imageSize };
}

/** Losses of three steps on images of the set, over what makes the batches. */
async function losses(device: Device, stream: boolean): Promise<number[]> {
  const images = await DeviceImages.create(device, SET, { stream });
  assertEquals(images.resident === undefined, stream);
  const source = await ImageSource.create(images, input(24), 5);
  const module = resnext50({ layers: [1], channels: [16], cardinality: 2 });
  const network = await Network.create(device, module, { seed: 4 });
  const step = await trainStep(network, { source });
  for (const indices of [[0, 1, 2, 3, 4], [36, 30, 2, 2, 17], [5, 4, 3, 2, 1]]) {
    step.run(Uint32Array.from(indices), { learningRate: 0.1 });
  }
  const found = (await step.collect()).map(({ lossSum }) => lossSum);
  for (const each of [step, source, images, network]) each.destroy();
  return found;
}

gpuTest("images resident on the device and images streamed to it give the same bits", async (device) => {
  const resident = await losses(device, false);
  assert(resident.every(Number.isFinite));
  assertEquals(new Set(resident).size, 3);
  assertEquals(await losses(device, true), resident);
});

gpuTest("an image's pixels arrive scaled and normalized, by channel", async (device) => {
  for (const stream of [false, true]) {
    const images = await DeviceImages.create(device, SET, { stream });
    const source = await ImageSource.create(images, input(32), 3);
    const arena = new Arena(device);
    const out = await device.buffer("out", source.x.byteLength), labels = await device.buffer("labels", 16);
    const plan = new Plan(device, source.dispatches(device.capabilities), (each) => {
      if (each === source.x) return { buffer: out, offset: 0 };
      if (each === source.labels) return { buffer: labels, offset: 0 };
      return source.place(each);
    });
    await arena.add(plan);
    assertEquals(source.load(Uint32Array.of(36, 5)), 2);
    plan.program.submit(device);
    const x = fromNhwc(new Float32Array(await device.read(out, 0, out.size)), source.shape);
    for (const [row, index] of [36, 5].entries()) {
      const expected = Float32Array.from({ length: 3072 }, (_, i) => {
        const channel = Math.floor(i / 1024), pixel = i % 1024;
        return (SET.images[index * 3072 + pixel * 3 + channel] / 255 - mean[channel]) / std[channel];
      });
      assertClose(x.subarray(row * 3072, (row + 1) * 3072), expected, 1e-5, `image ${index}`);
    }
    assertEquals([...new Uint32Array(await device.read(labels, 0, 8))], [SET.labels[36], SET.labels[5]]);
    for (const each of [out, labels, source, images, arena]) each.destroy();
  }
});

gpuTest("sets of images that contradict themselves, or what is said of them, are refused", async (device) => {
  const refused = (changes: Partial<LabelledImages>, message: string) =>
    assertRejects(() => DeviceImages.create(device, { ...SET, ...changes }), RangeError, message);
  await refused({ count: 0, images: new Uint8Array(), labels: new Uint8Array() }, "a set of 0 images");
  await refused({ labels: SET.labels.subarray(1) }, "37 images with 36 labels");
  await refused({ images: SET.images.subarray(1) }, "each would have");
  // Whatever callers without types, or with a cast, may take for a set.
  const { images: bytes, labels: classes } = SET;
  const wrong: [keyof LabelledImages, unknown, string][] = [
    ["images", new Uint8ClampedArray(bytes), "images in Uint8ClampedArray: give a Uint8Array of RGB bytes"],
    ["images", new Float32Array(bytes), "images in Float32Array"],
    ["images", undefined, "images in undefined"],
    ["labels", new Int32Array(37).fill(-1), "labels in Int32Array: give a Uint8Array or a Uint32Array of classes"],
    ["labels", Uint16Array.from(classes), "labels in Uint16Array"],
    ["labels", [...classes], "labels in Array"],
  ];
  for (const [part, value, message] of wrong) {
    const set = { ...SET, [part]: value } as LabelledImages;
    await assertRejects(() => DeviceImages.create(device, set), TypeError, `Cannot use ${message}`);
    if (part === "labels") assertThrows(() => checkLabels(set, 10), TypeError, message);
  }
  const images = await DeviceImages.create(device, SET);
  await assertRejects(
    () => ImageSource.create(images, { ...input(32), height: 40, width: 20 }, 4),
    RangeError,
    "Cannot take images of 3072 bytes for RGB of 40x20 pixels",
  );
  images.destroy();
});

gpuTest("sizes and colours' statistics that make no batches are refused by name", async (device) => {
  const images = await DeviceImages.create(device, SET);
  const refused = (changes: Partial<ImageInput>, batchSize: number, message: string) =>
    assertRejects(() => ImageSource.create(images, { ...input(32), ...changes }, batchSize), RangeError, message);
  for (const size of [0, -1, 1.5, NaN]) {
    await refused({}, size, `Cannot make batches with batchSize ${size}: it must be a positive whole number`);
    await refused({ imageSize: size }, 4, `with imageSize ${size}`);
    await assertRejects(() => FloatSource.create(device, { n: size, c: 3, h: 2, w: 2 }), RangeError, `with n ${size}`);
  }
  for (const std of [[0, 0, 0], [1, -1, 1], [1, 1, Infinity]] as const) {
    await refused({ std }, 4, `Cannot normalize images with std [${std}]: it must be three finite numbers above 0`);
  }
  await refused({ mean: [0, NaN, 0] }, 4, "with mean [0,NaN,0]: it must be three finite numbers");
  images.destroy();
});

gpuTest("an image whose label is none of the network's classes is refused, however it comes", async (device) => {
  const module = resnext50({ layers: [1], channels: [16], cardinality: 2, numClasses: 5 });
  const network = await Network.create(device, module, { seed: 4 });
  const some = (fits: boolean) =>
    Uint32Array.from([...SET.labels.keys()].filter((image) => SET.labels[image] < 5 === fits).slice(0, 2));
  const good = some(true), bad = Uint32Array.of(good[0], some(false)[0]);
  const message = `Cannot load image ${bad[1]} with label ${SET.labels[bad[1]]}: the classes are 0 to 4`;
  const settings = { mixup: 1 }, run = { seed: 0, epoch: 0, count: SET.count };
  for (const stream of [false, true]) {
    const images = await DeviceImages.create(device, SET, { stream });
    const plain = await ImageSource.create(images, input(32), 2);
    const inner = await ImageSource.create(images, input(32), 2);
    const augmented = await AugmentedSource.create(device, inner, settings, { mean, std });
    const mixed = (batch: Uint32Array) => ({ batch, changes: drawChanges(settings, batch, run, [32, 32]) });
    const steps = [await trainStep(network, { source: plain }), await evalStep(network, { source: plain })];
    const mixing = [await trainStep(network, { source: augmented }), await evalStep(network, { source: augmented })];
    for (const step of steps) assertThrows(() => step.run(bad, { learningRate: 0.1 }), RangeError, message);
    for (const step of mixing) assertThrows(() => step.run(mixed(bad), { learningRate: 0.1 }), RangeError, message);
    for (const step of steps) step.run(good, { learningRate: 0 });
    for (const step of mixing) step.run(mixed(good), { learningRate: 0 });
    assertEquals([...steps, ...mixing].map(({ pending }) => pending), [1, 1, 1, 1]);
    for (const each of [...steps, ...mixing, plain, augmented, images]) each.destroy();
  }
  network.destroy();
});

gpuTest("an image that is not there is refused before anything is sent", async (device) => {
  for (const stream of [false, true]) {
    const images = await DeviceImages.create(device, SET, { stream });
    const source = await ImageSource.create(images, input(32), 3);
    assertThrows(() => source.load(Uint32Array.of(1, 37)), RangeError, "Cannot load image 37 of 37");
    assertThrows(() => source.load(Uint32Array.of(1, 2, 3, 4)), RangeError, "a batch of 4 images: up to 3");
    assertThrows(() => source.load(new Uint32Array(0)), RangeError, "a batch of 0 images");
    for (const indices of [[0, 1, -1], [0, 1.5], [0, undefined], Int32Array.of(0, -1)]) {
      const message = `Cannot load images by ${indices.constructor.name}: give a Uint32Array of their indices`;
      assertThrows(() => source.load({ indices } as unknown as ImageBatch), TypeError, message);
      assertThrows(() => source.load(indices as unknown as ImageBatch), TypeError, message);
    }
    source.destroy();
    images.destroy();
  }
});

gpuTest("floats are laid out as the device has them", async (device) => {
  const shape = { n: 2, c: 3, h: 2, w: 1 };
  const source = await FloatSource.create(device, shape);
  const images = Float32Array.from({ length: 12 }, (_, i) => i);
  assertEquals(source.load({ images, labels: [7, 8] }), 2);
  const { buffer } = source.place(source.x)!;
  assertEquals(fromNhwc(new Float32Array(await device.read(buffer, 0, 64)), shape), images);
  assertEquals([...new Uint32Array(await device.read(source.place(source.labels)!.buffer, 0, 8))], [7, 8]);
  assertEquals(await runOnce(device, source.dispatches(), new Map(), []), []);
  assertThrows(() => source.load({ images } as FloatBatch), TypeError, "without labels");
  // What was looked up in vain is no class 0.
  const table = [7, 8];
  for (const labels of [[7, table[2]], new Array<number>(2), [7, null as unknown as number]]) {
    assertThrows(() => source.load({ images, labels }), RangeError, `with label ${labels[1]}: the classes are`);
  }
  source.destroy();
});
