/** The options of `train`. */

import { LARGEST_BATCH } from "../nn/run_memory.ts";
import { RING_SLOTS } from "../nn/step.ts";
import type { Invocation, OptionSpecs } from "./command.ts";
import { datasetForms, datasetNames, DATASETS, valSplitOption, workersOption } from "./dataset.ts";
import { dataDirOption } from "./invocation.ts";
import { architectureNames, networkOptions } from "./network_options.ts";
import { optimizerOptions } from "./optimizer_options.ts";
import { trainPrecisionOption } from "./precision.ts";
import { augmentOptions, scheduleOptions } from "./recipe_options.ts";
import { safetyOptions } from "./train_safety.ts";
import { tuneOption } from "./tuning.ts";

const defaults = (key: "imageSize" | "batchSize" | "epochs") =>
  datasetNames.map((name) => `${DATASETS[name].defaults[key]} for ${name}`).join(", ");

/** The options of `train`. */
export const trainOptions = {
  dataset: {
    type: "string",
    placeholder: "NAME",
    suggestions: datasetNames,
    otherwise: "cifar10 where it has been downloaded, else shapes",
    doc: `Images: ${datasetForms}, a folder with train/CLASS/* and val/CLASS/*`,
  },
  valSplit: valSplitOption,
  strict: { type: "boolean", doc: "Stop at a picture that cannot be read, instead of leaving it out" },
  workers: workersOption,
  weights: {
    type: "string",
    placeholder: "FILE",
    otherwise: "drawn by the seed",
    doc: "First weights: a checkpoint, safetensors, .pth; no head, or one of other classes, gets a new one",
  },
  numClasses: { type: "integer", min: 1, otherwise: "the data set's", doc: "Classes; must be the data set's" },
  freeze: {
    type: "string",
    placeholder: "stem,layer1,...",
    items: "string",
    otherwise: "all stages learn",
    doc: "First stages that stay as they are, statistics of batch norm too",
  },
  arch: {
    type: "choice",
    choices: architectureNames,
    default: "resnext50",
    doc: "Network",
  },
  imageSize: {
    type: "integer",
    min: 1,
    max: 4096,
    otherwise: defaults("imageSize"),
    doc: "Height and width that images are resized to",
  },
  batchSize: {
    type: "integer",
    min: 1,
    max: 65536,
    words: ["auto"],
    otherwise: defaults("batchSize"),
    doc: `Images a batch; auto: as many as fit the device, at most ${LARGEST_BATCH}`,
  },
  accumulate: {
    type: "integer",
    min: 1,
    max: RING_SLOTS,
    default: 1,
    doc: "Batches whose gradients are summed before a step",
  },
  precision: trainPrecisionOption,
  epochs: { type: "integer", min: 1, max: 100_000, otherwise: defaults("epochs"), doc: "Passes over the images" },
  ...optimizerOptions,
  labelSmoothing: { type: "number", min: 0, below: 1, default: 0, doc: "Label smoothing" },
  ...scheduleOptions,
  ...augmentOptions,
  ...networkOptions,
  trainLimit: {
    type: "integer",
    min: 1,
    otherwise: `all; ${DATASETS.shapes.defaults.trainLimit} of shapes`,
    doc: "Images to train on, the first ones",
  },
  testLimit: {
    type: "integer",
    min: 1,
    otherwise: `all; ${DATASETS.shapes.defaults.testLimit} of shapes`,
    doc: "Images to test on, the first ones",
  },
  seed: { type: "integer", min: 0, default: 0, doc: "Of the first weights and the order of the images" },
  out: {
    type: "string",
    placeholder: "DIR",
    otherwise: "runs/TIME-ARCH-DATASET, or the folder of the checkpoint resumed",
    doc: "Folder of the checkpoints",
  },
  resume: {
    type: "string",
    placeholder: "FILE",
    otherwise: "start anew",
    doc: "Go on from this checkpoint; auto: from the newest of --out, if there is one",
  },
  ...safetyOptions,
  tune: tuneOption,
  dataDir: dataDirOption,
  tensorboard: { type: "boolean", doc: "Write event files for TensorBoard into the folder too" },
  quiet: { type: "boolean", doc: "Print the epochs' lines alone" },
  json: { type: "boolean", doc: "Print a JSON object a line instead" },
} as const satisfies OptionSpecs;

/** What the user called `train` with. */
export type TrainInvocation = Invocation<typeof trainOptions, []>;

/** Whether what comes before the run takes its time without a word. */
export function isSilent({ quiet, json }: Pick<TrainInvocation["options"], "quiet" | "json">): boolean {
  return quiet || json;
}
