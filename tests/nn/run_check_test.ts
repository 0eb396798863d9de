/** What a run may begin from: weights that are whole but for their head, and checkpoints of this run that are whole. */

import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { type Checkpoint, encodeCheckpoint, type RunProgress, type RunSettings } from "../../nn/checkpoint.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { fineTuning } from "../../nn/fine_tune.ts";
import { startOf } from "../../nn/run_check.ts";
import type { RunDescription } from "../../nn/run_description.ts";
import { Trainer } from "../../nn/trainer.ts";
import { NARROW_NETWORK, narrowCheckpoint } from "../cli/support.ts";
import { gpuTest } from "../support.ts";

/** 40 images are 2 batches of 16 and a rest of 8. */
const data = shapes({ train: 40, test: 20, seed: 0 });

const run = (changes: Partial<RunSettings> = {}): RunDescription => ({
  network: NARROW_NETWORK,
  input: { image_size: 32, mean: data.mean, std: data.std },
  settings: {
    ...{ dataset: "shapes", batch_size: 16, epochs: 2, lr: 0.05, momentum: 0.9, weight_decay: 0.01, nesterov: false },
    ...{ label_smoothing: 0, seed: 7, ema_decay: 0.5, precision: "f16", ...changes },
  },
});

/** The checkpoint that a run makes after so many steps. */
async function after(device: Device, steps: number, description: RunDescription): Promise<Checkpoint> {
  const trainer = await Trainer.create(device, data, description), controller = new AbortController();
  if (steps > 0) {
    for await (const event of trainer.run(controller.signal)) {
      if (event.type === "step" && (event.epoch - 1) * 3 + event.step === steps) controller.abort();
    }
  }
  const checkpoint = await trainer.checkpoint();
  trainer.destroy();
  return checkpoint;
}

gpuTest(
  "a run goes on from all of a checkpoint of its own, and from nothing else that tells of progress",
  async (device) => {
    const half = await after(device, 4, run());
    const create = async (from: Checkpoint, changes: Partial<RunSettings> = {}) =>
      (await Trainer.create(device, data, run(changes), from)).destroy();
    // Longer, further, elsewhere, slower: its steps are the same ones.
    await create(half, { epochs: 9, patience: 3, dataset: "folder:/moved", lr: 0.01, momentum: 0 });
    const { momenta: _, ...motionless } = half;
    await create(motionless, { momentum: 0 });
    const { average: __, ...rough } = half;
    await create(rough, { ema_decay: undefined });
    const { ema_decay: ____, ...plain } = rough.description.settings!;
    await create({ ...rough, description: { ...rough.description, settings: plain } }, { ema_decay: 0.5 });
    const { lossScale: ___, ...scaleless } = half;
    await create(scaleless, { precision: undefined });

    const refused = (from: Checkpoint, changes: Partial<RunSettings>, message: string) =>
      assertRejects(() => create(from, changes), UserError, `Cannot resume from the checkpoint: ${message}`);
    await refused(motionless, {}, 'it lacks the momenta, which "momentum" needs');
    await refused(rough, {}, 'it lacks the moving average, which "ema_decay" needs');
    await refused(scaleless, {}, 'it lacks the loss scale, which "precision" needs');
    for (
      const [name, value, was] of [
        ...[["batch_size", 8, 16], ["accumulate", 2, 1], ["seed", 8, 7], ["train_limit", 40, undefined]],
        ["val_split", 0.5, undefined],
      ] as const
    ) {
      await refused(half, { [name]: value }, `its run has "${name}" ${was}, this one ${value}, so that its steps`);
    }
    const progress = half.description.progress!;
    assertEquals([progress.epoch, progress.step], [1, 1]);
    const reached = (changes: Partial<Record<keyof RunProgress, unknown>>): Checkpoint => {
      const description = { ...half.description, progress: { ...progress, ...changes } as RunProgress };
      return { ...half, description };
    };
    await refused(reached({ step: 4 }), {}, "it is after step 4 of an epoch, and an epoch of these images has 3");
    await refused(reached({ rows: 0 }), {}, "it is after step 1 of an epoch, but of 0 images of it");
    await refused(reached({ epoch: 5 }), {}, "its run is after epoch 5, but tells of 1");
    await refused(half, { epochs: 1 }, 'it is in epoch 2, and the run has 1; set "epochs" to more');
    await refused(reached({ history: undefined }), {}, 'its "progress.history" cannot be undefined');
    await refused(reached({ epoch: "x" }), {}, 'its "progress.epoch" cannot be "x"');
    const { settings: _____, ...bare } = half.description;
    await refused({ ...half, description: bare }, {}, 'its "settings" cannot be undefined');
    await assertRejects(() => create(half.state as unknown as Checkpoint), TypeError, "without description and state");
  },
);

gpuTest("a checkpoint from before the first step has no average yet, and is gone on from", async (device) => {
  const [begun, whole] = [await after(device, 0, run()), await after(device, Infinity, run())];
  assertEquals(begun.average, undefined);
  const trainer = await Trainer.create(device, data, run(), begun);
  for await (const event of trainer.run()) void event;
  assertEquals(await encodeCheckpoint(await trainer.checkpoint()), await encodeCheckpoint(whole));
  trainer.destroy();
});

gpuTest("weights to begin with may lack their head, and nothing else", async (device) => {
  const { state } = narrowCheckpoint(), description = { network: NARROW_NETWORK };
  const begin = async (state: Checkpoint["state"]) => {
    const trainer = await Trainer.create(device, data, run({ precision: undefined }), { description, state });
    const { network } = trainer, found = await network.stateDict();
    trainer.destroy();
    return found;
  };
  const without = (...names: string[]) => new Map([...state].filter(([name]) => !names.includes(name)));
  const headless = await begin(without("fc.weight", "fc.bias"));
  for (const [name, tensor] of state) {
    if (name === "fc.weight") assertNotEquals(headless.get(name), tensor);
    else assertEquals(headless.get(name), tensor, name);
  }
  // As `fineTuning` leaves out one of other classes.
  const other = narrowCheckpoint({ network: { ...NARROW_NETWORK, num_classes: 3 } }).state;
  const fitted = fineTuning(describedNetwork(NARROW_NETWORK), other);
  assertEquals(fitted.replacedClasses, 3);
  assertEquals((await begin(fitted.state)).get("fc.weight"), headless.get("fc.weight"), "drawn by the seed");
  const refused = (state: Checkpoint["state"], name: string) =>
    assertRejects(() => begin(state), UserError, `"${name}" is missing; they are of another network`);
  await refused(new Map(), "conv1.weight");
  await refused(without("layer2.0.bn1.weight"), "layer2.0.bn1.weight");
  await refused(without("fc.bias"), "fc.bias");
  await refused(new Map([["fc.weight", state.get("fc.weight")!]]), "conv1.weight");
  // A run that goes on has its head.
  const from = { ...narrowCheckpoint(), state: without("fc.weight", "fc.bias") };
  const { settings } = from.description;
  await assertRejects(
    () => Trainer.create(device, data, { ...run(), settings: { ...settings!, epochs: 5 } }, from),
    UserError,
    '"fc.weight" is missing',
  );
});

Deno.test("what tells of no progress begins at the beginning, whatever it was made with", () => {
  const { description: { progress: _, ...description }, state } = narrowCheckpoint();
  const beginning = { epoch: 0, step: 0, loss_sum: 0, rows: 0, history: [] };
  assertEquals(startOf({ description, state }, run({ batch_size: 3 }), 5), beginning);
  assertEquals(startOf(undefined, run(), 5), beginning);
});
