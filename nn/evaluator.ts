/** A pass over a set of images: loss, accuracy, and who was taken for whom. */

import { NO_CLASS } from "../kernels/cross_entropy.ts";
import type { ElementType } from "../kernels/dispatch.ts";
import { DeviceImages, type ImageInput, ImageSource } from "./image_source.ts";
import { checkLabels, type LabelledImages } from "./labelled_images.ts";
import type { Network } from "./network.ts";
import { type EvalStep, evalStep, type Evaluation } from "./eval_step.ts";
import { imageName, NonFiniteError } from "./non_finite.ts";
import { checkSettings, SIZE } from "./number_check.ts";
import { Lifetime } from "./lifetime.ts";
import { QUEUED_BYTES, RING_SLOTS, type StepResult } from "./step.ts";
import { Turns } from "./turns.ts";

/** What a network makes of a set of images. */
export interface EvaluationReport {
  /** How many. */
  readonly images: number;
  /** Mean cross-entropy. */
  readonly loss: number;
  /** Share of images whose class has the largest logit. */
  readonly top1: number;
  /** Share of images whose class is among the five largest logits. */
  readonly top5: number;
  /** `confusion[label][prediction]`, counts. */
  readonly confusion: readonly (readonly number[])[];
}

/**
 * Evaluates a network, as often as wanted, on one set of images.
 *
 * @example
 * ```ts
 * import { Evaluator, Network, openDevice, resnext50, shapes } from "@cardinal/resnext";
 *
 * const { test, height, width, mean, std } = shapes({ train: 0, test: 20, seed: 0 });
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }));
 * const evaluator = await Evaluator.create(network, test, { height, width, mean, std, imageSize: 32 }, 16);
 * const report = await evaluator.run();
 * if (report?.images !== 20) throw new Error("all of them");
 * device.close();
 * ```
 */
export class Evaluator {
  readonly #made: EvaluatedSet;
  readonly #life = new Lifetime("the evaluator");
  readonly #runs = new Turns();
  /** All passes have one ring of results. */
  #underWay = false;

  private constructor(made: EvaluatedSet) {
    this.#made = made;
  }

  /**
   * Prepares passes over a set; `precision` as of {@linkcode evalStep}.
   *
   * @throws {UserError} when a batch does not fit the device.
   * @throws {RangeError} when the set is none: see `DeviceImages`; when a label of it is none of the network's classes; for a
   * batch size that is no positive whole number; and as {@linkcode evalStep} and `ImageSource.create`.
   */
  static async create(
    network: Network,
    set: LabelledImages,
    input: ImageInput,
    batchSize: number,
    { precision }: { readonly precision?: ElementType } = {},
  ): Promise<Evaluator> {
    return new Evaluator(await EvaluatedSet.create(network, set, input, batchSize, precision));
  }

  /**
   * As {@linkcode pass}, in one go, after those that were asked for before. Returns undefined when `signal` is given
   * meanwhile.
   *
   * @throws {NonFiniteError}
   */
  run(signal?: AbortSignal): Promise<EvaluationReport | undefined> {
    return this.#runs.take(async () => {
      const pass = this.pass(signal);
      for (;;) {
        const { done, value } = await pass.next();
        if (done) return value;
      }
    });
  }

  /**
   * One pass that tells now and then how many images are done. Returns undefined when `signal` is given meanwhile.
   *
   * @throws {NonFiniteError} at the first image whose logits are not finite: an accuracy would not tell it.
   * @throws {Error} while another pass is under way: nobody knows when its caller goes on with it.
   */
  async *pass(signal?: AbortSignal): AsyncGenerator<number, EvaluationReport | undefined, void> {
    this.#life.check();
    if (this.#underWay) {
      throw new Error("Cannot begin a pass while another one is under way: go through that one first");
    }
    this.#underWay = true;
    const { images: { set }, step } = this.#made;
    const { batchSize, classes } = step;
    const confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
    // Twice as many are in the queue: while results are read, further steps run (`trainer.ts` tells why).
    const longest = Math.max(1, Math.min(RING_SLOTS / 2, Math.floor(QUEUED_BYTES / Math.max(1, step.batchBytes))));
    const totals = new Totals();
    let done = 0, queueLength = 1;
    let reading: Promise<Evaluation> | undefined;
    let since = performance.now();
    try {
      for (let at = 0; done < set.count;) {
        for (let queued = 0; queued < queueLength && at < set.count; queued++, at += batchSize) {
          step.run(Uint32Array.from({ length: Math.min(batchSize, set.count - at) }, (_, i) => at + i));
        }
        if (reading) {
          const { results, predictions } = await reading;
          reading = undefined;
          totals.add(results);
          for (const prediction of predictions) {
            if (prediction === NO_CLASS) throw new NonFiniteError(`judge ${imageName(set, done)}`);
            confusion[set.labels[done++]][prediction]++;
          }
          totals.check();
          if (signal?.aborted) return undefined;
          yield done;
          // Reading costs time, waiting costs patience: about half a second's work in one go.
          const now = performance.now(), seconds = (now - since) / 1000;
          since = now;
          queueLength = Math.max(1, Math.min(longest, Math.round(results.length * 0.5 / seconds)));
        }
        if (step.pending > 0) {
          reading = step.evaluations();
          // Whoever waits for it hears of its failure; nobody does when the pass is given up.
          reading.catch(() => {});
        }
      }
    } finally {
      // Nothing of this pass may turn up in the next one.
      await reading?.catch(() => {});
      if (step.pending > 0) await step.collect().catch(() => {});
      this.#underWay = false;
    }
    return { images: set.count, ...totals.means(set.count), confusion };
  }

  /** Bytes that the images take on the device: none when they are streamed. */
  get imageBytes(): number {
    return residentBytes(this.#made.images);
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#life.end();
    this.#made.destroy();
  }
}

/** @internal What steps of one pass came to, summed. */
export class Totals {
  #lossSum = 0;
  #correct = 0;
  #top5 = 0;

  /** Adds the results of further steps. */
  add(results: readonly StepResult[]): void {
    for (const { lossSum, correct, top5 } of results) {
      this.#lossSum += lossSum;
      this.#correct += correct;
      this.#top5 += top5;
    }
  }

  /** @throws {NonFiniteError} where the loss is not finite, though each image's logits are. */
  check(): void {
    if (Number.isFinite(this.#lossSum)) return;
    throw new NonFiniteError("judge the set", "its loss is not finite; use other weights: these may be damaged");
  }

  /** Of so many images. */
  means(images: number): Pick<EvaluationReport, "loss" | "top1" | "top5"> {
    return { loss: this.#lossSum / images, top1: this.#correct / images, top5: this.#top5 / images };
  }
}

/** @internal A set of images on the device, and the step that evaluates it: made together, freed together. */
export class EvaluatedSet {
  private constructor(
    readonly images: DeviceImages,
    readonly step: EvalStep<Uint32Array>,
    private readonly parts: readonly { destroy(): void }[],
  ) {}

  /** See {@linkcode Evaluator}. */
  static async create(
    network: Network,
    set: LabelledImages,
    input: ImageInput,
    batchSize: number,
    precision?: ElementType,
  ): Promise<EvaluatedSet> {
    checkSettings("evaluate", { batchSize }, SIZE);
    const parts: { destroy(): void }[] = [];
    try {
      const images = await DeviceImages.create(network.device, set);
      parts.push(images);
      const source = await ImageSource.create(images, input, Math.min(batchSize, set.count));
      parts.push(source);
      const step = await evalStep(network, { source, precision });
      parts.push(step);
      checkLabels(set, step.classes);
      return new EvaluatedSet(images, step, parts);
    } catch (error) {
      // A smaller batch may be tried next.
      for (const part of parts.reverse()) part.destroy();
      throw error;
    }
  }

  destroy(): void {
    for (const part of this.parts.toReversed()) part.destroy();
  }
}

/** Bytes that a set of images takes on the device. */
export function residentBytes({ resident }: DeviceImages): number {
  return resident ? resident.images.size + resident.labels.size : 0;
}
