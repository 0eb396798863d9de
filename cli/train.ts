/** `resnext train`: trains a network, shows it, and keeps checkpoints. */

import { dirname } from "@std/path";
import { type Device, openDevice } from "../kernels/device.ts";
import { UserError } from "../kernels/user_error.ts";
import { DivergedError, Trainer } from "../nn/trainer.ts";
import { BatchSizeError } from "../nn/step.ts";
import { defineCommand } from "./command.ts";
import { datasetFileName } from "./dataset.ts";
import { Interruptible } from "./interrupt.ts";
import { RunFolder } from "./run_folder.ts";
import { planTraining, type TrainInvocation, trainOptions, type TrainPlan } from "./train_plan.ts";
import { JsonReport, TextReport, type TrainReport } from "./train_report.ts";

/** The command. */
export const trainCommand = defineCommand({
  name: "train",
  summary: "Train a network, on CIFAR-10 or on images drawn by the program itself",
  details: `After each epoch the network is tested and saved: last.safetensors to go on from, best.safetensors to use.
    Ctrl-C finishes the step, saves and tells how to go on; a run that goes on ends with the same bits as one that was
    never stopped, on the same device. Options that say what is trained come from the checkpoint then.

    With --json each line of stdout is an object whose "type" is start, prepared, step, estimate, evaluating, epoch,
    checkpoint, warning, stopping, interrupted or end.`,
  options: trainOptions,
  examples: [
    "train",
    "train --dataset cifar10 --image-size 32 --batch-size 128 --epochs 30 --out runs/small",
    "train --resume runs/small/last.safetensors --epochs 40",
    "train --dataset folder:pictures --weights resnext50_32x4d.pth --freeze stem,layer1,layer2 --epochs 5",
  ],
  run: train,
});

async function train(invocation: TrainInvocation): Promise<number> {
  const { options } = invocation;
  const report = options.json ? new JsonReport() : new TextReport();
  try {
    const plan = await planTraining(invocation);
    const { description: { network, settings }, from } = plan;
    if (from && from.description.progress!.epoch >= settings.epochs) {
      console.error(
        `Nothing to do: "${options.resume}" has done all of ${settings.epochs} epochs; go on with --epochs N`,
      );
      return 0;
    }
    const out = options.out ?? (options.resume && dirname(options.resume));
    const folder = out
      ? await RunFolder.open(out, options.resume)
      : await RunFolder.create(network.arch, datasetFileName(settings.dataset));
    try {
      return await trainInto(folder, plan, report);
    } catch (error) {
      await folder.removeIfEmpty();
      throw error;
    }
  } finally {
    report.close();
  }
}

/** Prepares the run; where the user chose no batch size and the default does not fit, with a smaller one. */
async function createTrainer(device: Device, plan: TrainPlan, report: TrainReport): Promise<Trainer> {
  const { data, description } = plan;
  const from = plan.from ?? plan.weights?.checkpoint;
  try {
    return await Trainer.create(device, data, description, from);
  } catch (error) {
    if (!(error instanceof BatchSizeError) || error.fits < 1 || plan.batchSizeChosen) throw error;
    const batchSize = 2 ** Math.floor(Math.log2(error.fits));
    const smaller = { ...description, settings: { ...description.settings, batch_size: batchSize } };
    report.smallerBatch(
      { ...plan, description: smaller },
      `Batches of ${description.settings.batch_size} do not fit this device; the run takes batches of ${batchSize}`,
    );
    return await Trainer.create(device, data, smaller, from);
  }
}

/** Seconds after which a checkpoint is made within an epoch too. */
const SAVE_EVERY = 600;

async function trainInto(folder: RunFolder, plan: TrainPlan, report: TrainReport): Promise<number> {
  using interruptible = new Interruptible({ notice: report.stoppingNotice, onFirst: () => report.stopping() });
  const device = await openDevice();
  report.start(plan, device, folder.path);
  const trainer = await createTrainer(device, plan, report);
  report.prepared({ stepsPerEpoch: trainer.stepsPerEpoch, deviceBytes: trainer.deviceBytes });

  const started = performance.now();
  let savedAt = started, refusal: UserError | undefined;
  const save = async (best = false) => {
    await folder.save(await trainer.checkpoint(), best);
    savedAt = performance.now();
    refusal = undefined;
    report.saved(folder.last, false);
    if (best) report.saved(folder.best, true);
  };
  /** What is saved later anew may fail: the run is worth more than one checkpoint. */
  const trySave = async (best = false) => {
    try {
      await save(best);
    } catch (error) {
      if (!(error instanceof UserError) || error instanceof DivergedError) throw error;
      refusal = error;
      report.unsaved(error.message);
    }
  };
  try {
    // Before the first step, so that a folder that takes no checkpoint is found out now.
    await save();
    for await (const event of trainer.run(interruptible.signal)) {
      report.event(event);
      if (event.type === "epoch") {
        await trySave(event.best);
      } else if (event.type === "step" && performance.now() - savedAt > SAVE_EVERY * 1000) {
        await trySave();
      } else if (event.type === "interrupted") {
        await save();
        report.interrupted(event, folder.last);
        return interruptible.came!.exitCode;
      }
    }
  } catch (error) {
    if (!(error instanceof DivergedError)) throw error;
    throw new DivergedError(`${error.message}; the last good checkpoint is ${folder.last}`, { cause: error });
  } finally {
    trainer.destroy();
    device.close();
  }
  if (refusal) throw refusal;
  const seconds = (performance.now() - started) / 1000;
  report.end({ seconds, history: trainer.history, last: folder.last, best: folder.best });
  return 0;
}
