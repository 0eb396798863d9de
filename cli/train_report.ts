/** What `train` shows, and the lines of it that people read; those for programs are in `train_json_report.ts`. */

import { dirname } from "@std/path";
import type { Device } from "../kernels/device.ts";
import type { EpochMetrics, RunSettings } from "../nn/checkpoint.ts";
import type { TrainEvent } from "../nn/train_events.ts";
import { autoBatchText } from "./auto_batch.ts";
import { counted, groupDigits } from "./columns.ts";
import { datasetTitle, isPictures } from "./dataset.ts";
import { commandLine, dataDirWords } from "./invocation.ts";
import { printLine } from "./print.ts";
import { bestEpoch } from "./run_files.ts";
import { canDisplay, Display, type DisplayState } from "./display.ts";
import { formatBytes, formatDuration, formatRate, ProgressLine, stderrOutput } from "./progress.ts";
import { optimizerText } from "./optimizer_options.ts";
import { augmentText, scheduleText } from "./recipe_options.ts";
import type { TrainPlan } from "./train_plan.ts";

/** What is known once the run is prepared. */
export interface Prepared {
  readonly stepsPerEpoch: number;
  readonly deviceBytes: { readonly weights: number; readonly activations: number; readonly images: number };
}

/** Where a run ended. */
export interface RunEnd {
  readonly seconds: number;
  readonly history: readonly EpochMetrics[];
  readonly last: string;
  /** Absent where it is not there: the best epoch was before the run was gone on with in another folder. */
  readonly best?: string;
}

/** Tells what happens. */
export interface TrainReport {
  /** Before anything is compiled. */
  start(plan: TrainPlan, device: Device, folder: string): void;
  /** The run takes smaller batches than the data set's default: those do not fit the device. */
  smallerBatch(plan: TrainPlan, why: string): void;
  prepared(prepared: Prepared): void;
  event(event: TrainEvent): void;
  saved(path: string, best: boolean): void;
  /** A checkpoint could not be saved; training goes on. */
  unsaved(message: string): void;
  /** Something else that the user should know. */
  warning(message: string): void;
  /** Said on stderr as soon as the user wants to stop. */
  readonly stoppingNotice?: string;
  /** The user wants to stop; the step, or the picture, is being finished. */
  stopping(): void;
  /** @param last The checkpoint to go on from; none where no step was begun. */
  interrupted(event: TrainEvent & { type: "interrupted" }, last?: string): void;
  end(end: RunEnd): void;
  /** Takes the progress line off. */
  close(): void;
}

/** A report for people: results on stdout, progress on stderr. */
export class TextReport implements TrainReport {
  readonly stoppingNotice = "Stopping: what was begun is being finished and saved; once more to stop at once";
  readonly #quiet: boolean;
  readonly #display = canDisplay() ? new Display() : undefined;
  /** Where nothing can be redrawn, or must not be, lines. */
  readonly #progress = new ProgressLine({
    output: { ...stderrOutput(), isTerminal: Deno.stderr.isTerminal() && !Deno.noColor },
  });
  /** What the display shows beside the event. */
  #shown: Pick<DisplayState, "losses" | "learningRate" | "accuracy" | "best" | "bytes"> = { losses: [] };
  #lastStep: (TrainEvent & { type: "step" }) | undefined;
  #plan!: TrainPlan;
  #software = false;
  #skippedNamed = false;

  /** @param quiet The epochs' lines and warnings alone are said. */
  constructor({ quiet = false }: { readonly quiet?: boolean } = {}) {
    this.#quiet = quiet;
  }

  start(plan: TrainPlan, device: Device, folder: string): void {
    this.#plan = plan;
    const history = plan.from?.description.progress?.history ?? [];
    if (history.length > 0) this.#keep(history);
    this.#software = device.capabilities.software;
    const { description: { network, input, settings }, data, from } = plan;
    const size = `${input.image_size}x${input.image_size}`;
    const title = datasetTitle(settings.dataset);
    // Of the others the title tells it.
    const classes = isPictures(settings.dataset) ? `, of ${data.classNames.length} classes` : "";
    const [optimizer, rule] = optimizerText(settings), { label_smoothing: smoothing } = settings;
    if (plan.foundDataset) this.#say(`${title} has been downloaded: this is the notebook's job.`);
    const rows = [
      ["Images", `${title}: ${data.train.count} to train on, ${data.test.count} to test on${classes}`],
      ["Network", `${network.arch}, ${groupDigits(plan.parameters)} parameters, input ${size}`],
      ...(plan.weights?.notes.map((note) => ["Weights", note]) ?? []),
      ...(settings.frozen ? [["Frozen", settings.frozen.join(", ")]] : []),
      ["Training", `${counted(settings.epochs, "epoch")}, ${batchesText(settings)}, seed ${settings.seed}`],
      ...(plan.autoBatch ? [["Batch", autoBatchText(plan.autoBatch)]] : []),
      [optimizer, smoothing ? `${rule}, label smoothing ${smoothing}` : rule],
      ...(settings.schedule ? [["Rate", scheduleText(settings.schedule)]] : []),
      ...(settings.ema_decay === undefined ? [] : [["Average", `of the weights, keeps ${settings.ema_decay} a step`]]),
      ...(settings.augment ? [["Augment", augmentText(settings.augment)]] : []),
      ["Device", `${device.name}${this.#software ? ", a software adapter" : ""}`],
      ["Folder", folder],
    ];
    for (const [name, value] of rows) this.#say(`${name.padEnd(9)} ${value}`);
    if (plan.skipped?.length) {
      this.#say(
        `Skipped   ${counted(plan.skipped.length, "picture")} that cannot be read, named after the first epoch`,
      );
    }
    if (from) {
      const { epoch, step } = from.description.progress!;
      this.#say(`Going on after epoch ${epoch}${step > 0 ? ` and step ${step} of epoch ${epoch + 1}` : ""}.`);
    }
    this.#whileCompiling();
  }

  smallerBatch(plan: TrainPlan, why: string): void {
    this.#plan = plan;
    this.#say(`          ${why}`);
    this.#whileCompiling();
  }

  /** Elsewhere than on a terminal the header has said enough. */
  #whileCompiling(): void {
    this.#message("Compiling kernels ...");
  }

  prepared({ deviceBytes: { weights, activations, images } }: Prepared): void {
    const total = formatBytes(weights + activations + images);
    const parts = { weights, activations, images };
    const list = Object.entries(parts).map(([name, bytes]) => `${name} ${formatBytes(bytes)}`).join(", ");
    this.#say(`Memory    ${total}: ${list}`);
    this.#shown = { ...this.#shown, bytes: weights + activations + images };
    this.#message("Running the first step ...");
  }

  event(event: TrainEvent): void {
    const { epochs, batch_size: batchSize } = this.#plan.description.settings;
    switch (event.type) {
      case "step": {
        const { epoch, step, steps, loss, imagesPerSecond, secondsLeft, learningRate } = event;
        // The first step compiles: what it tells of speed is not what follows.
        const speed = this.#lastStep === undefined
          ? `${formatRate(imagesPerSecond, "img")}, compiling included`
          : `${formatRate(imagesPerSecond, "img")}  ${formatDuration(secondsLeft)} left`;
        this.#lastStep = event;
        this.#shown = { ...this.#shown, losses: [...this.#shown.losses.slice(-LOSSES), loss], learningRate };
        if (this.#display) {
          if (!this.#quiet) {
            this.#display.update({ epoch, epochs, step, steps, imagesPerSecond, secondsLeft, ...this.#shown });
          }
          break;
        }
        if (this.#quiet) break;
        const count = `${String(step).padStart(String(steps).length)}/${steps}`;
        this.#progress.update(
          `${epochOf(epoch, epochs)} ${bar(step / steps)} ${count}  loss ${loss.toFixed(4)}  ${speed}`,
        );
        break;
      }
      case "evaluating":
        if (this.#quiet) break;
        if (this.#display && this.#lastStep) {
          const testing = { done: event.done, images: event.images };
          this.#display.update({ ...this.#lastStep, epochs, ...this.#shown, testing });
          break;
        }
        this.#progress.update(
          `${epochOf(event.epoch, epochs)} ${bar(event.done / event.images)} testing ${event.done}/${event.images}`,
        );
        break;
      case "estimate":
        if (!this.#software || this.#quiet) break;
        this.#say(
          `Time      about ${formatDuration(event.seconds)} on this software adapter ` +
            `(${formatRate(event.imagesPerSecond, "img")}, batches of ${batchSize})`,
        );
        if (event.seconds > LONG) this.#say(`          quicker: ${this.#quicker()}`);
        break;
      case "epoch":
        this.#keep([event.metrics]);
        this.#print(epochLine(event.metrics, epochs));
        this.#nameSkipped();
        break;
      case "stopped":
        this.#print(`Stopped early: no better epoch for ${event.patience}.`);
        break;
      case "interrupted":
        break;
    }
  }

  /** Keeps the last accuracy and the best one. */
  #keep(epochs: readonly EpochMetrics[]): void {
    for (const { epoch, test_acc: accuracy } of epochs) {
      const { best } = this.#shown;
      const better = best === undefined || accuracy > best.accuracy;
      this.#shown = { ...this.#shown, accuracy, best: better ? { accuracy, epoch } : best };
    }
  }

  /** A line for the while, on a terminal alone: elsewhere the head has said enough. */
  #message(text: string): void {
    if (this.#quiet || !Deno.stderr.isTerminal()) return;
    if (this.#display) this.#display.message(text);
    else this.#progress.update(text);
  }

  /** After the first epoch of this call: pictures that were left out. */
  #nameSkipped(): void {
    const { skipped = [] } = this.#plan;
    if (this.#skippedNamed || skipped.length === 0) return;
    this.#skippedNamed = true;
    this.#say(`Skipped ${counted(skipped.length, "picture")}:`);
    for (const { path, error } of skipped.slice(0, NAMED)) this.#say(`  ${path}: ${error}`);
    if (skipped.length > NAMED) this.#say(`  ... and ${skipped.length - NAMED} more; --json names them all`);
  }

  /** A command that ends sooner. */
  #quicker(): string {
    const { input, settings } = this.#plan.description;
    const words = ["--dataset", settings.dataset];
    if (input.image_size > 32) words.push("--image-size", "32");
    if (this.#plan.data.train.count > 2000) words.push("--train-limit", "2000");
    return words.length > 2 ? commandLine("train", ...words) : commandLine("train", "--dataset", "shapes");
  }

  saved(): void {}

  warning(message: string): void {
    this.#clear();
    console.error(`warning: ${message}`);
  }

  unsaved(message: string): void {
    this.#clear();
    console.error(`warning: ${message}; training goes on and tries again`);
  }

  stopping(): void {
    // The notice stands below the display by now.
    this.#display?.leave();
  }

  interrupted({ epoch, step }: TrainEvent & { type: "interrupted" }, last?: string): void {
    if (last === undefined) {
      return this.#say("Stopped before the first step; pictures that have been decoded need not be again");
    }
    this.#say(`Stopped after step ${step} of epoch ${epoch}, saved in ${last}. Go on with:`);
    this.#say(`  ${commandLine("train", "--resume", last, ...dataDirWords(this.#plan.dataDir))}`);
  }

  end({ seconds, history, last, best }: RunEnd): void {
    const top = bestEpoch(history)!;
    this.#say(
      `Done in ${formatDuration(seconds)}; best test accuracy ${top.test_acc.toFixed(4)} in epoch ${top.epoch}.`,
    );
    const place = dataDirWords(this.#plan.dataDir);
    const whose = best === undefined ? "the last epoch's" : "its";
    this.#say(`See ${whose} classes with: ${commandLine("eval", best ?? last, ...place)}`);
    this.#say(`A page of it, with curves and pictures: ${commandLine("report", dirname(last), ...place)}`);
  }

  close(): void {
    this.#progress.clear();
    this.#display?.close();
  }

  #clear(): void {
    this.#progress.clear();
    this.#display?.clear();
  }

  #say(line: string): void {
    if (!this.#quiet) this.#print(line);
  }

  #print(line: string): void {
    this.#clear();
    printLine(line);
  }
}

/** Such as `batch size 16, 4 batches a step, f16`. */
function batchesText({ batch_size, accumulate = 1, precision = "f32" }: RunSettings): string {
  return [
    `batch size ${batch_size}`,
    accumulate > 1 && `${accumulate} batches a step`,
    precision !== "f32" && precision,
  ].filter(Boolean).join(", ");
}

/** Losses that the display's curve is drawn of. */
const LOSSES = 2000;

/** How many skipped pictures are named. */
const NAMED = 50;

/** Seconds from which on a quicker job is named. */
const LONG = 3600;

function epochOf(epoch: number, epochs: number): string {
  return `Epoch ${String(epoch).padStart(2)}/${epochs}`;
}

/** Such as `[#####.......]`. */
function bar(share: number): string {
  const width = 12, done = Math.floor(share * width);
  return `[${"#".repeat(done)}${".".repeat(width - done)}]`;
}

/** The notebook's line of an epoch. */
export function epochLine(metrics: EpochMetrics, epochs: number): string {
  const { epoch, train_loss, test_loss, test_acc } = metrics;
  return `${epochOf(epoch, epochs)} | Train Loss: ${train_loss.toFixed(4)} | Test Loss: ${test_loss.toFixed(4)} | ` +
    `Test Acc: ${test_acc.toFixed(4)}`;
}
