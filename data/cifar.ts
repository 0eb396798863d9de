/**
 * The CIFAR data sets (Krizhevsky, "Learning multiple layers of features from tiny images", 2009), binary versions: files
 * of records, each one or two label bytes and the red, green and blue planes of a 32x32 image.
 */

import { join } from "@std/path";
import { UserError } from "../kernels/user_error.ts";
import type { ExpectedArchive, ExpectedFile } from "./archive.ts";
import type { Dataset, ImageSet } from "./dataset.ts";
import { fileSize, touching } from "./files.ts";

/** Height and width of an image. */
const SIZE = 32;
const PLANE = SIZE * SIZE;

/** One of the data sets. */
export interface CifarVersion {
  /** What `--dataset` and `download` call it. */
  readonly name: string;
  /** The classes in the order of their labels. */
  readonly classNames: readonly string[];
  /** Label bytes of a record; the last one is the class. */
  readonly labelBytes: number;
  /** The folder in the data directory. */
  readonly folder: string;
  /** Those of the training images. */
  readonly trainFiles: readonly ExpectedFile[];
  /** Those of the test images. */
  readonly testFiles: readonly ExpectedFile[];
  /** Files beside them. */
  readonly otherFiles: readonly ExpectedFile[];
  /** Of each colour over the training set. */
  readonly mean: readonly [number, number, number];
  /** As `mean`. */
  readonly std: readonly [number, number, number];
}

/** Bytes of a record: labels and three planes. */
export function recordBytes({ labelBytes }: CifarVersion): number {
  return labelBytes + 3 * PLANE;
}

/** The folder and the files as they are published. */
export function cifarFiles({ folder, trainFiles, testFiles, otherFiles }: CifarVersion): ExpectedArchive {
  return { folder, files: [...trainFiles, ...testFiles, ...otherFiles] };
}

/**
 * Reads records into images, planes interleaved. Touches no file, so that it works in a browser.
 *
 * @param bytes Whole records.
 * @param source What to call them in an error.
 * @throws {UserError} where they are no whole records, or a label is not one of the classes.
 */
export function parseRecords(bytes: Uint8Array, version: CifarVersion, source = "records"): ImageSet {
  const { labelBytes, classNames } = version, record = recordBytes(version);
  const count = bytes.length / record;
  if (!Number.isInteger(count)) {
    throw new UserError(
      `Cannot read ${source}: ${bytes.length} bytes are no whole records of ${record}; get the file anew`,
    );
  }
  const images = new Uint8Array(count * 3 * PLANE), labels = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const from = i * record + labelBytes, to = i * 3 * PLANE;
    const label = bytes[from - 1];
    if (label >= classNames.length) {
      throw new UserError(
        `Cannot read ${source}: record ${i} has label ${label}, not one of 0 to ${
          classNames.length - 1
        }; get the file anew`,
      );
    }
    labels[i] = label;
    for (let p = 0; p < PLANE; p++) {
      for (let k = 0; k < 3; k++) images[to + p * 3 + k] = bytes[from + k * PLANE + p];
    }
  }
  return { count, images, labels };
}

/** How much to read. */
export interface CifarOptions {
  /** Only so many training images; files beyond them are not read. Default all. */
  readonly trainLimit?: number;
  /** Only so many test images. Default all. */
  readonly testLimit?: number;
}

/** Whether the data set has been downloaded: all files are there in full size. Says nothing of their content. */
export async function hasCifar(
  { folder, trainFiles, testFiles }: CifarVersion,
  dataDirectory: string,
): Promise<boolean> {
  for (const { name, size } of [...trainFiles, ...testFiles]) {
    const path = join(dataDirectory, folder, name);
    if (await touching(`read "${path}"`, () => fileSize(path)) !== size) return false;
  }
  return true;
}

/**
 * Reads a data set from its folder in the data directory.
 *
 * @throws {UserError} naming a file that is missing, truncated or damaged, and the command that mends it.
 */
export async function readCifar(
  version: CifarVersion,
  dataDirectory: string,
  { trainLimit = Infinity, testLimit = Infinity }: CifarOptions = {},
): Promise<Dataset> {
  const { name, classNames, mean, std, trainFiles, testFiles } = version;
  return {
    ...{ name, classNames, mean, std, height: SIZE, width: SIZE },
    train: await readFiles(version, dataDirectory, trainFiles, trainLimit),
    test: await readFiles(version, dataDirectory, testFiles, testLimit),
  };
}

/** The first `most` records of the files, which are checked before any is read. */
async function readFiles(
  version: CifarVersion,
  dataDirectory: string,
  files: readonly ExpectedFile[],
  most: number,
): Promise<ImageSet> {
  const record = recordBytes(version);
  // All files of a part are of one size.
  const perFile = files[0].size / record;
  const count = Math.min(Math.max(Math.floor(most), 0), files.length * perFile);
  const needed = files.slice(0, Math.ceil(count / perFile));
  const paths = needed.map(({ name }) => join(dataDirectory, version.folder, name));
  const mend = `run \`download ${version.name}\` with this data directory`;
  for (const [i, path] of paths.entries()) {
    const size = await touching(`read ${path}`, () => fileSize(path));
    if (size === undefined) throw new UserError(`Cannot read ${path}: it is missing; ${mend}`);
    if (size !== needed[i].size) {
      throw new UserError(`Cannot read ${path}: it has ${size} bytes, must have ${needed[i].size}; ${mend}`);
    }
  }
  const images = new Uint8Array(count * 3 * PLANE), labels = new Uint8Array(count);
  for (const [i, path] of paths.entries()) {
    const first = i * perFile;
    const records = Math.min(count - first, perFile);
    const set = parseRecords(await readStart(path, records * record, mend), version, path);
    images.set(set.images, first * 3 * PLANE);
    labels.set(set.labels, first);
  }
  return { count, images, labels };
}

/** The first bytes of a file. */
function readStart(path: string, length: number, mend: string): Promise<Uint8Array> {
  return touching(`read ${path}`, async () => {
    using file = await Deno.open(path);
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const n = await file.read(bytes.subarray(at));
      if (n === null) throw new UserError(`Cannot read ${path}: it ends after ${at} bytes; ${mend}`);
      at += n;
    }
    return bytes;
  });
}
