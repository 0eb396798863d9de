/** CIFAR-10: 50,000 training and 10,000 test images of ten classes, in six files; see `cifar.ts`. */

import type { ExpectedArchive, ExpectedFile } from "./archive.ts";
import { cifarFiles, type CifarVersion } from "./cifar.ts";

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

const batch = (name: string, md5: string): ExpectedFile => ({ name, size: 10_000 * 3073, md5 });

const TRAIN_FILES = [
  batch("data_batch_1.bin", "5dd7e06a14cb22eb9f671a540d1b7c25"),
  batch("data_batch_2.bin", "5ea93a67294ea407fff1d09f752e9692"),
  batch("data_batch_3.bin", "942cd6a4bcdd0dd3c604fbe906cb4421"),
  batch("data_batch_4.bin", "ae636b3ba5c66a11e91e8cb52e771fcb"),
  batch("data_batch_5.bin", "53f37980c15c3d472c316c40844f3f0d"),
];
const TEST_FILE = batch("test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d");

/** The data set. */
export const cifar10: CifarVersion = {
  name: "cifar10",
  classNames: cifar10ClassNames,
  labelBytes: 1,
  folder: "cifar-10-batches-bin",
  trainFiles: TRAIN_FILES,
  testFiles: [TEST_FILE],
  otherFiles: [{ name: "batches.meta.txt", size: 61, md5: "728051cd483f366e254dddb25bead8b3" }],
  mean: [0.4914, 0.4822, 0.4465],
  std: [0.2470, 0.2435, 0.2616],
};

/** The folder and the files of CIFAR-10 as they are published. */
export const cifar10Files: ExpectedArchive = cifarFiles(cifar10);
