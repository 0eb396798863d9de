import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint, type RunSettings } from "../../nn/checkpoint.ts";
import { learningRate } from "../../nn/schedule.ts";
import type { RunDescription } from "../../nn/run_description.ts";
import type { TrainEvent } from "../../nn/train_events.ts";
import { Trainer } from "../../nn/trainer.ts";
import { NARROW_NETWORK } from "../cli/support.ts";
import { gpuTest } from "../support.ts";

/** 40 images are 2 batches of 16 and a rest of 8. */
const data = shapes({ train: 40, test: 20, seed: 0 });

const RECIPE: Partial<RunSettings> = {
  schedule: { kind: "cosine", by: "step", warmup: 1, warmup_start: 0.1 },
  decay_vectors: false,
  ema_decay: 0.5,
  augment: { flip: true, crop: 2, reflect: true, erasing: 0.5, brightness: 0.3, hue: 0.1, mixup: 0.4, cutmix: 1 },
};

const run = (changes: Partial<RunSettings>): RunDescription => ({
  network: NARROW_NETWORK,
  input: { image_size: 32, mean: data.mean, std: data.std },
  settings: {
    ...{ dataset: "shapes", batch_size: 16, epochs: 3, lr: 0.05, momentum: 0.9, weight_decay: 0.01 },
    ...{ nesterov: false, label_smoothing: 0.1, seed: 7 },
    ...changes,
  },
});

async function train(device: Device, description: RunDescription, from?: Checkpoint, stopAt?: number) {
  const trainer = await Trainer.create(device, data, description, from);
  const controller = new AbortController(), events: TrainEvent[] = [];
  for await (const event of trainer.run(controller.signal)) {
    events.push(event);
    if (event.type === "step" && (event.epoch - 1) * 3 + event.step === stopAt) controller.abort();
  }
  const bytes = await encodeCheckpoint(await trainer.checkpoint());
  trainer.destroy();
  return { events, bytes, checkpoint: await decodeCheckpoint(bytes, "it") };
}

gpuTest("a run with schedule, average and augmentation goes on with the same bits", async (device) => {
  const whole = await train(device, run(RECIPE));
  assert(whole.checkpoint.average !== undefined);
  const half = await train(device, run(RECIPE), undefined, 4);
  assertEquals(half.events.at(-1)!.type, "interrupted");
  const rest = await train(device, run(RECIPE), half.checkpoint);
  assertEquals(rest.bytes, whole.bytes);
  const scheduled = { lr: 0.05, epochs: 3, stepsPerEpoch: 3 };
  for (const event of whole.events) {
    if (event.type !== "step") continue;
    const step = (event.epoch - 1) * 3 + event.step - 1;
    assertEquals(event.learningRate, learningRate(RECIPE.schedule, scheduled, step));
  }
});

gpuTest("a checkpoint made while the average is judged is the run's, and leaves it as it is", async (device) => {
  const averaged = run({ epochs: 2, ema_decay: 0.5 }), whole = await train(device, averaged);
  const trainer = await Trainer.create(device, data, averaged);
  let judged: Checkpoint | undefined;
  for await (const event of trainer.run()) {
    if (event.type === "evaluating" && event.epoch === 1 && event.done > 0) judged = await trainer.checkpoint();
  }
  assertEquals(await encodeCheckpoint(await trainer.checkpoint()), whole.bytes);
  trainer.destroy();
  assertEquals((await train(device, averaged, judged)).bytes, whole.bytes);
});

gpuTest("each part of the recipe changes what is learnt", async (device) => {
  const plain = await train(device, run({ epochs: 2 }));
  for (const key of ["schedule", "decay_vectors", "augment"] as const) {
    const { checkpoint: { state } } = await train(device, run({ epochs: 2, [key]: RECIPE[key] }));
    assertNotEquals(state.get("bn1.weight"), plain.checkpoint.state.get("bn1.weight"), key);
  }
  const averaged = await train(device, run({ epochs: 2, ema_decay: 0.5 }));
  assertEquals(averaged.checkpoint.state, plain.checkpoint.state, "an average leaves the weights as they are");
  assertNotEquals(
    averaged.events.find(({ type }) => type === "epoch"),
    plain.events.find(({ type }) => type === "epoch"),
    "and is what is tested",
  );
});

gpuTest("a run without progress stops after its patience", async (device) => {
  // A rate of 0 learns nothing.
  const impatient = run({ epochs: 6, lr: 0, patience: 2 });
  const { events, bytes, checkpoint } = await train(device, impatient);
  const last = events.at(-1)!;
  assertEquals(last, { type: "stopped", epoch: 3, patience: 2 });
  const again = await train(device, impatient, checkpoint);
  assertEquals([again.events, again.bytes], [[last], bytes], "it stays where it stopped");
  const patient = await train(device, run({ epochs: 6, lr: 0, patience: 3 }), checkpoint);
  assertEquals(patient.events.at(-1), { type: "stopped", epoch: 4, patience: 3 });
});
