import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FloatSource } from "../../nn/batch_source.ts";
import { frozenEntries } from "../../nn/freezing.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import type { StateDict } from "../../nn/weights.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { trainStep } from "../../nn/train_step.ts";
import { UserError } from "../../kernels/user_error.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const module = () => resnext50({ layers: [1, 1], channels: [32, 64], cardinality: 4, numClasses: 5 });
const names = [...module().stateEntries()].map(([name]) => name);
const batch = { images: formula(4 * 3 * 32 * 32, 1), labels: [0, 1, 2, 3] };
const SHAPE = { n: 4, c: 3, h: 32, w: 32 };

/** Names of entries whose bytes differ. */
function changed(before: StateDict, after: StateDict): string[] {
  return [...before].flatMap(([name, { bytes }]) => String(bytes) === String(after.get(name)!.bytes) ? [] : [name]);
}

gpuTest("frozen stages keep weights and statistics, weight decay or not; all others learn", async (device) => {
  const network = await Network.create(device, module(), { seed: 3 });
  const source = await FloatSource.create(device, SHAPE);
  const frozen = frozenEntries(["stem", "layer1"], names);
  const optimizer = { weightDecay: 0.1 };
  const step = await trainStep(network, { source, optimizer, frozen });
  const before = await network.stateDict();
  for (let i = 0; i < 2; i++) step.run(batch, { learningRate: 0.1 });
  const results = await step.collect();
  assert(results.every(({ lossSum }) => Number.isFinite(lossSum)));
  const after = changed(before, await network.stateDict());
  assertEquals(after.filter((name) => frozen(name)), []);
  assertEquals(names.filter((name) => !frozen(name) && !after.includes(name)), []);
  network.destroy();
  source.destroy();
});

gpuTest("a step behind frozen stages gives the gradients of one without, its stages in evaluation", async (device) => {
  // With stages frozen whose statistics are those of the batch, both steps compute the same.
  const free = await Network.create(device, module(), { seed: 5 });
  const source = await FloatSource.create(device, SHAPE);
  const learn = await trainStep(free, { source, optimizer: { momentum: 0 } });
  // Statistics come to the batch's own: the variance to the unbiased one, which differs by 1 / rows.
  for (let i = 0; i < 150; i++) learn.run(batch, { learningRate: 0 });
  await learn.collect();
  const state = await free.stateDict();
  learn.run(batch, { learningRate: 0 });
  const [wanted] = await learn.collect();
  const gradients = (await free.weights.gradients())!;

  const still = await Network.create(device, module());
  still.loadStateDict(state);
  const step = await trainStep(still, { source, optimizer: { momentum: 0 }, frozen: frozenEntries(["stem"], names) });
  step.run(batch, { learningRate: 0 });
  const [got] = await step.collect();
  assertClose([got.lossSum], [wanted.lossSum], 2e-3, "loss");
  const own = (await still.weights.gradients())!;
  const floats = (name: string, of: StateDict) => new Float32Array(of.get(name)!.bytes.slice().buffer);
  assertClose(floats("fc.weight", own), floats("fc.weight", gradients), 2e-2, "fc");
  assertClose(floats("layer2.0.conv3.weight", own), floats("layer2.0.conv3.weight", gradients), 5e-2, "layer2");
  // Nothing of the stem was computed.
  assertEquals(floats("conv1.weight", own).every((value) => value === 0), true);
  assertEquals(step.plan.dispatches.length < learn.plan.dispatches.length, true);
  for (const network of [free, still]) network.destroy();
  source.destroy();
});

gpuTest("what is frozen after what learns is refused", async (device) => {
  const network = await Network.create(device, module());
  const source = await FloatSource.create(device, SHAPE);
  const frozen = (name: string) => name.startsWith("layer2.");
  await assertRejects(() => trainStep(network, { source, frozen }), UserError, "after layers that learn");
  await evalStep(network, { source });
  network.destroy();
  source.destroy();
});

gpuTest("a layer is frozen whole or not at all, and something learns", async (device) => {
  const network = await Network.create(device, module());
  const source = await FloatSource.create(device, SHAPE);
  const frozen = (name: string) => name === "conv1.weight" || name === "bn1.bias";
  await assertRejects(() => trainStep(network, { source, frozen }), UserError, '"bn1.weight" learns');
  await assertRejects(() => trainStep(network, { source, frozen: () => true, clipGradNorm: 1 }), UserError, "all");
  network.destroy();
  source.destroy();
});

Deno.test("stages are named as they are, from the first one on", () => {
  const frozen = frozenEntries(["layer1", "stem"], names);
  assertEquals([frozen("bn1.running_mean"), frozen("layer1.0.conv2.bias"), frozen("layer2.0.conv1.weight")], [
    true,
    true,
    false,
  ]);
  assertEquals(frozenEntries([], names)("conv1.weight"), false);
  assertThrows(() => frozenEntries(["layer7"], names), UserError, "the network has stem, layer1, layer2");
  assertThrows(() => frozenEntries(["fc"], names), UserError, "the network has");
  assertThrows(() => frozenEntries(["layer1"], names), UserError, "such as stem,layer1");
});
