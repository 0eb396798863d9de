/** What `train --json` prints: an object a line. */

import type { Device } from "../kernels/device.ts";
import type { TrainEvent } from "../nn/train_events.ts";
import { printLine } from "./print.ts";
import { bestEpoch } from "./run_files.ts";
import type { TrainPlan } from "./train_plan.ts";
import type { Prepared, RunEnd, TrainReport } from "./train_report.ts";

/** A report for programs: a JSON object a line on stdout, each with a `type`. Times are in seconds. */
export class JsonReport implements TrainReport {
  #print(type: string, fields: Record<string, unknown>): void {
    printLine(JSON.stringify({ type, ...fields }));
  }

  start(
    { description, data, parameters, from, weights, skipped, autoBatch }: TrainPlan,
    device: Device,
    folder: string,
  ): void {
    const progress = from?.description.progress;
    this.#print("start", {
      ...description,
      train_images: data.train.count,
      test_images: data.test.count,
      class_names: data.classNames,
      weights: weights?.notes,
      skipped,
      parameters,
      batch_size_found: autoBatch && { bytes: autoBatch.memory.total, room: autoBatch.room, bound: autoBatch.bound },
      device: device.name,
      software: device.capabilities.software,
      folder,
      resumed: progress && { epoch: progress.epoch, step: progress.step },
    });
  }

  smallerBatch({ description }: TrainPlan, why: string): void {
    this.#print("warning", { message: why, batch_size: description.settings.batch_size });
  }

  prepared({ stepsPerEpoch, deviceBytes }: Prepared): void {
    this.#print("prepared", { steps_per_epoch: stepsPerEpoch, device_bytes: deviceBytes });
  }

  event(event: TrainEvent): void {
    switch (event.type) {
      case "step": {
        const { epoch, step, steps, loss, learningRate, lossScale, skipped, imagesPerSecond, secondsLeft } = event;
        const rates = { images_per_second: imagesPerSecond, seconds_left: secondsLeft };
        return this.#print("step", {
          epoch,
          step,
          steps,
          loss,
          lr: learningRate,
          loss_scale: lossScale,
          skipped,
          ...rates,
        });
      }
      case "estimate":
        return this.#print("estimate", { seconds: event.seconds, images_per_second: event.imagesPerSecond });
      case "evaluating":
        return this.#print("evaluating", { epoch: event.epoch, done: event.done, images: event.images });
      case "epoch":
        return this.#print("epoch", { ...event.metrics, best: event.best, seconds: event.seconds });
      case "stopped":
        return this.#print("stopped", { epoch: event.epoch, patience: event.patience });
      case "interrupted":
    }
  }

  saved(path: string, best: boolean): void {
    this.#print("checkpoint", { path, best });
  }

  unsaved(message: string): void {
    this.#print("warning", { message });
  }

  warning(message: string): void {
    this.#print("warning", { message });
  }

  stopping(): void {
    this.#print("stopping", {});
  }

  interrupted({ epoch, step }: TrainEvent & { type: "interrupted" }, last?: string): void {
    this.#print("interrupted", { epoch, step, resume: last ?? null });
  }

  end({ seconds, history, last, best }: RunEnd): void {
    const { epoch, test_acc } = bestEpoch(history)!;
    this.#print("end", { seconds, last, best: best ?? null, best_epoch: epoch, best_test_acc: test_acc });
  }

  close(): void {}
}
