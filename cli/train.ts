/** `resnext train`: trains a network, shows it, and keeps checkpoints. */

import { dirname } from "@std/path";
import type { Device } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import type { Checkpoint, RunProgress, RunSettings } from "../nn/checkpoint.ts";
import { shouldStop } from "../nn/schedule.ts";
import { DivergedError, type TrainEvent } from "../nn/train_events.ts";
import { Trainer } from "../nn/trainer.ts";
import { BatchSizeError } from "../nn/batch_size.ts";
import { counted } from "./columns.ts";
import { defineCommand } from "./command.ts";
import { datasetFileName } from "./dataset.ts";
import { describedNetwork } from "../nn/described_network.ts";
import { ProgressLine } from "./progress.ts";
import { tuneFor, type TuneSettings } from "./tuning.ts";
import { dataDirectoryIfAny } from "../data/directory.ts";
import { behind, exists } from "./files.ts";
import { GarbageCollector } from "./garbage.ts";
import { usualBatches } from "../nn/run_memory.ts";
import { withAutoBatch } from "./auto_batch.ts";
import { Interruptible } from "./interrupt.ts";
import { Reports } from "./reports.ts";
import { RunFolder } from "./run_folder.ts";
import { RunRecorder } from "./run_recorder.ts";
import { TensorBoardReport } from "./tensorboard_report.ts";
import { isSilent, type TrainInvocation, trainOptions } from "./train_options.ts";
import { planTraining, type TrainOutline, type TrainPlan, withImages } from "./train_plan.ts";
import { JsonReport } from "./train_json_report.ts";
import { TextReport, type TrainReport } from "./train_report.ts";
import { diverged, lossBehind, LossPolicy, newestOf, reopenDevice, type Safety, Saver } from "./train_safety.ts";

/** The command. */
export const trainCommand = defineCommand({
  name: "train",
  summary: "Train a network on CIFAR, on a folder of pictures, or on images drawn by the program itself",
  details: `After each epoch the network is tested and saved: last.safetensors to go on from, best.safetensors to use.
    Ctrl-C finishes the step, saves and tells how to go on; a run that goes on ends with the same bits as one that was
    never stopped, on the same device. Options that say what is trained come from the checkpoint then.

    --config takes the config.json of a run too, and does that run again, in a new folder, but for what other options say.

    With --json each line of stdout is an object whose "type" is start, prepared, step, estimate, evaluating, epoch,
    checkpoint, warning, stopping, stopped, interrupted or end.`,
  options: trainOptions,
  config: true,
  fromRuns: "all",
  examples: [
    "train",
    "train --dataset cifar10 --image-size 32 --batch-size 128 --epochs 30 --out runs/small",
    "train --resume runs/small/last.safetensors --epochs 40",
    "train --config runs/small/config.json --seed 1",
    "train --out runs/night --resume auto --checkpoint-every 500",
    "train --dataset folder:pictures --weights resnext50_32x4d.pth --freeze stem,layer1,layer2 --epochs 5",
  ],
  run: train,
});

async function train(called: TrainInvocation): Promise<number> {
  const { json, quiet, tensorboard } = called.options;
  const shown = json ? new JsonReport() : new TextReport({ quiet });
  const report = new Reports([shown, new RunRecorder(), ...(tensorboard ? [new TensorBoardReport()] : [])]);
  try {
    const invocation = await withResumeFound(called, report), { options } = invocation;
    const outline = await planTraining(invocation);
    const { description: { network, settings }, from } = outline;
    const ended = from && endOf(from.description.progress!, settings);
    if (ended) {
      console.error(`Nothing to do: "${options.resume}" ${ended}`);
      return 0;
    }
    if (outline.warning) report.warning(outline.warning);
    const out = options.out ?? (options.resume && dirname(options.resume));
    const folder = out
      ? await RunFolder.open(out, options.resume)
      : await RunFolder.create(network.arch, datasetFileName(settings.dataset));
    try {
      const tune = { mode: options.tune, directory: dataDirectoryIfAny(options.dataDir), quiet: isSilent(options) };
      return await trainInto(folder, outline, options, report, tune);
    } finally {
      // Given back, and gone where the run did not come to a checkpoint.
      await folder.removeIfEmpty();
    }
  } finally {
    report.close();
  }
}

/** Why a run has nothing left to do; undefined where it has. */
function endOf({ epoch, history }: RunProgress, { epochs, patience }: RunSettings): string | undefined {
  if (epoch >= epochs) return `has done ${counted(epoch, "epoch")}; go on with --epochs N, more than these`;
  if (patience === undefined || !shouldStop(history, patience)) return undefined;
  return `stopped after epoch ${epoch}, without a better one for ${patience}; go on with --patience N`;
}

/**
 * Puts the checkpoint that `--resume auto` finds in its place, and the one that a link leads to: beside that lies the rest
 * of its run.
 */
async function withResumeFound(invocation: TrainInvocation, report: TrainReport): Promise<TrainInvocation> {
  const { options } = invocation;
  if (options.resume !== "auto") {
    return { ...invocation, options: { ...options, resume: options.resume && await behind(options.resume) } };
  }
  const resume = await newestOf(options.out, report);
  const given = new Set(invocation.given);
  // The first weights are in the checkpoint by now.
  if (resume !== undefined) given.delete("weights");
  return { ...invocation, options: { ...options, resume }, given };
}

/** Prepares the run; where the user chose no batch size and the default, or what was found, does not fit, with a smaller one. */
async function createTrainer(device: Device, plan: TrainPlan, safety: Safety, report: TrainReport): Promise<Trainer> {
  const { data } = plan;
  const { checkpointEvery: pauseEvery, detectAnomaly } = safety;
  const from = plan.from ?? plan.weights?.checkpoint;
  for (let { description } = plan;;) {
    try {
      return await Trainer.create(device, data, description, from, { pauseEvery, detectAnomaly });
    } catch (error) {
      if (!(error instanceof BatchSizeError) || error.fits < 1 || plan.batchSizeChosen) throw error;
      const { batch_size } = description.settings;
      const batchSize = plan.autoBatch ? usualBatches(error.fits).at(-1)! : 2 ** Math.floor(Math.log2(error.fits));
      description = { ...description, settings: { ...description.settings, batch_size: batchSize } };
      report.smallerBatch(
        { ...plan, description },
        `Batches of ${batch_size} do not fit this device; the run takes batches of ${batchSize}`,
      );
    }
  }
}

/** How kernels are chosen, and whether the measuring is shown. */
interface RunTuning extends TuneSettings {
  readonly quiet: boolean;
}

/** Lets kernels be chosen by what is measured on this adapter; which one is chosen never changes a bit of the result. */
async function tuneRun(device: Device, { description, data }: TrainPlan, { quiet, ...tune }: RunTuning): Promise<void> {
  const { network, input, settings } = description;
  const rows = Math.min(settings.batch_size, data.train.count), size = input.image_size;
  const shape = { n: rows, c: 3, h: size, w: size };
  const progress = quiet ? undefined : new ProgressLine();
  try {
    await tuneFor(device, describedNetwork(network), [shape], {
      ...tune,
      precision: settings.precision,
      // Batches that the device does not hold are refused, or made smaller.
      wholeOnly: true,
      onCompile: (done, all) => progress?.update(`Compiling kernels ${done}/${all}`),
      onTrial: ({ key, won }, done, all) => progress?.update(`Measuring kernels ${done}/${all}: ${key}, ${won}`),
    });
  } finally {
    progress?.clear();
  }
}

/** Reads a plan's images; none where that was interrupted. */
async function readImages(outline: TrainOutline, signal: AbortSignal): Promise<TrainPlan | undefined> {
  try {
    const plan = await withImages(outline, signal);
    return signal.aborted ? undefined : plan;
  } catch (error) {
    if (signal.aborted) return undefined;
    throw error;
  }
}

async function trainInto(
  folder: RunFolder,
  outline: TrainOutline,
  safety: Safety,
  report: TrainReport,
  tune: RunTuning,
): Promise<number> {
  using interruptible = new Interruptible({ notice: report.stoppingNotice, onFirst: () => report.stopping() });
  const { signal } = interruptible;
  // Before the images, as pictures may take long to decode: without a device there is no use in that.
  let device = await openDevice();
  const planned = await readImages(outline, signal);
  if (!planned) {
    const { epoch = 0, step = 0 } = outline.from?.description.progress ?? {};
    report.interrupted({ type: "interrupted", epoch, step });
    return interruptible.came!.exitCode;
  }
  if (planned.warning) report.warning(planned.warning);
  const saver = new Saver(folder, report, safety), losses = new LossPolicy(saver, folder, report, safety);
  const started = performance.now();
  const plan = planned.batchSizeAuto ? await withAutoBatch(planned, device) : planned;
  report.start(plan, device, folder.path);
  for (let from = plan.from;;) {
    let trainer: Trainer | undefined;
    try {
      await tuneRun(device, plan, tune);
      trainer = await createTrainer(device, goingOnFrom(plan, from), safety, report);
      // Once, and not again where the device was lost.
      if (from === plan.from) tellLeftOut(trainer, plan, report);
      report.prepared({ stepsPerEpoch: trainer.stepsPerEpoch, deviceBytes: trainer.deviceBytes });
      const stopped = await runEpochs(trainer, saver, report, signal);
      if (stopped) {
        report.interrupted(stopped, folder.last);
        return interruptible.came!.exitCode;
      }
      const seconds = (performance.now() - started) / 1000;
      // Of a run that was gone on with elsewhere, the best checkpoint may not have come along.
      const best = await exists(folder.best) ? folder.best : undefined;
      report.end({ seconds, history: trainer.history, last: folder.last, best });
      return 0;
    } catch (error) {
      if (error instanceof DivergedError) throw diverged(error, folder, safety);
      const loss = await lossBehind(error, device);
      if (!loss) throw error;
      from = await losses.recover(loss) ?? plan.from;
    } finally {
      trainer?.destroy();
      device.close();
    }
    device = await reopenDevice(signal);
  }
}

/** PyTorch ends a run at a batch that cannot be normalized; here it goes on without that, which no one may miss. */
function tellLeftOut({ leftOut }: Trainer, { data }: TrainPlan, report: TrainReport): void {
  if (leftOut === 0) return;
  report.warning(
    `${leftOut} of the ${data.train.count} images is left out of each epoch, another one each time: the last batch would ` +
      "give a batch norm one value a channel, which cannot be normalized; another --batch-size leaves none out",
  );
}

/** The plan of a run whose device was lost: as it was, from where it had got to. */
function goingOnFrom(plan: TrainPlan, from: Checkpoint | undefined): TrainPlan {
  if (!from || from === plan.from) return plan;
  // The batch size may have become smaller.
  const settings = from.description.settings!;
  return { ...plan, description: { ...plan.description, settings }, from, batchSizeChosen: true };
}

/** Trains to the end, or until the user stops it, and saves. */
async function runEpochs(
  trainer: Trainer,
  saver: Saver,
  report: TrainReport,
  signal: AbortSignal,
): Promise<TrainEvent & { type: "interrupted" } | undefined> {
  // Before the first step, so that a folder that takes no checkpoint is found out now.
  if (saver.count === 0) await saver.save(trainer);
  const garbage = new GarbageCollector();
  for await (const event of trainer.run(signal)) {
    garbage.tick();
    report.event(event);
    if (event.type === "epoch") await saver.trySave(trainer, event.best);
    else if (event.type === "step" && (event.pause || saver.due)) await saver.trySave(trainer);
    else if (event.type === "interrupted") {
      await saver.trySave(trainer);
      await saver.flush();
      return event;
    }
  }
  await saver.flush();
  return undefined;
}
