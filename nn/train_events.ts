/** What a training run tells of itself while it goes on. */

import { UserError } from "../kernels/user_error.ts";
import type { EpochMetrics } from "./checkpoint.ts";

/** What happens while training. */
export type TrainEvent =
  /** Steps were finished. `loss` is the mean over those since the last event. */
  | {
    readonly type: "step";
    readonly epoch: number;
    readonly step: number;
    readonly steps: number;
    readonly loss: number;
    /** Of the last of them. */
    readonly learningRate: number;
    /** Of the last of them, in half precision; see `kernels/loss_scale.ts`. */
    readonly lossScale?: number;
    /** How many of them were left out because gradients overflowed, in half precision. */
    readonly skipped?: number;
    /** A pause that was asked for: see {@linkcode TrainerOptions}. */
    readonly pause: boolean;
    readonly imagesPerSecond: number;
    /** For all of the job that is left, evaluation included. */
    readonly secondsLeft: number;
  }
  /** The first steps are measured: `seconds` for all of the job that is left, evaluation included. */
  | { readonly type: "estimate"; readonly seconds: number; readonly imagesPerSecond: number }
  /** `done` of the test set's `images` are judged. */
  | { readonly type: "evaluating"; readonly epoch: number; readonly done: number; readonly images: number }
  /** `seconds` of training and testing; what a run that goes on had done of the epoch counts as fast as the rest. */
  | { readonly type: "epoch"; readonly metrics: EpochMetrics; readonly best: boolean; readonly seconds: number }
  /** No epoch has been better than the best for as many as the settings' patience: the run ends before its last epoch. */
  | { readonly type: "stopped"; readonly epoch: number; readonly patience: number }
  /** The signal was given: the step begun is finished, a checkpoint made now goes on from here. */
  | { readonly type: "interrupted"; readonly epoch: number; readonly step: number };

/** A loss that is no number any more. */
export class DivergedError extends UserError {
  /** Told apart by it. */
  override name = "DivergedError";
}

/** What is not finite any more, and when that was seen. */
export function diverged(what: string, when: string): DivergedError {
  return new DivergedError(
    `The ${what} is not finite any more ${when}: training has diverged; use a smaller learning rate`,
  );
}
