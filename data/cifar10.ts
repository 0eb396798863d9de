/**
 * CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009), binary version: 50,000 training
 * and 10,000 test images of 32x32 in six files of records, each one label byte and the red, green and blue planes.
 */

import { join } from "@std/path";
import { UserError } from "../kernels/user_error.ts";
import type { ExpectedArchive, ExpectedFile } from "./archive.ts";
import type { Dataset, ImageSet } from "./dataset.ts";
import { fileSize, touching } from "./files.ts";

/** Height and width of an image. */
const SIZE = 32;
const PLANE = SIZE * SIZE;

/** Bytes of a record: a label and three planes. */
export const RECORD_BYTES: number = 1 + 3 * PLANE;

/** Records in each of the six files. */
const BATCH_RECORDS = 10_000;

/** The classes in the order of their labels. */
export const cifar10ClassNames: readonly string[] = [
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
];

const batch = (name: string, md5: string): ExpectedFile => ({ name, size: BATCH_RECORDS * RECORD_BYTES, md5 });

const TRAIN_FILES = [
  batch("data_batch_1.bin", "5dd7e06a14cb22eb9f671a540d1b7c25"),
  batch("data_batch_2.bin", "5ea93a67294ea407fff1d09f752e9692"),
  batch("data_batch_3.bin", "942cd6a4bcdd0dd3c604fbe906cb4421"),
  batch("data_batch_4.bin", "ae636b3ba5c66a11e91e8cb52e771fcb"),
  batch("data_batch_5.bin", "53f37980c15c3d472c316c40844f3f0d"),
];
const TEST_FILE = batch("test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d");

/** The folder and the files of CIFAR-10 as they are published. */
export const cifar10Files: ExpectedArchive = {
  folder: "cifar-10-batches-bin",
  files: [...TRAIN_FILES, TEST_FILE, { name: "batches.meta.txt", size: 61, md5: "728051cd483f366e254dddb25bead8b3" }],
};

/**
 * Reads records into images, planes interleaved. Touches no file, so that it works in a browser.
 *
 * @param bytes Whole records.
 * @param source What to call them in an error.
 * @throws {UserError} where they are no whole records, or a label is not one of the ten.
 */
export function parseRecords(bytes: Uint8Array, source = "records"): ImageSet {
  const count = bytes.length / RECORD_BYTES;
  if (!Number.isInteger(count)) {
    throw new UserError(
      `Cannot read ${source}: ${bytes.length} bytes are no whole records of ${RECORD_BYTES}; get the file anew`,
    );
  }
  const images = new Uint8Array(count * 3 * PLANE), labels = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const from = i * RECORD_BYTES, to = i * 3 * PLANE;
    const label = bytes[from];
    if (label >= cifar10ClassNames.length) {
      throw new UserError(
        `Cannot read ${source}: record ${i} has label ${label}, not one of 0 to 9; get the file anew`,
      );
    }
    labels[i] = label;
    for (let p = 0; p < PLANE; p++) {
      for (let k = 0; k < 3; k++) images[to + p * 3 + k] = bytes[from + 1 + k * PLANE + p];
    }
  }
  return { count, images, labels };
}

/** How much to read. */
export interface Cifar10Options {
  /** Only so many training images; files beyond them are not read. Default all. */
  readonly trainLimit?: number;
  /** Only so many test images. Default all. */
  readonly testLimit?: number;
}

/** Whether the data set has been downloaded: all six files are there in full size. Says nothing of their content. */
export async function hasCifar10(dataDirectory: string): Promise<boolean> {
  for (const { name, size } of [...TRAIN_FILES, TEST_FILE]) {
    if (await fileSize(join(dataDirectory, cifar10Files.folder, name)) !== size) return false;
  }
  return true;
}

/**
 * Reads CIFAR-10 from `cifar-10-batches-bin` in the data directory.
 *
 * @throws {UserError} naming a file that is missing, truncated or damaged, and the command that mends it.
 */
export async function readCifar10(
  dataDirectory: string,
  { trainLimit = Infinity, testLimit = Infinity }: Cifar10Options = {},
): Promise<Dataset> {
  return {
    name: "cifar10",
    classNames: cifar10ClassNames,
    height: SIZE,
    width: SIZE,
    mean: [0.4914, 0.4822, 0.4465],
    std: [0.2470, 0.2435, 0.2616],
    train: await readFiles(dataDirectory, TRAIN_FILES, trainLimit),
    test: await readFiles(dataDirectory, [TEST_FILE], testLimit),
  };
}

/** The first `most` records of the files, which are checked before any is read. */
async function readFiles(dataDirectory: string, files: readonly ExpectedFile[], most: number): Promise<ImageSet> {
  const count = Math.min(Math.max(Math.floor(most), 0), files.length * BATCH_RECORDS);
  const needed = files.slice(0, Math.ceil(count / BATCH_RECORDS));
  const paths = needed.map(({ name }) => join(dataDirectory, cifar10Files.folder, name));
  const mend = `run \`download cifar10\` with this data directory`;
  for (const [i, path] of paths.entries()) {
    const size = await touching(`read ${path}`, () => fileSize(path));
    if (size === undefined) throw new UserError(`Cannot read ${path}: it is missing; ${mend}`);
    if (size !== needed[i].size) {
      throw new UserError(`Cannot read ${path}: it has ${size} bytes, must have ${needed[i].size}; ${mend}`);
    }
  }
  const images = new Uint8Array(count * 3 * PLANE), labels = new Uint8Array(count);
  for (const [i, path] of paths.entries()) {
    const first = i * BATCH_RECORDS;
    const records = Math.min(count - first, BATCH_RECORDS);
    const set = parseRecords(await readStart(path, records * RECORD_BYTES), path);
    images.set(set.images, first * 3 * PLANE);
    labels.set(set.labels, first);
  }
  return { count, images, labels };
}

/** The first bytes of a file. */
function readStart(path: string, length: number): Promise<Uint8Array> {
  return touching(`read ${path}`, async () => {
    using file = await Deno.open(path);
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const n = await file.read(bytes.subarray(at));
      if (n === null) throw new UserError(`Cannot read ${path}: it ends after ${at} bytes; run \`download cifar10\``);
      at += n;
    }
    return bytes;
  });
}
