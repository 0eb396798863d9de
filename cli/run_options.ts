/** A run in the words of `train`'s options: to compare with what a user gives to one that goes on, and to do one again. */

import { dirname } from "@std/path";
import type { RunProgress, RunSettings } from "../nn/checkpoint.ts";
import type { RunDescription } from "../nn/run_description.ts";
import { flagName } from "./command.ts";
import { optimizerOptionsOf } from "./optimizer_options.ts";
import { recipeOf } from "./recipe_options.ts";
import { type ConfigOptions, findRun, type RunConfig } from "./run_files.ts";

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
    ...optimizerOptionsOf(settings),
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

/** What the user gave of the options that make a run what it is: as a config file they do the run again. */
export function givenOptions(
  { options, given }: { readonly options: Readonly<Record<string, unknown>>; readonly given: ReadonlySet<string> },
  run: RunDescription,
): ConfigOptions {
  const keys = [...Object.keys(optionsOfRun(run)), "epochs", "patience", "weights"].filter((key) => given.has(key));
  const entries = keys.map((key) => [flagName(key), options[key] as string | number | boolean]);
  const { weights } = run.settings;
  return { ...Object.fromEntries(entries), ...(weights !== undefined && { weights }) };
}

/** The same with what was found when the run began: the data set, and a batch size that fits. */
export function optionsToRepeat(given: ConfigOptions, { dataset, batch_size }: RunSettings): ConfigOptions {
  return { ...given, dataset, "batch-size": batch_size };
}

/** What the folder of a checkpoint tells of how its run was begun, if it is of that run. */
export async function recordedConfig(file: string, settings: RunSettings): Promise<RunConfig | undefined> {
  const config = (await findRun(dirname(file)))?.config;
  const same = ({ dataset: _, epochs: __, patience: ___, ...others }: RunSettings) => JSON.stringify(others);
  return config && same(config.settings) === same(settings) ? config : undefined;
}

/** Whether a run of other lengths would not have come to where this one is. */
export function isLengthened(
  { epochs, patience, schedule }: RunSettings,
  progress: RunProgress,
  now: Pick<RunSettings, "epochs" | "patience">,
): boolean {
  const begun = progress.epoch > 0 || progress.step > 0;
  const spread = schedule?.kind === "cosine" || schedule?.kind === "one-cycle";
  // With more patience it would have gone on as well; with less it might have stopped before.
  const lessPatient = (now.patience ?? Infinity) < (patience ?? Infinity);
  return begun && (lessPatient || (spread && epochs !== now.epochs));
}
