/**
 * A folder of pictures as a data set: `train/CLASS/*` and `val/CLASS/*`, or `CLASS/*` with a part split off for testing.
 * Pictures are decoded once, into a cache in the data directory; training sees random crops of them.
 */

import { createHash } from "node:crypto";
import { basename, join, resolve } from "@std/path";
import { permutation } from "../kernels/random.ts";
import { UserError } from "../kernels/user_error.ts";
import type { AnyImageSet, Dataset } from "./dataset.ts";
import { touching } from "./files.ts";
import { type CachedPictures, cachePictures, type PictureFile, type SkippedPicture } from "./pictures/cache.ts";
import { PicturePool } from "./pictures/pool.ts";
import { drawWindow } from "./pictures/random_resized_crop.ts";
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
  /** For a folder without a part for testing: the share of each class to split off. */
  readonly valSplit?: number;
  /** Of the split. */
  readonly seed?: number;
  /** At most so many pictures of each part, the classes mixed. Default all. */
  readonly trainLimit?: number;
  /** As `trainLimit`, of the test part. */
  readonly testLimit?: number;
  /** Stop at a picture that cannot be used, instead of leaving it out. */
  readonly strict?: boolean;
  /** Processors to decode on. Default all. */
  readonly workers?: number;
  /** Told how many pictures of how many are decoded. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Told what a person should know. */
  readonly onNotice?: (text: string) => void;
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

/** Names of files that are pictures. */
const PICTURE = /\.(jpe?g|jfif|png|webp|avif|gif|tiff?)$/i;
const TRAIN = "train", TEST = ["val", "valid", "validation", "test"];
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
 * @throws {UserError} where there are no classes or no usable pictures, and with `strict` for a broken picture.
 */
export async function readFolder(options: FolderOptions): Promise<FolderDataset> {
  const folder = resolve(options.path);
  const { classNames, train, test } = await list(folder, options);
  const { imageSize, trainLimit = Infinity, testLimit = Infinity } = options;
  using pool = new PicturePool(options.workers);
  const read = (files: readonly Labelled[], transform: PictureTransform, limit: number) =>
    readPart(folder, mixed(files).slice(0, Math.max(limit, 0)), transform, options, pool);
  const trained = await read(train, trainTransform(imageSize), trainLimit);
  const tested = await read(test, testTransform(imageSize), testLimit);
  const { size } = trainTransform(imageSize);
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
        return drawWindow(width, height, size, random);
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

async function readPart(
  folder: string,
  files: readonly Labelled[],
  transform: PictureTransform,
  { dataDirectory, strict, onProgress, onNotice }: FolderOptions,
  pool: PicturePool,
): Promise<CachedPictures & { set: AnyImageSet }> {
  const cached = await cachePictures({
    ...{ folder, files, transform, strict, onProgress, onNotice },
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
  };
  return { ...cached, set };
}

/** In the data directory: for people the folder's name, for the machine what tells it from others of that name. */
function cachePath(dataDirectory: string, folder: string, { kind, size }: PictureTransform): string {
  const hash = createHash("sha256").update(folder).digest("hex").slice(0, 12);
  return join(dataDirectory, "pictures", `${basename(folder) || "root"}-${hash}-${kind}-${size}`);
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

async function list(folder: string, { valSplit, seed = 0 }: FolderOptions): Promise<Listing> {
  const doing = `read ${folder}`;
  const inside = await touching(doing, () => folders(folder));
  const testFolder = TEST.find((name) => inside.includes(name));
  if (inside.includes(TRAIN) && testFolder) {
    if (valSplit !== undefined) {
      throw new UserError(`Cannot split ${folder}: it has ${TRAIN} and ${testFolder} already; leave out --val-split`);
    }
    const classNames = await touching(doing, () => folders(join(folder, TRAIN)));
    const tested = await touching(doing, () => folders(join(folder, testFolder)));
    const unknown = tested.find((name) => !classNames.includes(name));
    if (unknown) {
      throw new UserError(
        `Cannot use ${folder}: the class "${unknown}" of ${testFolder} is not one of ${TRAIN}; rename or remove it`,
      );
    }
    return {
      classNames: someClasses(folder, classNames),
      train: await labelled(folder, TRAIN, classNames),
      test: await labelled(folder, testFolder, classNames),
    };
  }
  const root = inside.includes(TRAIN) && inside.length === 1 ? TRAIN : "";
  if (valSplit === undefined) {
    throw new UserError(
      `Cannot use ${folder}: it has no ${TRAIN} and val in it; make them, or give --val-split 0.1 for a folder of classes`,
    );
  }
  const classNames = someClasses(folder, await touching(doing, () => folders(join(folder, root))));
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
async function folders(path: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(path)) {
    if (entry.name.startsWith(".")) continue;
    if (entry.isDirectory || (entry.isSymlink && (await statOf(join(path, entry.name)))?.isDirectory)) {
      names.push(entry.name);
    }
  }
  return names.sort();
}

async function labelled(folder: string, root: string, classNames: readonly string[]): Promise<Labelled[]> {
  const found: Labelled[] = [];
  for (const [label, name] of classNames.entries()) {
    const start = root ? `${root}/${name}` : name;
    if (!(await touching(`read ${join(folder, start)}`, () => statOf(join(folder, start))))) continue;
    await touching(`read ${join(folder, start)}`, () => collect(folder, start, label, 0, found));
  }
  if (found.length === 0) {
    throw new UserError(
      `Cannot use ${
        join(folder, root)
      }: there is no picture in its folders; JPEG, PNG, WebP, AVIF, GIF and TIFF are known`,
    );
  }
  return found;
}

/** The pictures under a folder, sorted by name. */
async function collect(folder: string, path: string, label: number, depth: number, into: Labelled[]): Promise<void> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(join(folder, path))) if (!name.startsWith(".")) names.push(name);
  for (const name of names.sort()) {
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
