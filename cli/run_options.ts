/** A run in the words of `train`'s options: to compare with what a user gives to one that goes on, and to do one again. */

import type { RunDescription } from "../nn/run_description.ts";
import { networkOptions } from "./network_options.ts";
import { recipeOf, scheduleOptions } from "./recipe_options.ts";

/** The options that make a run what it is, by key; undefined where the run has nothing of the kind. */
export function optionsOfRun({ network, input, settings }: RunDescription) {
  return {
    dataset: settings.dataset,
    arch: network.arch,
    numClasses: network.num_classes,
    imageSize: input.image_size,
    batchSize: settings.batch_size,
    accumulate: settings.accumulate ?? 1,
    precision: settings.precision ?? "f32",
    lr: settings.lr,
    momentum: settings.momentum,
    weightDecay: settings.weight_decay,
    nesterov: settings.nesterov,
    labelSmoothing: settings.label_smoothing,
    clipGradNorm: settings.clip_grad_norm,
    cardinality: network.cardinality,
    layers: network.layers?.join(),
    depths: network.layers?.join(),
    channels: network.channels?.join(),
    baseWidth: network.base_width,
    stem: network.stem,
    trainLimit: settings.train_limit,
    testLimit: settings.test_limit,
    valSplit: settings.val_split,
    freeze: settings.frozen?.join(),
    seed: settings.seed,
    ...recipeOf(settings),
  };
}

/** Options that do the same run again, by key: with them `train` ends with the same bits on the same device. */
export function optionsToRepeat(run: RunDescription): Record<string, unknown> {
  const { epochs, patience, weights } = run.settings;
  const options: Record<string, unknown> = { ...optionsOfRun(run), epochs, patience, weights };
  // Another name of `layers`; and weights bring the sizes of their network.
  const left = ["depths", ...(weights === undefined ? [] : Object.keys(networkOptions))];
  // Refused where nothing uses them, as usual values are not.
  for (const key of ["warmupStart", "gamma", "minLr"] as const) {
    if (options[key] === scheduleOptions[key].default) left.push(key);
  }
  // What the data set's kind decided, as a folder's pictures are mirrored, stays its to decide.
  if (run.settings.augment?.flip === undefined) left.push("flip");
  return Object.fromEntries(
    Object.entries(options).filter(([key, value]) => value !== undefined && !left.includes(key)),
  );
}
