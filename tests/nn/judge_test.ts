import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import { DeviceImages, ImageSource } from "../../nn/batch_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { confusionOf, judge, type Judgement } from "../../nn/judge.ts";
import { Network } from "../../nn/network.ts";
import { resnext } from "../../nn/resnext.ts";
import { gpuTest } from "../support.ts";

const { test, height, width, mean, std } = shapes({ train: 0, test: 20, seed: 0 });
const input = { height, width, mean, std, imageSize: 32 };
const narrow = () => resnext("resnext50", { layers: [1], channels: [16], cardinality: 2, numClasses: 10 });

gpuTest("judgements are the softmax of the logits, image by image, a rest of a batch included", async (device) => {
  const network = await Network.create(device, narrow(), { seed: 3 });
  const judged: Judgement[][] = [];
  for await (const batch of judge(network, test, input, 8)) judged.push(batch);
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
  for await (const _ of judge(network, test, input, 8, { signal: controller.signal })) {
    if (++batches === 2) controller.abort();
  }
  assertEquals(batches, 2);
  network.destroy();
});
