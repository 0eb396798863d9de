import { assertEquals, assertThrows } from "@std/assert";
import { FloatSource } from "../../nn/batch_source.ts";
import { MovingAverage } from "../../nn/ema.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { trainStep } from "../../nn/train_step.ts";
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
  await resumed.load(half!, 2);
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
