/** What a network thinks of each image of a set: its probabilities, not only whether it is right; and of the whole. */

import type { ElementType } from "../kernels/dispatch.ts";
import type { ImageInput } from "./image_source.ts";
import type { LabelledImages } from "./labelled_images.ts";
import { EvaluatedSet, type EvaluationReport, Totals } from "./evaluator.ts";
import type { Network } from "./network.ts";
import { haveSoftmax, imageName, NonFiniteError } from "./non_finite.ts";
import { RING_SLOTS } from "./step.ts";

/** What a network thinks of one image. */
export interface Judgement {
  /** The image's number in the set. */
  readonly image: number;
  /** Its class. */
  readonly label: number;
  /** The class that it is most taken for, and how surely, from 0 to 1. */
  readonly prediction: number;
  /** The probability of `prediction`. */
  readonly confidence: number;
  /** The probability given to the label. */
  readonly labelProbability: number;
}

/** Options of {@linkcode judge}. */
export interface JudgeOptions {
  /** Ends it early. */
  readonly signal?: AbortSignal;
  /** See `evalStep`. Default `f32`. */
  readonly precision?: ElementType;
}

/**
 * Judges a set of images, a batch at a time. Returns what all of it came to, as an `Evaluator` does, with the same bits;
 * undefined when it was ended early. Whoever wants that alone takes an `Evaluator`, which is faster.
 *
 * @throws {UserError} when a batch does not fit the device.
 * @throws {NonFiniteError} at the first image whose logits are not finite.
 * @throws {RangeError} as `Evaluator.create`.
 *
 * @example
 * ```ts
 * import { judge, Network, openDevice, resnext50, shapes } from "@cardinal/resnext";
 *
 * const { test, height, width, mean, std } = shapes({ train: 0, test: 20, seed: 0 });
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }));
 * for await (const batch of judge(network, test, { height, width, mean, std, imageSize: 32 }, 20)) {
 *   if (batch.some(({ confidence }) => !(confidence > 0 && confidence <= 1))) throw new Error("no probability");
 * }
 * device.close();
 * ```
 */
export async function* judge(
  network: Network,
  set: LabelledImages,
  input: ImageInput,
  batchSize: number,
  { signal, precision }: JudgeOptions = {},
): AsyncGenerator<Judgement[], EvaluationReport | undefined, void> {
  const made = await EvaluatedSet.create(network, set, input, batchSize, precision), { step } = made;
  const confusion = confusionOf([], step.classes), totals = new Totals();
  try {
    for (let at = 0; at < set.count; at += step.batchSize) {
      if (signal?.aborted) return undefined;
      const rows = Math.min(step.batchSize, set.count - at);
      // Others need the room.
      if (step.pending === RING_SLOTS) totals.add(await step.collect());
      step.run(Uint32Array.from({ length: rows }, (_, i) => at + i));
      const logits = await step.logits();
      const judgements = Array.from({ length: rows }, (_, row): Judgement => {
        const image = at + row, label = set.labels[image];
        const own = logits.subarray(row * step.classes, (row + 1) * step.classes);
        if (!haveSoftmax(own)) throw new NonFiniteError(`judge ${imageName(set, image)}`);
        const probabilities = softmax(own), confidence = largestOf(probabilities);
        return {
          image,
          label,
          prediction: probabilities.indexOf(confidence),
          confidence,
          labelProbability: probabilities[label],
        };
      });
      for (const { label, prediction } of judgements) confusion[label][prediction]++;
      yield judgements;
    }
    totals.add(await step.collect());
    totals.check();
    return { images: set.count, ...totals.means(set.count), confusion };
  } finally {
    made.destroy();
  }
}

/** Probabilities of logits. */
export function softmax(logits: ArrayLike<number>): number[] {
  const values = Array.from(logits), largest = largestOf(values);
  const powers = values.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / sum);
}

/** Of any number of values; NaN where one is. */
function largestOf(values: readonly number[]): number {
  return values.reduce((largest, value) => Math.max(largest, value), -Infinity);
}

/** `confusion[label][prediction]`, counts. */
export function confusionOf(judgements: readonly Judgement[], classes: number): number[][] {
  const confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  for (const { label, prediction } of judgements) confusion[label][prediction]++;
  return confusion;
}
