/** What a training run has on its device, made in one go and freed in one go. */

import type { Device } from "../kernels/device.ts";
import { AugmentedSource, isAugmented } from "./augment.ts";
import type { BatchSource } from "./batch_source.ts";
import { DeviceImages, ImageSource } from "./image_source.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { describedNetwork } from "./described_network.ts";
import { MovingAverage } from "./ema.ts";
import type { TrainBatch } from "./epoch_batches.ts";
import { Evaluator, residentBytes } from "./evaluator.ts";
import { HEAD, isHeadless } from "./fine_tune.ts";
import { frozenEntries } from "./freezing.ts";
import { Network } from "./network.ts";
import { imageInput, optimizerSettings, type RunDescription, type TrainingData } from "./run_description.ts";
import { RunSteps } from "./run_steps.ts";

/** A network, the steps that train it, the pass that judges it, and the images of both. */
export class DeviceRun {
  private constructor(
    readonly network: Network,
    readonly images: DeviceImages,
    readonly steps: RunSteps<TrainBatch>,
    readonly sources: readonly BatchSource<TrainBatch>[],
    readonly evaluator: Evaluator,
    readonly average: MovingAverage | undefined,
  ) {}

  /**
   * Makes all of it: from a checkpoint's state, where there is one.
   *
   * @param sizes Of batches.
   * @throws {UserError} when batches do not fit the device, or the checkpoint is of another network.
   */
  static async create(
    device: Device,
    data: TrainingData,
    description: RunDescription,
    sizes: readonly number[],
    from: Checkpoint | undefined,
    options: { readonly detectAnomaly?: boolean },
  ): Promise<DeviceRun> {
    const { seed } = description.settings;
    const network = await Network.create(device, describedNetwork(description.network), { seed });
    const made: { destroy(): void }[] = [network];
    try {
      return await DeviceRun.#prepare(network, data, description, sizes, from, options, made);
    } catch (error) {
      // A smaller batch may be tried next: all room is for that.
      for (const part of made.reverse()) part.destroy();
      throw error;
    }
  }

  static async #prepare(
    network: Network,
    data: TrainingData,
    { input, settings }: RunDescription,
    sizes: readonly number[],
    from: Checkpoint | undefined,
    { detectAnomaly }: { readonly detectAnomaly?: boolean },
    made: { destroy(): void }[],
  ): Promise<DeviceRun> {
    const { device } = network;
    const images = await DeviceImages.create(device, data.train);
    made.push(images);
    const optimizer = optimizerSettings(settings), { label_smoothing: labelSmoothing } = settings;
    const names = [...network.module.stateEntries()].map(([name]) => name);
    const frozen = settings.frozen && frozenEntries(settings.frozen, names);
    const windows = data.train.crop !== undefined;
    const sources: BatchSource<TrainBatch>[] = [];
    for (const rows of sizes) {
      const plain = await ImageSource.create(images, imageInput(data, input, data.train), rows, { windows });
      const source: BatchSource<TrainBatch> = isAugmented(settings.augment)
        ? await AugmentedSource.create(device, plain, settings.augment, input)
        : plain;
      sources.push(source);
      made.push(source);
    }
    const steps = await RunSteps.create(network, sources, {
      ...{ optimizer, labelSmoothing, frozen, clipGradNorm: settings.clip_grad_norm, detectAnomaly },
      ...{ accumulate: settings.accumulate, precision: settings.precision },
    });
    made.push(steps);
    const testInput = imageInput(data, input, data.test);
    const { batch_size: batchSize, precision } = settings;
    const evaluator = await Evaluator.create(network, data.test, testInput, batchSize, { precision });
    made.push(evaluator);
    // Without progress it has weights to begin with, and nothing else counts.
    const goesOn = from?.description.progress !== undefined;
    if (from) {
      // They may lack their head, which is drawn anew then.
      const headless = !goesOn && isHeadless(from.state);
      const head = headless ? [...await network.stateDict()].filter(([name]) => HEAD.includes(name)) : [];
      network.loadStateDict(new Map([...head, ...from.state]));
    }
    if (goesOn) {
      if (from.momenta) await network.weights.loadMomenta(from.momenta);
      if (from.adamw) await network.weights.loadAdamwState(from.adamw);
      if (from.lossScale) await network.weights.loadLossScale(from.lossScale);
    }
    const decay = settings.ema_decay;
    const average = decay === undefined ? undefined : await MovingAverage.create(network, decay);
    if (average) made.push(average);
    // How many updates it has seen matters only in that the first one copies.
    if (goesOn && from.average) average?.load(from.average, 1);
    return new DeviceRun(network, images, steps, sources, evaluator, average);
  }

  /** Bytes: weights and what belongs to them, the steps' intermediate values, resident images. */
  get bytes(): { readonly weights: number; readonly activations: number; readonly images: number } {
    const images = residentBytes(this.images) + this.evaluator.imageBytes;
    const weights = this.network.weights.bytes + (this.average?.bytes ?? 0);
    return { weights, activations: this.network.arena.bytes, images };
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.steps.destroy();
    for (const source of this.sources) source.destroy();
    this.evaluator.destroy();
    this.average?.destroy();
    this.images.destroy();
    this.network.destroy();
  }
}
