/**
 * Training as the notebook does it: epochs of shuffled batches, after each a pass over the test set. The loop tells what
 * happens as events; who prints and saves is another's business.
 */

import type { Device } from "../kernels/device.ts";
import type { Checkpoint, CheckpointDescription, EpochMetrics, RunProgress } from "./checkpoint.ts";
import { checkRun } from "./description_check.ts";
import { DeviceRun } from "./device_run.ts";
import { EpochBatches } from "./epoch_batches.ts";
import type { EvaluationReport } from "./evaluator.ts";
import { Lifetime } from "./lifetime.ts";
import type { Network } from "./network.ts";
import { NonFiniteError } from "./non_finite.ts";
import { checkData, startOf } from "./run_check.ts";
import type { RunDescription, TrainingData } from "./run_description.ts";
import type { CollectedSteps } from "./run_steps.ts";
import { HOPELESS_LOSS_SCALE } from "./loss_scale.ts";
import { firstNonFinite } from "./safetensors.ts";
import { learningRate, shouldStop } from "./schedule.ts";
import { diverged, DivergedError, type TrainEvent } from "./train_events.ts";
import { TrainingClock } from "./training_clock.ts";

/** Of steps together; `cold` when one of them ran for the first time. */
interface Untold {
  readonly lossSum: number;
  readonly rows: number;
  readonly count: number;
  readonly cold: boolean;
  /** In half precision. */
  readonly scaling?: { readonly lossScale: number; readonly skipped: number };
}

const NOTHING: Untold = { lossSum: 0, rows: 0, count: 0, cold: false };

/** How a run is watched and paused: of no influence on its bits. */
export interface TrainerOptions {
  /** After so many steps, counted from the first epoch on, results are read, so that a checkpoint can be made there. */
  readonly pauseEvery?: number;
  /** Look for the first value that is not finite, after each kernel. Default false. */
  readonly detectAnomaly?: boolean;
}

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
  readonly #batches: EpochBatches;
  readonly #made: DeviceRun;
  readonly #options: TrainerOptions;
  readonly #life = new Lifetime("the trainer");
  #running = false;
  #epoch: number;
  #step: number;
  #lossSum: number;
  #rows: number;
  #history: EpochMetrics[];
  /** Results that are being read while further steps run. */
  #reading: Promise<CollectedSteps> | undefined;
  /** What has been read since the last event. */
  #untold: Untold = NOTHING;

  private constructor(
    description: RunDescription,
    data: TrainingData,
    batches: EpochBatches,
    made: DeviceRun,
    progress: RunProgress,
    options: TrainerOptions,
  ) {
    this.network = made.network;
    this.#description = description;
    this.#data = data;
    this.#batches = batches;
    this.#made = made;
    this.#options = options;
    ({ epoch: this.#epoch, step: this.#step, loss_sum: this.#lossSum, rows: this.#rows } = progress);
    this.#history = [...progress.history];
  }

  /**
   * Prepares a run: from the beginning, from a checkpoint's state, or, where that tells of no progress, from the weights
   * that it has, which may lack the head, `fc`: it is drawn by the seed then. A run that goes on may be given other settings,
   * such as more epochs, but for the optimizer and those that say which images a step gets: batch size, accumulation, seed,
   * limit and split.
   *
   * @throws {UserError} when the description makes no run, batches do not fit the device, or the checkpoint is of another
   * network; when it tells of progress, but of another run's, or lacks what the optimizer keeps, the average or the loss scale
   * that this one needs.
   * @throws {RangeError} when a label is none of the classes, or images are not as many or as large as the data say.
   * @throws {TypeError} when images or labels are in something else than `LabelledImages` says.
   */
  static async create(
    device: Device,
    data: TrainingData,
    description: RunDescription,
    from?: Checkpoint,
    options: TrainerOptions = {},
  ): Promise<Trainer> {
    checkRun(description);
    checkData(data, description.network.num_classes);
    const batches = new EpochBatches(data.train, description);
    const start = startOf(from, description, batches.groups(0).length);
    const made = await DeviceRun.create(device, data, description, batches.sizes, from, options);
    return new Trainer(description, data, batches, made, start, options);
  }

  /** Steps of an epoch. */
  get stepsPerEpoch(): number {
    return this.#batches.groups(0).length;
  }

  /** Images that each epoch leaves out, other ones each time: a last batch that a batch norm gets one value a channel of. */
  get leftOut(): number {
    return this.#batches.leftOut;
  }

  /** Metrics of the epochs done. */
  get history(): readonly EpochMetrics[] {
    return this.#history;
  }

  /**
   * Trains until all epochs are done or `signal` is given.
   *
   * @throws {DivergedError} when a loss is not finite.
   * @throws {Error} while another loop over the run has not ended.
   */
  async *run(signal?: AbortSignal): AsyncGenerator<TrainEvent, void, void> {
    this.#life.check();
    if (this.#running) {
      throw new Error("Cannot train a run twice at the same time: end the loop that is under way first");
    }
    this.#running = true;
    try {
      yield* this.#epochs(signal);
    } finally {
      this.#running = false;
    }
  }

  async *#epochs(signal?: AbortSignal): AsyncGenerator<TrainEvent, void, void> {
    const { epochs, patience } = this.#description.settings;
    const clock = new TrainingClock();
    for (let begun = false; this.#epoch < epochs; begun = true) {
      // Asked before an epoch, so that a run that was stopped and goes on stays where it was.
      if (patience !== undefined && shouldStop(this.#history, patience)) {
        yield { type: "stopped", epoch: this.#epoch, patience };
        return;
      }
      if (begun && signal?.aborted) {
        yield { type: "interrupted", epoch: this.#epoch, step: 0 };
        return;
      }
      const started = performance.now(), epoch = this.#epoch + 1, rowsBefore = this.#rows;
      const trained = yield* this.#train(epoch, clock, signal);
      const test = trained ? yield* this.#evaluate(epoch, signal) : undefined;
      if (!test) {
        yield { type: "interrupted", epoch, step: this.#step };
        return;
      }
      const metrics = { epoch, train_loss: this.#lossSum / this.#rows, test_loss: test.loss, test_acc: test.top1 };
      const best = this.#history.every(({ test_acc }) => test_acc < metrics.test_acc);
      this.#history.push(metrics);
      this.#epoch = epoch;
      this.#step = this.#lossSum = this.#rows = 0;
      // Nobody knows how long the part of an epoch took that was trained before a run was stopped.
      const { imagesPerSecond: rate } = clock, secondsBefore = rate > 0 ? rowsBefore / rate : 0;
      yield { type: "epoch", metrics, best, seconds: (performance.now() - started) / 1000 + secondsBefore };
      clock.restart();
    }
  }

  /** The steps that are left of an epoch. Returns whether it came to its end. */
  async *#train(
    epoch: number,
    clock: TrainingClock,
    signal?: AbortSignal,
  ): AsyncGenerator<TrainEvent, boolean, void> {
    const { epochs, lr, schedule } = this.#description.settings, { pauseEvery = Infinity } = this.#options;
    const groups = this.#batches.groups(this.#epoch), steps = groups.length, made = this.#made.steps;
    const before = this.#epoch * steps;
    const rateOf = (step: number) => learningRate(schedule, { lr, epochs, stepsPerEpoch: steps }, before + step);
    await this.#settle(epoch);
    for (let queued = this.#step; queued < steps;) {
      const batches = groups[queued].map((images) => ({
        rows: images.length,
        batch: this.#batches.batch(images, this.#epoch),
      }));
      made.run(batches, { learningRate: rateOf(queued) });
      this.#made.average?.update();
      queued++;
      const last = queued === steps;
      const pause = (before + queued) % pauseEvery === 0;
      const whole = last || pause || signal?.aborted === true;
      if (!whole && !made.full && made.pending < clock.stepsPerCollect) continue;
      // Reading keeps a device without work waiting for 11 ms or more in Deno: it gets its next steps before what the last
      // ones gave is waited for. Where steps are long that is little, and a signal would have to wait for one more.
      const ahead = !whole && clock.stepsPerCollect > 1;
      for (const end of ahead ? [false] : [false, true]) {
        if (end) await this.#settle(epoch);
        else await this.#absorb(epoch);
        const { lossSum, rows, count, cold, scaling } = this.#untold;
        if (count === 0) continue;
        this.#untold = NOTHING;
        clock.count(count, rows, cold);
        const { imagesPerSecond } = clock;
        const secondsLeft = this.#remaining(imagesPerSecond);
        yield {
          ...{ type: "step", epoch, step: this.#step, steps, loss: lossSum / rows, imagesPerSecond, secondsLeft },
          learningRate: rateOf(this.#step - 1),
          ...scaling,
          pause: end && pause && !last,
        };
        if (clock.justMeasured()) yield { type: "estimate", seconds: secondsLeft, imagesPerSecond };
      }
      if (ahead) this.#read();
      if (pause) clock.restart();
      if (signal?.aborted && !ahead && !last) return false;
    }
    return true;
  }

  async *#evaluate(
    epoch: number,
    signal?: AbortSignal,
  ): AsyncGenerator<TrainEvent, EvaluationReport | undefined, void> {
    const images = this.#data.test.count;
    yield { type: "evaluating", epoch, done: 0, images };
    // The averaged weights are those that are judged, where there are any.
    const restore = this.#made.average?.take(), pass = this.#made.evaluator.pass(signal);
    try {
      for (;;) {
        const { done, value } = await pass.next();
        if (done) return value;
        yield { type: "evaluating", epoch, done: value, images };
      }
    } catch (error) {
      if (error instanceof NonFiniteError) throw diverged("loss on the test set", `after epoch ${epoch}`);
      throw error;
    } finally {
      await pass.return(undefined);
      restore?.();
    }
  }

  /** Begins to read the results of the steps queued. */
  #read(): void {
    if (this.#made.steps.pending === 0) return;
    this.#reading = this.#made.steps.collect();
    // Whoever waits for it hears of its failure; nobody does when the run is given up.
    this.#reading.catch(() => {});
  }

  /** Waits until all steps queued are done, and counts them. */
  async #settle(epoch: number): Promise<void> {
    await this.#absorb(epoch);
    this.#read();
    await this.#absorb(epoch);
  }

  /** Waits for the results that are being read, if any: the epoch's sums grow by them, in order. */
  async #absorb(epoch: number): Promise<void> {
    const reading = this.#reading;
    if (!reading) return;
    this.#reading = undefined;
    const { results, cold } = await reading;
    let { lossSum, rows, count, scaling } = this.#untold;
    for (const [index, result] of results.entries()) {
      const { lossSum: loss, gradientNorm = 0, anomaly, skipped = false, lossScale = 1 } = result;
      const when = `at step ${this.#step + index + 1} of epoch ${epoch}`;
      // Gradients that overflowed because they were scaled: the next step has a smaller scale.
      const overflowed = skipped && Number.isFinite(loss) && lossScale >= HOPELESS_LOSS_SCALE;
      if (anomaly !== undefined && !overflowed) {
        throw new DivergedError(
          `The first value that is not finite appeared ${when}, in ${anomaly}: training has diverged; ` +
            "use a smaller learning rate",
        );
      }
      if (!Number.isFinite(loss)) throw diverged("loss", when);
      if (skipped && !overflowed) throw diverged("gradient", when);
      if (!Number.isFinite(gradientNorm)) throw diverged("gradients' norm", when);
      if (result.lossScale !== undefined) {
        scaling = { lossScale, skipped: (scaling?.skipped ?? 0) + Number(skipped) };
      }
      lossSum += result.lossSum;
      rows += result.rows;
      this.#lossSum += result.lossSum;
      this.#rows += result.rows;
    }
    count += results.length;
    this.#step += results.length;
    this.#untold = { lossSum, rows, count, cold: cold || this.#untold.cold, scaling };
  }

  /** Seconds for what is left, an evaluated image taking a third of a trained one. */
  #remaining(imagesPerSecond: number): number {
    const { epochs } = this.#description.settings;
    const { train, test } = this.#data;
    const epochsLeft = epochs - this.#epoch;
    return (epochsLeft * train.count - this.#rows + epochsLeft * test.count / 3) / imagesPerSecond;
  }

  /**
   * The state of the run, to go on from bit for bit. Waits for the device. Between the events of `run`, not while it makes
   * the next one.
   *
   * @throws {DivergedError} when a weight is not finite: nothing could go on from there.
   */
  async checkpoint(): Promise<Checkpoint> {
    this.#life.check();
    // Steps may have been queued beyond those that were told.
    await this.#settle(this.#epoch + 1);
    const { network, input, settings } = this.#description;
    const progress: RunProgress = {
      epoch: this.#epoch,
      step: this.#step,
      loss_sum: this.#lossSum,
      rows: this.#rows,
      history: [...this.#history],
    };
    const description: CheckpointDescription = {
      network,
      input,
      class_names: this.#data.classNames,
      settings,
      progress,
    };
    const { weights } = this.network, averaged = this.#made.average;
    // While the average is judged, the network's own weights lie elsewhere.
    const state = await (averaged?.ownStateDict() ?? weights.stateDict());
    const momenta = await weights.momenta(), adamw = await weights.adamwState();
    const lossScale = await weights.lossScale();
    const average = averaged?.updates ? await averaged.stateDict() : undefined;
    const kept = [state, momenta, adamw?.expAvg, adamw?.expAvgSq].filter((each) => each !== undefined);
    const name = kept.map((each) => firstNonFinite(each)).find((each) => each !== undefined);
    if (name !== undefined) throw diverged(name, `after step ${this.#step} of epoch ${this.#epoch + 1}`);
    return {
      ...{ description, state, momenta },
      ...(adamw && { adamw }),
      ...(lossScale && { lossScale }),
      ...(average && { average }),
    };
  }

  /** Bytes on the device: weights and what belongs to them, the steps' intermediate values, resident images. */
  get deviceBytes(): { readonly weights: number; readonly activations: number; readonly images: number } {
    return this.#made.bytes;
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#life.end();
    this.#made.destroy();
  }
}
