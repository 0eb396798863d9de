/** Batches of a data set's images: resident on the device where it fits, else sent with each step. */

import { type BatchSpec, makeBatch } from "../kernels/batch.ts";
import type { Capabilities, Device } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { type Shape, storedElements } from "../kernels/layout.ts";
import type { Placement } from "../kernels/program.ts";
import { type BatchSource, Buffers } from "./batch_source.ts";
import { checkSet, imageBytes, kindOf, type LabelledImages, readPixels, type StoredPixels } from "./labelled_images.ts";
import { checkNormalization, checkSettings, SIZE } from "./number_check.ts";
import { Lifetime } from "./lifetime.ts";

/** A batch: which images, and of each the part that is seen; all of it by default. */
export type ImageBatch = Uint32Array | {
  readonly indices: Uint32Array;
  /** Four numbers an image, as its set's `crop` gives them; for a source that was made for windows. */
  readonly windows: Float32Array<ArrayBuffer>;
};

/** How a data set's images become the network's input. */
export interface ImageInput {
  /** The stored images' size. */
  readonly height: number;
  /** As `height`. */
  readonly width: number;
  /** By channel, of values scaled to [0, 1]. */
  readonly mean: readonly [number, number, number];
  /** As `mean`. */
  readonly std: readonly [number, number, number];
  /**
   * The network's input is `[batchSize, 3, imageSize, imageSize]`, resized as PyTorch's `interpolate` does with
   * `mode="bilinear"` and `antialias=True`.
   */
  readonly imageSize: number;
}

/** A set of images on the device, for any number of sources; or on the host, when it is too large for one binding. */
export class DeviceImages {
  readonly #life: Lifetime;

  private constructor(
    readonly device: Device,
    readonly set: LabelledImages,
    readonly bytesPerImage: number,
    /** All images and labels; undefined when batches are streamed. */
    readonly resident: { readonly images: GPUBuffer; readonly labels: GPUBuffer } | undefined,
  ) {
    this.#life = new Lifetime("the images on the device", [device]);
  }

  /**
   * Copies the set to the device where it fits. `stream` keeps it on the host.
   *
   * @throws {TypeError} where images or labels are in something else than {@linkcode LabelledImages} says, or an image is
   * not there when its `read` returns.
   * @throws {RangeError} when the set is empty, or its parts are not of as many images.
   */
  static async create(device: Device, set: LabelledImages, { stream = false } = {}): Promise<DeviceImages> {
    checkSet(set);
    const { images: pixels } = set, bytesPerImage = imageBytes(set), sizes = residentSizes(set, device.capabilities);
    if (stream || !sizes) return new DeviceImages(device, set, bytesPerImage, undefined);
    const [images, labels] = await device.buffers([
      { label: "images", byteLength: sizes.images },
      { label: "image labels", byteLength: sizes.labels },
    ]);
    try {
      if (pixels instanceof Uint8Array) writeBytes(device, images, pixels);
      else copyPixels(device, images, pixels, set.count);
    } catch (error) {
      device.free(images, labels);
      throw error;
    }
    writeBytes(device, labels, new Uint8Array(set.labels.buffer, set.labels.byteOffset, set.labels.byteLength));
    return new DeviceImages(device, set, bytesPerImage, { images, labels });
  }

  /** Refuses to be used once they are destroyed, or the device is closed or failed. @throws {Error} */
  check(): void {
    this.#life.check();
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#life.end();
    this.resident?.images.destroy();
    this.resident?.labels.destroy();
  }
}

/** @internal Bytes that a set takes on a device; undefined where it does not fit one binding and is streamed. */
export function residentSizes(
  set: LabelledImages,
  { maxBindingBytes, maxBufferBytes }: Capabilities,
): { readonly images: number; readonly labels: number } | undefined {
  const images = wholeWords(imageBytes(set) * set.count);
  // Kernels count bytes in 32 bits.
  if (images > Math.min(maxBindingBytes, maxBufferBytes, 2 ** 32 - 16)) return undefined;
  return { images, labels: wholeWords(set.labels.byteLength) };
}

/** Bytes rounded up to 16: bindings are made of whole vectors. */
function wholeWords(bytes: number): number {
  return Math.ceil(bytes / 16) * 16;
}

/** Copies stored images, some at a time. */
function copyPixels(device: Device, buffer: GPUBuffer, pixels: StoredPixels, count: number): void {
  const { imageBytes } = pixels;
  // Four images at a time are whole words, whatever one is.
  const some = 4 * Math.max(1, Math.floor(2 ** 22 / imageBytes));
  const piece = new Uint8Array(some * imageBytes);
  for (let from = 0; from < count; from += some) {
    const images = Math.min(some, count - from);
    for (let i = 0; i < images; i++) {
      readPixels(pixels, from + i, piece.subarray(i * imageBytes, (i + 1) * imageBytes));
    }
    device.write(buffer, from * imageBytes, piece.subarray(0, Math.ceil(images * imageBytes / 4) * 4));
  }
}

/** Copies bytes of any count. */
function writeBytes(device: Device, buffer: GPUBuffer, bytes: Uint8Array<ArrayBuffer>): void {
  const whole = Math.floor(bytes.length / 4) * 4;
  device.write(buffer, 0, bytes.subarray(0, whole));
  if (whole < bytes.length) {
    const tail = new Uint8Array(4);
    tail.set(bytes.subarray(whole));
    device.write(buffer, whole, tail);
  }
}

/**
 * Batches of a data set's images, named by their indices. With the set resident on the device a step costs four bytes an
 * image; else the batch's own pixels are sent.
 *
 * @example
 * ```ts
 * import { DeviceImages, ImageSource, Network, openDevice, resnext50, shapes, trainStep } from "@cardinal/resnext";
 *
 * const { train, height, width, mean, std } = shapes({ train: 32, test: 0, seed: 0 });
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }));
 * const images = await DeviceImages.create(device, train);
 * const source = await ImageSource.create(images, { height, width, mean, std, imageSize: 32 }, 8);
 * const step = await trainStep(network, { source });
 * step.run(Uint32Array.of(0, 1, 2, 3, 4, 5, 6, 7), { learningRate: 0.01 });
 * const [{ rows }] = await step.collect();
 * if (rows !== 8) throw new Error("eight images");
 * device.close();
 * ```
 */
export class ImageSource implements BatchSource<ImageBatch> {
  readonly shape: Shape;
  readonly x: Operand;
  readonly labels: Operand;
  readonly #images: DeviceImages;
  readonly #spec: BatchSpec;
  readonly #buffers: Buffers;
  readonly #pixels: Operand;
  readonly #storedLabels: Operand;
  readonly #indices: Operand;
  readonly #windows: Operand | undefined;
  readonly #staging:
    | { pixels: Uint8Array<ArrayBuffer>; labels: Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer> }
    | undefined;

  private constructor(
    images: DeviceImages,
    spec: BatchSpec,
    buffers: Buffers,
    operands: { pixels: Operand; storedLabels: Operand; indices: Operand; labels: Operand; windows?: Operand },
  ) {
    this.#images = images;
    this.#spec = spec;
    this.#buffers = buffers;
    this.shape = { n: spec.rows, h: spec.outHeight, w: spec.outWidth, c: 3 };
    this.x = operand("input", storedElements(this.shape));
    this.labels = operands.labels;
    this.#pixels = operands.pixels;
    this.#storedLabels = operands.storedLabels;
    this.#indices = operands.indices;
    this.#windows = operands.windows;
    if (!images.resident) {
      const { byteLength } = operands.storedLabels;
      this.#staging = {
        pixels: new Uint8Array(operands.pixels.byteLength),
        labels: spec.labelBytes === 1 ? new Uint8Array(byteLength) : new Uint32Array(byteLength / 4),
      };
    }
  }

  /**
   * A source of batches of `batchSize` rows; with `windows` each row shows a part of its image.
   *
   * @throws {RangeError} when the set's images are of another size than the input says, sizes are no positive whole numbers,
   * `mean` is not finite, or `std` not above 0.
   */
  static async create(
    images: DeviceImages,
    input: ImageInput,
    batchSize: number,
    { windows = false } = {},
  ): Promise<ImageSource> {
    const { height, width, mean, std, imageSize } = input, { bytesPerImage } = images;
    checkSettings("make batches", { height, width, imageSize, batchSize }, SIZE);
    checkNormalization(input);
    if (bytesPerImage !== height * width * 3) {
      throw new RangeError(`Cannot take images of ${bytesPerImage} bytes for RGB of ${height}x${width} pixels`);
    }
    images.check();
    const buffers = new Buffers(images.device, images);
    const held = images.resident ? images.set.count : batchSize;
    const own = (label: string, bytes: number) =>
      images.resident ? operand(label, Math.ceil(bytes / 4)) : buffers.add(label, Math.ceil(bytes / 4));
    const labelBytes = images.set.labels instanceof Uint8Array ? 1 : 4;
    const operands = {
      pixels: await own("images", held * bytesPerImage),
      storedLabels: await own("image labels", held * labelBytes),
      indices: await buffers.add("indices", batchSize),
      windows: windows ? await buffers.add("windows", batchSize * 4) : undefined,
      labels: operand("labels", batchSize),
    };
    const spec: BatchSpec = {
      rows: batchSize,
      height,
      width,
      outHeight: imageSize,
      outWidth: imageSize,
      mean,
      std,
      labelBytes,
    };
    const source = new ImageSource(images, spec, buffers, operands);
    // Without images of its own a source's rows are always the first ones.
    if (!images.resident) buffers.write(operands.indices, Uint32Array.from({ length: batchSize }, (_, i) => i));
    return source;
  }

  /** Of images that are streamed. */
  get batchBytes(): number {
    return this.#staging?.pixels.byteLength ?? 0;
  }

  place(operand: Operand): Placement | undefined {
    this.#buffers.check();
    const { resident } = this.#images;
    if (resident && operand === this.#pixels) return { buffer: resident.images, offset: 0 };
    if (resident && operand === this.#storedLabels) return { buffer: resident.labels, offset: 0 };
    return this.#buffers.place(operand);
  }

  dispatches(caps: Capabilities): readonly Dispatch[] {
    return makeBatch(
      {
        images: this.#pixels,
        labels: this.#storedLabels,
        indices: this.#indices,
        window: this.#windows,
        x: this.x,
        y: this.labels,
      },
      this.#spec,
      caps,
    );
  }

  /**
   * Says which images make the batch.
   *
   * @throws {TypeError} where indices are in no `Uint32Array`, or windows in no `Float32Array`; where an image is not there
   * when its `read` returns.
   * @throws {RangeError} for an index outside the set, or too many, for an image whose label is none of the classes, where
   * windows are missing or not expected, and for one that shows nothing of its image.
   */
  load(batch: ImageBatch, classes = Infinity): number {
    this.#buffers.check();
    const { set, bytesPerImage } = this.#images;
    const indices = batch instanceof Uint32Array ? batch : batch.indices;
    const windows = batch instanceof Uint32Array ? undefined : batch.windows;
    if (!(indices instanceof Uint32Array)) {
      throw new TypeError(`Cannot load images by ${kindOf(indices ?? batch)}: give a Uint32Array of their indices`);
    }
    if (windows !== undefined && !(windows instanceof Float32Array)) {
      throw new TypeError(`Cannot load windows in ${kindOf(windows)}: give a Float32Array, four numbers an image`);
    }
    if (indices.length < 1 || indices.length > this.shape.n) {
      throw new RangeError(`Cannot load a batch of ${indices.length} images: up to ${this.shape.n}`);
    }
    for (const index of indices) {
      if (index >= set.count) throw new RangeError(`Cannot load image ${index} of ${set.count}`);
      if (set.labels[index] >= classes) {
        throw new RangeError(
          `Cannot load image ${index} with label ${set.labels[index]}: the classes are 0 to ${classes - 1}`,
        );
      }
    }
    if (windows?.length !== (this.#windows && indices.length * 4)) {
      throw new RangeError(
        `Cannot load a batch of ${indices.length} images with ${windows?.length ?? 0} window numbers`,
      );
    }
    if (windows) {
      checkWindows(windows, indices, this.#spec);
      this.#buffers.write(this.#windows!, windows);
    }
    if (!this.#staging) {
      this.#buffers.write(this.#indices, new Uint32Array(indices));
    } else {
      const { pixels, labels } = this.#staging;
      for (const [row, index] of indices.entries()) {
        const from = index * bytesPerImage, to = row * bytesPerImage;
        if (set.images instanceof Uint8Array) pixels.set(set.images.subarray(from, from + bytesPerImage), to);
        else readPixels(set.images, index, pixels.subarray(to, to + bytesPerImage));
        labels[row] = set.labels[index];
      }
      this.#buffers.write(this.#pixels, pixels);
      this.#buffers.write(this.#storedLabels, labels);
    }
    return indices.length;
  }

  destroy(): void {
    this.#buffers.destroy();
  }
}

/** Refuses parts of images that nothing can be seen of: the kernel would take the edge's pixels for them, or none. */
function checkWindows(windows: Float32Array, indices: Uint32Array, { height, width }: BatchSpec): void {
  for (let row = 0; row < indices.length; row++) {
    const top = windows[row * 4], left = windows[row * 4 + 1], tall = windows[row * 4 + 2], wide = windows[row * 4 + 3];
    const seen = tall > 0 && top < height && top + tall > 0 &&
      wide !== 0 && Math.min(left, left + wide) < width && Math.max(left, left + wide) > 0;
    if (seen && Number.isFinite(top + left + tall + wide)) continue;
    throw new RangeError(
      `Cannot load image ${indices[row]} by the window [${[
        top,
        left,
        tall,
        wide,
      ]}]: it must be finite numbers, top, left, ` +
        `a height above 0 and a width other than 0, and hold some of the image's ${height}x${width} pixels`,
    );
  }
}
