/**
 * Learning rates over a run, equal to PyTorch's schedulers. A rate is a pure function of the settings and the step, so a
 * resumed run goes on with the rates that it would have had.
 */

import { UserError } from "../kernels/user_error.ts";

/** The names of the schedules. */
export const SCHEDULES = ["constant", "multistep", "cosine", "one-cycle"] as const;

/** The name of a schedule. */
export type ScheduleKind = typeof SCHEDULES[number];

/** A schedule. Names as in a checkpoint; absent values are PyTorch's defaults. */
export interface ScheduleSettings {
  /** How the rate moves. */
  readonly kind: ScheduleKind;
  /** Whether the rate changes after an epoch or after each step. Default `epoch`; `step` for `one-cycle`. */
  readonly by?: "epoch" | "step";
  /** Epochs of linear warm-up before it; by step a fraction counts too. Default 0. */
  readonly warmup?: number;
  /** The share of the rate that warm-up begins with, above 0 and at most 1. Default 0.01. */
  readonly warmup_start?: number;
  /** `multistep`: the epochs, from the run's beginning, after which the rate is multiplied by `gamma`; rising. */
  readonly milestones?: readonly number[];
  /** `multistep`: default 0.1. */
  readonly gamma?: number;
  /** `cosine`: the rate that it goes down to. Default 0. */
  readonly min_lr?: number;
  /** `one-cycle`: the share of the run in which the rate rises. Default 0.3. */
  readonly rise?: number;
  /** `one-cycle`: the first rate is the highest divided by this. Default 25. */
  readonly div_factor?: number;
  /** `one-cycle`: the last rate is the first divided by this. Default 10,000. */
  readonly final_div_factor?: number;
  /** `one-cycle`: how the rate moves. Default `cos`. */
  readonly anneal?: "cos" | "linear";
}

/** The run that a schedule is for. */
export interface ScheduledRun {
  /** The learning rate of a constant schedule; the highest one of every other. */
  readonly lr: number;
  /** Of the whole run. */
  readonly epochs: number;
  /** Steps of each. */
  readonly stepsPerEpoch: number;
}

/** Whether the rate changes after an epoch or after each step. */
export function scheduleUnit({ kind, by }: ScheduleSettings): "epoch" | "step" {
  return by ?? (kind === "one-cycle" ? "step" : "epoch");
}

/**
 * The learning rate of a step, counted from 0 over all epochs: PyTorch's `SequentialLR` of a `LinearLR` and then
 * `ConstantLR`, `MultiStepLR`, `CosineAnnealingLR` (whose `T_max` is what warm-up leaves) or `OneCycleLR` (with
 * `cycle_momentum=False`: its default moves the momentum, too).
 *
 * @example
 * ```ts
 * import { learningRate } from "@cardinal/resnext";
 *
 * const run = { lr: 0.1, epochs: 10, stepsPerEpoch: 100 };
 * const rate = learningRate({ kind: "cosine" }, run, 500);
 * if (Math.abs(rate - 0.05) > 1e-12) throw new Error("half way down after half of the run");
 * ```
 *
 * @throws {UserError} for a kind that is none of {@linkcode SCHEDULES}.
 */
export function learningRate(schedule: ScheduleSettings | undefined, run: ScheduledRun, step: number): number {
  const { lr, epochs, stepsPerEpoch } = run;
  if (!schedule) return lr;
  // Times are epochs or steps from here on.
  const byStep = scheduleUnit(schedule) === "step";
  const time = byStep ? step : Math.floor(step / stepsPerEpoch);
  const times = (epochs: number) => byStep ? Math.round(epochs * stepsPerEpoch) : epochs;
  const warmup = times(schedule.warmup ?? 0), total = times(epochs) - warmup;
  if (time < warmup) {
    const start = schedule.warmup_start ?? 0.01;
    return lr * (start + (1 - start) * time / warmup);
  }
  const at = time - warmup;
  switch (schedule.kind) {
    case "constant":
      return lr;
    case "multistep": {
      const passed = (schedule.milestones ?? []).filter((epoch) => times(epoch) <= time).length;
      return lr * (schedule.gamma ?? 0.1) ** passed;
    }
    case "cosine": {
      const low = schedule.min_lr ?? 0;
      return low + (lr - low) * (1 + Math.cos(Math.PI * Math.min(at / total, 1))) / 2;
    }
    case "one-cycle":
      return oneCycle(schedule, lr, at, total);
    default:
      throw new UserError(unknownKind(schedule));
  }
}

/** For kinds that no type has checked. */
function unknownKind({ kind }: ScheduleSettings): string {
  return `No schedule is called ${JSON.stringify(kind)}: they are ${SCHEDULES.join(", ")}`;
}

/** Smith and Topin, "Super-convergence" (2018), as PyTorch's `OneCycleLR` with `cycle_momentum=False`. */
function oneCycle(schedule: ScheduleSettings, highest: number, at: number, total: number): number {
  const { rise = 0.3, div_factor = 25, final_div_factor = 1e4, anneal = "cos" } = schedule;
  const first = highest / div_factor, last = first / final_div_factor;
  const top = rise * total - 1, end = total - 1;
  const between = (from: number, to: number, share: number) =>
    anneal === "linear" ? from + (to - from) * share : to + (from - to) / 2 * (1 + Math.cos(Math.PI * share));
  // A cycle of a step or two has no rise.
  if (at <= top && top > 0) return between(first, highest, at / top);
  return between(highest, last, end > top ? Math.min((at - top) / (end - top), 1) : 1);
}

/**
 * Refuses settings that make no schedule.
 *
 * @throws {UserError} naming what is wrong.
 */
export function checkSchedule(schedule: ScheduleSettings, epochs: number): void {
  const refuse = (why: string) => {
    throw new UserError(`Cannot make a ${schedule.kind} schedule: ${why}`, { exitCode: 2 });
  };
  const { kind, warmup = 0, milestones = [] } = schedule;
  if (warmup >= epochs && warmup > 0) {
    refuse(`warm-up of ${warmup} epochs fills the run of ${epochs}; use fewer or more epochs`);
  }
  if (scheduleUnit(schedule) === "epoch" && !Number.isInteger(warmup)) {
    refuse(`warm-up of ${warmup} epochs needs a rate that changes by step`);
  }
  if (kind === "multistep") {
    if (milestones.length === 0) refuse("it needs milestones, the epochs after which the rate falls");
    if (milestones.some((epoch, i) => !(epoch > (milestones[i - 1] ?? 0)))) {
      refuse("its milestones must rise from 1 on");
    }
    if (milestones[0] < warmup) refuse(`its first milestone, ${milestones[0]}, lies in warm-up`);
  } else if (milestones.length > 0) refuse("milestones belong to multistep");
}

/**
 * Whether a run that has no better epoch than its best for `patience` epochs should stop.
 *
 * @param history The epochs done, in order.
 */
export function shouldStop(history: readonly { readonly test_acc: number }[], patience: number): boolean {
  const accuracies = history.map(({ test_acc }) => test_acc);
  const best = accuracies.indexOf(Math.max(...accuracies));
  return accuracies.length - 1 - best >= patience;
}
