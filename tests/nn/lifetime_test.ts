/** What is destroyed says so when it is used, before anything is written: the device serves others as before. */

import { assertEquals, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { AugmentedSource } from "../../nn/augment.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { DeviceImages, ImageSource } from "../../nn/image_source.ts";
import { Classifier } from "../../nn/classifier.ts";
import { MovingAverage } from "../../nn/ema.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Evaluator } from "../../nn/evaluator.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { gradientStep, trainStep, updateStep } from "../../nn/train_step.ts";
import { formula, gpuTest } from "../support.ts";

const SHAPE = { n: 4, c: 3, h: 32, w: 32 }, RATE = { learningRate: 0.01 };
const batch = { images: formula(4 * 3 * 32 * 32, 1), labels: [0, 1, 2, 3] };
const { test, height, width, mean, std } = shapes({ train: 0, test: 8, seed: 0 });
const input = { height, width, mean, std, imageSize: 32 };

async function make(device: Device) {
  const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }), { seed: 1 });
  const source = await FloatSource.create(device, SHAPE);
  return { network, source, evaluation: await evalStep(network, { source }) };
}

type Use = () => unknown;

/** All of them throw an error that names what is gone, and a network made before or after runs as ever. */
async function assertGone(device: Device, what: string, uses: readonly Use[]): Promise<void> {
  for (const use of uses) {
    await assertRejects(async () => void await use(), Error, `Cannot use ${what}: it was destroyed`);
  }
  const { network, source, evaluation } = await make(device);
  evaluation.run(batch);
  assertEquals((await evaluation.collect())[0].rows, 4);
  for (const each of [evaluation, source, network]) each.destroy();
  device.check();
}

gpuTest("a network that is destroyed is told by all that belongs to it", async (device) => {
  const { network, source, evaluation } = await make(device), state = await network.stateDict();
  const train = await trainStep(network, { source }), gradients = await gradientStep(network, { source });
  const update = await updateStep(network), average = await MovingAverage.create(network, 0.9);
  average.update();
  const restore = average.take();
  evaluation.run(batch);
  network.destroy();
  network.destroy();
  restore();
  await assertGone(device, "the network", [
    () => train.run(batch, RATE),
    () => gradients.run(batch, { share: 1, first: true }),
    () => update.run(RATE),
    () => evaluation.run(batch),
    () => train.collect(),
    () => evaluation.evaluations(),
    () => evaluation.logits(),
    () => network.stateDict(),
    () => network.loadStateDict(state),
    () => network.weights.momenta(),
    () => network.weights.initialize(1),
    () => network.weights.prepareTraining(),
    () => average.update(),
    () => average.stateDict(),
    () => trainStep(network, { source }),
    () => evalStep(network, { source, precision: "f16" }),
    () => updateStep(network),
    () => MovingAverage.create(network, 0.9),
    () => Evaluator.create(network, test, input, 4),
    () => Classifier.create(network, input),
  ]);
});

gpuTest("a network that is destroyed while a step is compiled for it keeps nothing of it", async (device) => {
  const { network, source } = await make(device);
  const compiling = trainStep(network, { source });
  network.destroy();
  await assertRejects(() => compiling, Error, "Cannot use the network: it was destroyed");
  assertEquals(network.arena.bytes, 0);
  device.check();
});

gpuTest("a step that is destroyed is told by itself, and leaves the network to others", async (device) => {
  const { network, source, evaluation } = await make(device), train = await trainStep(network, { source });
  evaluation.run(batch);
  for (const each of [train, train, evaluation]) each.destroy();
  await assertGone(device, "the step", [
    () => train.run(batch, RATE),
    () => train.collect(),
    () => evaluation.run(batch),
    () => evaluation.collect(),
    () => evaluation.evaluations(),
    () => evaluation.logits(),
  ]);
  const again = await evalStep(network, { source });
  again.run(batch);
  assertEquals((await again.collect()).length, 1);
  network.destroy();
});

gpuTest("a source that is destroyed is told by the steps on it, which stand in nobody's way", async (device) => {
  const { network, source, evaluation } = await make(device);
  const images = await DeviceImages.create(device, test), indices = Uint32Array.of(0, 1, 2, 3);
  const stored = await ImageSource.create(images, input, 4), onStored = await evalStep(network, { source: stored });
  const other = await ImageSource.create(images, input, 4), onOther = await evalStep(network, { source: other });
  const inner = await FloatSource.create(device, SHAPE);
  const augmented = await AugmentedSource.create(device, inner, { flip: true }, input);
  const onAugmented = await trainStep(network, { source: augmented });
  for (const each of [source, stored, augmented]) each.destroy();
  const changes = Array.from({ length: 4 }, () => ({})) as never;
  await assertGone(device, "the source of batches", [
    () => evaluation.run(batch),
    () => onStored.run(indices),
    () => onAugmented.run({ batch, changes }, RATE),
    () => evalStep(network, { source }),
  ]);
  // Slabs that grow bind what can be bound.
  const larger = await FloatSource.create(device, { ...SHAPE, n: 16 }), bytes = network.arena.bytes;
  await trainStep(network, { source: larger });
  assertEquals(network.arena.bytes > bytes, true);
  await assertGone(device, "the source of batches", [() => evaluation.run(batch), () => onStored.run(indices)]);
  onOther.run(indices);
  assertEquals((await onOther.collect()).length, 1);
  images.destroy();
  await assertGone(device, "the images on the device", [
    () => onOther.run(indices),
    () => ImageSource.create(images, input, 4),
  ]);
  network.destroy();
});

gpuTest("what is made of steps is told by its own name", async (device) => {
  const { network } = await make(device);
  const evaluator = await Evaluator.create(network, test, input, 4),
    classifier = await Classifier.create(network, input);
  const average = await MovingAverage.create(network, 0.9);
  average.update();
  const restore = average.take();
  for (const each of [evaluator, classifier, average]) each.destroy();
  restore();
  await assertGone(device, "the evaluator", [() => evaluator.run(), () => evaluator.pass().next()]);
  await assertGone(device, "the classifier", [
    () => classifier.classify([test.images.subarray(0, 3072) as Uint8Array]),
  ]);
  await assertGone(device, "the moving average", [
    () => average.update(),
    () => average.take(),
    () => average.stateDict(),
    () => average.ownStateDict(),
  ]);
  network.destroy();
});
