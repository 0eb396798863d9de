/** Reports of a training run beside those that are shown: one that says nothing, for others to be made of, and several as one. */

import type { Device } from "../kernels/device.ts";
import type { TrainEvent } from "../nn/train_events.ts";
import type { TrainPlan } from "./train_plan.ts";
import type { Prepared, RunEnd, TrainReport } from "./train_report.ts";

/** A report that says nothing. */
export class SilentReport implements TrainReport {
  start(_plan: TrainPlan, _device: Device, _folder: string): void {}
  smallerBatch(_plan: TrainPlan, _why: string): void {}
  prepared(_prepared: Prepared): void {}
  event(_event: TrainEvent): void {}
  saved(_path: string, _best: boolean): void {}
  unsaved(_message: string): void {}
  warning(_message: string): void {}
  stopping(): void {}
  interrupted(_event: TrainEvent & { type: "interrupted" }, _last?: string): void {}
  end(_end: RunEnd): void {}
  close(): void {}
}

/** Several reports as one; the first is the one that people or programs read. */
export class Reports implements TrainReport {
  readonly stoppingNotice?: string;

  constructor(private readonly all: readonly [TrainReport, ...TrainReport[]]) {
    this.stoppingNotice = all[0].stoppingNotice;
  }

  #each(tell: (report: TrainReport) => void): void {
    for (const report of this.all) tell(report);
  }

  start(...told: Parameters<TrainReport["start"]>): void {
    this.#each((report) => report.start(...told));
  }

  smallerBatch(...told: Parameters<TrainReport["smallerBatch"]>): void {
    this.#each((report) => report.smallerBatch(...told));
  }

  prepared(prepared: Prepared): void {
    this.#each((report) => report.prepared(prepared));
  }

  event(event: TrainEvent): void {
    this.#each((report) => report.event(event));
  }

  saved(path: string, best: boolean): void {
    this.#each((report) => report.saved(path, best));
  }

  unsaved(message: string): void {
    this.#each((report) => report.unsaved(message));
  }

  warning(message: string): void {
    this.#each((report) => report.warning(message));
  }

  stopping(): void {
    this.#each((report) => report.stopping());
  }

  interrupted(...told: Parameters<TrainReport["interrupted"]>): void {
    this.#each((report) => report.interrupted(...told));
  }

  end(end: RunEnd): void {
    this.#each((report) => report.end(end));
  }

  close(): void {
    this.#each((report) => report.close());
  }
}
