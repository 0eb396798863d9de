/**
 * Data sets for training, on a machine with files: CIFAR, downloaded and checked, folders of pictures, drawn shapes; and
 * event files for TensorBoard.
 *
 * @example Images that need no download
 * ```ts
 * import { shapes } from "@cardinal/resnext/data";
 *
 * const { train, classNames } = shapes({ train: 20, test: 10, seed: 0 });
 * if (train.count !== 20 || classNames.length !== 10) throw new Error("two of each class");
 * ```
 *
 * @example A picture as a network for images of 224x224 sees it
 * ```ts ignore
 * import { PicturePool, testTransform } from "@cardinal/resnext/data";
 *
 * using pool = new PicturePool(1);
 * const picture = await pool.prepare("cat.jpg", testTransform(224));
 * if ("error" in picture) throw new Error(picture.error);
 * const [logits] = await classifier.classify([picture.pixels]); // a Classifier of @cardinal/resnext
 * ```
 *
 * @module
 */

export { type AnyImageSet, type Dataset, type ImageFile, type ImageSet, limit } from "./dataset.ts";
export { shapeNames, shapes, type ShapesOptions } from "./shapes.ts";
export { type CifarOptions, type CifarVersion, hasCifar, parseRecords, readCifar } from "./cifar.ts";
export { cifar10 } from "./cifar10.ts";
export { cifar100 } from "./cifar100.ts";
export {
  cifar100Publication,
  cifar10Publication,
  type FetchOptions,
  fetchPublication,
  type FetchResult,
  type Publication,
} from "./cifar_download.ts";
export { type FolderDataset, type FolderOptions, imagenetStatistics, readFolder } from "./folder.ts";
export type { Broken, SkippedPicture } from "./pictures/cache.ts";
export { PicturePool, type PictureResult } from "./pictures/pool.ts";
export type { PreparedPicture } from "./pictures/decode.ts";
export { type PictureTransform, testTransform, trainTransform } from "./pictures/transform.ts";
export type { ExpectedArchive, ExpectedFile } from "./archive.ts";
export type { DownloadOptions } from "./download.ts";
export type { Progress } from "./meter.ts";
export type { FileFacts } from "./files.ts";
export { DATA_VARIABLE, dataDirectory, type Surroundings } from "./directory.ts";
export { EventFile, type EventValue } from "./tensorboard.ts";
export { Random } from "../kernels/random.ts";
