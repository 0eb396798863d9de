/** A network on the device that names what is on pictures: what `predict` and `serve` have in common. */

import type { PictureTransform } from "../data/pictures/transform.ts";
import { resizedSide } from "../data/pictures/transform.ts";
import { imagenetStatistics } from "../data/folder.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import type { ElementType } from "../kernels/dispatch.ts";
import { DeviceImages, type ImageBatch, ImageSource } from "../nn/batch_source.ts";
import type { CheckpointDescription, InputDescription } from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { type EvalStep, evalStep } from "../nn/eval_step.ts";
import { softmax } from "../nn/judge.ts";
import { Network } from "../nn/network.ts";
import { RING_SLOTS } from "../nn/step.ts";
import { type OptionSpecs, type OptionValues, usageError } from "./command.ts";
import { isPictures } from "./dataset.ts";
import { type NetworkFile, readNetworkFile } from "./network_file.ts";
import { architectureNames } from "./network_options.ts";
import { precisionOption } from "./precision.ts";
import { useKnownTuning } from "./tuning.ts";

/** Options of commands that name what is on pictures. */
export const classifierOptions = {
  arch: {
    type: "choice",
    choices: architectureNames,
    otherwise: "the checkpoint's, or what the weights' shapes tell",
    doc: "The network of weights",
  },
  imageSize: {
    type: "integer",
    min: 1,
    max: 4096,
    otherwise: "the checkpoint's, that of published weights, 224 for others",
    doc: "Height and width of what the network sees",
  },
  resizeSize: {
    type: "integer",
    min: 1,
    max: 8192,
    otherwise: "that of published weights; 256 for an image size of 224, in proportion for others",
    doc: "The shorter side before the centre is cut out",
  },
  precision: precisionOption,
} as const satisfies OptionSpecs;

/** A network's file, and how pictures become what the network sees. */
export interface ClassifierFile {
  readonly network: NetworkFile;
  readonly input: InputDescription;
  readonly transform: PictureTransform;
  readonly precision: ElementType;
}

/**
 * Reads a network's file as the options say.
 *
 * @param command For messages, such as `resnext predict`.
 * @throws {UserError} for files that hold no network, and options that contradict each other.
 */
export async function readClassifier(
  path: string,
  { arch, imageSize, resizeSize, precision }: OptionValues<typeof classifierOptions>,
  command: string,
): Promise<ClassifierFile> {
  const network = await readNetworkFile(path, arch);
  const input = inputOf(network.description, imageSize ?? network.published?.imageSize);
  const transform = transformOf(network, input.image_size, resizeSize);
  if (transform.side! < transform.size) {
    throw usageError(`Option --resize-size must be at least the image size, ${transform.size}`, command);
  }
  return { network, input, transform, precision };
}

/** A step of some size. */
interface Sized {
  readonly rows: number;
  readonly step: EvalStep<ImageBatch>;
}

/** A network that is ready to name pictures. Evaluation is by running statistics: no row depends on the others. */
export class Classifier implements Disposable {
  readonly #pixels: Uint8Array<ArrayBuffer>;
  readonly #imageBytes: number;
  readonly #steps: readonly Sized[];

  private constructor(
    /** Where it lies. */
    readonly device: Device,
    pixels: Uint8Array<ArrayBuffer>,
    imageBytes: number,
    steps: readonly Sized[],
  ) {
    this.#pixels = pixels;
    this.#imageBytes = imageBytes;
    this.#steps = steps;
  }

  /**
   * Opens the device, loads the network, compiles a step for each size of batch.
   *
   * @param batchSizes Ascending. A batch takes the time of the least of them that holds it.
   * @param device Already open; closed with the classifier.
   * @throws {UserError} where the device is missing, has no room, or the weights are not the network's.
   */
  static async open(
    { network: { description, state }, input, precision }: ClassifierFile,
    batchSizes: readonly number[],
    device?: Device,
  ): Promise<Classifier> {
    device ??= await openDevice();
    try {
      await useKnownTuning(device);
      const module = describedNetwork(description.network);
      const network = await Network.create(device, module);
      network.loadStateDict(fittedState(module, state));
      const size = input.image_size, bytes = size ** 2 * 3, most = batchSizes.at(-1)!;
      const pixels = new Uint8Array(most * bytes);
      const set = { count: most, images: pixels, labels: new Uint8Array(most) };
      const images = await DeviceImages.create(device, set, { stream: true });
      const steps: Sized[] = [];
      for (const rows of batchSizes) {
        const source = await ImageSource.create(images, { height: size, width: size, imageSize: size, ...input }, rows);
        steps.push({ rows, step: await evalStep(network, { source, precision }) });
      }
      return new Classifier(device, pixels, bytes, steps);
    } catch (error) {
      device.close();
      throw error;
    }
  }

  /** The most pictures at a time. */
  get batchSize(): number {
    return this.#steps.at(-1)!.rows;
  }

  /** Logits of pictures, `size x size x 3` RGB bytes each; one read of the device. One call at a time. */
  async classify(pictures: readonly Uint8Array[]): Promise<Float32Array[]> {
    if (pictures.length === 0) return [];
    const { step } = this.#steps.find(({ rows }) => rows >= pictures.length)!;
    // Nobody wants the losses; they only have to make room.
    if (step.pending === RING_SLOTS) await step.collect();
    for (const [row, each] of pictures.entries()) this.#pixels.set(each, row * this.#imageBytes);
    step.run(Uint32Array.from(pictures, (_, row) => row));
    const logits = await step.logits();
    return pictures.map((_, row) => logits.slice(row * step.classes, (row + 1) * step.classes));
  }

  /** Runs a step of each size once: drivers compile at the first use. */
  async warmUp(): Promise<void> {
    const black = new Uint8Array(this.#imageBytes);
    for (const { rows } of this.#steps) await this.classify(Array.from({ length: rows }, () => black));
  }

  /** Frees the device. */
  [Symbol.dispose](): void {
    this.device.close();
  }
}

/** A label of a picture. */
export interface Prediction {
  readonly label: string;
  /** Its index among the classes. */
  readonly class: number;
  readonly probability: number;
}

/** The most probable classes; of equal ones the first. */
export function rank(logits: ArrayLike<number>, count: number, names?: readonly string[]): Prediction[] {
  return softmax(logits)
    .map((probability, index) => ({ label: names?.[index] ?? `class ${index}`, class: index, probability }))
    .sort((a, b) => b.probability - a.probability || a.class - b.class)
    .slice(0, count);
}

/** How pictures become the network's input; ImageNet's way where nothing else is known. */
function inputOf({ input }: CheckpointDescription, imageSize?: number): InputDescription {
  const known = { image_size: 224, ...imagenetStatistics, ...input };
  return { ...known, image_size: imageSize ?? known.image_size };
}

/**
 * Networks that learned from whole small images see a picture's whole centre, published weights what they were tested with,
 * others what testing shows them.
 */
export function transformOf(
  { description: { settings }, published }: Pick<NetworkFile, "description" | "published">,
  size: number,
  side?: number,
): PictureTransform {
  const whole = settings !== undefined && !isPictures(settings.dataset);
  const usual = size === published?.imageSize ? published.resizeSize : resizedSide(size);
  return { kind: "centre", size, side: side ?? (whole ? size : usual) };
}
