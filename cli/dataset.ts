/** The data sets by name: what a run on each is by default, and how its images are got. */

import { hasCifar, readCifar } from "../data/cifar.ts";
import { cifar10 } from "../data/cifar10.ts";
import { cifar100 } from "../data/cifar100.ts";
import { type Dataset, limit } from "../data/dataset.ts";
import { dataDirectory } from "../data/directory.ts";
import { shapes } from "../data/shapes.ts";
import { UserError } from "../kernels/user_error.ts";

/** How many images to take, and where from. */
export interface DatasetRequest {
  readonly trainLimit?: number;
  readonly testLimit?: number;
  /** As given by `--data-dir`. */
  readonly dataDir?: string;
}

/** What a run does where the user says nothing else. */
export interface RunDefaults {
  readonly imageSize: number;
  readonly batchSize: number;
  readonly epochs: number;
  readonly lr: number;
  readonly trainLimit?: number;
  readonly testLimit?: number;
}

interface Entry {
  /** What it is, for people. */
  readonly title: string;
  readonly defaults: RunDefaults;
  readonly load: (request: DatasetRequest) => Promise<Dataset>;
}

/** Of the images drawn; the run's own seed leaves them as they are, so that runs can be compared. */
const SHAPES_SEED = 0;

/** The data sets, with the defaults of a run on each. */
export const DATASETS = {
  shapes: {
    title: "shapes, drawn images of 10 classes",
    defaults: { imageSize: 32, batchSize: 16, epochs: 5, lr: 0.003, trainLimit: 1600, testLimit: 400 },
    load: ({ trainLimit = 1600, testLimit = 400 }) =>
      Promise.resolve(shapes({ train: trainLimit, test: testLimit, seed: SHAPES_SEED })),
  },
  cifar10: {
    title: "CIFAR-10",
    defaults: { imageSize: 224, batchSize: 64, epochs: 10, lr: 0.01 },
    load: ({ trainLimit, testLimit, dataDir }) => readCifar(cifar10, dataDirectory(dataDir), { trainLimit, testLimit }),
  },
  cifar100: {
    title: "CIFAR-100",
    defaults: { imageSize: 224, batchSize: 64, epochs: 10, lr: 0.01 },
    load: ({ trainLimit, testLimit, dataDir }) =>
      readCifar(cifar100, dataDirectory(dataDir), { trainLimit, testLimit }),
  },
} as const satisfies Record<string, Entry>;

/** A data set's name. */
export type DatasetName = keyof typeof DATASETS;

/** The names, for options. */
export const datasetNames: readonly DatasetName[] = Object.keys(DATASETS) as DatasetName[];

/** The data set of a run that names none: CIFAR-10 where it has been downloaded, else the one inside. */
export async function defaultDataset(dataDir?: string): Promise<DatasetName> {
  let directory: string;
  try {
    directory = dataDirectory(dataDir);
  } catch (error) {
    // Without a place for downloads none has been made.
    if (error instanceof UserError && dataDir === undefined) return "shapes";
    throw error;
  }
  return await hasCifar(cifar10, directory) ? "cifar10" : "shapes";
}

/** A data set's defaults. */
export function runDefaults(name: DatasetName): RunDefaults {
  return DATASETS[name].defaults;
}

/**
 * The images.
 *
 * @throws {UserError} for a name that is not known (of a checkpoint, say), and for files missing or damaged.
 */
export async function loadDataset(name: string, request: DatasetRequest): Promise<Dataset> {
  if (!Object.hasOwn(DATASETS, name)) {
    throw new UserError(
      `Unknown data set "${name}": this version knows ${datasetNames.join(" and ")}; choose one with --dataset`,
    );
  }
  const dataset = await DATASETS[name as DatasetName].load(request);
  const { trainLimit = Infinity, testLimit = Infinity } = request;
  return { ...dataset, train: limit(dataset.train, trainLimit), test: limit(dataset.test, testLimit) };
}
