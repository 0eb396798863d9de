import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { BatchSizeError } from "../../nn/batch_size.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Evaluator } from "../../nn/evaluator.ts";
import { judge } from "../../nn/judge.ts";
import { GlobalAvgPool2d, Linear } from "../../nn/layers.ts";
import { TYPICAL_GPU } from "../../nn/memory.ts";
import { Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import type { RunDescription, TrainingData } from "../../nn/run_description.ts";
import { LARGEST_BATCH, largestBatch, runMemory, usualBatches } from "../../nn/run_memory.ts";
import { trainStep } from "../../nn/train_step.ts";
import { NARROW_NETWORK } from "../cli/support.ts";
import { gpuTest, standIn } from "../support.ts";

const data = (train: number): TrainingData => shapes({ train, test: 20, seed: 0 });
const run = (changes: Partial<RunDescription["settings"]> = {}): RunDescription => ({
  network: NARROW_NETWORK,
  input: { image_size: 32, mean: [0.3, 0.3, 0.3], std: [0.25, 0.25, 0.25] },
  settings: {
    ...{ dataset: "shapes", batch_size: 16, epochs: 1, lr: 0.1, momentum: 0.9, weight_decay: 0, nesterov: false },
    ...{ label_smoothing: 0, seed: 0, ...changes },
  },
});
const enough = (most: number) => Promise.resolve(most);

Deno.test("usual batches are powers of two and multiples of eight", () => {
  assertEquals(usualBatches(0), []);
  assertEquals(usualBatches(7), [1, 2, 4]);
  assertEquals(usualBatches(27), [1, 2, 4, 8, 16, 24]);
});

Deno.test("a run's memory counts sums of gradients, what the optimizer keeps, the average, and the images", () => {
  const images = data(64), plain = runMemory(images, run(), 16, TYPICAL_GPU);
  assertEquals(plain.total, plain.weights + plain.activations + plain.images);
  assert(plain.images >= 84 * 32 * 32 * 3);
  const summed = runMemory(images, run({ accumulate: 2 }), 16, TYPICAL_GPU);
  const averaged = runMemory(images, run({ ema_decay: 0.9 }), 16, TYPICAL_GPU);
  // Parameters, gradients and momenta are three of one size.
  assert(summed.weights > plain.weights * 1.3 && summed.weights < plain.weights * 1.34);
  // AdamW keeps two averages in place of momenta.
  const adamw = run({ optimizer: "adamw", momentum: undefined, nesterov: undefined });
  assertEquals(runMemory(images, adamw, 16, TYPICAL_GPU).weights, summed.weights);
  assert(averaged.weights > plain.weights * 1.6 && averaged.weights < plain.weights * 1.7);
  const streamed = runMemory(images, run(), 16, { ...TYPICAL_GPU, maxBindingBytes: 2 ** 17 });
  assert(streamed.images < plain.images - 64 * 32 * 32 * 3);
});

Deno.test("the largest batch is bounded by the images, a limit, bindings, and memory, which is asked for once", async () => {
  assertEquals((await largestBatch(data(52), run(), TYPICAL_GPU, enough)).rows, 48);
  assertEquals((await largestBatch(data(3), run(), TYPICAL_GPU, enough)).rows, 2);
  const most = await largestBatch(data(1100), run(), TYPICAL_GPU, enough);
  assertEquals([most.rows, most.bound], [LARGEST_BATCH, "limit"]);
  const summed = await largestBatch(data(1100), run({ accumulate: 10 }), TYPICAL_GPU, enough);
  assertEquals([summed.rows, summed.bound], [104, "images"]);

  const { binding } = runMemory(data(1100), run(), 64, TYPICAL_GPU);
  const bound = await largestBatch(data(1100), run(), { ...TYPICAL_GPU, maxBindingBytes: binding }, enough);
  assertEquals([bound.rows, bound.bound], [64, "binding"]);

  const asked: number[] = [];
  const { total } = runMemory(data(1100), run(), 40, TYPICAL_GPU);
  const fits = (room: number) =>
    largestBatch(data(1100), run(), TYPICAL_GPU, (most) => (asked.push(most), Promise.resolve(room)));
  const exact = await fits(total), less = await fits(total - 1), none = await fits(1000);
  assertEquals([exact.rows, exact.bound, exact.memory.total], [40, "memory", total]);
  assertEquals([less.rows, none.rows], [32, 0]);
  assertEquals(asked, Array(3).fill(most.memory.total));
});

gpuTest("where batches do not fit, the images are freed: a smaller batch may be tried next", async () => {
  const device = await openDevice(), { buffer } = device, held = new Set<string>();
  Object.defineProperty(device, "capabilities", { value: { ...device.capabilities, maxBindingBytes: 2 ** 17 } });
  const watched: typeof buffer = async (label, ...rest) => {
    const made = await buffer.call(device, label, ...rest);
    held.add(label);
    return Object.defineProperty(made, "destroy", { value: () => held.delete(label) });
  };
  Object.defineProperty(device, "buffer", { value: watched });
  const { test, height, width, mean, std } = shapes({ train: 0, test: 20, seed: 0 });
  const network = await Network.create(device, describedNetwork(NARROW_NETWORK));
  const input = { height, width, mean, std, imageSize: 32 };
  const evaluator = (batchSize: number, set = test) => Evaluator.create(network, set, input, batchSize);
  const before = [...held];
  await assertRejects(() => evaluator(20), BatchSizeError);
  assertEquals([...held], before);
  await assertRejects(() => judge(network, test, input, 20).next(), BatchSizeError);
  assertEquals([...held], before);
  await assertRejects(() => evaluator(1, { ...test, labels: test.labels.map(() => 10) }), RangeError, "label 10");
  assertEquals([...held].filter((label) => !label.startsWith("slab")), before, "but the network's own");
  await evaluator(1);
  assert(held.has("images") && held.has("image labels"), [...held].join());
  device.close();
});

gpuTest("a weight that the device cannot bind is named, and no batch advised", async (device) => {
  const small = standIn(device, { capabilities: { ...device.capabilities, maxBindingBytes: 2 ** 16 } });
  const network = await Network.create(small, new Sequential(new GlobalAvgPool2d(), new Linear(3, 8192)));
  const source = await FloatSource.create(small, { n: 1, c: 3, h: 2, w: 2 });
  for (const compile of [trainStep, evalStep]) {
    const error = await assertRejects(() => compile<FloatBatch>(network, { source }), UserError);
    assertEquals(error instanceof BatchSizeError, false);
    assertMatch(error.message, /^Cannot run this network: "1\.weight.*" would take 1 MiB, .* binds at most 1 MiB$/);
  }
  for (const each of [source, network]) each.destroy();
});
