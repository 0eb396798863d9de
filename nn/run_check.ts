/** Whether a training run can be: its images, and the checkpoint that it goes on from; what describes it: `description_check.ts`. */

import { UserError } from "../kernels/user_error.ts";
import type { Checkpoint, RunProgress, RunSettings } from "./checkpoint.ts";
import { wrongInDescription, wrongInProgress } from "./description_check.ts";
import { quoted } from "./json.ts";
import { checkLabels } from "./labelled_images.ts";
import type { RunDescription, TrainingData } from "./run_description.ts";

/** Refuses images that a network of so many classes cannot learn. @throws {UserError} @throws {RangeError} @throws {TypeError} */
export function checkData({ classNames, train, test }: TrainingData, classes: number): void {
  if (classes < classNames.length) {
    throw new UserError(`Cannot train: the data set has ${classNames.length} classes, the network ${classes}`);
  }
  if (test.count === 0) throw new UserError("Cannot train: there are no images to test on");
  for (const set of [train, test]) checkLabels(set, classNames.length);
}

/**
 * Settings that say which images a step gets and what it keeps: with others, the steps of a checkpoint's progress would have
 * been other steps. All others a run may be given anew: its epochs, its learning rate.
 */
const DECIDE_STEPS = ["optimizer", "batch_size", "accumulate", "seed", "train_limit", "val_split"] as const;

/** What holds of these where nothing is said. */
const USUAL: Partial<RunSettings> = { optimizer: "sgd", accumulate: 1 };

/**
 * Where a run begins: at its beginning, or where the checkpoint's had got to, if that tells of progress.
 *
 * @throws {TypeError} where the checkpoint has no description.
 * @throws {UserError} where it is of another run or lacks what that had, so that what comes would not be what would have come.
 */
export function startOf(from: Checkpoint | undefined, run: RunDescription, stepsPerEpoch: number): RunProgress {
  const beginning: RunProgress = { epoch: 0, step: 0, loss_sum: 0, rows: 0, history: [] };
  if (!from) return beginning;
  if (!from.description || !from.state) {
    throw new TypeError(
      "Cannot begin from a checkpoint without description and state: give it as { description, state }",
    );
  }
  const { description } = from;
  if (description.progress === undefined) return beginning;
  const wrong = wrongInDescription({ ...description }, ["settings"]);
  if (wrong) throw refusal(`its "${wrong.path}" cannot be ${quoted(wrong.value)}`);
  checkProgress(description.progress, run.settings, stepsPerEpoch);
  checkSame(description.settings!, run.settings);
  const { epoch, step } = description.progress;
  if (epoch > 0 || step > 0) checkWhole(from, description.settings!, run.settings);
  return description.progress;
}

function refusal(why: string): UserError {
  return new UserError(`Cannot resume from the checkpoint: ${why}`);
}

function checkProgress(progress: RunProgress, { epochs }: RunSettings, steps: number): void {
  const contradiction = wrongInProgress(progress), { epoch, step, rows } = progress;
  if (contradiction) throw refusal(contradiction);
  if (step > steps) {
    throw refusal(
      `it is after step ${step} of an epoch, and an epoch of these images has ${steps}; give the same images, ` +
        "or leave out its progress to begin with its weights",
    );
  }
  if (step > 0 !== rows > 0) throw refusal(`it is after step ${step} of an epoch, but of ${rows} images of it`);
  const begun = step > 0 ? epoch + 1 : epoch;
  if (begun > epochs) throw refusal(`it is in epoch ${begun}, and the run has ${epochs}; set "epochs" to more`);
}

function checkSame(before: RunSettings, now: RunSettings): void {
  for (const name of DECIDE_STEPS) {
    const was = before[name] ?? USUAL[name], is = now[name] ?? USUAL[name];
    if (was === is) continue;
    throw refusal(
      `its run has "${name}" ${quoted(was)}, this one ${
        quoted(is)
      }, so that its steps would be others; give the same, or ` +
        "leave out its progress to begin with its weights",
    );
  }
}

/** Before the first step there is nothing to lose. */
function checkWhole({ momenta, adamw, average, lossScale }: Checkpoint, before: RunSettings, now: RunSettings): void {
  const lacks = (what: string, setting: string) =>
    refusal(`it lacks ${what}, which "${setting}" needs; take all of it, or leave out its progress to begin anew`);
  if (now.optimizer === "adamw" && !adamw) throw lacks("what AdamW keeps", "optimizer");
  if (now.momentum && !momenta) throw lacks("the momenta", "momentum");
  if (before.ema_decay !== undefined && now.ema_decay !== undefined && !average) {
    throw lacks("the moving average", "ema_decay");
  }
  if (now.precision === "f16" && before.precision === "f16" && !lossScale) throw lacks("the loss scale", "precision");
}
