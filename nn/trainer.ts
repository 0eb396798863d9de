/**
 * Training as the notebook does it: epochs of shuffled batches, after each a pass over the test set. The loop tells what
 * happens as events; who prints and saves is another's business.
 */

import type { Device } from "../kernels/device.ts";
import type { RowChange } from "../kernels/augment.ts";
import { permutation, Random } from "../kernels/random.ts";
import { UserError } from "../kernels/user_error.ts";
import { type AugmentedBatch, AugmentedSource, checkAugment, drawChanges, isAugmented } from "./augment.ts";
import {
  type BatchSource,
  DeviceImages,
  type ImageBatch,
  type ImageInput,
  ImageSource,
  type LabelledImages,
} from "./batch_source.ts";
import type {
  Checkpoint,
  CheckpointDescription,
  EpochMetrics,
  InputDescription,
  NetworkDescription,
  RunProgress,
  RunSettings,
} from "./checkpoint.ts";
import { MovingAverage } from "./ema.ts";
import { type EvaluationReport, Evaluator, residentBytes } from "./evaluator.ts";
import { Network } from "./network.ts";
import { describedNetwork } from "./described_network.ts";
import { frozenEntries } from "./freezing.ts";
import { toFloat32 } from "./safetensors.ts";
import { checkSchedule, learningRate, shouldStop } from "./schedule.ts";
import type { StepResult } from "./step.ts";
import { type TrainStep, trainStep } from "./train_step.ts";
import { TrainingClock } from "./training_clock.ts";

/** Images to learn from and to test on. */
export interface TrainingData {
  /** In the order of the labels. */
  readonly classNames: readonly string[];
  /** The stored images' size. */
  readonly height: number;
  /** As `height`. */
  readonly width: number;
  /** What the network learns from. */
  readonly train: LabelledImages;
  /** What it is judged by. */
  readonly test: LabelledImages;
}

/** What a run is. */
export interface RunDescription {
  /** What is trained. */
  readonly network: NetworkDescription;
  /** How images are prepared. */
  readonly input: InputDescription;
  /** How it is trained. */
  readonly settings: RunSettings;
}

/** What happens while training. */
export type TrainEvent =
  /** Steps were finished. `loss` is the mean over those since the last event. */
  | {
    readonly type: "step";
    readonly epoch: number;
    readonly step: number;
    readonly steps: number;
    readonly loss: number;
    /** Of the last of them. */
    readonly learningRate: number;
    /** A pause that was asked for: see {@linkcode TrainerOptions}. */
    readonly pause: boolean;
    readonly imagesPerSecond: number;
    /** For all of the job that is left, evaluation included. */
    readonly secondsLeft: number;
  }
  /** The first steps are measured: `seconds` for all of the job that is left, evaluation included. */
  | { readonly type: "estimate"; readonly seconds: number; readonly imagesPerSecond: number }
  /** `done` of the test set's `images` are judged. */
  | { readonly type: "evaluating"; readonly epoch: number; readonly done: number; readonly images: number }
  | { readonly type: "epoch"; readonly metrics: EpochMetrics; readonly best: boolean; readonly seconds: number }
  /** No epoch has been better than the best for as many as the settings' patience: the run ends before its last epoch. */
  | { readonly type: "stopped"; readonly epoch: number; readonly patience: number }
  /** The signal was given: the step begun is finished, a checkpoint made now goes on from here. */
  | { readonly type: "interrupted"; readonly epoch: number; readonly step: number };

/** A loss that is no number any more. */
export class DivergedError extends UserError {
  /** Told apart by it. */
  override name = "DivergedError";
}

/** How a run is watched and paused: of no influence on its bits. */
export interface TrainerOptions {
  /** After so many steps, counted from the first epoch on, results are read, so that a checkpoint can be made there. */
  readonly pauseEvery?: number;
  /** Look for the first value that is not finite, after each kernel. Default false. */
  readonly detectAnomaly?: boolean;
}

/** What a step is given: images, and where they are augmented what is done to each. */
type TrainBatch = ImageBatch | AugmentedBatch<ImageBatch>;

/**
 * A training run on a device.
 *
 * @example
 * ```ts
 * import { openDevice, type RunDescription, shapes, Trainer } from "@cardinal/resnext";
 *
 * const data = shapes({ train: 32, test: 20, seed: 0 });
 * const run: RunDescription = {
 *   network: { arch: "resnext50", num_classes: 10, cardinality: 4, layers: [1], channels: [16] },
 *   input: { image_size: 32, mean: data.mean, std: data.std },
 *   settings: {
 *     dataset: "shapes",
 *     batch_size: 16,
 *     epochs: 1,
 *     lr: 0.05,
 *     momentum: 0.9,
 *     weight_decay: 0,
 *     nesterov: false,
 *     label_smoothing: 0,
 *     seed: 0,
 *     schedule: { kind: "cosine", by: "step" },
 *     augment: { flip: true, crop: 2 },
 *   },
 * };
 * const device = await openDevice();
 * const trainer = await Trainer.create(device, data, run);
 * for await (const event of trainer.run()) if (event.type === "epoch") console.log(event.metrics);
 * const checkpoint = await trainer.checkpoint();
 * if (checkpoint.description.progress?.epoch !== 1) throw new Error("one epoch was done");
 * device.close();
 * ```
 */
export class Trainer {
  /** What is trained. */
  readonly network: Network;
  readonly #description: RunDescription;
  readonly #data: TrainingData;
  readonly #images: DeviceImages;
  readonly #evaluator: Evaluator;
  readonly #steps: ReadonlyMap<number, TrainStep<TrainBatch>>;
  readonly #sources: readonly BatchSource<TrainBatch>[];
  readonly #average: MovingAverage | undefined;
  readonly #options: TrainerOptions;
  #epoch: number;
  #step: number;
  #lossSum: number;
  #rows: number;
  #history: EpochMetrics[];

  private constructor(
    network: Network,
    description: RunDescription,
    data: TrainingData,
    images: DeviceImages,
    evaluator: Evaluator,
    steps: ReadonlyMap<number, TrainStep<TrainBatch>>,
    sources: readonly BatchSource<TrainBatch>[],
    average: MovingAverage | undefined,
    progress: RunProgress,
    options: TrainerOptions,
  ) {
    this.#options = options;
    this.network = network;
    this.#description = description;
    this.#data = data;
    this.#images = images;
    this.#evaluator = evaluator;
    this.#steps = steps;
    this.#sources = sources;
    this.#average = average;
    ({ epoch: this.#epoch, step: this.#step, loss_sum: this.#lossSum, rows: this.#rows } = progress);
    this.#history = [...progress.history];
  }

  /**
   * Prepares a run: from the beginning, from a checkpoint's state, or, where that tells of no progress, from the weights
   * that it has.
   *
   * @throws {UserError} when batches do not fit the device, or the checkpoint is of another network.
   */
  static async create(
    device: Device,
    data: TrainingData,
    description: RunDescription,
    from?: Checkpoint,
    options: TrainerOptions = {},
  ): Promise<Trainer> {
    const { network: { num_classes }, input: { image_size: imageSize }, settings } = description;
    if (num_classes < data.classNames.length) {
      throw new UserError(
        `Cannot train: the data set has ${data.classNames.length} classes, the network ${num_classes}`,
      );
    }
    if (settings.schedule) checkSchedule(settings.schedule, settings.epochs);
    if (settings.augment) checkAugment(settings.augment);
    const batchSize = Math.min(settings.batch_size, data.train.count);
    if (!canNormalize(batchSize, description)) {
      throw new UserError(
        `Cannot train on batches of ${batchSize} at image size ${imageSize}: the last stage has a single value a ` +
          "channel, which cannot be normalized; use a larger batch or image size",
      );
    }
    const network = await Network.create(device, describedNetwork(description.network), { seed: settings.seed });
    try {
      return await Trainer.#prepare(network, data, description, from, options);
    } catch (error) {
      network.destroy();
      throw error;
    }
  }

  static async #prepare(
    network: Network,
    data: TrainingData,
    description: RunDescription,
    from: Checkpoint | undefined,
    options: TrainerOptions,
  ): Promise<Trainer> {
    const { device } = network, { input, settings } = description;
    const images = await DeviceImages.create(device, data.train);
    const batchSize = Math.min(settings.batch_size, data.train.count);
    const rest = data.train.count % batchSize;
    const steps = new Map<number, TrainStep<TrainBatch>>();
    const sources: BatchSource<TrainBatch>[] = [];
    const { momentum, weight_decay: weightDecay, nesterov, label_smoothing: labelSmoothing } = settings;
    const optimizer = { momentum, weightDecay, nesterov, decayVectors: settings.decay_vectors };
    const names = [...network.module.stateEntries()].map(([name]) => name);
    const frozen = settings.frozen && frozenEntries(settings.frozen, names);
    const windows = data.train.crop !== undefined;
    for (const rows of canNormalize(rest, description) ? [batchSize, rest] : [batchSize]) {
      const plain = await ImageSource.create(images, imageInput(data, input, data.train), rows, { windows });
      const source: BatchSource<TrainBatch> = isAugmented(settings.augment)
        ? await AugmentedSource.create(device, plain, settings.augment, input)
        : plain;
      const watched = { clipGradNorm: settings.clip_grad_norm, detectAnomaly: options.detectAnomaly };
      const step = await trainStep(network, { source, optimizer, labelSmoothing, frozen, ...watched });
      steps.set(rows, step);
      sources.push(source);
    }
    const testInput = imageInput(data, input, data.test);
    const evaluator = await Evaluator.create(network, data.test, testInput, settings.batch_size);
    if (from) {
      // Weights to begin with may lack a head: it is drawn anew.
      const whole = from.description.progress !== undefined;
      network.loadStateDict(whole ? from.state : new Map([...await network.stateDict(), ...from.state]));
      if (from.momenta) await network.weights.loadMomenta(from.momenta);
    }
    const average = settings.ema_decay === undefined
      ? undefined
      : await MovingAverage.create(network, settings.ema_decay);
    // How many updates it has seen matters only in that the first one copies.
    if (from?.average) await average?.load(from.average, 1);
    const start: RunProgress = { epoch: 0, step: 0, loss_sum: 0, rows: 0, history: [] };
    const progress = from?.description.progress ?? start;
    return new Trainer(network, description, data, images, evaluator, steps, sources, average, progress, options);
  }

  /** The order of an epoch's images, cut into batches; a rest that cannot be normalized is left out. */
  #batches(epoch: number): Uint32Array[] {
    const { count } = this.#data.train;
    const { batch_size, seed } = this.#description.settings;
    const order = permutation(count, seed, epoch);
    const batches: Uint32Array[] = [];
    for (let at = 0; at < count; at += batch_size) batches.push(order.subarray(at, at + batch_size));
    return batches.filter(({ length }) => this.#steps.has(length));
  }

  /** What a step is given, a function of seed, epoch and images. */
  #trainBatch(indices: Uint32Array): TrainBatch {
    const batch = this.#imageBatch(indices), { input, settings: { augment, seed } } = this.#description;
    if (!isAugmented(augment)) return batch;
    const run = { seed, epoch: this.#epoch, count: this.#data.train.count };
    const changes: RowChange[] = drawChanges(augment, indices, run, [input.image_size, input.image_size]);
    return { batch, changes };
  }

  /** The images, and of each the part that is seen in this epoch. */
  #imageBatch(indices: Uint32Array): ImageBatch {
    const { crop } = this.#data.train;
    if (!crop) return indices;
    const windows = new Float32Array(indices.length * 4);
    for (const [row, image] of indices.entries()) {
      windows.set(crop(image, new Random(this.#description.settings.seed, cropStream(this.#epoch, image))), row * 4);
    }
    return { indices, windows };
  }

  /** Steps of an epoch. */
  get stepsPerEpoch(): number {
    return this.#batches(0).length;
  }

  /** Metrics of the epochs done. */
  get history(): readonly EpochMetrics[] {
    return this.#history;
  }

  /**
   * Trains until all epochs are done or `signal` is given.
   *
   * @throws {DivergedError} when a loss is not finite.
   */
  async *run(signal?: AbortSignal): AsyncGenerator<TrainEvent, void, void> {
    const { epochs, lr, schedule, patience } = this.#description.settings;
    const clock = new TrainingClock(), warm = new Set<TrainStep<TrainBatch>>();
    while (this.#epoch < epochs) {
      const started = performance.now();
      const epoch = this.#epoch + 1;
      const batches = this.#batches(this.#epoch);
      const scheduled = { lr, epochs, stepsPerEpoch: batches.length };
      let queued: TrainStep<TrainBatch>[] = [];
      while (this.#step < batches.length) {
        const batch = batches[this.#step];
        const step = this.#steps.get(batch.length)!;
        const rate = learningRate(schedule, scheduled, this.#epoch * batches.length + this.#step);
        step.run(this.#trainBatch(batch), { learningRate: rate });
        this.#average?.update();
        queued.push(step);
        this.#step++;
        const last = this.#step === batches.length;
        const { pauseEvery = Infinity } = this.#options;
        const pause = (this.#epoch * batches.length + this.#step) % pauseEvery === 0;
        if (!last && !pause && !signal?.aborted && queued.length < clock.stepsPerCollect) continue;
        const { loss, rows } = await this.#collect(queued, epoch);
        clock.count(queued.length, rows, queued.some((each) => !warm.has(each)));
        for (const each of queued) warm.add(each);
        queued = [];
        const { imagesPerSecond } = clock;
        const secondsLeft = this.#remaining(imagesPerSecond);
        yield {
          ...{ type: "step", epoch, step: this.#step, steps: batches.length, loss, imagesPerSecond, secondsLeft },
          learningRate: rate,
          pause: pause && !last,
        };
        if (clock.justMeasured()) yield { type: "estimate", seconds: secondsLeft, imagesPerSecond };
        if (pause) clock.restart();
        if (signal?.aborted && !last) {
          yield { type: "interrupted", epoch, step: this.#step };
          return;
        }
      }
      const test = yield* this.#evaluate(epoch, signal);
      if (!test) {
        yield { type: "interrupted", epoch, step: this.#step };
        return;
      }
      const metrics = {
        epoch,
        train_loss: this.#lossSum / this.#rows,
        test_loss: test.loss,
        test_acc: test.top1,
      };
      if (!Number.isFinite(test.loss)) throw diverged("loss on the test set", `after epoch ${epoch}`);
      const best = this.#history.every(({ test_acc }) => test_acc < metrics.test_acc);
      this.#history.push(metrics);
      this.#epoch = epoch;
      this.#step = this.#lossSum = this.#rows = 0;
      yield { type: "epoch", metrics, best, seconds: (performance.now() - started) / 1000 };
      clock.restart();
      if (patience !== undefined && epoch < epochs) {
        if (shouldStop(this.#history.map(({ test_acc }) => test_acc), patience)) {
          yield { type: "stopped", epoch, patience };
          return;
        }
      }
      if (signal?.aborted && epoch < epochs) {
        yield { type: "interrupted", epoch, step: 0 };
        return;
      }
    }
  }

  async *#evaluate(
    epoch: number,
    signal?: AbortSignal,
  ): AsyncGenerator<TrainEvent, EvaluationReport | undefined, void> {
    const images = this.#data.test.count;
    yield { type: "evaluating", epoch, done: 0, images };
    // The averaged weights are those that are judged, where there are any.
    const restore = this.#average?.take();
    try {
      const pass = this.#evaluator.pass(signal);
      for (;;) {
        const { done, value } = await pass.next();
        if (done) return value;
        yield { type: "evaluating", epoch, done: value, images };
      }
    } finally {
      restore?.();
    }
  }

  /** Results of queued steps; the epoch's sums grow by them, in order. */
  async #collect(queued: readonly TrainStep<TrainBatch>[], epoch: number): Promise<{ loss: number; rows: number }> {
    const results = new Map<TrainStep<TrainBatch>, Iterator<StepResult>>();
    for (const step of new Set(queued)) results.set(step, (await step.collect()).values());
    let lossSum = 0, rows = 0;
    for (const [index, step] of queued.entries()) {
      const result = results.get(step)!.next().value!;
      const { lossSum: loss, gradientNorm = 0, anomaly } = result;
      const when = `at step ${this.#step - queued.length + index + 1} of epoch ${epoch}`;
      if (anomaly !== undefined) {
        throw new DivergedError(
          `The first value that is not finite appeared ${when}, in ${anomaly}: training has diverged; ` +
            "use a smaller learning rate",
        );
      }
      const hint = this.#options.detectAnomaly ? "" : "; --detect-anomaly names the layer";
      if (!Number.isFinite(loss)) throw diverged("loss", when, hint);
      if (!Number.isFinite(gradientNorm)) throw diverged("gradients' norm", when, hint);
      lossSum += result.lossSum;
      rows += result.rows;
      this.#lossSum += result.lossSum;
      this.#rows += result.rows;
    }
    return { loss: lossSum / rows, rows };
  }

  /** Seconds for what is left, an evaluated image taking a third of a trained one. */
  #remaining(imagesPerSecond: number): number {
    const { epochs } = this.#description.settings;
    const { train, test } = this.#data;
    const epochsLeft = epochs - this.#epoch;
    return (epochsLeft * train.count - this.#rows + epochsLeft * test.count / 3) / imagesPerSecond;
  }

  /**
   * The state of the run, to go on from bit for bit. Waits for the device. Not while `run` is inside a step.
   *
   * @throws {DivergedError} when a weight is not finite: nothing could go on from there.
   */
  async checkpoint(): Promise<Checkpoint> {
    const { network, input, settings } = this.#description;
    const progress: RunProgress = {
      epoch: this.#epoch,
      step: this.#step,
      loss_sum: this.#lossSum,
      rows: this.#rows,
      history: this.#history,
    };
    const description: CheckpointDescription = {
      network,
      input,
      class_names: this.#data.classNames,
      settings,
      progress,
    };
    const state = await this.network.stateDict(), momenta = await this.network.weights.momenta();
    const average = this.#average?.updates ? await this.#average.stateDict() : undefined;
    for (const tensors of [state, momenta ?? []]) {
      for (const [name, tensor] of tensors) {
        if (tensor.dtype === "F32" && !toFloat32(tensor).every(Number.isFinite)) {
          throw diverged(name, `after step ${this.#step} of epoch ${this.#epoch + 1}`);
        }
      }
    }
    return { description, state, momenta, ...(average && { average }) };
  }

  /** Bytes on the device: weights and what belongs to them, the steps' intermediate values, resident images. */
  get deviceBytes(): { readonly weights: number; readonly activations: number; readonly images: number } {
    const images = residentBytes(this.#images) + this.#evaluator.imageBytes;
    const weights = this.network.weights.bytes + (this.#average?.bytes ?? 0);
    return { weights, activations: this.network.arena.bytes, images };
  }

  /** Frees the device's memory. */
  destroy(): void {
    for (const part of [...this.#steps.values(), ...this.#sources]) part.destroy();
    this.#evaluator.destroy();
    this.#average?.destroy();
    this.#images.destroy();
    this.network.destroy();
  }
}

/** Joins what a data set, a description and a set of its images say of how they become the network's input. */
export function imageInput(
  data: { readonly height: number; readonly width: number },
  { image_size, mean, std }: InputDescription,
  set?: LabelledImages,
): ImageInput {
  const { height, width } = set?.size ?? data;
  return { height, width, mean, std, imageSize: image_size };
}

/** Streams of a seed from here on are crops: one an epoch and image. */
function cropStream(epoch: number, image: number): number {
  return 2 ** 52 + epoch * 2 ** 28 + image;
}

/** Whether the last stage has more than one value a channel, which batch norm needs. */
function canNormalize(rows: number, { network, input }: RunDescription): boolean {
  // The stem and the pool halve the image, and each stage but the first.
  const stages = network.layers?.length ?? 4;
  return rows * Math.ceil(input.image_size / 2 ** (stages + 1)) ** 2 > 1;
}

function diverged(what: string, when: string, hint = ""): DivergedError {
  return new DivergedError(
    `The ${what} is not finite any more ${when}: training has diverged; use a smaller learning rate${hint}`,
  );
}
