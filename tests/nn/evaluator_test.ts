import { assertEquals, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import { Evaluator } from "../../nn/evaluator.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { gpuTest } from "../support.ts";

const { test, height, width, mean, std } = shapes({ train: 0, test: 40, seed: 0 });
const input = { height, width, mean, std, imageSize: 32 };

gpuTest("passes that are asked for at the same time give what each gives alone", async (device) => {
  const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }), { seed: 1 });
  const evaluator = await Evaluator.create(network, test, input, 8);
  const alone = await evaluator.run();
  assertEquals(await Promise.all([evaluator.run(), evaluator.run(), evaluator.run()]), [alone, alone, alone]);
  const given = AbortSignal.abort();
  assertEquals(await Promise.all([evaluator.run(given), evaluator.run()]), [undefined, alone]);
  assertEquals(await evaluator.run(), alone);
  for (const each of [evaluator, network]) each.destroy();
});

gpuTest("a pass that is under way keeps others out, until it is left", async (device) => {
  const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }), { seed: 1 });
  const evaluator = await Evaluator.create(network, test, input, 8), alone = await evaluator.run();
  for await (const _done of evaluator.pass()) {
    await assertRejects(() => evaluator.run(), Error, "Cannot begin a pass while another one is under way");
    await assertRejects(() => evaluator.pass().next(), Error, "Cannot begin a pass while another one is under way");
    break;
  }
  assertEquals(await evaluator.run(), alone);
  for (const each of [evaluator, network]) each.destroy();
});
