import { assert, assertAlmostEquals, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { limit } from "../../data/dataset.ts";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "../../nn/checkpoint.ts";
import { BatchSizeError } from "../../nn/batch_size.ts";
import { EpochBatches } from "../../nn/epoch_batches.ts";
import { float32Tensor } from "../../nn/safetensors.ts";
import type { RunDescription, TrainingData } from "../../nn/run_description.ts";
import { DivergedError, type TrainEvent } from "../../nn/train_events.ts";
import { Trainer } from "../../nn/trainer.ts";
import { NARROW_NETWORK } from "../cli/support.ts";
import { gpuTest } from "../support.ts";

/** 52 images are 3 batches of 16 and a rest of 4. */
const data = shapes({ train: 52, test: 20, seed: 0 });

const RUN: RunDescription = {
  network: NARROW_NETWORK,
  input: { image_size: 32, mean: data.mean, std: data.std },
  settings: {
    dataset: "shapes",
    batch_size: 16,
    epochs: 3,
    lr: 0.05,
    momentum: 0.9,
    weight_decay: 0.001,
    nesterov: true,
    label_smoothing: 0.1,
    seed: 7,
  },
};

const withSettings = (changes: Partial<RunDescription["settings"]>): RunDescription => ({
  ...RUN,
  settings: { ...RUN.settings, ...changes },
});

/** Trains until the end, or until `stop` says so; gives what happened and the state reached. */
async function train(
  device: Device,
  { run = RUN, from, stop = () => false }: {
    run?: RunDescription;
    from?: Checkpoint;
    stop?: (event: TrainEvent) => boolean;
  } = {},
): Promise<{ events: TrainEvent[]; checkpoint: Checkpoint }> {
  const trainer = await Trainer.create(device, data, run, from);
  const controller = new AbortController();
  const events: TrainEvent[] = [];
  for await (const event of trainer.run(controller.signal)) {
    events.push(event);
    if (stop(event)) controller.abort();
  }
  const checkpoint = await trainer.checkpoint();
  trainer.destroy();
  return { events, checkpoint };
}

const kinds = (events: readonly TrainEvent[]) => [...new Set(events.map(({ type }) => type))];

gpuTest("a run that was stopped and goes on ends with the same bits, wherever it stopped", async (device) => {
  const whole = await train(device);
  const bytes = await encodeCheckpoint(whole.checkpoint);
  const stops: Record<string, (event: TrainEvent) => boolean> = {
    "in an epoch": (event) => event.type === "step" && event.epoch === 2 && event.step === 1,
    "after the last step of an epoch": (event) => event.type === "step" && event.epoch === 2 && event.step === 4,
    "while testing": (event) => event.type === "evaluating" && event.epoch === 1,
    "at an epoch's end": (event) => event.type === "epoch" && event.metrics.epoch === 1,
  };
  for (const [when, stop] of Object.entries(stops)) {
    const first = await train(device, { stop });
    assertEquals(first.events.at(-1)!.type, "interrupted", when);
    // Through the file's bytes, as from a disk.
    const from = await decodeCheckpoint(await encodeCheckpoint(first.checkpoint), when);
    const second = await train(device, { from });
    assertEquals(await encodeCheckpoint(second.checkpoint), bytes, when);
    assertEquals(kinds(second.events).includes("interrupted"), false, when);
  }
});

gpuTest("two loops at one run are refused, and one that was left may be followed by another", async (device) => {
  const run = withSettings({ ema_decay: 0.9 }), { checkpoint } = await train(device, { run });
  const trainer = await Trainer.create(device, data, run);
  for (
    const left of [
      (event: TrainEvent) => event.type === "step",
      (event: TrainEvent) => event.type === "evaluating" && event.done > 0,
    ]
  ) {
    for await (const event of trainer.run()) {
      await assertRejects(() => trainer.run().next(), Error, "Cannot train a run twice at the same time");
      if (left(event)) break;
    }
  }
  for await (const event of trainer.run()) void event;
  assertEquals(await encodeCheckpoint(await trainer.checkpoint()), await encodeCheckpoint(checkpoint));
  trainer.destroy();
  for (const use of [() => trainer.run().next(), () => trainer.checkpoint()]) {
    await assertRejects(use, Error, "Cannot use the trainer: it was destroyed");
  }
  device.check();
});

gpuTest("an epoch that a run went on with takes as long as all of its images do", async (device) => {
  const { checkpoint } = await train(device, { stop: ({ type }) => type === "step" });
  const { description } = checkpoint, progress = { ...description.progress!, rows: 1e9 };
  const { events } = await train(device, { from: { ...checkpoint, description: { ...description, progress } } });
  const [first, second] = events.filter((event) => event.type === "epoch").map(({ seconds }) => seconds);
  assert(first > 1000 && second < 1000, `${first} and ${second} s`);
});

gpuTest("a checkpoint stays as it was while its run goes on", async (device) => {
  const trainer = await Trainer.create(device, data, RUN);
  const checkpoints: Checkpoint[] = [];
  for await (const { type } of trainer.run()) if (type === "epoch") checkpoints.push(await trainer.checkpoint());
  trainer.destroy();
  assertEquals(checkpoints.map(({ description }) => description.progress!.history.length), [1, 2, 3]);
});

gpuTest("a run tells its steps, its estimate, its tests and its epochs, and learns", async (device) => {
  const { events, checkpoint } = await train(device, { run: withSettings({ epochs: 8 }) });
  assertEquals(kinds(events).sort(), ["epoch", "estimate", "evaluating", "step"]);
  const steps = events.filter((event) => event.type === "step");
  assertEquals(steps.at(-1)!.step, 4);
  assert(steps.every(({ steps, loss, secondsLeft }) => steps === 4 && loss > 0 && secondsLeft >= 0));
  const epochs = events.filter((event) => event.type === "epoch").map(({ metrics }) => metrics);
  assertEquals(epochs.map(({ epoch }) => epoch), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert(epochs[7].train_loss < epochs[0].train_loss * 0.7, `${epochs.map(({ train_loss }) => train_loss)}`);
  assertEquals(checkpoint.description.progress!.history, epochs);
  const bests = events.filter((event) => event.type === "epoch").filter(({ best }) => best);
  assertEquals(bests.at(-1)!.metrics.test_acc, Math.max(...epochs.map(({ test_acc }) => test_acc)));
});

gpuTest("an epoch's loss is the mean over its images", async (device) => {
  for (const batch_size of [52, 16]) {
    const { events } = await train(device, { run: withSettings({ epochs: 1, batch_size }) });
    const steps = events.filter((event) => event.type === "step");
    const { metrics } = events.find((event) => event.type === "epoch")!;
    // Each step is told by itself while there are so few.
    const rows = batch_size === 52 ? [52] : [16, 16, 16, 4];
    assertEquals(steps.map(({ step }) => step), rows.map((_, index) => index + 1));
    const sum = steps.reduce((sum, { loss }, index) => sum + loss * rows[index], 0);
    assertAlmostEquals(metrics.train_loss, sum / 52, 1e-9);
  }
});

gpuTest("the seed decides: the same one gives the same bits, another one others", async (device) => {
  const first = async (seed: number) => {
    const trainer = await Trainer.create(device, data, withSettings({ seed }));
    const { state } = await trainer.checkpoint();
    trainer.destroy();
    return state.get("fc.weight");
  };
  assertNotEquals(await first(1), await first(2), "before the first step");
  const run = (seed: number) => train(device, { run: withSettings({ seed, epochs: 1 }) });
  const [one, same, other] = [await run(1), await run(1), await run(2)];
  assertEquals(same.checkpoint.state, one.checkpoint.state);
  assertNotEquals(other.checkpoint.state.get("fc.weight"), one.checkpoint.state.get("fc.weight"));
});

gpuTest(
  "a loss that is not finite stops the run and names the step; such weights make no checkpoint",
  async (device) => {
    const trainer = await Trainer.create(device, data, withSettings({ lr: 1e30 }));
    const error = await assertRejects(async () => {
      for await (const _ of trainer.run());
    }, DivergedError);
    assert(/not finite any more at step [234] of epoch 1: .*smaller learning rate/.test(error.message), error.message);
    await assertRejects(() => trainer.checkpoint(), DivergedError);
    trainer.destroy();
  },
);

gpuTest("a test whose logits are not finite is a divergence", async (device) => {
  const { checkpoint } = await train(device, { run: withSettings({ epochs: 1 }) });
  // Training normalizes by the batch; a tenth of a batch's mean leaves these as far off.
  const name = "layer1.0.bn3.running_mean", { shape } = checkpoint.state.get(name)!, state = new Map(checkpoint.state);
  state.set(name, float32Tensor(new Float32Array(shape[0]).fill(-3e38), shape));
  const description = { ...checkpoint.description, progress: undefined };
  const trainer = await Trainer.create(device, data, withSettings({ lr: 0 }), { description, state });
  await assertRejects(
    async () => {
      for await (const _ of trainer.run());
    },
    DivergedError,
    "The loss on the test set is not finite any more after epoch 1",
  );
  trainer.destroy();
});

gpuTest("what tells of no progress begins with its weights, and nothing else that it holds", async (device) => {
  const run = withSettings({ epochs: 1, precision: "f16", ema_decay: 0.9 });
  const { checkpoint } = await train(device, { run });
  const { description: { progress: _, ...description }, state } = checkpoint;
  assert(checkpoint.momenta && checkpoint.lossScale && checkpoint.average);
  const [all, alone] = [
    await train(device, { run, from: { ...checkpoint, description } }),
    await train(device, { run, from: { description, state } }),
  ];
  assertEquals(all.checkpoint, alone.checkpoint);
});

gpuTest("runs that cannot be are refused in words", async (device) => {
  const create = (run: RunDescription, from?: Checkpoint) => Trainer.create(device, data, run, from);
  const deep = { ...RUN.network, layers: [1, 1, 1, 1], channels: [16, 32, 32, 32] };
  const single = { ...withSettings({ batch_size: 1 }), network: deep };
  await assertRejects(() => create(single), UserError, "cannot be normalized");
  await assertRejects(
    () => create({ ...RUN, network: { ...NARROW_NETWORK, num_classes: 9 } }),
    UserError,
    "10 classes",
  );
  await assertRejects(() => create({ ...RUN, network: { ...NARROW_NETWORK, arch: "vgg" } }), UserError, "Unknown");
  const wrong: [Partial<Record<keyof RunDescription["settings"], unknown>>, string][] = [
    [{ accumulate: 0 }, '"settings.accumulate" cannot be 0'],
    [{ accumulate: 300 }, '"settings.accumulate" cannot be 300'],
    [{ batch_size: 2.5 }, '"settings.batch_size" cannot be 2.5'],
    [{ lr: NaN }, '"settings.lr" cannot be NaN'],
    [{ momentum: -1 }, '"settings.momentum" cannot be -1'],
    [{ label_smoothing: 2 }, '"settings.label_smoothing" cannot be 2'],
    [{ ema_decay: 1 }, '"settings.ema_decay" cannot be 1'],
    [{ schedule: { kind: "cosin" } }, '"settings.schedule.kind" cannot be "cosin"'],
    [{ schedule: { kind: "one-cycle", div_factor: 0 } }, '"settings.schedule.div_factor" cannot be 0'],
    [{ schedule: { kind: "multistep" } }, "it needs milestones"],
    [{ augment: { flip: "yes" } }, '"settings.augment.flip" cannot be "yes"'],
  ];
  for (const [changes, message] of wrong) {
    await assertRejects(() => create(withSettings(changes as Partial<RunDescription["settings"]>)), UserError, message);
  }
  const { input: _, ...inputless } = RUN;
  await assertRejects(() => create(inputless as RunDescription), UserError, '"input" cannot be undefined');

  const { checkpoint } = await train(device, { run: withSettings({ epochs: 1 }) });
  const wider = { ...RUN, network: { ...NARROW_NETWORK, channels: [16, 64] } };
  await assertRejects(() => create(wider, checkpoint), UserError, "they are of another network");
  const huge = { ...RUN, input: { ...RUN.input, image_size: 4096 }, settings: { ...RUN.settings, batch_size: 52 } };
  const { maxBindingBytes } = device.capabilities;
  if (52 * 2048 * 2048 * 64 * 4 > maxBindingBytes) {
    const error = await assertRejects(() => create(huge), BatchSizeError);
    assertEquals(error.fits, Math.floor(maxBindingBytes / (2048 * 2048 * 64 * 4)));
  }
});

gpuTest("data that make no run are refused before anything is made of them", async (device) => {
  const create = (changes: Partial<TrainingData>) => Trainer.create(device, { ...data, ...changes }, RUN);
  const none = shapes({ train: 0, test: 0, seed: 0 });
  await assertRejects(() => create({ train: none.train }), UserError, "no images to train on");
  await assertRejects(() => create({ test: none.test }), UserError, "no images to test on");
  for (const set of ["train", "test"] as const) {
    const labels = data[set].labels.slice();
    labels[3] = 10;
    const error = await assertRejects(() => create({ [set]: { ...data[set], labels } }), RangeError);
    assertEquals(error.message, "Cannot use a set of images with label 10: the classes are 0 to 9");
  }
});

gpuTest("batches may be as small as the batch norm that gets least of an image allows", async (device) => {
  const batches = (run: RunDescription, count: number) => new EpochBatches({ ...data.train, count }, run);
  const sizes = (run: RunDescription, count: number) => batches(run, count).sizes;
  // Three stages after the stem for CIFAR: 8x8 pixels in the last one.
  const network = { arch: "resnext29_8x64d", num_classes: 10, cardinality: 8, layers: [1, 1, 1] };
  assertEquals(sizes({ ...withSettings({ batch_size: 1 }), network }, 3), [1]);
  assertEquals(sizes({ ...withSettings({ batch_size: 8 }), network }, 17), [8, 1]);
  // A single pixel in the last stage, which learns, or runs as in evaluation.
  const deep = { ...RUN.network, layers: [1, 1, 1, 1], channels: [16, 32, 32, 32] };
  const pixel = { ...withSettings({ batch_size: 8 }), network: deep };
  assertEquals(sizes(pixel, 17), [8]);
  assertEquals([16, 17, 18].map((count) => batches(pixel, count).leftOut), [0, 1, 0]);
  assertEquals(batches(pixel, 17).order(0).flatMap((batch) => [...batch]).length, 16);
  const frozen = ["stem", "layer1", "layer2", "layer3", "layer4"];
  const still = { ...withSettings({ batch_size: 8, epochs: 1, frozen }), network: deep };
  assertEquals(sizes(still, 17), [8, 1]);
  const trainer = await Trainer.create(device, { ...data, train: limit(data.train, 17) }, still);
  for await (const event of trainer.run()) if (event.type === "epoch") assert(event.metrics.train_loss > 0);
  assertEquals(trainer.stepsPerEpoch, 3);
  trainer.destroy();
});
