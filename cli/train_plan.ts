/** What `train` is to do, out of its options or out of the checkpoint that it goes on from. */

import { UserError } from "../kernels/user_error.ts";
import type { Checkpoint, NetworkDescription, RunSettings } from "../nn/checkpoint.ts";
import { describedNetwork } from "../nn/described_network.ts";
import type { RunDescription, TrainingData } from "../nn/trainer.ts";
import { readCheckpoint } from "./files.ts";
import { architectureNames, networkDescription, networkOptions } from "./network_options.ts";
import { flagName, type Invocation, type OptionSpecs, usageError } from "./command.ts";
import { datasetNames, DATASETS, defaultDataset, loadDataset, runDefaults } from "./dataset.ts";

const defaults = (key: "imageSize" | "batchSize" | "epochs" | "lr") =>
  datasetNames.map((name) => `${DATASETS[name].defaults[key]} for ${name}`).join(", ");

/** The options of `train`. */
export const trainOptions = {
  dataset: {
    type: "choice",
    choices: datasetNames,
    otherwise: "cifar10 where it has been downloaded, else shapes",
    doc: "Images",
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
  batchSize: { type: "integer", min: 1, max: 65536, otherwise: defaults("batchSize"), doc: "Images a step" },
  epochs: { type: "integer", min: 1, max: 100_000, otherwise: defaults("epochs"), doc: "Passes over the images" },
  lr: { type: "number", min: 0, otherwise: defaults("lr"), doc: "Learning rate" },
  momentum: { type: "number", min: 0, below: 1, default: 0.9, doc: "Momentum" },
  weightDecay: { type: "number", min: 0, default: 0, doc: "Weight decay (L2), added to the gradient" },
  nesterov: { type: "boolean", doc: "Nesterov's momentum" },
  labelSmoothing: { type: "number", min: 0, below: 1, default: 0, doc: "Label smoothing" },
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
  resume: { type: "string", placeholder: "FILE", otherwise: "start anew", doc: "Go on from this checkpoint" },
  dataDir: {
    type: "string",
    placeholder: "DIR",
    otherwise: "$RESNEXT_DATA, else resnext in the user's cache directory",
    doc: "The data directory",
  },
  json: { type: "boolean", doc: "Print a JSON object a line instead" },
} as const satisfies OptionSpecs;

/** What the user called `train` with. */
export type TrainInvocation = Invocation<typeof trainOptions, []>;

/** What is to be done. */
export interface TrainPlan {
  readonly description: RunDescription;
  readonly data: TrainingData;
  /** The state to go on from. */
  readonly from?: Checkpoint;
  readonly parameters: number;
  /** The data set was chosen because it has been downloaded. */
  readonly foundDataset: boolean;
  /** The batch size is the user's, or the resumed run's. */
  readonly batchSizeChosen: boolean;
}

/** Reads the options, the checkpoint if any, and the images. @throws {UserError} for anything wrong with them. */
export async function planTraining(invocation: TrainInvocation): Promise<TrainPlan> {
  const { options } = invocation;
  return options.resume === undefined ? await planNew(invocation) : await planResumed(invocation, options.resume);
}

const PATH = "resnext train";

async function planNew({ options }: TrainInvocation): Promise<TrainPlan> {
  const dataset = options.dataset ?? await defaultDataset(options.dataDir);
  const standard = runDefaults(dataset);
  const { trainLimit = standard.trainLimit, testLimit = standard.testLimit, dataDir } = options;
  const data = await loadDataset(dataset, { trainLimit, testLimit, dataDir });
  const network = networkDescription(options.arch, data.classNames.length, options, PATH);
  const settings: RunSettings = {
    dataset,
    batch_size: options.batchSize ?? standard.batchSize,
    epochs: options.epochs ?? standard.epochs,
    lr: options.lr ?? standard.lr,
    momentum: options.momentum,
    weight_decay: options.weightDecay,
    nesterov: options.nesterov,
    label_smoothing: options.labelSmoothing,
    seed: options.seed,
    train_limit: trainLimit,
    test_limit: testLimit,
  };
  if (settings.nesterov && settings.momentum === 0) {
    throw usageError("Option --nesterov needs a momentum above 0", PATH);
  }
  const input = { image_size: options.imageSize ?? standard.imageSize, mean: data.mean, std: data.std };
  return {
    description: { network, input, settings },
    data,
    parameters: countParameters(network),
    foundDataset: options.dataset === undefined && dataset !== "shapes",
    batchSizeChosen: options.batchSize !== undefined,
  };
}

/** Sizes given by options that make no network are a wrong call. */
function countParameters(network: NetworkDescription): number {
  try {
    return describedNetwork(network).parameterCount;
  } catch (error) {
    if (error instanceof UserError) throw usageError(error.message, PATH);
    throw error;
  }
}

async function planResumed(invocation: TrainInvocation, file: string): Promise<TrainPlan> {
  const from = await readCheckpoint(file);
  const { network, input, settings, progress } = from.description;
  if (!input || !settings || !progress || !from.momenta) {
    throw new UserError(`Cannot resume "${file}": it holds weights, but no run to go on with; train anew`);
  }
  refuseContradictions(invocation, { network, input, settings });
  const { options, given } = invocation;
  const { train_limit: trainLimit, test_limit: testLimit } = settings;
  const data = await loadDataset(settings.dataset, { trainLimit, testLimit, dataDir: options.dataDir });
  const names = from.description.class_names;
  if (names && String(names) !== String(data.classNames)) {
    throw new UserError(`Cannot resume "${file}": the classes of ${settings.dataset} are not those it was trained on`);
  }
  const epochs = given.has("epochs") ? options.epochs! : settings.epochs;
  return {
    description: { network, input, settings: { ...settings, epochs } },
    data,
    from,
    parameters: describedNetwork(network).parameterCount,
    foundDataset: false,
    batchSizeChosen: true,
  };
}

/** A run that goes on must be the run that began. */
function refuseContradictions({ options, given }: TrainInvocation, { network, input, settings }: RunDescription): void {
  const begun = {
    dataset: settings.dataset,
    arch: network.arch,
    imageSize: input.image_size,
    batchSize: settings.batch_size,
    lr: settings.lr,
    momentum: settings.momentum,
    weightDecay: settings.weight_decay,
    nesterov: settings.nesterov,
    labelSmoothing: settings.label_smoothing,
    cardinality: network.cardinality,
    layers: network.layers?.join(),
    depths: network.layers?.join(),
    channels: network.channels?.join(),
    baseWidth: network.base_width,
    stem: network.stem,
    trainLimit: settings.train_limit,
    testLimit: settings.test_limit,
    seed: settings.seed,
  };
  for (const [key, value] of Object.entries(begun) as [keyof typeof begun, unknown][]) {
    if (!given.has(key) || String(options[key]).replaceAll(" ", "") === String(value)) continue;
    const was = value === undefined ? "without it" : value === false ? "without" : `with ${value}`;
    throw usageError(
      `Cannot resume with --${flagName(key)}: the run was begun ${was}; leave the option out or start anew`,
      PATH,
    );
  }
}
