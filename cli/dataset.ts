/** The data sets by name: what a run on each is by default, and how its images are got. */

import type { ScheduleKind } from "../nn/schedule.ts";
import { type CifarVersion, hasCifar, readCifar } from "../data/cifar.ts";
import { cifar10 } from "../data/cifar10.ts";
import { cifar100 } from "../data/cifar100.ts";
import { type AnyImageSet, type Dataset, limit } from "../data/dataset.ts";
import { dataDirectory, dataDirectoryIfAny } from "../data/directory.ts";
import { findFolder } from "../data/folder.ts";
import type { SkippedPicture } from "../data/pictures/cache.ts";
import { shapeNames, shapes, shapesStatistics } from "../data/shapes.ts";
import { UserError } from "../kernels/user_error.ts";
import { resolve } from "@std/path";
import { type OptionSpec, usageError } from "./command.ts";
import { exists } from "./files.ts";
import { nearest } from "./nearest.ts";
import { formatDuration, formatRate, ProgressLine } from "./progress.ts";

/** How many processors decode pictures. */
export const workersOption = {
  type: "integer",
  min: 1,
  max: 1024,
  otherwise: "all",
  doc: "Processors that decode a folder's pictures",
} as const satisfies OptionSpec;

/** How a folder of pictures without a part to test on is split. */
export const valSplitOption = {
  type: "number",
  above: 0,
  below: 1,
  otherwise: "the folder has a val",
  doc: "For folder:PATH with PATH/CLASS/*: the share of each class to test on",
} as const satisfies OptionSpec;

/** How many images to take, and where from. */
export interface DatasetRequest {
  readonly trainLimit?: number;
  readonly testLimit?: number;
  /** As given by `--data-dir`. */
  readonly dataDir?: string;
  /** Of the network: what is kept of pictures follows from it. Only folders of pictures need it. */
  readonly imageSize?: number;
  /** Of a folder's test pictures: the shorter side before the centre is cut out. */
  readonly resizeSize?: number;
  /** False: no picture of a folder is mirrored in training. */
  readonly flip?: boolean;
  /** Processors that decode a folder's pictures. */
  readonly workers?: number;
  /** Share of a folder's pictures to test on, and the seed of the choice. */
  readonly valSplit?: number;
  readonly seed?: number;
  /** Stop at a picture that cannot be used. */
  readonly strict?: boolean;
  /** Tell nothing of what is being done. */
  readonly quiet?: boolean;
}

/** The images, and what of them could not be used. */
export interface LoadedDataset extends Dataset<AnyImageSet> {
  readonly skipped?: readonly SkippedPicture[];
}

/** A data set whose images have not been read yet, which may take minutes: what is known without them. */
export interface FoundDataset extends Pick<Dataset, "classNames" | "mean" | "std"> {
  /** Reads the images. @param signal Stops the decoding of pictures. @throws {UserError} for files missing or damaged. */
  load(signal?: AbortSignal): Promise<LoadedDataset>;
}

/** What a run does where the user says nothing else. */
export interface RunDefaults {
  readonly imageSize: number;
  readonly batchSize: number;
  readonly epochs: number;
  readonly lr: number;
  /** Default constant. */
  readonly schedule?: ScheduleKind;
  /** Training images are mirrored unless the user says otherwise. */
  readonly flip?: boolean;
  readonly trainLimit?: number;
  readonly testLimit?: number;
}

interface Entry {
  /** What it is, for people. */
  readonly title: string;
  readonly defaults: RunDefaults;
  readonly find: (request: DatasetRequest) => Promise<FoundDataset>;
}

/** Of the images drawn; the run's own seed leaves them as they are, so that runs can be compared. */
const SHAPES_SEED = 0;

/** Images drawn at most: 1.5 GB, and minutes of drawing. */
const MOST_DRAWN = 500_000;

/** @throws {UserError} where so many images are not drawn. */
function drawable(flag: string, count: number): number {
  if (count <= MOST_DRAWN) return count;
  throw new UserError(`Cannot draw ${count} images of shapes: ${MOST_DRAWN} at most; choose a smaller --${flag}`, {
    exitCode: 2,
  });
}

/** A downloaded data set. It is read in a moment, and so at once. */
async function findCifar(version: CifarVersion, { dataDir, ...limits }: DatasetRequest): Promise<FoundDataset> {
  const data = await readCifar(version, dataDirectory(dataDir), limits);
  return { ...data, load: () => Promise.resolve(data) };
}

/** The data sets, with the defaults of a run on each. */
export const DATASETS = {
  shapes: {
    title: "shapes, drawn images of 10 classes",
    // A short run: the falling rate makes each epoch better than the one before.
    defaults: {
      ...{ imageSize: 32, batchSize: 16, epochs: 5, lr: 0.004, schedule: "cosine" },
      ...{ trainLimit: 1600, testLimit: 400 },
    },
    find({ trainLimit = 1600, testLimit = 400 }) {
      const train = drawable("train-limit", trainLimit), test = drawable("test-limit", testLimit);
      const load = () => Promise.resolve(shapes({ train, test, seed: SHAPES_SEED }));
      return Promise.resolve({ classNames: shapeNames, ...shapesStatistics, load });
    },
  },
  cifar10: {
    title: "CIFAR-10",
    defaults: { imageSize: 224, batchSize: 64, epochs: 10, lr: 0.01 },
    find: (request) => findCifar(cifar10, request),
  },
  cifar100: {
    title: "CIFAR-100",
    defaults: { imageSize: 224, batchSize: 64, epochs: 10, lr: 0.01 },
    find: (request) => findCifar(cifar100, request),
  },
} as const satisfies Record<string, Entry>;

/** A data set's name. */
export type DatasetName = keyof typeof DATASETS;

/** The names, for options. */
export const datasetNames: readonly DatasetName[] = Object.keys(DATASETS) as DatasetName[];

/** The data set of a run that names none: CIFAR-10 where it has been downloaded, else the one inside. */
export async function defaultDataset(dataDir?: string): Promise<DatasetName> {
  const directory = dataDirectoryIfAny(dataDir);
  // Without a place for downloads none has been made.
  return directory !== undefined && await hasCifar(cifar10, directory) ? "cifar10" : "shapes";
}

/** How a folder of pictures is named. */
const FOLDER = "folder:";

/** Such as `shapes, cifar10, cifar100 or folder:PATH`. */
export const datasetForms = `${datasetNames.join(", ")} or ${FOLDER}PATH`;

/** What a run on a folder of pictures does. */
const folderDefaults: RunDefaults = { imageSize: 224, batchSize: 64, epochs: 10, lr: 0.01, flip: true };

/**
 * Reads the value of `--dataset`: a name, or `folder:PATH`, whose path becomes absolute.
 *
 * @param path Of the command, for messages.
 * @throws {UserError} with exit code 2 for anything else.
 */
export function readDatasetName(text: string, path: string): string {
  if (text.startsWith(FOLDER) && text.length > FOLDER.length) return FOLDER + resolve(text.slice(FOLDER.length));
  if (Object.hasOwn(DATASETS, text)) return text;
  const match = nearest(text, datasetNames);
  const hint = match ? `; did you mean ${match}?` : "";
  throw usageError(`Option --dataset must be ${datasetForms}, not ${JSON.stringify(text)}${hint}`, path);
}

/** A data set's defaults; of one that is not known there are none. */
export function runDefaults(name: string): RunDefaults | undefined {
  if (name.startsWith(FOLDER)) return folderDefaults;
  return Object.hasOwn(DATASETS, name) ? DATASETS[name as DatasetName].defaults : undefined;
}

/** What a data set is, for people. */
export function datasetTitle(name: string): string {
  return Object.hasOwn(DATASETS, name) ? DATASETS[name as DatasetName].title : name.replace(FOLDER, "pictures of ");
}

/** Whether a data set is a folder of pictures. */
export function isPictures(name: string): boolean {
  return name.startsWith(FOLDER);
}

/** A data set's name as part of a file's. */
export function datasetFileName(name: string): string {
  if (!name.startsWith(FOLDER)) return name;
  return name.split(/[\\/]/).at(-1)!.replaceAll(/[^\w.-]+/g, "_") || "pictures";
}

/** The images. @throws {UserError} as {@linkcode findDataset} and its `load` do. */
export async function loadDataset(name: string, request: DatasetRequest): Promise<LoadedDataset> {
  return await (await findDataset(name, request)).load();
}

/**
 * Looks for a data set: what can be wrong with its name and with what is asked of it is told before its images are read.
 *
 * @throws {UserError} for a name that is not known (of a checkpoint, say), and for files missing or damaged.
 */
export async function findDataset(name: string, request: DatasetRequest): Promise<FoundDataset> {
  if (name.startsWith(FOLDER)) return await findPictures(name.slice(FOLDER.length), request);
  if (!Object.hasOwn(DATASETS, name)) {
    throw new UserError(`Unknown data set "${name}": this version knows ${datasetForms}; choose one with --dataset`);
  }
  if (request.valSplit !== undefined) {
    throw new UserError(`Cannot split ${name}: it has its own test set; leave out --val-split`, { exitCode: 2 });
  }
  const { classNames, mean, std, load } = await DATASETS[name as DatasetName].find(request);
  const { trainLimit = Infinity, testLimit = Infinity } = request;
  return {
    ...{ classNames, mean, std },
    async load() {
      const dataset = await load();
      return { ...dataset, train: limit(dataset.train, trainLimit), test: limit(dataset.test, testLimit) };
    },
  };
}

/** A folder of pictures; while they are decoded, stderr tells how far it is. */
async function findPictures(path: string, request: DatasetRequest): Promise<FoundDataset> {
  if (!await exists(path)) {
    throw new UserError(`Cannot find the folder of pictures "${path}"; name where it is by --dataset ${FOLDER}PATH`);
  }
  const { imageSize = folderDefaults.imageSize, dataDir, quiet, ...options } = request;
  const line = new ProgressLine();
  let started = 0;
  const onProgress = (done: number, total: number) => {
    const rate = done / ((performance.now() - started) / 1000);
    const left = formatDuration((total - done) / rate);
    line.update(`Decoding pictures ${done}/${total}  ${formatRate(rate, "img")}  ${left} left`);
  };
  const onNotice = (text: string) => line.update(`${text[0].toUpperCase()}${text.slice(1)} ...`);
  const { classNames, mean, std, read } = await findFolder({
    ...{ path, imageSize, ...options, ...(!quiet && { onProgress, onNotice }) },
    dataDirectory: dataDirectory(dataDir),
  });
  return {
    ...{ classNames, mean, std },
    async load(signal) {
      started = performance.now();
      try {
        return await read(signal);
      } finally {
        line.clear();
      }
    },
  };
}
