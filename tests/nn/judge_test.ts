import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import { DeviceImages, ImageSource } from "../../nn/image_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Evaluator } from "../../nn/evaluator.ts";
import { confusionOf, judge, type Judgement, softmax } from "../../nn/judge.ts";
import { Network } from "../../nn/network.ts";
import { NonFiniteError } from "../../nn/non_finite.ts";
import { resnext } from "../../nn/resnext.ts";
import { float32Tensor } from "../../nn/safetensors.ts";
import { gpuTest } from "../support.ts";

const { test, height, width, mean, std } = shapes({ train: 0, test: 20, seed: 0 });
const input = { height, width, mean, std, imageSize: 32 };
const narrow = () => resnext("resnext50", { layers: [1], channels: [16], cardinality: 2, numClasses: 10 });

gpuTest("judgements are the softmax of the logits, image by image, a rest of a batch included", async (device) => {
  const network = await Network.create(device, narrow(), { seed: 3 });
  const judged: Judgement[][] = [], judging = judge(network, test, input, 8);
  let next = await judging.next();
  for (; !next.done; next = await judging.next()) judged.push(next.value);
  assertEquals(next.value, await (await Evaluator.create(network, test, input, 8)).run());
  assertEquals(judged.map(({ length }) => length), [8, 8, 4]);
  const judgements = judged.flat();
  assertEquals(judgements.map(({ image, label }) => [image, label]), [...test.labels].map((label, i) => [i, label]));

  const step = await evalStep(network, {
    source: await ImageSource.create(await DeviceImages.create(device, test), input, 20),
  });
  step.run(Uint32Array.from({ length: 20 }, (_, image) => image));
  const logits = await step.logits();
  for (const { image, label, prediction, confidence, labelProbability } of judgements) {
    const powers = [...logits.subarray(image * 10, (image + 1) * 10)].map(Math.exp);
    const sum = powers.reduce((sum, power) => sum + power);
    assertAlmostEquals(labelProbability, powers[label] / sum, 1e-6);
    assertAlmostEquals(confidence, Math.max(...powers) / sum, 1e-6);
    assertEquals(prediction, powers.indexOf(Math.max(...powers)));
  }
  const confusion = confusionOf(judgements, 10);
  assert(new Set(judgements.map(({ prediction }) => prediction)).size > 1);
  for (const { label, prediction } of judgements) confusion[label][prediction]--;
  assertEquals(new Set(confusion.flat()), new Set([0]));

  const controller = new AbortController();
  let batches = 0;
  const ended = judge(network, test, input, 8, { signal: controller.signal });
  for (next = await ended.next(); !next.done; next = await ended.next()) if (++batches === 2) controller.abort();
  assertEquals([batches, next.value], [2, undefined]);
  network.destroy();
});

gpuTest("what cannot be judged is refused", async (device) => {
  const network = await Network.create(device, narrow());
  for (const size of [0, -1, 1.5, NaN, Infinity]) {
    const message = `Cannot evaluate with batchSize ${size}: it must be a positive whole number`;
    await assertRejects(() => judge(network, test, input, size).next(), RangeError, message);
  }
  const labels = test.labels.slice();
  labels[7] = 10;
  await assertRejects(() => judge(network, { ...test, labels }, input, 20).next(), RangeError, "with label 10");
  const state = await network.stateDict();
  network.loadStateDict(new Map([...state, ["fc.bias", float32Tensor(new Float32Array(10).fill(NaN), [10])]]));
  await assertRejects(
    () => judge(network, test, input, 20).next(),
    NonFiniteError,
    "Cannot judge image 0: the network's",
  );
  const files = Array.from({ length: 20 }, (_, i) => `${i}.png`);
  const evaluator = await Evaluator.create(network, { ...test, files }, input, 20);
  await assertRejects(
    () => evaluator.run(),
    NonFiniteError,
    'Cannot judge "0.png": the network\'s logits are not finite;',
  );
  // Each logit is a number, the loss of most images is none.
  const far = Float32Array.from({ length: 10 }, (_, label) => label === 0 ? 3e38 : -3e38);
  network.loadStateDict(new Map([...state, ["fc.bias", float32Tensor(far, [10])]]));
  await assertRejects(() => evaluator.run(), NonFiniteError, "Cannot judge the set: its loss is not finite;");
  evaluator.destroy();
  network.destroy();
});

Deno.test("a softmax is of any number of logits, and NaN where one is", () => {
  assertEquals(softmax([0, 0]), [0.5, 0.5]);
  const many = softmax(new Float32Array(1_000_000));
  assertEquals([many.length, many[7]], [1_000_000, 1e-6]);
  assertEquals(softmax([1, NaN]), [NaN, NaN]);
});
