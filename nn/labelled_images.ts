/** Images with their labels, as data sets hold them, and whether what a caller gives is such a set. */

import type { ImageWindow } from "../kernels/batch.ts";
import type { Random } from "../kernels/random.ts";
import { quoted } from "./json.ts";

/** Images that lie elsewhere than in memory: in a file, say. */
export interface StoredPixels {
  /** Bytes of an image. */
  readonly imageBytes: number;
  /**
   * Copies an image, `[height, width, 3]`, interleaved RGB. It must have copied all of it when it returns, so that it cannot
   * be an async function: what a promise brings later is refused.
   */
  read(image: number, into: Uint8Array<ArrayBuffer>): void;
}

/** Images of one size with their labels, as data sets hold them. */
export interface LabelledImages {
  /** How many. */
  readonly count: number;
  /** `[count, height, width, 3]`, interleaved RGB. */
  readonly images: Uint8Array<ArrayBuffer> | StoredPixels;
  /** A class each. */
  readonly labels: Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  /** The file of each image, where it has one: messages name it. */
  readonly files?: readonly string[];
  /** The images' size, where it is not their data set's. */
  readonly size?: { readonly height: number; readonly width: number };
  /**
   * Draws the part of an image that training sees this time: top, left, height, width in its own pixels; a negative width
   * runs to the left of `left`, mirrored. Some of it must be of the image. Absent: all of it, as it is.
   */
  readonly crop?: (image: number, random: Random) => ImageWindow;
}

/** @internal Bytes of one of a set's images. */
export function imageBytes({ images, count }: LabelledImages): number {
  return images instanceof Uint8Array ? images.length / count : images.imageBytes;
}

/**
 * @internal Refuses what is no set of images.
 *
 * @throws {TypeError} where images or labels are in something else than a device is given.
 * @throws {RangeError} when the set is empty, or its parts are not of as many images.
 */
export function checkSet(set: LabelledImages): void {
  const { count, images, labels } = set;
  if (!(images instanceof Uint8Array) && typeof (images as StoredPixels | undefined)?.read !== "function") {
    throw new TypeError(
      `Cannot use images in ${kindOf(images)}: give a Uint8Array of RGB bytes, or what has imageBytes and read`,
    );
  }
  checkLabelKind(labels);
  if (!(Number.isInteger(count) && count >= 1)) throw new RangeError(`Cannot use a set of ${count} images`);
  if (labels.length < count) throw new RangeError(`Cannot use a set of ${count} images with ${labels.length} labels`);
  if (!Number.isInteger(imageBytes(set))) {
    throw new RangeError(`Cannot use a set of ${count} images: each would have ${imageBytes(set)} bytes`);
  }
}

/** @internal Refuses a set with a label that is none of the classes. @throws {TypeError} @throws {RangeError} */
export function checkLabels({ labels }: LabelledImages, classes: number): void {
  checkLabelKind(labels);
  const wrong = labels.find((label) => label >= classes);
  if (wrong === undefined) return;
  throw new RangeError(`Cannot use a set of images with label ${wrong}: the classes are 0 to ${classes - 1}`);
}

/** These hold nothing below 0 and nothing between whole numbers. */
function checkLabelKind(labels: unknown): void {
  if (labels instanceof Uint8Array || labels instanceof Uint32Array) return;
  throw new TypeError(`Cannot use labels in ${kindOf(labels)}: give a Uint8Array or a Uint32Array of classes`);
}

/**
 * @internal Copies an image.
 *
 * @throws {TypeError} where it would come later: until then there is another image's in its place.
 */
export function readPixels(pixels: StoredPixels, image: number, into: Uint8Array<ArrayBuffer>): void {
  const returned: unknown = pixels.read(image, into);
  if (returned === undefined || typeof (returned as PromiseLike<void> | null)?.then !== "function") return;
  // The refusal tells of it: what becomes of the promise shall not end the program.
  Promise.resolve(returned).catch(() => {});
  throw new TypeError(
    `Cannot read image ${image}: its read returned a promise, but must have copied the image when it returns; ` +
      "read the images into memory before",
  );
}

/** @internal What a value is, for a message: `Float32Array`, say. */
export function kindOf(value: unknown): string {
  return typeof value === "object" && value !== null ? value.constructor?.name ?? "an object" : quoted(value);
}
