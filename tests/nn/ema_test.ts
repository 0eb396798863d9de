import { assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { UserError } from "../../kernels/user_error.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { MovingAverage } from "../../nn/ema.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { gradientStep, trainStep, updateStep } from "../../nn/train_step.ts";
import type { StateDict } from "../../nn/weights.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const shape = { n: 4, c: 3, h: 32, w: 32 };
const small = () => resnext50({ layers: [1, 1], channels: [16, 32], cardinality: 4 });

function values(state: StateDict): Float64Array {
  const floats = [...state.values()].filter(({ dtype }) => dtype === "F32").map((tensor) => toFloat32(tensor));
  return Float64Array.from(floats.flatMap((values) => [...values]));
}

gpuTest("the average of weights and statistics is PyTorch's: first a copy, then a decay", async (device) => {
  const network = await Network.create(device, small(), { seed: 1 });
  const source = await FloatSource.create(device, shape);
  const step = await trainStep(network, { source, optimizer: { weightDecay: 0.1, decayVectors: false } });
  const ema = await MovingAverage.create(network, 0.75);
  const states: Float64Array[] = [];
  let half: StateDict | undefined;
  for (let i = 0; i < 4; i++) {
    step.run({ images: formula(4 * 3 * 32 * 32, i), labels: [0, 1, 2, 3] }, { learningRate: 0.1 });
    ema.update();
    states.push(values(await network.stateDict()));
    if (i === 1) half = await ema.stateDict();
  }
  const expected = states.reduce((average, state) => average.map((value, i) => 0.75 * value + 0.25 * state[i]));
  assertClose(values(await ema.stateDict()), expected, 1e-6, "the average");
  assertEquals(values(await network.stateDict()), states[3], "the network's own weights came back");
  const average = values(await ema.stateDict());
  await ema.use(async () => {
    assertEquals(values(await network.stateDict()), average);
    assertEquals([values(await ema.stateDict()), values(await ema.ownStateDict())], [average, states[3]]);
    for (const wrong of [() => ema.take(), () => ema.update()]) {
      assertThrows(wrong, Error, "the network has the averaged weights");
    }
  });
  assertEquals(values(await network.stateDict()), states[3], "and again");

  // Going on from a saved average.
  const resumed = await MovingAverage.create(network, 0.75);
  resumed.load(half!, 2);
  assertEquals([resumed.updates, values(await network.stateDict())], [2, states[3]]);
  resumed.update();
  const halfValues = values(half!);
  assertClose(
    values(await resumed.stateDict()),
    halfValues.map((v, i) => 0.75 * v + 0.25 * states[3][i]),
    1e-6,
    "more",
  );
  for (const each of [ema, resumed, step, source, network]) each.destroy();
});

gpuTest("an average is loaded at once, and the network's weights, counts and steps are left alone", async (device) => {
  const network = await Network.create(device, small(), { seed: 1 });
  const source = await FloatSource.create(device, shape);
  const step = await trainStep(network, { source }), ema = await MovingAverage.create(network, 0.75);
  const run = () => step.run({ images: formula(4 * 3 * 32 * 32, 1), labels: [0, 1, 2, 3] }, { learningRate: 0.1 });
  run();
  ema.update();
  const saved = await ema.stateDict(),
    counted = [...await network.stateDict()].filter(([, { dtype }]) => dtype === "I64");
  run();
  const before = await network.stateDict();
  ema.load(saved, 1);
  // Whatever runs before the device has done it, and whatever counts meanwhile.
  run();
  assertEquals(values(await ema.stateDict()), values(saved));
  const after = await network.stateDict();
  assertNotEquals(values(after), values(before));
  assertEquals(counted.map(([name]) => toFloat32(after.get(name)!)[0]), counted.map(() => 3));

  for (const updates of [NaN, -1, 1.5, undefined as unknown as number]) {
    const message = `Cannot load an average with updates ${updates}: it must be a whole number from 0 on`;
    assertThrows(() => ema.load(before, updates), RangeError, message);
  }
  assertThrows(() => ema.load(new Map(), 1), UserError, "is missing");
  assertEquals([ema.updates, values(await ema.stateDict())], [1, values(saved)]);
  for (const each of [ema, step, source, network]) each.destroy();
});

gpuTest("while the network has the average nothing is learned, as it would be lost", async (device) => {
  const network = await Network.create(device, small(), { seed: 1 });
  const source = await FloatSource.create(device, shape);
  const step = await trainStep(network, { source }), gradients = await gradientStep(network, { source });
  const update = await updateStep(network), ema = await MovingAverage.create(network, 0.75);
  const batch = { images: formula(4 * 3 * 32 * 32, 1), labels: [0, 1, 2, 3] }, rate = { learningRate: 0.1 };
  // Before the first update the network keeps its own weights.
  await ema.use(() => Promise.resolve(step.run(batch, rate)));
  ema.update();
  step.run(batch, rate);
  const own = values(await network.stateDict());
  const restore = ema.take();
  for (
    const run of [
      () => step.run(batch, rate),
      () => gradients.run(batch, { share: 1, first: true }),
      () => update.run(rate),
    ]
  ) {
    assertThrows(run, Error, "Cannot train: the network has the averaged weights; give it its own back first");
  }
  // Nor by another average of the network.
  const second = await MovingAverage.create(network, 0.5);
  for (const use of [() => second.update(), () => second.take(), () => ema.update()]) {
    assertThrows(use, Error, "Cannot average: the network has the averaged weights; give it its own back first");
  }
  second.destroy();
  restore();
  assertEquals([values(await network.stateDict()), step.pending, gradients.pending], [own, 2, 0]);
  step.run(batch, rate);
  // An average that is gone gives nothing back: what the network has is its own from then on.
  ema.take();
  ema.destroy();
  step.run(batch, rate);
  assertEquals((await step.collect()).length, 4);
  for (const each of [step, gradients, update, source, network]) each.destroy();
});

gpuTest("weight decay can be for matrices alone", async (device) => {
  const network = await Network.create(device, small(), { seed: 1 });
  const source = await FloatSource.create(device, shape);
  const optimizer = { momentum: 0, weightDecay: 0.5 };
  const plain = await trainStep(network, { source, optimizer: { ...optimizer, weightDecay: 0 } });
  const decayed = await trainStep(network, { source, optimizer: { ...optimizer, decayVectors: false } });
  const before = await network.stateDict();
  const batch = { images: formula(4 * 3 * 32 * 32, 5), labels: [0, 1, 2, 3] };
  const after = async (step: typeof plain) => {
    network.loadStateDict(before);
    step.run(batch, { learningRate: 0.1 });
    return await network.stateDict();
  };
  const a = await after(plain), b = await after(decayed);
  for (const [name, tensor] of before) {
    if (tensor.dtype !== "F32") continue;
    const start = toFloat32(tensor), found = toFloat32(b.get(name)!), decays = tensor.shape.length > 1;
    const expected = toFloat32(a.get(name)!).map((value, i) => value - (decays ? 0.05 * start[i] : 0));
    assertClose(found, expected, 1e-5, name);
  }
  for (const each of [plain, decayed, source, network]) each.destroy();
});

Deno.test("a decay outside of [0, 1) is refused", async () => {
  for (const decay of [1, -0.1, NaN]) {
    let failure: unknown;
    await MovingAverage.create({} as Network, decay).catch((error) => failure = error);
    assertThrows(() => {
      throw failure;
    }, RangeError);
  }
});
