import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import type { ImageWindow } from "../../kernels/batch.ts";
import type { Random } from "../../kernels/random.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import {
  type Checkpoint,
  checkpointFile,
  decodeCheckpoint,
  encodeCheckpoint,
  type RunSettings,
} from "../../nn/checkpoint.ts";
import { EpochBatches } from "../../nn/epoch_batches.ts";
import { BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, ReLU } from "../../nn/layers.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { relu } from "../../nn/ops/relu.ts";
import { Network } from "../../nn/network.ts";
import type { RunDescription } from "../../nn/run_description.ts";
import { RunSteps } from "../../nn/run_steps.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { RING_SLOTS } from "../../nn/step.ts";
import { gradientStep, trainStep, updateStep } from "../../nn/train_step.ts";
import { DivergedError, type TrainEvent } from "../../nn/train_events.ts";
import { Trainer } from "../../nn/trainer.ts";
import { NARROW_NETWORK } from "../cli/support.ts";
import { formulaState } from "../parity/formula_state.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";

/** The golden file's network; PyTorch's names of its layers. */
const LAYERS: Readonly<Record<string, string>> = { 0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 7: "fc" };
const small = () =>
  new Sequential(
    new Conv2d(3, 8, 3, { padding: 1, bias: false }),
    new BatchNorm2d(8),
    new ReLU(),
    new Conv2d(8, 16, 3, { stride: 2, padding: 1, groups: 4, bias: false }),
    new BatchNorm2d(16),
    new ReLU(),
    new GlobalAvgPool2d(),
    new Linear(16, 5),
  );

const golden = goldens("accumulation");
for (const name of golden.cases) {
  gpuTest(`groups of batches, the last ones smaller, train as PyTorch's do: ${name}`, async (device) => {
    const s = golden.settings(name), groups: number[][] = s.groups;
    const network = await Network.create(device, small());
    network.loadStateDict(formulaState(small(), s.stream_base));
    const sources: FloatSource[] = [];
    for (const n of new Set(groups.flat())) {
      sources.push(await FloatSource.create(device, { n, c: 3, h: s.size, w: s.size }));
    }
    const steps = await RunSteps.create(network, sources, {
      optimizer: { momentum: s.momentum, weightDecay: s.weight_decay, nesterov: s.nesterov },
      labelSmoothing: s.label_smoothing,
      clipGradNorm: s.clip_grad_norm,
      accumulate: Math.max(...groups.map(({ length }) => length)),
    });
    let stream = 0;
    for (const group of groups) {
      const batches = group.map((rows) => {
        const i = stream++;
        const images = formula(rows * 3 * s.size ** 2, s.x_stream + i);
        return { rows, batch: { images, labels: Array.from({ length: rows }, (_, r) => (7 * i + 3 * r) % 5) } };
      });
      steps.run(batches, { learningRate: s.lr });
    }
    const { results, cold } = await steps.collect();
    assert(cold);
    assertEquals(results.map(({ rows }) => rows), groups.map((group) => group.reduce((sum, rows) => sum + rows, 0)));
    const losses = golden.values(`${name}.losses`);
    const sums = groups.map((group, i) => {
      const before = groups.slice(0, i).flat().length;
      return group.reduce((sum, rows, k) => sum + rows * losses[before + k], 0);
    });
    assertClose(results.map(({ lossSum }) => lossSum), sums, 1e-5, "losses");
    if (s.clip_grad_norm !== undefined) {
      assertClose(results.map(({ gradientNorm }) => gradientNorm!), golden.values(`${name}.norms`), 1e-5, "norms");
    }
    for (const [key, tensor] of await network.stateDict()) {
      const [layer, entry] = key.split(".");
      const wanted = golden.file.tensors.get(`${name}.state.${LAYERS[layer]}.${entry}`)!;
      // PyTorch counts every batch that batch norm sees.
      if (tensor.dtype === "I64") assertEquals(tensor.bytes, wanted.bytes, key);
      else assertClose(toFloat32(tensor), toFloat32(wanted), 2e-5, key);
    }
    steps.destroy();
    network.destroy();
  });
}

const SHAPE = { n: 2, c: 3, h: 8, w: 8 };
const batch = (stream: number): FloatBatch => ({ images: formula(2 * 3 * 64, stream), labels: [0, 3] });

/** The small network trained for a few steps of one batch each. */
async function trained(device: Device, accumulate?: number) {
  const network = await Network.create(device, small(), { seed: 3 });
  const source = await FloatSource.create(device, SHAPE);
  const steps = await RunSteps.create(network, [source], { accumulate });
  for (let i = 0; i < 3; i++) steps.run([{ rows: 2, batch: batch(i) }], { learningRate: 0.1 });
  const { results } = await steps.collect();
  const state = [...await network.stateDict()].map(([name, { bytes }]) => `${name} ${bytes.toHex()}`);
  const { bytes } = network.weights;
  steps.destroy();
  network.destroy();
  return { results, state, bytes };
}

gpuTest("a group of one has the bits of a step without groups, whose memory has no sums", async (device) => {
  const [plain, one, several] = [await trained(device), await trained(device, 1), await trained(device, 2)];
  assertEquals(one, plain);
  assertEquals(several.state, plain.state);
  assertEquals(several.results, plain.results);
  // Three of four quarters: parameters, gradients and momenta; the sums are the fourth.
  const parameters = several.bytes - plain.bytes;
  assert(parameters > 0 && plain.bytes > 3 * parameters && plain.bytes < 4 * parameters);
});

gpuTest("both parts of a step are made alike, or the second one throws", async (device) => {
  const network = await Network.create(device, small(), { seed: 3 });
  const source = await FloatSource.create(device, SHAPE);
  const run = { share: 1, first: true } as const, rate = { learningRate: 0.1 };
  const half = await gradientStep(network, { source, precision: "f16" });
  const still = await gradientStep(network, { source, frozen: (name) => /^[01]\./.test(name) });
  const [plain, update] = [await gradientStep(network, { source }), await updateStep(network)];
  const before = await network.stateDict();
  half.run(batch(1), run);
  assertThrows(() => update.run(rate), RangeError, "in f32 from sums of gradients in f16");
  assertThrows(() => plain.run(batch(1), { ...run, first: false }), RangeError, "in f32");
  still.run(batch(1), run);
  assertThrows(() => update.run(rate), RangeError, "with other parameters frozen");
  assertEquals((await network.stateDict()).get("7.weight"), before.get("7.weight"));
  // Sums that begin anew are of what begins them.
  plain.run(batch(1), run);
  update.run(rate);
  assertEquals((await plain.collect()).length, 1);
  assertEquals(await update.collect(), [], "without a norm, a scale or an anomaly there is nothing to tell");
  for (const step of [half, still, plain, update]) step.destroy();
  network.destroy();
});

gpuTest("the ring holds so many batches, and no step may begin that it has no place for", async (device) => {
  const network = await Network.create(device, small());
  const source = await FloatSource.create(device, SHAPE);
  const steps = await RunSteps.create(network, [source], { accumulate: 100 });
  const group = Array.from({ length: 100 }, () => ({ rows: 2, batch: batch(1) }));
  for (let i = 0; i < 2; i++) {
    assert(!steps.full);
    steps.run(group, { learningRate: 0.001 });
  }
  assert(steps.full && 300 > RING_SLOTS);
  const { results } = await steps.collect();
  assertEquals(results.map(({ rows }) => rows), [200, 200]);
  assert(!steps.full && steps.pending === 0);
  steps.destroy();
  network.destroy();
});

/** 52 images are 3 batches of 16 and a rest of 4; in twos, 2 steps. */
const data = shapes({ train: 52, test: 20, seed: 0 });
const run = (settings: Partial<RunSettings>): RunDescription => ({
  network: NARROW_NETWORK,
  input: { image_size: 32, mean: data.mean, std: data.std },
  settings: {
    ...{ dataset: "shapes", batch_size: 16, epochs: 3, lr: 0.05, momentum: 0.9, weight_decay: 0.001, nesterov: true },
    ...{ label_smoothing: 0.1, seed: 7, clip_grad_norm: 2, ema_decay: 0.9, augment: { flip: true, mixup: 0.2 } },
    ...{ schedule: { kind: "cosine", by: "step" }, accumulate: 2, ...settings },
  },
});

async function train(device: Device, description: RunDescription, { from, stop = () => false, detectAnomaly = false }: {
  from?: Checkpoint;
  stop?: (event: TrainEvent) => boolean;
  detectAnomaly?: boolean;
} = {}) {
  const trainer = await Trainer.create(device, data, description, from, { detectAnomaly });
  const controller = new AbortController(), events: TrainEvent[] = [];
  try {
    for await (const event of trainer.run(controller.signal)) {
      events.push(event);
      if (stop(event)) controller.abort();
    }
    return { events, steps: trainer.stepsPerEpoch, checkpoint: await trainer.checkpoint() };
  } finally {
    trainer.destroy();
  }
}

Deno.test("an epoch's batches stand in groups, the last one with what is left", () => {
  const rows = (accumulate: number) =>
    new EpochBatches(data.train, run({ accumulate })).groups(0).map((group) => group.map(({ length }) => length));
  assertEquals(rows(1), [[16], [16], [16], [4]]);
  assertEquals(rows(2), [[16, 16], [16, 4]]);
  assertEquals(rows(3), [[16, 16, 16], [4]]);
  assertEquals(rows(200), [[16, 16, 16, 4]]);
  const batches = new EpochBatches(data.train, run({ accumulate: 3 }));
  assertEquals(batches.groups(5).flat(), batches.order(5));
});

Deno.test("a crop of other than four numbers is refused, and the image named", () => {
  for (const window of [[0, 0], [0, 0, 8, 8, 1], undefined]) {
    const crop = () => window as unknown as ImageWindow;
    const batches = new EpochBatches({ ...data.train, crop }, run({ augment: undefined }));
    assertThrows(() => batches.batch(Uint32Array.of(3, 4), 0), RangeError, "Cannot crop image 3 to");
  }
});

Deno.test("each epoch has all images in an order of its own, and other parts of them; both are the seed's", () => {
  const crop = (_: number, random: Random) => [random.uniform(), 0, 1, 1] as const;
  const images = { ...data.train, crop }, settings = { batch_size: 13, augment: undefined };
  const epochs = ([[7, 0], [7, 1], [8, 0]] as const).map(([seed, epoch]) => {
    const batches = new EpochBatches(images, run({ ...settings, seed }));
    const seen = batches.batch(Uint32Array.of(3, 4), epoch) as { windows: Float32Array };
    return { order: batches.order(epoch).flatMap((batch) => [...batch]), windows: [...seen.windows] };
  });
  const numbers = Array.from({ length: 52 }, (_, image) => image);
  for (const { order } of epochs) assertEquals(order.toSorted((a, b) => a - b), numbers);
  assertEquals(new Set([numbers, ...epochs.map(({ order }) => order)].map(String)).size, 4);
  // Of two images each: six windows.
  assertEquals(new Set(epochs.flatMap(({ windows: [a, , , , b] }) => [a, b])).size, 6);
  const again = new EpochBatches(images, run({ ...settings, seed: 7 }));
  assertEquals(again.order(1).flatMap((batch) => [...batch]), epochs[1].order);
  assertEquals(again.batch(Uint32Array.of(3, 4), 1), {
    indices: Uint32Array.of(3, 4),
    windows: Float32Array.from(epochs[1].windows),
  });
});

gpuTest("a run with groups counts its steps by the groups, and goes on with the same bits", async (device) => {
  const whole = await train(device, run({}));
  assertEquals(whole.steps, 2);
  const counted = toFloat32(whole.checkpoint.state.get("bn1.num_batches_tracked")!)[0];
  assertEquals(counted, 3 * 4);
  const bytes = await encodeCheckpoint(whole.checkpoint);
  const first = await train(device, run({}), { stop: (event) => event.type === "step" && event.epoch === 2 });
  assertEquals(first.checkpoint.description.progress!.step, 1);
  assertEquals(first.checkpoint.description.progress!.rows, 32);
  const from = await decodeCheckpoint(await encodeCheckpoint(first.checkpoint), "here");
  assertEquals(from.description.settings!.accumulate, 2);
  assertEquals(await encodeCheckpoint((await train(device, run({}), { from })).checkpoint), bytes);

  const one = await train(device, run({ accumulate: 1 })), none = await train(device, run({ accumulate: undefined }));
  assertEquals(one.checkpoint.state, none.checkpoint.state);
  assertEquals(one.checkpoint.average, none.checkpoint.average);
  assertNotEquals(one.checkpoint.state.get("fc.weight"), whole.checkpoint.state.get("fc.weight"));
});

gpuTest("anomalies are found in groups too, and leave good runs as they are", async (device) => {
  const epochs = 1;
  const plain = await train(device, run({ epochs })),
    watched = await train(device, run({ epochs }), {
      detectAnomaly: true,
    });
  assertEquals(watched.checkpoint.state, plain.checkpoint.state);
  const wild = run({ epochs, lr: 1e30, clip_grad_norm: undefined, schedule: undefined });
  const error = await assertRejects(() => train(device, wild, { detectAnomaly: true }), DivergedError);
  assertMatch(error.message, /first value that is not finite appeared at step [12] of epoch 1, in .* \(kernel "/);
});

Deno.test("a checkpoint's number of batches is checked", async () => {
  const { narrowCheckpoint } = await import("../cli/support.ts");
  for (const accumulate of [0, 1.5, RING_SLOTS + 1, "2"]) {
    const checkpoint = narrowCheckpoint();
    const settings = { ...checkpoint.description.settings!, accumulate: accumulate as number };
    const bytes = await checkpointFile({ ...checkpoint, description: { ...checkpoint.description, settings } });
    const error = await assertRejects(() => decodeCheckpoint(bytes, "x"));
    assertMatch((error as Error).message, /no valid "settings\.accumulate"/);
  }
});

/** Of large images it uses one convolution more. */
class Two extends Module {
  conv = new Conv2d(3, 8, 3, { padding: 1 });
  extra = new Conv2d(8, 8, 3, { padding: 1 });
  fc = new Linear(8, 2);
  forward(x: Tensor): Tensor {
    const y = relu(this.conv.forward(x));
    return this.fc.forward(new GlobalAvgPool2d().forward(x.shape.h > 8 ? relu(this.extra.forward(y)) : y));
  }
}

gpuTest("a parameter that a step does not use stays as it is, whatever gradient another step left", async (device) => {
  const network = await Network.create(device, new Two()), optimizer = { momentum: 0 };
  const batch = (size: number) => ({ images: formula(2 * 3 * size * size, 1), labels: [0, 1] });
  const sources = [12, 8].map((size) => FloatSource.create(device, { n: 2, c: 3, h: size, w: size }));
  const [large, small] = await Promise.all(sources);
  const steps = {
    large: await trainStep(network, { source: large, optimizer }),
    small: await trainStep(network, { source: small, optimizer }),
  };
  const extra = async () => toFloat32((await network.stateDict()).get("extra.weight")!, "");
  const begin = await extra(), settings = { learningRate: 1 };
  steps.small.run(batch(8), settings);
  assertEquals(await extra(), begin);
  steps.large.run(batch(12), settings);
  const moved = await extra();
  assertNotEquals(moved, begin);
  steps.small.run(batch(8), settings);
  assertEquals(await extra(), moved);
  // In two parts, too, and it is not counted in the gradients' norm.
  const gradients = await gradientStep(network, { source: small });
  const update = await updateStep(network, { optimizer, clipGradNorm: 1e9 });
  const norm = async () => {
    gradients.run(batch(8), { share: 1, first: true });
    update.run({ learningRate: 0 });
    return (await update.collect())[0].gradientNorm;
  };
  const before = await norm();
  steps.large.run(batch(12), { learningRate: 0 });
  assertEquals([await norm(), await extra()], [before, moved]);
});
