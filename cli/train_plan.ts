/** What `train` is to do, out of its options or out of the checkpoint that it goes on from. */

import { dirname, join, resolve } from "@std/path";
import { UserError } from "../kernels/user_error.ts";
import type { SkippedPicture } from "../data/pictures/cache.ts";
import type { Checkpoint, NetworkDescription, RunSettings } from "../nn/checkpoint.ts";
import { checkRun } from "../nn/description_check.ts";
import { describedNetwork } from "../nn/described_network.ts";
import { fineTuning } from "../nn/fine_tune.ts";
import { frozenEntries } from "../nn/freezing.ts";
import type { Architecture } from "../nn/resnext.ts";
import type { RunDescription, TrainingData } from "../nn/run_description.ts";
import type { AutoBatch } from "./auto_batch.ts";
import { exists, readCheckpoint } from "./files.ts";
import { describedByOptions, networkDescription, networkOptions } from "./network_options.ts";
import { flagName, usageError } from "./command.ts";
import { defaultDataset, findDataset, type FoundDataset, isPictures, readDatasetName, runDefaults } from "./dataset.ts";
import { type NetworkFile, readNetworkFile } from "./network_file.ts";
import { optimizerOfOptions } from "./optimizer_options.ts";
import { recipeSettings } from "./recipe_options.ts";
import { type ConfigOptions, findRun, type RunConfig } from "./run_files.ts";
import { givenOptions, isLengthened, optionsOfRun, recordedConfig } from "./run_options.ts";
import { refuseRunFolder } from "./weights_input.ts";
import { isSilent, type TrainInvocation } from "./train_options.ts";

/** What is to be done, as far as it can be told before the images are read. */
export interface TrainOutline {
  readonly description: RunDescription;
  readonly found: FoundDataset;
  /** The state to go on from. */
  readonly from?: Checkpoint;
  /** The file that it was read from. */
  readonly resumed?: string;
  /** What is known of the images that the run which goes on was begun with. */
  readonly begunWith?: BegunWith;
  /** The weights to begin with, and what was done to them, for people. */
  readonly weights?: { readonly checkpoint: Checkpoint; readonly notes: readonly string[] };
  /** What may not be meant, for people. */
  readonly warning?: string;
  /** The data directory, where the user named one. */
  readonly dataDir?: string;
  readonly parameters: number;
  /** What the user began the run with; absent where that is not known. */
  readonly options?: ConfigOptions;
  /** The run was given other epochs or another patience since. */
  readonly lengthened?: boolean;
  /** The data set was chosen because it has been downloaded. */
  readonly foundDataset: boolean;
  /** The batch size is the user's, or the resumed run's. */
  readonly batchSizeChosen: boolean;
  /** The batch size is still to be found: the largest that fits. */
  readonly batchSizeAuto?: boolean;
}

/** Images of a run that goes on, as its folder tells them. */
interface BegunWith extends Partial<Pick<RunConfig, "train_images" | "test_images">> {
  /** They have moved since, and must be as many to be the same. */
  readonly moved: boolean;
}

/** What is to be done, and the images to do it with. */
export interface TrainPlan extends Omit<TrainOutline, "found" | "begunWith" | "warning"> {
  readonly data: TrainingData;
  /** Pictures that could not be used. */
  readonly skipped?: readonly SkippedPicture[];
  /** What may not be meant by these images, for people. */
  readonly warning?: string;
  /** The batch size that was found. */
  readonly autoBatch?: AutoBatch;
}

/**
 * Reads the options, and the checkpoint if any: whatever can be wrong with them is told before pictures are decoded, which
 * may take hours.
 *
 * @throws {UserError} for anything wrong with them.
 */
export async function planTraining(invocation: TrainInvocation): Promise<TrainOutline> {
  const { options } = invocation;
  const plan = options.resume === undefined ? await planNew(invocation) : await planResumed(invocation, options.resume);
  checkRun(plan.description);
  return { ...plan, dataDir: options.dataDir };
}

/**
 * Reads the images of a plan.
 *
 * @param signal Stops the decoding of pictures.
 * @throws {UserError} where they cannot be read, or are not those that the run goes on with.
 */
export async function withImages(outline: TrainOutline, signal?: AbortSignal): Promise<TrainPlan> {
  const { found, begunWith, warning: _, ...plan } = outline, { dataset } = plan.description.settings;
  const data = await found.load(signal), { train } = data;
  if (begunWith?.moved && train.count !== (begunWith.train_images ?? train.count)) {
    throw new UserError(
      `Cannot resume "${plan.resumed}": ${dataset} has ${train.count} images to train on, the run was begun with ` +
        begunWith.train_images,
    );
  }
  return { ...plan, data, skipped: data.skipped, warning: begunWith && otherImages(begunWith, data, dataset) };
}

const PATH = "resnext train";

async function planNew(invocation: TrainInvocation): Promise<TrainOutline> {
  const { options, given } = invocation;
  const dataset = options.dataset === undefined
    ? await defaultDataset(options.dataDir)
    : readDatasetName(options.dataset, PATH);
  const standard = runDefaults(dataset)!;
  const { trainLimit = standard.trainLimit, testLimit = standard.testLimit, dataDir, valSplit, strict, seed } = options;
  const weights = options.weights === undefined
    ? undefined
    : await readNetworkFile(options.weights, { arch: chosenArch(invocation), forFineTuning: true });
  const imageSize = options.imageSize ?? weights?.description.input?.image_size ?? standard.imageSize;
  const quiet = isSilent(options);
  const found = await findDataset(dataset, {
    ...{ trainLimit, testLimit, dataDir, imageSize, valSplit, strict, seed, quiet },
    ...{ flip: options.flip || !given.has("flip"), workers: options.workers },
  });
  const classes = found.classNames.length;
  if (options.numClasses !== undefined && options.numClasses !== classes) {
    throw usageError(`Option --num-classes must be ${classes}: so many classes has the data set`, PATH);
  }
  const network = weights
    ? { ...weights.description.network, num_classes: classes }
    : networkDescription(options.arch, classes, options, PATH);
  const settings: RunSettings = {
    dataset,
    batch_size: options.batchSize === "auto" ? standard.batchSize : options.batchSize ?? standard.batchSize,
    ...(options.accumulate > 1 && { accumulate: options.accumulate }),
    ...(options.precision !== "f32" && { precision: options.precision }),
    epochs: options.epochs ?? standard.epochs,
    ...optimizerOfOptions(invocation, standard, PATH),
    label_smoothing: options.labelSmoothing,
    clip_grad_norm: options.clipGradNorm,
    seed: options.seed,
    weights: options.weights && resolve(options.weights),
    train_limit: trainLimit,
    test_limit: testLimit,
    val_split: valSplit,
    frozen: readStages(options.freeze, network),
    ...recipeSettings(invocation, options.epochs ?? standard.epochs, standard, PATH),
  };
  if ((settings.schedule?.min_lr ?? 0) > settings.lr) {
    throw usageError(`Option --min-lr must be at most the learning rate, ${settings.lr}`, PATH);
  }
  const { mean, std } = weights?.description.input ?? found;
  const input = { image_size: imageSize, mean, std };
  const description = { network, input, settings };
  return {
    description,
    found,
    options: givenOptions(invocation, description),
    weights: weights && firstWeights(options.weights!, weights, network),
    parameters: describedByOptions(network, PATH).parameterCount,
    foundDataset: options.dataset === undefined && dataset !== "shapes",
    batchSizeChosen: typeof options.batchSize === "number",
    batchSizeAuto: options.batchSize === "auto",
    ...(settings.frozen && !weights && {
      warning: `${settings.frozen.join(", ")} will stay as the seed drew them: --freeze is meant for --weights`,
    }),
  };
}

/** The architecture that the user named, if any; with weights other sizes than theirs make no sense. */
function chosenArch({ options, given }: TrainInvocation): Architecture | undefined {
  const sizes = Object.keys(networkOptions).find((key) => given.has(key as keyof typeof networkOptions));
  if (sizes) {
    throw usageError(`Option --${flagName(sizes)} does not go with --weights, which tell the network's sizes`, PATH);
  }
  return given.has("arch") ? options.arch : undefined;
}

/** Fits weights to the network, and says which head they get. */
function firstWeights(file: string, { description, state, averaged, notes }: NetworkFile, network: NetworkDescription) {
  const { state: fitted, replacedClasses } = fineTuning(describedNetwork(network), state);
  const { num_classes: classes } = network;
  const head = replacedClasses === undefined
    ? "with their head"
    : replacedClasses === 0
    ? `with a new head: there was no fc, now it has ${classes} classes`
    : `with a new head: fc had ${replacedClasses} classes, has ${classes}`;
  const checkpoint: Checkpoint = { description: { ...description, network, progress: undefined }, state: fitted };
  const from = averaged ? "the moving average of " : "";
  return { checkpoint, notes: [`${from}${file}, ${network.arch}, ${head}`, ...notes] };
}

/** Reads `stem,layer1`. */
function readStages(text: string | undefined, network: NetworkDescription): readonly string[] | undefined {
  if (text === undefined) return undefined;
  const stages = text.split(",").map((stage) => stage.trim()).filter((stage) => stage !== "");
  frozenEntries(stages, [...describedNetwork(network).stateEntries()].map(([name]) => name));
  return stages.length > 0 ? stages : undefined;
}

async function planResumed(invocation: TrainInvocation, file: string): Promise<TrainOutline> {
  await refuseRunFolder(file, "last.safetensors");
  const from = await readCheckpoint(file);
  const { network, input, settings, progress } = from.description;
  if (!input || !settings || !progress || !(from.momenta || from.adamw)) {
    // The best of a run with a moving average is of that kind.
    const last = join(dirname(file), "last.safetensors");
    const remedy = settings && await exists(last) ? `go on from ${last}` : "begin a run with it by --weights";
    throw new UserError(`Cannot resume "${file}": it holds weights, but no run to go on with; ${remedy}`);
  }
  refuseContradictions(invocation, { network, input, settings });
  const { options } = invocation;
  const { train_limit: trainLimit, test_limit: testLimit } = settings;
  const dataset = options.dataset === undefined ? settings.dataset : readDatasetName(options.dataset, PATH);
  const found = await findDataset(dataset, {
    ...{ trainLimit, testLimit, dataDir: options.dataDir, strict: options.strict },
    ...{ quiet: isSilent(options), imageSize: input.image_size, resizeSize: input.resize_size },
    ...{ valSplit: settings.val_split, seed: settings.seed },
    ...{ flip: settings.augment?.flip, workers: options.workers },
  });
  const names = from.description.class_names;
  if (names && String(names) !== String(found.classNames)) {
    throw new UserError(`Cannot resume "${file}": the classes of ${dataset} are not those it was trained on`);
  }
  const { epochs = settings.epochs, patience = settings.patience } = options;
  const begun = await recordedConfig(file, settings);
  const moved = dataset !== settings.dataset, images = moved ? (await findRun(dirname(file)))?.config : begun;
  return {
    description: { network, input, settings: { ...settings, dataset, epochs, patience } },
    found,
    from,
    resumed: file,
    begunWith: { moved, train_images: images?.train_images, test_images: images?.test_images },
    options: begun?.options ? { ...begun.options, epochs, ...(patience !== undefined && { patience }) } : undefined,
    lengthened: begun?.lengthened || isLengthened(settings, progress, { epochs, patience }),
    parameters: describedNetwork(network).parameterCount,
    foundDataset: false,
    batchSizeChosen: true,
  };
}

/** What is to be said where a run's images are not as many as it recorded, as where a folder's content has changed. */
function otherImages(begun: BegunWith, { train, test }: TrainingData, dataset: string): string | undefined {
  const { train_images: trained = train.count, test_images: tested = test.count } = begun;
  if (trained === train.count && tested === test.count) return undefined;
  return `The run trained on ${trained} images and tested on ${tested}, ${dataset} has ${train.count} and ${test.count} ` +
    "now: what follows is another run's";
}

/** A folder of pictures is looked at before it counts as another one. */
function movedTo(dataset: string, from: string): string {
  return isPictures(dataset) && isPictures(from) ? from : dataset;
}

/** A run that goes on must be the run that began. */
function refuseContradictions({ options, given }: TrainInvocation, run: RunDescription): void {
  const begun = optionsOfRun(run);
  const { weights } = run.settings;
  if (given.has("weights") && (weights === undefined || resolve(options.weights!) !== weights)) {
    throw usageError("Cannot resume with --weights: the checkpoint has its own; leave the option out", PATH);
  }
  for (const [key, value] of Object.entries(begun) as [keyof typeof begun, unknown][]) {
    // The size that was found when the run began stays.
    if (!given.has(key) || (key === "batchSize" && options[key] === "auto")) continue;
    const chosen = key === "dataset"
      ? movedTo(readDatasetName(options.dataset!, PATH), run.settings.dataset)
      : plainText(options[key]);
    if (chosen === plainText(value)) continue;
    const was = value === undefined || value === false ? "without it" : value === true ? "with it" : `with ${value}`;
    throw usageError(
      `Cannot resume with --${options[key] === false ? "no-" : ""}${
        flagName(key)
      }: the run was begun ${was}; leave the option out or start anew`,
      PATH,
    );
  }
}

/** A value as text that is the same for what means the same: 0.90,0.999 and 0.9, 0.999. */
function plainText(value: unknown): string {
  const parts = String(value).split(",").map((part) => part.trim());
  return parts.map((part) => part !== "" && Number.isFinite(Number(part)) ? String(Number(part)) : part).join();
}
