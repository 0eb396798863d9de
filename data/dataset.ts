/** What a data set is, and how part of it is taken. */

import type { Random } from "../kernels/random.ts";

/** Images that are read one by one, from a file say; as `nn`'s `StoredPixels`. */
export interface ImageFile {
  /** Bytes of an image. */
  readonly imageBytes: number;
  /** Copies an image, `height x width x 3`: interleaved RGB. It must have copied all of it when it returns. */
  read(image: number, into: Uint8Array<ArrayBuffer>): void;
}

/** Labelled images of one size, in memory or not. */
export interface AnyImageSet {
  /** How many images. */
  readonly count: number;
  /** `count x height x width x 3`: interleaved RGB, 0..255. */
  readonly images: Uint8Array<ArrayBuffer> | ImageFile;
  /** `count` class indices. */
  readonly labels: Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  /** The file of each image, where it has one. */
  readonly files?: readonly string[];
  /** The images' size, where it is not the data set's. */
  readonly size?: { readonly height: number; readonly width: number };
  /**
   * Draws the part of an image that training sees this time: top, left, height, width; a negative width mirrors. Some of it
   * must be of the image.
   */
  readonly crop?: (image: number, random: Random) => readonly [number, number, number, number];
}

/** Labelled images of one size, in one piece of memory each. */
export interface ImageSet extends AnyImageSet {
  /** `count x height x width x 3`: interleaved RGB, 0..255. */
  readonly images: Uint8Array<ArrayBuffer>;
  /** `count` class indices. */
  readonly labels: Uint8Array<ArrayBuffer>;
}

/** A data set for classification. */
export interface Dataset<S extends AnyImageSet = ImageSet> {
  /** What `--dataset` calls it. */
  readonly name: string;
  /** The class that each label stands for. */
  readonly classNames: readonly string[];
  /** Of an image, in pixels. */
  readonly height: number;
  /** Of an image, in pixels. */
  readonly width: number;
  /** Mean of each colour over the training set, pixel values scaled to 0..1. */
  readonly mean: readonly [number, number, number];
  /** Standard deviation of each colour over the training set, pixel values scaled to 0..1. */
  readonly std: readonly [number, number, number];
  /** What a network learns from. */
  readonly train: S;
  /** What it is judged by; none of them is in `train`. */
  readonly test: S;
}

/** The first `n` images, or all where there are not so many; a view, nothing is copied. */
export function limit<S extends AnyImageSet>(set: S, n: number): S {
  if (!(n >= 0)) throw new RangeError(`Cannot take ${n} images: must be 0 or more`);
  const count = Math.min(set.count, Math.floor(n));
  if (count === set.count) return set;
  const images = set.images instanceof Uint8Array
    ? set.images.subarray(0, count * set.images.length / set.count)
    : set.images;
  return { ...set, count, images, labels: set.labels.subarray(0, count) };
}
