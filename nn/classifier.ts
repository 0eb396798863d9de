/** A network that says what is on pictures. */

import type { Device } from "../kernels/device.ts";
import type { ElementType } from "../kernels/dispatch.ts";
import { DeviceImages, type ImageBatch, ImageSource } from "./image_source.ts";
import { BatchSizeError } from "./batch_size.ts";
import { type EvalStep, evalStep } from "./eval_step.ts";
import { softmax } from "./judge.ts";
import { kindOf } from "./labelled_images.ts";
import { Lifetime } from "./lifetime.ts";
import type { Network } from "./network.ts";
import { haveSoftmax, NonFiniteError } from "./non_finite.ts";
import { type Allowed, checkSettings, list, positive, SIZE } from "./number_check.ts";
import { RING_SLOTS } from "./step.ts";

/** How a {@linkcode Classifier} takes pictures. */
export interface ClassifierOptions {
  /** Height and width of the pictures. */
  readonly imageSize: number;
  /** Of the colours by channel, as values from 0 to 1: what the network was trained with. */
  readonly mean: readonly [number, number, number];
  /** As `mean`. */
  readonly std: readonly [number, number, number];
  /** Ascending: a step is compiled for each, and a call takes the time of the least that holds it. Default `[1]`. */
  readonly batchSizes?: readonly number[];
  /** See `evalStep`. Default `f32`. */
  readonly precision?: ElementType;
}

/**
 * A network that is ready to classify pictures. Evaluation is by running statistics: no picture's logits depend on the
 * others.
 *
 * @example
 * ```ts
 * import { Classifier, Network, openDevice, rank, resnext50, shapes } from "@cardinal/resnext";
 *
 * const { test, mean, std, classNames } = shapes({ train: 0, test: 2, seed: 0 });
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }));
 * const classifier = await Classifier.create(network, { imageSize: 32, mean, std });
 *
 * const picture = test.images.subarray(0, 32 * 32 * 3); // RGB bytes, such as a PicturePool makes
 * const [logits] = await classifier.classify([picture]);
 * const [{ label, probability }] = rank(logits, 1, classNames);
 * if (!classNames.includes(label) || !(probability > 0)) throw new Error("a class and its probability");
 * device.close();
 * ```
 */
export class Classifier {
  /** What classifies. */
  readonly network: Network;
  readonly #images: DeviceImages;
  readonly #pixels: Uint8Array<ArrayBuffer>;
  readonly #imageBytes: number;
  readonly #sources: ImageSource[] = [];
  readonly #steps: EvalStep<ImageBatch>[] = [];
  readonly #life = new Lifetime("the classifier");

  private constructor(network: Network, images: DeviceImages, pixels: Uint8Array<ArrayBuffer>, imageBytes: number) {
    this.network = network;
    this.#images = images;
    this.#pixels = pixels;
    this.#imageBytes = imageBytes;
  }

  /**
   * Compiles a step for each size of batch.
   *
   * @throws {UserError} when a batch does not fit the device.
   * @throws {RangeError} for sizes that are no positive whole numbers, sizes of batches that do not ascend, a `mean` that is
   * not finite, a `std` not above 0, and as {@linkcode evalStep}.
   */
  static async create(
    network: Network,
    { imageSize, mean, std, batchSizes = [1], precision }: ClassifierOptions,
  ): Promise<Classifier> {
    checkSettings("classify", { imageSize }, SIZE);
    checkSettings("classify", { batchSizes }, BATCH_SIZES);
    const imageBytes = imageSize ** 2 * 3, most = batchSizes.at(-1)!;
    checkRoom(network.device, most, imageSize);
    const pixels = new Uint8Array(most * imageBytes);
    const set = { count: most, images: pixels, labels: new Uint8Array(most) };
    const images = await DeviceImages.create(network.device, set, { stream: true });
    const classifier = new Classifier(network, images, pixels, imageBytes);
    try {
      for (const rows of batchSizes) {
        const input = { height: imageSize, width: imageSize, imageSize, mean, std };
        const source = await ImageSource.create(images, input, rows);
        classifier.#sources.push(source);
        classifier.#steps.push(await evalStep(network, { source, precision }));
      }
      return classifier;
    } catch (error) {
      classifier.destroy();
      throw error;
    }
  }

  /** Where it runs. */
  get device(): Device {
    return this.network.device;
  }

  /** The most pictures at a time. */
  get batchSize(): number {
    return this.#steps.at(-1)!.batchSize;
  }

  /**
   * Logits of pictures, `imageSize x imageSize x 3` RGB bytes each, an array per picture. Waits for the device.
   *
   * @throws {DeviceLostError} where it left out work.
   * @throws {TypeError} for a picture that is no `Uint8Array`.
   * @throws {RangeError} for too many pictures, or one of another size.
   */
  async classify(pictures: readonly Uint8Array[]): Promise<Float32Array[]> {
    this.#life.check();
    if (pictures.length === 0) return [];
    const step = this.#steps.find(({ batchSize }) => batchSize >= pictures.length);
    if (!step) throw new RangeError(`Cannot classify ${pictures.length} pictures at a time: ${this.batchSize} at most`);
    const other = pictures.findIndex((picture) => !(picture instanceof Uint8Array));
    if (other >= 0) {
      throw new TypeError(`Cannot classify a picture in ${kindOf(pictures[other])}: give a Uint8Array of RGB bytes`);
    }
    const wrong = pictures.find(({ length }) => length !== this.#imageBytes);
    if (wrong) {
      throw new RangeError(`Cannot classify a picture of ${wrong.length} bytes: it must have ${this.#imageBytes}`);
    }
    // Nobody wants the losses; they only have to make room.
    if (step.pending === RING_SLOTS) await step.collect();
    // Until the logits are being read nothing is waited for: calls at the same time share the pixels.
    for (const [row, each] of pictures.entries()) this.#pixels.set(each, row * this.#imageBytes);
    step.run(Uint32Array.from(pictures, (_, row) => row));
    const logits = await step.logits();
    return pictures.map((_, row) => logits.slice(row * step.classes, (row + 1) * step.classes));
  }

  /** Runs a step of each size once: drivers compile at the first use. */
  async warmUp(): Promise<void> {
    const black = new Uint8Array(this.#imageBytes);
    for (const { batchSize } of this.#steps) await this.classify(Array.from({ length: batchSize }, () => black));
  }

  /** Frees what it made on the device; the network is the caller's. */
  destroy(): void {
    this.#life.end();
    for (const each of [...this.#steps, ...this.#sources, this.#images]) each.destroy();
  }
}

/** Before memory is asked for: the network's input, four floats a pixel, must fit a binding. @throws {BatchSizeError} */
function checkRoom({ capabilities, name }: Device, most: number, imageSize: number): void {
  const fits = Math.floor(capabilities.maxBindingBytes / (imageSize ** 2 * 4 * Float32Array.BYTES_PER_ELEMENT));
  if (most <= fits) return;
  throw new BatchSizeError(
    `Cannot run batches of ${most}: ${name} binds no more than ${fits} images of ${imageSize}x${imageSize} pixels; ` +
      "choose smaller ones",
    fits,
  );
}

const BATCH_SIZES: Allowed = {
  check: (sizes) =>
    list(positive)(sizes) && (sizes as number[]).length > 0 &&
    (sizes as number[]).every((size, i, all) => i === 0 || all[i - 1] < size),
  words: "ascending positive whole numbers",
};

/** A class that a picture may be of. */
export interface Prediction {
  /** Its name, or `class N`. */
  readonly label: string;
  /** Its index among the classes. */
  readonly class: number;
  /** From 0 to 1. */
  readonly probability: number;
}

/**
 * The `count` most probable classes by a picture's logits; of equal ones the first comes first.
 *
 * @throws {NonFiniteError} when the logits have no softmax: with a NaN, or an infinity.
 */
export function rank(logits: ArrayLike<number>, count: number, names?: readonly string[]): Prediction[] {
  if (!haveSoftmax(logits)) throw new NonFiniteError("rank the classes");
  return softmax(logits)
    .map((probability, index) => ({ label: names?.[index] ?? `class ${index}`, class: index, probability }))
    .sort((a, b) => b.probability - a.probability || a.class - b.class)
    .slice(0, count);
}
