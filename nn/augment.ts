/**
 * Augmentation of training images on the device. What is done to an image is drawn from (seed, epoch, image) alone, so that
 * a resumed run sees the images that it would have seen.
 */

import {
  AUGMENT_VECTORS,
  augmentBatch,
  type AugmentOperands,
  encodeChange,
  type Rectangle,
  type RowChange,
} from "../kernels/augment.ts";
import type { Capabilities, Device } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import type { Placement } from "../kernels/program.ts";
import { Random } from "../kernels/random.ts";
import type { Shape } from "../kernels/layout.ts";
import { UserError } from "../kernels/user_error.ts";
import type { BatchSource } from "./batch_source.ts";
import { quoted } from "./json.ts";
import { between, checkNormalization, count, number } from "./number_check.ts";

/** What may be done to an image; absent is off. Names as in a checkpoint. */
export interface AugmentSettings {
  /** Mirror, half of the images. */
  readonly flip?: boolean;
  /** Crop a window of the input's size out of the image padded by so many pixels of the input. */
  readonly crop?: number;
  /** Pad with the image's mirror image instead of black. */
  readonly reflect?: boolean;
  /** Side of a square that is cut out, in pixels of the input (DeVries and Taylor 2017). */
  readonly cutout?: number;
  /** The probability that a rectangle is erased, as torchvision's `RandomErasing` does. */
  readonly erasing?: number;
  /** Jitter: a factor from 1 - x to 1 + x, as in torchvision's `ColorJitter`; `hue` shifts by up to x, at most 0.5. */
  readonly brightness?: number;
  /** As `brightness`. */
  readonly contrast?: number;
  /** As `brightness`. */
  readonly saturation?: number;
  /** The most that the hue is turned by, in turns. */
  readonly hue?: number;
  /** The alpha of mixup's, and of CutMix's, beta distribution. With both an image gets either. */
  readonly mixup?: number;
  /** As `mixup`. */
  readonly cutmix?: number;
}

/** Refuses settings that mean nothing. @throws {UserError} */
export function checkAugment(settings: AugmentSettings): void {
  const { crop = 0, reflect, cutout = 0, erasing = 0, brightness = 0, contrast = 0, saturation = 0, hue = 0 } =
    settings;
  const { mixup = 0, cutmix = 0 } = settings;
  const refuse = (why: string) => {
    throw new UserError(`Cannot augment: ${why}`, { exitCode: 2 });
  };
  for (const [name, value] of Object.entries({ crop, cutout })) {
    if (!count(value)) refuse(`${name} is ${value}, must be a whole number of pixels`);
  }
  for (const [name, value] of Object.entries({ brightness, contrast, saturation, mixup, cutmix })) {
    if (!(value >= 0 && Number.isFinite(value))) refuse(`${name} is ${value}, must be 0 or more`);
  }
  if (!(erasing >= 0 && erasing <= 1)) refuse(`the probability of erasing is ${erasing}, must be from 0 to 1`);
  if (!(hue >= 0 && hue <= 0.5)) refuse(`hue is ${hue}, must be from 0 to 0.5`);
  if (reflect && crop === 0) refuse("reflect needs a crop");
}

/** Whether anything is done at all. */
export function isAugmented(settings: AugmentSettings | undefined): settings is AugmentSettings {
  return settings !== undefined && Object.values(settings).some((value) => value === true || value > 0);
}

/** Whether images are mixed, and labels with them. */
export function mixesLabels({ mixup = 0, cutmix = 0 }: AugmentSettings): boolean {
  return mixup > 0 || cutmix > 0;
}

/** Whether colours are changed. */
function changesColours({ brightness = 0, contrast = 0, saturation = 0, hue = 0 }: AugmentSettings): boolean {
  return brightness > 0 || contrast > 0 || saturation > 0 || hue > 0;
}

/** Streams of a seed from here on are augmentations: one an epoch and image. */
const AUGMENT_STREAM = 2 ** 45;

/** Which image of how many, in which epoch of which run. */
export interface AugmentedImage {
  /** Of the run. */
  readonly seed: number;
  /** From 0. */
  readonly epoch: number;
  /** Its number in the set. */
  readonly image: number;
  /** Images of the set. */
  readonly count: number;
}

/**
 * Draws what is done to an image of `size` (height, width) that may be mixed with the row `partner`.
 *
 * @example
 * ```ts
 * import { drawChange } from "@cardinal/resnext";
 *
 * const image = { seed: 1, epoch: 0, image: 7, count: 100 };
 * const { top, left } = drawChange({ crop: 4 }, image, [32, 32], 0);
 * if (Math.abs(top) > 4 || Math.abs(left) > 4) throw new Error("within the padding");
 * ```
 */
export function drawChange(
  settings: AugmentSettings,
  { seed, epoch, image, count }: AugmentedImage,
  [height, width]: readonly [number, number],
  partner: number,
): RowChange {
  const random = new Random(seed, AUGMENT_STREAM + epoch * count + image);
  const { crop = 0, cutout = 0, erasing = 0, mixup = 0, cutmix = 0 } = settings;
  // All is drawn in one order whether used or not, so that switching one thing on leaves the others as they are; but an
  // erased rectangle takes draws of its own, and what is mixed comes after it.
  const flip = random.uniform() < 0.5 && settings.flip === true;
  const top = random.below(2 * crop + 1) - crop, left = random.below(2 * crop + 1) - crop;
  const jitter = (most = 0) => {
    const share = random.uniform();
    return Math.max(0, 1 - most) + share * (1 + most - Math.max(0, 1 - most));
  };
  const { brightness, contrast, saturation, hue = 0 } = settings;
  const colour = [
    jitter(brightness),
    jitter(contrast),
    jitter(saturation),
    (2 * random.uniform() - 1) * hue,
  ] as const;
  const square = window(random.uniform() * height, random.uniform() * width, cutout, cutout, height, width);
  const kind = random.uniform(), across = random.uniform(), down = random.uniform();
  const erases = random.uniform() < erasing;
  const erased: Rectangle = erases ? drawErased(random, height, width) : [0, 0, 0, 0];
  let weight = 1, pasted: Rectangle = [0, 0, 0, 0];
  const cuts = cutmix > 0 && (mixup === 0 || kind < 0.5);
  if (cuts) {
    const share = Math.sqrt(1 - beta(random, cutmix));
    pasted = window(
      down * height,
      across * width,
      Math.floor(height * share),
      Math.floor(width * share),
      height,
      width,
    );
    weight = 1 - pasted[2] * pasted[3] / (height * width);
  } else if (mixup > 0) {
    weight = beta(random, mixup);
  }
  return { flip, top, left, colour, erased, cutout: square, partner, weight, pasted };
}

/** A rectangle about a centre, cut off at the image's edges. */
function window(y: number, x: number, high: number, wide: number, height: number, width: number): Rectangle {
  const top = Math.max(0, Math.floor(y) - Math.floor(high / 2)),
    left = Math.max(0, Math.floor(x) - Math.floor(wide / 2));
  const bottom = Math.min(height, Math.floor(y) + Math.ceil(high / 2));
  const right = Math.min(width, Math.floor(x) + Math.ceil(wide / 2));
  return bottom > top && right > left ? [top, left, bottom - top, right - left] : [0, 0, 0, 0];
}

/** torchvision's `RandomErasing`: 2 to 33 % of the image, sides 0.3 to 3.3 to one; nothing where ten draws do not fit. */
function drawErased(random: Random, height: number, width: number): Rectangle {
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = height * width * (0.02 + 0.31 * random.uniform());
    const ratio = Math.exp(Math.log(0.3) + (Math.log(3.3) - Math.log(0.3)) * random.uniform());
    const high = Math.round(Math.sqrt(area * ratio)), wide = Math.round(Math.sqrt(area / ratio));
    if (high < 1 || wide < 1 || high >= height || wide >= width) continue;
    return [random.below(height - high + 1), random.below(width - wide + 1), high, wide];
  }
  return [0, 0, 0, 0];
}

/** Of the symmetric beta distribution: a gamma variate's share of two. */
export function beta(random: Random, alpha: number): number {
  const a = logGamma(random, alpha), b = logGamma(random, alpha);
  return 1 / (1 + Math.exp(b - a));
}

/** The logarithm of a gamma variate (Marsaglia and Tsang 2000), which small shapes would make underflow. */
function logGamma(random: Random, shape: number): number {
  // Gamma(a) is Gamma(a + 1) * U^(1/a).
  if (shape < 1) return logGamma(random, shape + 1) + Math.log(1 - random.uniform()) / shape;
  const d = shape - 1 / 3, c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal(), v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - random.uniform()) < x * x / 2 + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}

/** A batch of another source, with what is done to each of its rows. */
export interface AugmentedBatch<B> {
  /** The other source's. */
  readonly batch: B;
  /** One a row. */
  readonly changes: readonly RowChange[];
}

/** What the images of a source were normalized with. */
export interface Normalization {
  /** By channel, of values from 0 to 1. */
  readonly mean: readonly [number, number, number];
  /** As `mean`. */
  readonly std: readonly [number, number, number];
}

/** What {@linkcode encodeChange} writes a row. */
const ROW_NUMBERS = AUGMENT_VECTORS * 4;

/** Batches of another source of RGB images, augmented. */
export class AugmentedSource<B> implements BatchSource<AugmentedBatch<B>> {
  readonly shape: Shape;
  readonly x: Operand;
  readonly labels: Operand;
  /** Where labels are mixed: for the loss. */
  readonly mixes: Operand | undefined;
  readonly #changes: Operand;
  readonly #staging: Float32Array<ArrayBuffer>;
  readonly #recolours: boolean;

  private constructor(
    private readonly device: Device,
    private readonly inner: BatchSource<B>,
    private readonly settings: AugmentSettings,
    private readonly normalization: Normalization,
    private readonly buffer: GPUBuffer,
  ) {
    this.shape = inner.shape;
    this.labels = inner.labels;
    this.x = operand("augmented input", inner.x.byteLength / 4);
    this.#staging = new Float32Array(inner.shape.n * ROW_NUMBERS);
    this.#recolours = changesColours(settings);
    this.#changes = operand("changes", this.#staging.length);
    if (mixesLabels(settings)) this.mixes = operand("mixes", inner.shape.n * 4);
  }

  /**
   * Augments batches of `inner`, which is freed with this source.
   *
   * @throws {UserError} for settings that mean nothing.
   * @throws {RangeError} where they have other channels than red, green and blue, `mean` is not finite, or `std` not above 0.
   */
  static async create<B>(
    device: Device,
    inner: BatchSource<B>,
    settings: AugmentSettings,
    normalization: Normalization,
  ): Promise<AugmentedSource<B>> {
    checkAugment(settings);
    checkNormalization(normalization);
    const { c: channels } = inner.shape;
    if (channels !== 3) throw new RangeError(`Cannot augment images of ${channels} channels: they must be RGB`);
    const buffer = await device.buffer("changes", inner.shape.n * ROW_NUMBERS * 4);
    return new AugmentedSource(device, inner, settings, normalization, buffer);
  }

  get batchBytes(): number | undefined {
    return this.inner.batchBytes;
  }

  place(operand: Operand): Placement | undefined {
    return operand === this.#changes ? { buffer: this.buffer, offset: 0 } : this.inner.place(operand);
  }

  dispatches(caps: Capabilities): readonly Dispatch[] {
    const { reflect = false } = this.settings;
    const { n: rows, h: height, w: width } = this.shape;
    const operands: AugmentOperands = {
      x: this.inner.x,
      labels: this.labels,
      changes: this.#changes,
      y: this.x,
      mixes: this.mixes,
    };
    const spec = { rows, height, width, ...this.normalization, reflect };
    return [...this.inner.dispatches(caps), ...augmentBatch(operands, { ...spec, colour: this.#recolours }, caps)];
  }

  /**
   * Writes a batch and what is done to it.
   *
   * @throws {RangeError} for other than one change a row; for one that the settings had no place for, as mixing a row where
   * neither mixup nor CutMix was asked for; for a partner that is none of the rows, a weight that is not from 0 to 1, and
   * numbers that are not finite; and where the other source refuses the batch.
   */
  load({ batch, changes }: AugmentedBatch<B>, classes?: number): number {
    // Refuses, where it is freed, for both.
    const rows = this.inner.load(batch, classes);
    if (changes.length !== rows) throw new RangeError(`Cannot augment ${rows} rows by ${changes.length} changes`);
    for (let row = 0; row < rows; row++) {
      this.#check(changes[row], row, rows);
      encodeChange(changes[row], row, this.#staging);
    }
    const wrong = this.#staging.subarray(0, rows * ROW_NUMBERS).findIndex((value) => !number(value));
    if (wrong >= 0) {
      throw new RangeError(
        `Cannot augment row ${Math.floor(wrong / ROW_NUMBERS)}: its change holds ${
          this.#staging[wrong]
        }; all must be finite`,
      );
    }
    this.device.write(this.buffer, 0, this.#staging);
    return rows;
  }

  /** Refuses what the kernel, made for the settings alone, would do by half, or not at all. */
  #check({ partner, weight, pasted, colour }: RowChange, row: number, rows: number): void {
    const mixed = weight !== 1 || pasted[2] > 0;
    if (mixed && !this.mixes) {
      throw new RangeError(
        `Cannot mix row ${row}: its label would stay as it is, as the source was made without mixup and cutmix; ` +
          "make one with either",
      );
    }
    if (!(count(partner) && partner < rows)) {
      throw new RangeError(`Cannot mix row ${row} with partner ${quoted(partner)}: the rows are 0 to ${rows - 1}`);
    }
    if (!between(0, 1)(weight)) {
      throw new RangeError(`Cannot mix row ${row} with weight ${quoted(weight)}: it must be from 0 to 1`);
    }
    const recoloured = colour[0] !== 1 || colour[1] !== 1 || colour[2] !== 1 || colour[3] !== 0;
    if (recoloured && !this.#recolours) {
      throw new RangeError(
        `Cannot change the colours of row ${row}: the source was made without brightness, contrast, saturation and hue; ` +
          "make one with any of them",
      );
    }
  }

  destroy(): void {
    this.buffer.destroy();
    this.inner.destroy();
  }
}

/** What is done to each row of a batch: row `i` may be mixed with the row as far from the end. */
export function drawChanges(
  settings: AugmentSettings,
  images: ArrayLike<number>,
  run: Omit<AugmentedImage, "image">,
  size: readonly [number, number],
): RowChange[] {
  return Array.from(images, (image, row) => drawChange(settings, { ...run, image }, size, images.length - 1 - row));
}
