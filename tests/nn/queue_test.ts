/** What is queued on the device while results are read: how much, and that nothing of it is lost or counted twice. */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../../nn/checkpoint.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { DeviceImages, ImageSource } from "../../nn/image_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Evaluator } from "../../nn/evaluator.ts";
import { Network } from "../../nn/network.ts";
import { resnext } from "../../nn/resnext.ts";
import type { RunDescription } from "../../nn/run_description.ts";
import { RunSteps } from "../../nn/run_steps.ts";
import { QUEUED_BYTES } from "../../nn/step.ts";
import { Trainer } from "../../nn/trainer.ts";
import { NARROW_NETWORK } from "../cli/support.ts";
import { gpuTest } from "../support.ts";

const data = shapes({ train: 80, test: 30, seed: 0 });
const { height, width, mean, std } = data;
const RUN: RunDescription = {
  network: NARROW_NETWORK,
  input: { image_size: 32, mean, std },
  settings: {
    ...{ dataset: "shapes", batch_size: 2, epochs: 2, lr: 0.01, momentum: 0.9, weight_decay: 0, nesterov: false },
    ...{ label_smoothing: 0, seed: 1, ema_decay: 0.9 },
  },
};

const narrow = () => resnext("resnext50", { layers: [1], channels: [16], cardinality: 2 });

gpuTest(
  "a checkpoint at any event has all that was queued, and a run goes on from it with the same bits",
  async (device) => {
    const whole = await Trainer.create(device, data, RUN);
    for await (const event of whole.run()) void event;
    const bytes = await encodeCheckpoint(await whole.checkpoint());
    whole.destroy();

    const watched = await Trainer.create(device, data, RUN);
    const saved: Uint8Array<ArrayBuffer>[] = [];
    let at = 0;
    for await (const event of watched.run()) {
      if (event.type !== "step") continue;
      const now = (event.epoch - 1) * 40 + event.step;
      assert(now > at && event.steps === 40 && event.loss > 0, `${now} after ${at}`);
      at = now;
      const checkpoint = await watched.checkpoint(), { epoch, step, rows } = checkpoint.description.progress!;
      assert(epoch * 40 + step >= now, "what is queued is done by then");
      assertEquals(rows, step * 2, "and counted");
      saved.push(await encodeCheckpoint(checkpoint));
    }
    assertEquals(at, 80);
    assertEquals(await encodeCheckpoint(await watched.checkpoint()), bytes);
    watched.destroy();

    const from = await decodeCheckpoint(saved[saved.length >> 1], "middle");
    const resumed = await Trainer.create(device, data, RUN, from);
    for await (const event of resumed.run()) void event;
    assertEquals(await encodeCheckpoint(await resumed.checkpoint()), bytes);
    resumed.destroy();
  },
);

gpuTest("a run that is left and taken up again loses no step", async (device) => {
  const whole = await Trainer.create(device, data, RUN), left = await Trainer.create(device, data, RUN);
  for await (const event of whole.run()) void event;
  let events = 0;
  while (left.history.length < 2) {
    for await (const event of left.run()) if (event.type === "step" && ++events % 5 === 0) break;
  }
  assertEquals(await encodeCheckpoint(await left.checkpoint()), await encodeCheckpoint(await whole.checkpoint()));
  whole.destroy();
  left.destroy();
});

gpuTest("a pass tells loss and accuracies as the logits give them, a rest of a batch included", async (device) => {
  const network = await Network.create(device, narrow(), { seed: 3 });
  const input = { height, width, mean, std, imageSize: 32 }, { labels } = data.test;
  const images = await DeviceImages.create(device, data.test);
  const step = await evalStep(network, { source: await ImageSource.create(images, input, 30) });
  step.run(Uint32Array.from({ length: 30 }, (_, image) => image));
  const logits = await step.logits(), { classes } = step;
  let loss = 0, top1 = 0, top5 = 0;
  for (const [row, label] of labels.entries()) {
    const own = [...logits.subarray(row * classes, (row + 1) * classes)];
    loss += Math.log(own.reduce((sum, logit) => sum + Math.exp(logit), 0)) - own[label];
    const larger = own.filter((logit) => logit > own[label]).length;
    top1 += Number(larger < 1);
    top5 += Number(larger < 5);
  }
  assert(top1 > 0 && top5 > top1 && top5 < 30, `${top1} and ${top5} of 30 show nothing`);
  const evaluator = await Evaluator.create(network, data.test, input, 7);
  const report = (await evaluator.run())!;
  assertAlmostEquals(report.loss, loss / 30, 1e-5);
  assertEquals([report.images, report.top1, report.top5], [30, top1 / 30, top5 / 30]);
  evaluator.destroy();
  network.destroy();
});

gpuTest("a pass that was given up leaves nothing behind for the next one", async (device) => {
  const network = await Network.create(device, narrow());
  const input = { height, width, mean, std, imageSize: 32 };
  const evaluator = await Evaluator.create(network, data.test, input, 2);
  const report = await evaluator.run();
  assertEquals(report!.images, 30);
  assertEquals(report!.confusion.flat().reduce((sum, count) => sum + count, 0), 30);
  for (const after of [1, 2, 3]) {
    const controller = new AbortController();
    const pass = evaluator.pass(controller.signal);
    for (let i = 0; i < after; i++) await pass.next();
    controller.abort();
    while (!(await pass.next()).done);
    assertEquals(await evaluator.run(), report);
    const abandoned = evaluator.pass();
    await abandoned.next();
    await abandoned.return(undefined);
    assertEquals(await evaluator.run(), report);
  }
  evaluator.destroy();
  network.destroy();
});

gpuTest("queued batches that are not resident are bound in bytes", async (device) => {
  const network = await Network.create(device, narrow());
  const source = await FloatSource.create(device, { n: 2, c: 3, h: 16, w: 16 });
  assertEquals(source.batchBytes, 2 * 16 * 16 * 4 * 4);
  Object.defineProperty(source, "batchBytes", { value: QUEUED_BYTES / 2 });
  const steps = await RunSteps.create(network, [source], {});
  const batch = { rows: 2, batch: { images: new Float32Array(2 * 3 * 16 * 16), labels: [0, 1] } };
  steps.run([batch], { learningRate: 0 });
  assert(!steps.full);
  steps.run([batch], { learningRate: 0 });
  assert(steps.full);
  assertEquals((await steps.collect()).results.length, 2);
  assert(!steps.full);
  steps.destroy();

  const input = { height, width, mean, std, imageSize: 16 };
  const resident = await DeviceImages.create(device, data.train);
  const streamed = await DeviceImages.create(device, data.train, { stream: true });
  assertEquals((await ImageSource.create(resident, input, 4)).batchBytes, 0);
  assertEquals((await ImageSource.create(streamed, input, 4)).batchBytes, 4 * height * width * 3);
  network.destroy();
});
