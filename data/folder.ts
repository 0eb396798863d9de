/**
 * A folder of pictures as a data set: `train/CLASS/*` and `val/CLASS/*`, or `CLASS/*` with a part split off for testing;
 * to test alone, `val/CLASS/*` or `CLASS/*`. `Train` and `VAL` count as well.
 * Pictures are decoded once, into a cache in the data directory; training sees random crops of them.
 */

import { createHash } from "node:crypto";
import { basename, join, resolve } from "@std/path";
import { permutation } from "../kernels/random.ts";
import { UserError } from "../kernels/user_error.ts";
import { compareCodePoints } from "./code_points.ts";
import type { AnyImageSet, Dataset } from "./dataset.ts";
import { touching } from "./files.ts";
import {
  type CachedPictures,
  cachePictures,
  type CacheRequest,
  type PictureFile,
  type SkippedPicture,
} from "./pictures/cache.ts";
import { PicturePool } from "./pictures/pool.ts";
import { drawWindow, SCALE } from "./pictures/random_resized_crop.ts";
import { type PictureTransform, testTransform, trainTransform } from "./pictures/transform.ts";

/** Mean and standard deviation of ImageNet's colours, which torchvision's weights were trained with. */
export const imagenetStatistics = {
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
} as const;

/** How a folder is read. */
export interface FolderOptions {
  /** The folder. */
  readonly path: string;
  /** Where the cache goes. */
  readonly dataDirectory: string;
  /** The network's image size: what is kept of each picture follows from it. */
  readonly imageSize: number;
  /** Of test pictures: the shorter side before the centre is cut out. Default 256 for an image size of 224. */
  readonly resizeSize?: number;
  /** For a folder without a part for testing: the share of each class to split off. */
  readonly valSplit?: number;
  /** Of the split. */
  readonly seed?: number;
  /** At most so many pictures of each part, the classes mixed. Default all; with 0 there need be none to train on. */
  readonly trainLimit?: number;
  /** As `trainLimit`, of the test part. */
  readonly testLimit?: number;
  /** Mirror half of the training pictures. Default true. */
  readonly flip?: boolean;
  /** Least and greatest share of a training picture that is cut out. Default 0.08 to 1. */
  readonly scale?: readonly [number, number];
  /** Stop at a picture that cannot be used, instead of leaving it out. */
  readonly strict?: boolean;
  /** Processors to decode on. Default all. */
  readonly workers?: number;
  /** Told how many pictures of how many are decoded. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Told what a person should know. */
  readonly onNotice?: (text: string) => void;
}

/** A folder whose pictures have been found and not been opened yet. */
export interface FoundFolder extends Pick<Dataset, "classNames" | "mean" | "std"> {
  /**
   * Reads the pictures, decoding those that are not in the cache; once.
   *
   * @param signal Stops it; what has been decoded by then stays in the cache.
   * @throws {UserError} as {@linkcode readFolder} does.
   */
  read(signal?: AbortSignal): Promise<FolderDataset>;
}

/** A folder's pictures. */
export interface FolderDataset extends Dataset<AnyImageSet> {
  /** Pictures that were left out; paths from the folder on. */
  readonly skipped: readonly SkippedPicture[];
  /** How many had to be decoded, the rest was in the cache. */
  readonly decoded: number;
  /** Closes the cache's files; no image can be read any more. */
  close(): void;
}

/** Names of files that are pictures. The last ones cannot be decoded: it is told that they are left out. */
const PICTURE = /\.(jpe?g|jfif|png|webp|avif|gif|tiff?|bmp|p[bgp]m|hei[cf])$/i;
const FORMATS = "JPEG, PNG, WebP, AVIF, GIF and TIFF are known";
const TRAIN = "train", TEST = ["val", "valid", "validation", "test"];
/** Characters of a folder's name in a cache's: four bytes each, and what follows, are a name that systems take. */
const NAME_LENGTH = 50;
/** Folders within folders of a class. */
const MAX_DEPTH = 16;
/** Which of a folder's pictures are the first ones: mixed once, the same always. */
const MIX_SEED = 0;

/** A picture's file and class. */
interface Labelled extends PictureFile {
  readonly label: number;
}

/**
 * Reads a folder of pictures, decoding those that are not in the cache.
 *
 * @throws {UserError} where there are no classes or no usable pictures, a class has none to train on, and with `strict` for
 * a broken picture.
 * @throws {RangeError} for options that are out of range, before anything is read.
 */
export async function readFolder(options: FolderOptions): Promise<FolderDataset> {
  return await (await findFolder(options)).read();
}

/** As {@linkcode readFolder}, up to where it takes its time: which classes there are is known by the names alone. */
export async function findFolder(options: FolderOptions): Promise<FoundFolder> {
  const { imageSize, resizeSize, trainLimit = Infinity, testLimit = Infinity, flip, scale = SCALE } = options;
  if (!(trainLimit >= 0 && testLimit >= 0)) {
    throw new RangeError(`Cannot take ${trainLimit} and ${testLimit} images: must be 0 or more`);
  }
  if (!(scale[0] > 0 && scale[0] <= scale[1] && scale[1] <= 1)) {
    throw new RangeError(`Cannot cut ${scale[0]} to ${scale[1]} out of pictures: must be shares from above 0 to 1`);
  }
  const toTrain = trainTransform(imageSize), toTest = testTransform(imageSize, resizeSize);
  // It starts nothing yet, and refuses a number of workers that is none.
  const pool = new PicturePool(options.workers);
  const folder = resolve(options.path);
  const listing = await list(folder, options);
  const { classNames } = listing, train = mixed(listing.train), test = mixed(listing.test);
  const labelsOf = (files: readonly Labelled[]) => files.map(({ label }) => label);
  if (trainLimit > 0) checkClasses(folder, classNames, labelsOf(train));
  return {
    classNames,
    ...imagenetStatistics,
    async read(signal) {
      using _ended = pool;
      signal?.throwIfAborted();
      signal?.addEventListener("abort", () => pool.close());
      try {
        return await readParts(signal);
      } catch (error) {
        signal?.throwIfAborted();
        throw error;
      }
    },
  };

  async function readParts(signal?: AbortSignal): Promise<FolderDataset> {
    const present = new Set([...train, ...test].map(({ path }) => path));
    const part = (files: readonly Labelled[], transform: PictureTransform) =>
      readPart({ folder, files, present, transform, signal }, options, pool);
    const trained = await part(train.slice(0, trainLimit), toTrain);
    // Some may be broken; those beyond the limit may not.
    if (trainLimit > 0) checkClasses(folder, classNames, [...trained.set.labels, ...labelsOf(train.slice(trainLimit))]);
    const tested = await part(test.slice(0, testLimit), toTest);
    const { size } = toTrain;
    return {
      name: `folder:${folder}`,
      classNames,
      height: size,
      width: size,
      ...imagenetStatistics,
      train: {
        ...trained.set,
        crop: (image, random) => {
          const { width, height } = trained.pictures[image];
          return drawWindow(width, height, size, random, { flip, scale });
        },
      },
      test: { ...tested.set, size: { height: imageSize, width: imageSize } },
      skipped: [...trained.skipped, ...tested.skipped],
      decoded: trained.decoded + tested.decoded,
      close() {
        trained.close();
        tested.close();
      },
    };
  }
}

/** A class that nothing is learned of is a mistake. @param labels Of the pictures that there are to train on. */
function checkClasses(folder: string, classNames: readonly string[], labels: readonly number[]): void {
  const known = new Set(labels), empty = classNames.find((_, label) => !known.has(label));
  if (empty === undefined) return;
  throw new UserError(
    `Cannot use ${folder}: the class "${empty}" has no picture to train on; remove it or give it some; ${FORMATS}`,
  );
}

async function readPart(
  request: Pick<CacheRequest, "folder" | "present" | "transform" | "signal"> & { readonly files: readonly Labelled[] },
  { dataDirectory, strict, onProgress, onNotice }: FolderOptions,
  pool: PicturePool,
): Promise<CachedPictures & { set: AnyImageSet }> {
  const { folder, files, transform } = request;
  const cached = await cachePictures({
    ...{ ...request, strict, onProgress, onNotice },
    cache: cachePath(dataDirectory, folder, transform),
  }, pool);
  const { pictures } = cached;
  if (pictures.length === 0 && files.length > 0) {
    const { path, error } = cached.skipped[0];
    throw new UserError(`Cannot use ${folder}: not one of ${files.length} pictures can be read; ${path}: ${error}`);
  }
  const labels = Uint32Array.from(pictures, ({ file }) => files[file].label);
  const set = {
    count: pictures.length,
    images: cached,
    labels: labels.every((label) => label < 256) ? Uint8Array.from(labels) : labels,
    files: pictures.map(({ file }) => files[file].path),
  };
  return { ...cached, set };
}

/** In the data directory: for people the folder's name, for the machine what tells it from others of that name. */
function cachePath(dataDirectory: string, folder: string, { kind, size, side }: PictureTransform): string {
  const hash = createHash("sha256").update(folder).digest("hex").slice(0, 12);
  const name = [...basename(folder) || "root"].slice(0, NAME_LENGTH).join("");
  return join(dataDirectory, "pictures", [name, hash, kind, size, ...side === undefined ? [] : [side]].join("-"));
}

/** In an order that does not go by class, so that the first ones are of all. */
function mixed<T>(files: readonly T[]): T[] {
  return Array.from(permutation(files.length, MIX_SEED, 0), (at) => files[at]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Which files there are
// ---------------------------------------------------------------------------------------------------------------------

interface Listing {
  readonly classNames: readonly string[];
  readonly train: readonly Labelled[];
  readonly test: readonly Labelled[];
}

async function list(folder: string, { valSplit, seed = 0, trainLimit }: FolderOptions): Promise<Listing> {
  const inside = await foldersIn(folder);
  const { train: trainFolder, test: testFolder } = partsOf(inside);
  const testOnly = trainLimit === 0;
  if (trainFolder && testFolder && valSplit !== undefined) {
    throw new UserError(
      `Cannot split ${folder}: it has ${trainFolder} and ${testFolder} already; leave out --val-split`,
      { exitCode: 2 },
    );
  }
  if (testFolder && (trainFolder || (testOnly && valSplit === undefined))) {
    return await listParts(folder, trainFolder, testFolder, testOnly);
  }
  const root = trainFolder && inside.length === 1 ? trainFolder : "";
  if (valSplit === undefined && testOnly && !trainFolder) {
    return { classNames: someClasses(folder, inside), train: [], test: await labelled(folder, root, inside) };
  }
  if (valSplit === undefined) {
    throw new UserError(
      `Cannot use ${folder}: it has no ${TRAIN} and val in it; make them, or give --val-split 0.1 for a folder of classes`,
      { exitCode: 2 },
    );
  }
  const classNames = someClasses(folder, await foldersIn(join(folder, root)));
  if (classNames.every(isPart)) {
    throw new UserError(
      `Cannot split ${join(folder, root)}: ${classNames.join(" and ")} are names of parts, not of classes; ` +
        `name the parts ${TRAIN} and val and leave out --val-split, or give the folder that holds the classes`,
      { exitCode: 2 },
    );
  }
  const all = await labelled(folder, root, classNames);
  const train: Labelled[] = [], test: Labelled[] = [];
  for (const label of classNames.keys()) {
    const own = all.filter((file) => file.label === label);
    const order = permutation(own.length, seed, label);
    const share = Math.round(own.length * valSplit);
    for (const [rank, at] of order.entries()) (rank < share ? test : train).push(own[at]);
  }
  if (test.length === 0 || train.length === 0) {
    throw new UserError(
      `Cannot split ${folder}: ${valSplit} of ${all.length} pictures leaves ${train.length} to train and ` +
        `${test.length} to test on; choose another --val-split`,
    );
  }
  return { classNames, train, test };
}

/** Whether a name is one of a part's, in whatever case. */
function isPart(name: string): boolean {
  return [TRAIN, ...TEST].includes(name.toLowerCase());
}

/**
 * The parts among a folder's folders, by their exact names or else in another case. One in another case that is neither
 * beside its counterpart nor among parts alone is a class: trains are pictured, too.
 */
function partsOf(inside: readonly string[]): { readonly train?: string; readonly test?: string } {
  const exact = (names: readonly string[]) => names.find((name) => inside.includes(name));
  const similar = (names: readonly string[]) =>
    names.map((name) => inside.find((each) => each.toLowerCase() === name)).find((each) => each !== undefined);
  const train = exact([TRAIN]) ?? similar([TRAIN]), test = exact(TEST) ?? similar(TEST);
  if ((train && test) || inside.every(isPart)) return { train, test };
  return { train: exact([TRAIN]), test: exact(TEST) };
}

/** A folder that is split already: `train` has all of the classes, or alone, `test`. */
async function listParts(
  folder: string,
  train: string | undefined,
  test: string,
  testOnly: boolean,
): Promise<Listing> {
  const classNames = await foldersIn(join(folder, train ?? test));
  const unknown = (await foldersIn(join(folder, test))).find((name) => !classNames.includes(name));
  if (unknown) {
    throw new UserError(
      `Cannot use ${folder}: the class "${unknown}" of ${test} is not one of ${train}; rename or remove it`,
    );
  }
  return {
    classNames: someClasses(folder, classNames),
    train: train && !testOnly ? await labelled(folder, train, classNames) : [],
    test: await labelled(folder, test, classNames),
  };
}

function someClasses(folder: string, names: readonly string[]): readonly string[] {
  if (names.length >= 2) return names;
  throw new UserError(
    `Cannot use ${folder}: it has ${
      names.length === 0 ? "no class" : `one class, "${names[0]}"`
    }; put the pictures of ` +
      "each class in a folder of its name",
  );
}

/** The folders in a folder, sorted, as torchvision's ImageFolder does. */
async function foldersIn(path: string): Promise<string[]> {
  return await touching(`read ${path}`, async () => {
    const names: string[] = [];
    for await (const entry of Deno.readDir(path)) {
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory || (entry.isSymlink && (await statOf(join(path, entry.name)))?.isDirectory)) {
        names.push(entry.name);
      }
    }
    return names.sort(compareCodePoints);
  });
}

async function labelled(folder: string, root: string, classNames: readonly string[]): Promise<Labelled[]> {
  const found: Labelled[] = [];
  for (const [label, name] of classNames.entries()) {
    const start = root ? `${root}/${name}` : name;
    if (!(await touching(`read ${join(folder, start)}`, () => statOf(join(folder, start))))) continue;
    await touching(`read ${join(folder, start)}`, () => collect(folder, start, label, 0, found));
  }
  if (found.length === 0) {
    throw new UserError(`Cannot use ${join(folder, root)}: there is no picture in its folders; ${FORMATS}`);
  }
  return found;
}

/** The pictures under a folder, sorted by name as its classes are. */
async function collect(folder: string, path: string, label: number, depth: number, into: Labelled[]): Promise<void> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(join(folder, path))) if (!name.startsWith(".")) names.push(name);
  for (const name of names.sort(compareCodePoints)) {
    const each = `${path}/${name}`;
    // What is neither a picture by its name nor without any ending needs no look.
    if (/\.\w+$/.test(name) && !PICTURE.test(name)) continue;
    const stat = await statOf(join(folder, each));
    if (stat?.isDirectory && depth < MAX_DEPTH) await collect(folder, each, label, depth + 1, into);
    else if (stat?.isFile && PICTURE.test(name)) {
      into.push({ path: each, size: stat.size, changed: stat.mtime?.getTime() ?? 0, label });
    }
  }
}

/** Undefined where a link leads nowhere. */
async function statOf(path: string): Promise<Deno.FileInfo | undefined> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
