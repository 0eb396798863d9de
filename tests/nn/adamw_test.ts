/** AdamW through whole steps and runs; its kernel is tested in `tests/kernels/adamw_test.ts`. */

import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint, type RunSettings } from "../../nn/checkpoint.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { frozenEntries } from "../../nn/freezing.ts";
import { BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, ReLU } from "../../nn/layers.ts";
import { stepMemory } from "../../nn/memory.ts";
import { Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import type { OptimizerSettings } from "../../nn/optimizers.ts";
import type { RunDescription } from "../../nn/run_description.ts";
import { RunSteps, type RunStepsOptions } from "../../nn/run_steps.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { trainStep, updateStep } from "../../nn/train_step.ts";
import { DivergedError } from "../../nn/train_events.ts";
import { Trainer } from "../../nn/trainer.ts";
import type { StateDict } from "../../nn/weights.ts";
import { NARROW_NETWORK } from "../cli/support.ts";
import { formulaState } from "../parity/formula_state.ts";
import { assertClose, formula, gpuTest, standIn } from "../support.ts";

const module = () =>
  new Sequential(
    ...[new Conv2d(3, 6, 3, { padding: 1 }), new BatchNorm2d(6), new ReLU()],
    ...[new Conv2d(6, 10, 3, { stride: 2, groups: 2 }), new BatchNorm2d(10), new ReLU()],
    ...[new GlobalAvgPool2d(), new Linear(10, 5)],
  );
const SHAPE = { n: 4, c: 3, h: 8, w: 8 };
const batch = (i: number): FloatBatch => ({
  images: formula(4 * 3 * 64, 200 + i),
  labels: [0, 1, 2, 3].map((label) => (i + label) % 5),
});

/** Names and bytes, of all that learns and all that the optimizer keeps of it. */
async function snapshot({ weights }: Network) {
  const { step, expAvg, expAvgSq } = (await weights.adamwState())!;
  const text = (state: StateDict) => [...state].map(([name, { bytes }]) => `${name} ${bytes.toHex()}`);
  const learned = [...await weights.stateDict()].filter(([name]) => expAvg.has(name));
  return { step, learned: text(new Map(learned)), expAvg: text(expAvg), expAvgSq: text(expAvgSq) };
}

/** Six steps by `torch.optim.AdamW` (1.13) in float64, rate 0.02, on the network and batches above. */
const TORCH = [
  {
    optimizer: { kind: "adamw" },
    losses: [1.5660433, 1.74912366, 1.76906317, 1.68110818, 1.6949759, 1.54964522],
    weights: [0.3141996, 0.3326335, -0.4795203, 0.232393, -0.06366726, -0.06321332, 0.01850559, -0.3157686],
    biases: [-0.01945563, -0.1579484, 0.04737357, -0.02155463, -0.007720249, 0.1542882],
  },
  {
    optimizer: { kind: "adamw", weightDecay: 0.5, decayVectors: false, betas: [0.8, 0.95], eps: 1e-4 },
    losses: [1.5660433, 1.74780489, 1.76563704, 1.6738524, 1.68616603, 1.55872179],
    weights: [0.2969749, 0.3197752, -0.4534682, 0.220256, -0.06122063, -0.06046704, 0.0215536, -0.2951493],
    biases: [-0.02698773, -0.1683391, 0.04904941, -0.01824263, -0.001336875, 0.1506327],
  },
  {
    optimizer: { kind: "adamw", weightDecay: 0, eps: 1e-3 },
    clipGradNorm: 0.1,
    losses: [1.5660433, 1.75803659, 1.7650189, 1.69986436, 1.67196012, 1.55792138],
    weights: [0.3144302, 0.3219864, -0.4807903, 0.2286115, -0.06222945, -0.06665451, 0.008979501, -0.3270272],
    biases: [-0.0453834, -0.1314405, 0.04473204, -0.01019601, -0.0009899327, 0.1066375],
  },
] as const;

gpuTest("AdamW trains a network as PyTorch's does", async (device) => {
  for (const { optimizer, losses, weights, biases, ...options } of TORCH) {
    const network = await Network.create(device, module());
    network.loadStateDict(formulaState(module(), 60));
    const source = await FloatSource.create(device, SHAPE);
    const step = await trainStep(network, { source, optimizer, ...options });
    for (let i = 0; i < 6; i++) step.run(batch(i), { learningRate: 0.02 });
    const found = (await step.collect()).map(({ lossSum, rows }) => lossSum / rows);
    assertClose(found, losses, 2e-6, "losses");
    const state = await network.stateDict(), { step: count } = (await network.weights.adamwState())!;
    assertClose(toFloat32(state.get("7.weight")!).subarray(0, 8), weights, 1e-5, "weights");
    assertClose(toFloat32(state.get("1.bias")!), biases, 1e-4, "biases");
    assertEquals(count, 6);
    assertEquals(await network.weights.momenta(), undefined);
    for (const each of [step, source, network]) each.destroy();
  }
});

/** Steps of one batch each. */
async function steps(
  device: Device,
  count: number,
  { scale, ...options }: RunStepsOptions & { readonly scale?: number },
) {
  const network = await Network.create(device, module());
  network.loadStateDict(formulaState(module(), 60));
  const source = await FloatSource.create(device, SHAPE);
  const made = await RunSteps.create(network, [source], { optimizer: { kind: "adamw" }, ...options });
  if (scale) await network.weights.loadLossScale({ scale, goodSteps: 0 });
  const results = [], states = [await snapshot(network)];
  for (let i = 0; i < count; i++) {
    made.run([{ rows: 4, batch: batch(i) }], { learningRate: 0.02 });
    results.push(...(await made.collect()).results);
    states.push(await snapshot(network));
  }
  const { bytes } = network.weights;
  for (const each of [made, source, network]) each.destroy();
  return { results, states, bytes };
}

gpuTest("AdamW: a step that overflows in half precision is left out, and none of the count", async (device) => {
  for (const accumulate of [1, 2]) {
    const { results, states } = await steps(device, 30, {
      precision: "f16",
      scale: 2 ** 40,
      accumulate,
      clipGradNorm: 1,
    });
    const skipped = results.filter((each) => each.skipped).length;
    assert(skipped > 2 && skipped < 29, `${skipped}`);
    for (const [i, result] of results.entries()) {
      if (result.skipped) assertEquals(states[i + 1], states[i]);
      else assertEquals(states[i + 1].step, states[i].step + 1);
    }
    assertEquals(states.at(-1)!.step, 30 - skipped);
  }
});

gpuTest(
  "AdamW: sums of one batch have the bits of a step, which a look for anomalies leaves as they are",
  async (device) => {
    const plain = await steps(device, 3, {});
    for (const options of [{ accumulate: 2 }, { detectAnomaly: true }]) {
      const { states, bytes } = await steps(device, 3, options);
      assertEquals(states, plain.states);
      if (!options.accumulate) continue;
      // Parameters, gradients and two averages are four of one size; the sums are the fifth.
      const parameters = bytes - plain.bytes;
      assert(plain.bytes > 4 * parameters && plain.bytes < 5 * parameters);
    }
  },
);

gpuTest("AdamW: several batches are one step by the mean of their gradients", async (device) => {
  const plain = () => new Sequential(new Conv2d(3, 8, 3), new ReLU(), new GlobalAvgPool2d(), new Linear(8, 5));
  const train = async (rows: number) => {
    const network = await Network.create(device, plain(), { seed: 2 });
    const source = await FloatSource.create(device, { ...SHAPE, n: rows }), accumulate = 4 / rows;
    const made = await RunSteps.create(network, [source], { optimizer: { kind: "adamw", eps: 1e-4 }, accumulate });
    const all = batch(0), size = rows * 3 * 64;
    const group = Array.from({ length: accumulate }, (_, i) => ({
      rows,
      batch: {
        images: all.images.slice(i * size, (i + 1) * size),
        labels: Array.from(all.labels).slice(i * rows, (i + 1) * rows),
      },
    }));
    for (let i = 0; i < 3; i++) made.run(group, { learningRate: 0.02 });
    const state = await network.stateDict(), { step } = (await network.weights.adamwState())!;
    for (const each of [made, source, network]) each.destroy();
    return { step, weights: toFloat32(state.get("3.weight")!) };
  };
  const [whole, halves] = [await train(4), await train(2)];
  assertEquals([whole.step, halves.step], [3, 3]);
  assertClose(halves.weights, whole.weights, 1e-5, "weights");
});

gpuTest(
  "AdamW: parameters that no binding holds at once learn in stretches, and count the step once",
  async (device) => {
    const train = async (maxBindingBytes: number) => {
      const small = standIn(device, { capabilities: { ...device.capabilities, maxBindingBytes } });
      const convolutions = Array.from({ length: 6 }, () => new Conv2d(64, 64, 1));
      const network = await Network.create(
        small,
        new Sequential(new Conv2d(3, 64, 1), ...convolutions, new GlobalAvgPool2d(), new Linear(64, 5)),
      );
      const source = await FloatSource.create(small, SHAPE);
      const step = await trainStep(network, { source, optimizer: { kind: "adamw", decayVectors: false } });
      for (let i = 0; i < 2; i++) step.run(batch(i), { learningRate: 0.01 });
      const found = await snapshot(network), { dispatches } = step.plan;
      for (const each of [step, source, network]) each.destroy();
      return { found, labels: dispatches.map(({ label }) => label).filter((label) => label.startsWith("adamw")) };
    };
    const [whole, cut] = [await train(2 ** 30), await train(2 ** 16)];
    assertEquals(whole.labels, ["adamw.count", "adamw"]);
    assertEquals(cut.labels, ["adamw.count", "adamw", "adamw"]);
    assertEquals([cut.found, cut.found.step], [whole.found, 2]);
  },
);

gpuTest("AdamW: frozen stages keep their weights, weight decay or not", async (device) => {
  const network = await Network.create(device, describedNetwork(NARROW_NETWORK), { seed: 3 });
  const source = await FloatSource.create(device, { n: 2, c: 3, h: 32, w: 32 });
  const frozen = frozenEntries(["stem"], [...network.module.stateEntries()].map(([name]) => name));
  const optimizer = { kind: "adamw", weightDecay: 0.1 } as const;
  const step = await trainStep(network, { source, optimizer, frozen }), before = await network.stateDict();
  step.run({ images: formula(2 * 3 * 1024, 1), labels: [0, 1] }, { learningRate: 0.1 });
  const after = await network.stateDict(), { expAvg, expAvgSq } = (await network.weights.adamwState())!;
  for (const name of expAvg.keys()) {
    assertEquals(String(after.get(name)!.bytes) === String(before.get(name)!.bytes), frozen(name), name);
    if (frozen(name)) assert([expAvg, expAvgSq].every((state) => toFloat32(state.get(name)!).every((v) => v === 0)));
  }
  for (const each of [step, source, network]) each.destroy();
});

gpuTest("AdamW: what it keeps comes back, beside SGD's, and begins anew with the weights", async (device) => {
  const network = await Network.create(device, module(), { seed: 3 }), { weights } = network;
  assertEquals(await weights.adamwState(), undefined);
  const source = await FloatSource.create(device, SHAPE);
  const step = await trainStep(network, { source, optimizer: { kind: "adamw" } });
  const other = await trainStep(network, { source });
  for (const each of [step, step, other]) each.run(batch(0), { learningRate: 0.01 });
  const kept = (await weights.adamwState())!, momenta = (await weights.momenta())!;
  assertEquals([kept.step, kept.expAvg.size, kept.expAvgSq.size, momenta.size], [2, 10, 10, 10]);
  weights.initialize(4);
  const cleared = (await weights.adamwState())!;
  assertEquals(cleared.step, 0);
  assert([...cleared.expAvg.values(), ...cleared.expAvgSq.values()].every(({ bytes }) => bytes.every((b) => b === 0)));
  await weights.loadAdamwState(kept);
  assertEquals(await weights.adamwState(), kept);
  const short = new Map([...kept.expAvgSq].slice(1));
  await assertRejects(() => weights.loadAdamwState({ ...kept, step: 9, expAvgSq: short }), UserError, "is missing");
  for (const step of [-1, 0.5, NaN, 2 ** 32]) {
    await assertRejects(
      () => weights.loadAdamwState({ ...kept, step }),
      RangeError,
      `step ${step}: it must be a whole`,
    );
  }
  assertEquals(await weights.adamwState(), kept);
  for (const each of [step, other, source, network]) each.destroy();
});

gpuTest("settings that an optimizer cannot have are refused", async (device) => {
  const network = await Network.create(device, module()), source = await FloatSource.create(device, SHAPE);
  const cases: [Record<string, unknown>, typeof RangeError | typeof TypeError, string][] = [
    [{ kind: "adam" }, RangeError, 'kind "adam": it must be sgd or adamw'],
    [{ kind: "adamw", betas: [0.9, 1] }, RangeError, "it must be two numbers from 0 to below 1"],
    [{ kind: "adamw", betas: [0.9] }, RangeError, "betas"],
    [{ kind: "adamw", betas: 0.9 }, RangeError, "betas 0.9"],
    [{ kind: "adamw", eps: 0 }, RangeError, "eps 0: it must be at least 1e-30 and finite"],
    [{ kind: "adamw", eps: NaN }, RangeError, "eps NaN"],
    [{ kind: "adamw", weightDecay: -1 }, RangeError, "weightDecay -1"],
    [{ kind: "adamw", momentum: 0.9 }, TypeError, "no such option, only kind, weightDecay, decayVectors, betas, eps"],
    [{ betas: [0.9, 0.99] }, TypeError, "no such option, only kind, weightDecay, decayVectors, momentum, nesterov"],
  ];
  for (const [settings, type, message] of cases) {
    const optimizer = settings as OptimizerSettings;
    await assertRejects(() => trainStep(network, { source, optimizer }), type, message);
    await assertRejects(() => updateStep(network, { optimizer }), type, message);
  }
  // Nothing was made for it.
  assertEquals(await network.weights.gradients(), undefined);
  for (const each of [source, network]) each.destroy();
});

Deno.test("AdamW takes one more buffer of the parameters' size than SGD", () => {
  const input = { n: 2, c: 3, h: 32, w: 32 }, network = describedNetwork(NARROW_NETWORK);
  const bytes = (optimizer?: "sgd" | "adamw", training = true) => stepMemory(network, input, { training, optimizer });
  assertEquals(bytes("sgd"), bytes());
  const [sgd, adamw] = [bytes("sgd"), bytes("adamw")], { stateBytes } = bytes("sgd", false);
  // Gradients and momenta, or gradients and two averages.
  assertEquals((adamw.stateBytes - stateBytes) / 3, (sgd.stateBytes - stateBytes) / 2);
  assertEquals(adamw.activationBytes, sgd.activationBytes);
  assertEquals(bytes("adamw", false), bytes("sgd", false));
});

/** 52 images are 3 batches of 16 and a rest of 4; in twos, 2 steps. */
const data = shapes({ train: 52, test: 20, seed: 0 });
const run = (settings: Partial<RunSettings> = {}): RunDescription => ({
  network: NARROW_NETWORK,
  input: { image_size: 32, mean: data.mean, std: data.std },
  settings: {
    ...{ dataset: "shapes", batch_size: 16, epochs: 2, lr: 0.002, optimizer: "adamw", weight_decay: 0.01 },
    ...{ label_smoothing: 0.1, seed: 7, schedule: { kind: "cosine", by: "step" }, ...settings },
  },
});

async function train(device: Device, description: RunDescription, from?: Checkpoint, stopAfter = Infinity) {
  const trainer = await Trainer.create(device, data, description, from), controller = new AbortController();
  let steps = 0;
  try {
    for await (const event of trainer.run(controller.signal)) {
      if (event.type === "step" && ++steps === stopAfter) controller.abort();
    }
    return await trainer.checkpoint();
  } finally {
    trainer.destroy();
  }
}

gpuTest("a run by AdamW goes on with the same bits, whatever goes with it", async (device) => {
  for (
    const settings of [
      { betas: [0.8, 0.99], eps: 1e-6 },
      { precision: "f16", accumulate: 2, ema_decay: 0.5, clip_grad_norm: 1, decay_vectors: false },
      { frozen: ["stem"] },
    ] as const
  ) {
    const whole = await train(device, run(settings)), half = await train(device, run(settings), undefined, 1);
    assert(half.adamw!.step >= 1 && half.adamw!.step < whole.adamw!.step);
    assertEquals(half.momenta, undefined);
    const from = await decodeCheckpoint(await encodeCheckpoint(half), "here");
    assertEquals(from.adamw, half.adamw);
    assertEquals(await encodeCheckpoint(await train(device, run(settings), from)), await encodeCheckpoint(whole));
    assertNotEquals((await train(device, run({ ...settings, weight_decay: 0.5 }))).state, whole.state);
  }
});

gpuTest("a run goes on with the optimizer that it was begun with, and all that it kept", async (device) => {
  const half = await train(device, run(), undefined, 1), sgd = { optimizer: undefined, momentum: 0.9, nesterov: false };
  const refused = (from: Checkpoint, settings: Partial<RunSettings>, message: string) =>
    assertRejects(() => train(device, run(settings), from), UserError, `Cannot resume from the checkpoint: ${message}`);
  const { adamw, ...without } = half;
  await refused(without, {}, 'it lacks what AdamW keeps, which "optimizer" needs');
  await refused(half, sgd, 'its run has "optimizer" "adamw", this one "sgd", so that its steps would be others');
  const begun = await train(device, run(sgd), undefined, 1);
  await refused(begun, {}, 'its run has "optimizer" "sgd", this one "adamw"');
  // What was not said means SGD.
  await train(device, run({ ...sgd, optimizer: "sgd" }), begun);
  // Its weights may begin another run.
  const { progress: _, ...description } = half.description;
  const anew = await train(device, run(sgd), { ...half, description }, 1);
  assertEquals([anew.adamw, anew.momenta!.size], [undefined, adamw!.expAvg.size]);
});

gpuTest("the settings of a run are those of its optimizer", async (device) => {
  const cases: [Partial<RunSettings>, string][] = [
    [{ optimizer: "adam" as "adamw" }, '"settings.optimizer" cannot be "adam"'],
    [{ optimizer: undefined }, '"settings.momentum" cannot be undefined'],
    [{ optimizer: undefined, momentum: 0.9 }, '"settings.nesterov" cannot be undefined'],
    [{ momentum: 0.9 }, '"settings.momentum" cannot be 0.9'],
    [{ nesterov: false }, '"settings.nesterov" cannot be false'],
    [{ betas: [0.9, 1] }, '"settings.betas" cannot be'],
    [{ eps: 0 }, '"settings.eps" cannot be 0'],
    [{ optimizer: "sgd", momentum: 0, nesterov: false, eps: 1e-8 }, '"settings.eps" cannot be'],
  ];
  for (const [settings, message] of cases) {
    const error = await assertRejects(() => Trainer.create(device, data, run(settings)), UserError, message);
    assertEquals(error.exitCode, 2);
  }
});

gpuTest("a run by AdamW that diverges is found out, and where", async (device) => {
  const create = (options = {}) =>
    Trainer.create(device, data, run({ lr: 1e30, schedule: undefined }), undefined, options);
  const trainer = await create({ detectAnomaly: true });
  const error = await assertRejects(async () => {
    for await (const event of trainer.run()) void event;
  }, DivergedError);
  assertMatch(error.message, /first value that is not finite appeared at step [12] of epoch 1, in .* \(kernel "/);
  trainer.destroy();
});

Deno.test("a count of steps in a checkpoint that is none is refused", async () => {
  const { narrowCheckpoint } = await import("../cli/support.ts");
  const { checkpointFile } = await import("../../nn/checkpoint.ts");
  const checkpoint = narrowCheckpoint(), expAvg = checkpoint.momenta!;
  const decoded = async (adamw: Checkpoint["adamw"]) =>
    (await decodeCheckpoint(await checkpointFile({ ...checkpoint, momenta: undefined, adamw }), "x")).adamw;
  assertEquals((await decoded({ step: 3, expAvg, expAvgSq: expAvg }))?.step, 3);
  await assertRejects(() => decoded({ step: -3, expAvg, expAvgSq: expAvg }), UserError, "AdamW's step is not a whole");
});
