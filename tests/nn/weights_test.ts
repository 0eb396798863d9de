import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { UserError } from "../../kernels/user_error.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { MovingAverage } from "../../nn/ema.ts";
import { BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear } from "../../nn/layers.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import { float32Tensor, int64Scalar, type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { trainStep } from "../../nn/train_step.ts";
import { Weights } from "../../nn/weights.ts";
import { formulaState } from "../parity/formula_state.ts";
import { formula, gpuTest, trackBuffers } from "../support.ts";

/** Every kind of entry, none of a size that fits the padding: dense and grouped weights, vectors, a matrix. */
function module(): Sequential {
  return new Sequential(
    new Conv2d(3, 6, 3),
    new BatchNorm2d(6),
    new Conv2d(6, 9, 3, { groups: 3, bias: false }),
    new GlobalAvgPool2d(),
    new Linear(9, 5),
  );
}

function bytes(state: ReadonlyMap<string, TensorData>): [string, string, string, string][] {
  return [...state].map(([name, { dtype, shape, bytes }]) => [name, dtype, String(shape), bytes.toHex()]);
}

gpuTest("a state_dict comes back bit for bit, in PyTorch's order", async (device) => {
  const state = formulaState(module(), 40);
  state.set("1.num_batches_tracked", int64Scalar(2 ** 40 + 1));
  const weights = await Weights.create(device, module());
  weights.loadStateDict(new Map([...state].reverse()));
  assertEquals(bytes(await weights.stateDict()), bytes(state));
  weights.countStep();
  assertEquals(bytes(await weights.stateDict())[6], [
    "1.num_batches_tracked",
    "I64",
    "",
    int64Scalar(2 ** 40 + 2).bytes.toHex(),
  ]);
  weights.destroy();
});

gpuTest("state that does not fit is refused by name, and nothing is changed", async (device) => {
  const weights = await Weights.create(device, module(), { seed: 3 });
  const before = bytes(await weights.stateDict());
  const good = formulaState(module(), 40);
  const without = new Map(good);
  without.delete("2.weight");
  assertThrows(() => weights.loadStateDict(without), UserError, '"2.weight" is missing');
  const more = new Map([...good, ["7.weight", float32Tensor(new Float32Array(1), [1])]]);
  assertThrows(() => weights.loadStateDict(more), UserError, 'has no "7.weight"');
  const other = new Map([...good, ["4.bias", float32Tensor(new Float32Array(6), [6])]]);
  assertThrows(() => weights.loadStateDict(other), UserError, '"4.bias" has shape [6], this network\'s is [5]');
  const bool = new Map<string, TensorData>([
    ...good,
    ["4.bias", { dtype: "BOOL", shape: [5], bytes: new Uint8Array(5) }],
  ]);
  assertThrows(() => weights.loadStateDict(bool), UserError, '"4.bias"');
  const last = good.get("4.bias")!;
  const replaced = (change: Partial<Record<keyof TensorData, unknown>>) =>
    weights.loadStateDict(new Map([...good, ["4.bias", { ...last, ...change } as TensorData]]));
  for (const bytes of [0, 7, 16, 24]) {
    const message = `"4.bias" of shape [5] needs 20 bytes and has ${bytes}`;
    assertThrows(() => replaced({ bytes: new Uint8Array(bytes) }), UserError, message);
  }
  assertThrows(() => replaced({ dtype: "F16" }), UserError, '"4.bias" of shape [5] needs 10 bytes and has 20');
  assertThrows(() => replaced({ dtype: "F8" }), UserError, '"4.bias" has unknown dtype "F8"');
  for (
    const count of [
      { dtype: "F32", shape: [0], bytes: new Uint8Array(0) },
      { dtype: "BOOL", shape: [], bytes: new Uint8Array(1) },
      { dtype: "I64", shape: [2], bytes: new Uint8Array(16) },
      float32Tensor(Float32Array.of(1.5), []),
    ] as const
  ) {
    const miscounted = new Map([...good, ["1.num_batches_tracked", count]]);
    assertThrows(() => weights.loadStateDict(miscounted), UserError, '"1.num_batches_tracked" is no count');
  }
  const cut = new Map([...good, ["1.num_batches_tracked", { ...int64Scalar(1), bytes: new Uint8Array(7) }]]);
  assertThrows(() => weights.loadStateDict(cut), UserError, '"1.num_batches_tracked" of shape [] needs 8 bytes');
  assertEquals(bytes(await weights.stateDict()), before);
  weights.destroy();
});

gpuTest("num_batches_tracked may be absent", async (device) => {
  const weights = await Weights.create(device, module());
  weights.countStep();
  const state = formulaState(module(), 40);
  state.delete("1.num_batches_tracked");
  weights.loadStateDict(state);
  assertEquals((await weights.stateDict()).get("1.num_batches_tracked"), int64Scalar(0));
  weights.destroy();
});

gpuTest("half precision is widened", async (device) => {
  const state = formulaState(module(), 40);
  const half = new Float16Array([0.5, -1.25, 3, 1e-3, 65504]);
  state.set("4.bias", { dtype: "F16", shape: [5], bytes: new Uint8Array(half.buffer) });
  const weights = await Weights.create(device, module());
  weights.loadStateDict(state);
  assertEquals([...toFloat32((await weights.stateDict()).get("4.bias")!)], [...half]);
  weights.destroy();
});

gpuTest("a seed gives the same weights again, another seed others, of Kaiming's size", async (device) => {
  const big = () => new Sequential(new Conv2d(16, 64, 3), new BatchNorm2d(64));
  const create = async (seed?: number) => {
    const weights = await Weights.create(device, big(), { seed });
    const state = await weights.stateDict();
    weights.destroy();
    return state;
  };
  const [a, again, other] = [await create(5), await create(5), await create(6)];
  assertEquals(bytes(a), bytes(again));
  assertNotEquals(bytes(a), bytes(other));
  const values = toFloat32(a.get("0.weight")!);
  const std = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
  assert(Math.abs(std / Math.sqrt(2 / (16 * 9)) - 1) < 0.05, `${std}`);
  for (const [name, value] of [["0.bias", 0], ["1.weight", 1], ["1.running_mean", 0], ["1.running_var", 1]] as const) {
    assert(toFloat32(a.get(name)!).every((each) => each === value), name);
  }
});

gpuTest("a seed that is none is refused, and leaves no buffer behind", async (device) => {
  using buffers = trackBuffers(device);
  for (const seed of [-1, 1.5, NaN]) {
    await assertRejects(() => Weights.create(device, module(), { seed }), RangeError, `seed is ${seed}`);
  }
  assertEquals([buffers.made, buffers.left.size], [6, 0]);
});

gpuTest("momenta come back, start at zero and are refused like weights", async (device) => {
  const weights = await Weights.create(device, module());
  assertEquals(await weights.momenta(), undefined);
  await weights.prepareTraining();
  const zero = (await weights.momenta())!;
  assertEquals([...zero.keys()], ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "4.weight", "4.bias"]);
  assert([...zero.values()].every((tensor) => toFloat32(tensor).every((value) => value === 0)));
  const wanted = new Map([...formulaState(module(), 80)].filter(([name]) => zero.has(name)));
  await weights.loadMomenta(wanted);
  assertEquals(bytes((await weights.momenta())!), bytes(wanted));
  wanted.delete("2.weight");
  await assertRejects(() => weights.loadMomenta(wanted), UserError, '"2.weight" is missing');
  weights.destroy();
});

gpuTest(
  "what has two names has one place; both are in the state_dict, and the last one loaded counts",
  async (device) => {
    class Tied extends Module {
      a = new Sequential(new Conv2d(3, 3, 1), new BatchNorm2d(3));
      b = this.a;
      forward(x: Tensor): Tensor {
        return this.b.forward(this.a.forward(x));
      }
    }
    const tied = new Tied(),
      alone = await Weights.create(device, new Tied().a),
      weights = await Weights.create(device, tied);
    await weights.prepareTraining();
    await alone.prepareTraining();
    assertEquals(weights.bytes, alone.bytes);
    weights.countStep();
    const state = await weights.stateDict();
    assertEquals([...state.keys()], [...tied.stateEntries()].map(([name]) => name));
    for (const [name, tensor] of state) assertEquals(state.get(name.replace(/^a/, "b")), tensor, name);
    assertEquals(state.get("b.1.num_batches_tracked"), int64Scalar(1));
    // As torch.optim's parameters: each once.
    assertEquals([...(await weights.momenta())!.keys()], ["a.0.weight", "a.0.bias", "a.1.weight", "a.1.bias"]);
    const other = formulaState(tied, 40);
    weights.loadStateDict(other);
    assertEquals((await weights.stateDict()).get("a.0.weight"), other.get("b.0.weight"));
    other.delete("a.0.weight");
    assertThrows(() => weights.loadStateDict(other), UserError, '"a.0.weight" is missing');
    // PyTorch's `requires_grad` is the parameter's, too, not the name's.
    assertEquals(weights.parametersNamed((name) => name.startsWith("b.1")).size, 2);
    weights.countStep((name) => name.startsWith("b"));
    assertEquals((await weights.stateDict()).get("a.1.num_batches_tracked"), int64Scalar(0));
    for (const each of [alone, weights]) each.destroy();
  },
);

gpuTest("networks of one module count for themselves", async (device) => {
  const shared = module(), [a, b] = [await Weights.create(device, shared), await Weights.create(device, shared)];
  a.countStep();
  assertEquals((await a.stateDict()).get("1.num_batches_tracked"), int64Scalar(1));
  assertEquals((await b.stateDict()).get("1.num_batches_tracked"), int64Scalar(0));
  for (const each of [a, b]) each.destroy();
});

gpuTest("new parameters begin without momenta, counts and what the loss scale has learned", async (device) => {
  const weights = await Weights.create(device, module(), { seed: 3 });
  const before = bytes(await weights.stateDict());
  weights.countStep();
  await weights.prepareTraining();
  const zero = (await weights.momenta())!;
  await weights.loadMomenta(new Map([...formulaState(module(), 80)].filter(([name]) => zero.has(name))));
  const scale = await weights.prepareLossScale(), first = await weights.lossScale();
  scale.write({ scale: 2, goodSteps: 7 });
  weights.initialize(3);
  assertEquals(bytes(await weights.stateDict()), before);
  assertEquals(bytes((await weights.momenta())!), bytes(zero));
  assertEquals(await weights.lossScale(), first);
  weights.destroy();
});

gpuTest("a parameter that no field holds is told by its shape", async (device) => {
  const weights = await Weights.create(device, module());
  assertThrows(
    () => weights.state(new Linear(3, 7).weight),
    Error,
    "A parameter of shape [7,3] is used that the module",
  );
  weights.destroy();
});

gpuTest("what is read of a network is of one moment, whatever runs while it is read", async (device) => {
  // More than is copied at a time.
  const large = new Sequential(new Conv2d(3, 2048, 1), new BatchNorm2d(2048), new Conv2d(2048, 2304, 1));
  const network = await Network.create(device, new Sequential(large, new GlobalAvgPool2d(), new Linear(2304, 5)));
  const { weights } = network, source = await FloatSource.create(device, { n: 2, c: 3, h: 2, w: 2 });
  const step = await trainStep(network, { source }), average = await MovingAverage.create(network, 0.5);
  const run = () => step.run({ images: formula(24, 1), labels: [0, 1] }, { learningRate: 0.1 });
  const all = () => Promise.all([network.stateDict(), weights.momenta(), average.stateDict()]);
  run();
  average.update();
  const before = await all(), reading = all();
  run();
  average.update();
  const restore = average.take(), meanwhile = await reading;
  restore();
  const after = await all(), last = all();
  // What is freed is copied before, too.
  for (const each of [average, step, source, network]) each.destroy();
  const freed = await last;
  device.check();
  const same = (a: ReadonlyMap<string, TensorData>, b: ReadonlyMap<string, TensorData>) =>
    [...a].filter(([name, tensor]) => {
      const values = toFloat32(tensor), wanted = toFloat32(b.get(name)!);
      return values.every((each, at) => each === wanted[at]);
    }).length;
  for (const [i, state] of meanwhile.entries()) {
    const { size } = state!;
    assertEquals([same(before[i]!, state!), same(after[i]!, freed[i]!)], [size, size], "as it was");
    assert(same(after[i]!, state!) < size / 2, `${same(after[i]!, state!)} of ${size} did not change`);
  }
});
