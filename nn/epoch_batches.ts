/**
 * What an epoch's steps are given: the order of the images, the part of each that is seen, and how it is changed. All are
 * functions of seed, epoch and image, so that a run that goes on needs nothing of it saved.
 */

import { permutation, Random } from "../kernels/random.ts";
import { UserError } from "../kernels/user_error.ts";
import { type AugmentedBatch, type AugmentSettings, drawChanges, isAugmented } from "./augment.ts";
import type { ImageBatch } from "./image_source.ts";
import type { LabelledImages } from "./labelled_images.ts";
import { describedNetwork } from "./described_network.ts";
import { frozenEntries } from "./freezing.ts";
import { quoted } from "./json.ts";
import { trace } from "./graph.ts";
import { BatchNormOperation } from "./ops/batch_norm.ts";
import type { RunDescription } from "./run_description.ts";

/** What a batch is: images, and where they are augmented what is done to each. */
export type TrainBatch = ImageBatch | AugmentedBatch<ImageBatch>;

/** Which epoch of which run. */
export interface RunEpoch {
  /** Of the run. */
  readonly seed: number;
  /** From 0. */
  readonly epoch: number;
}

/** What a step is given of some of a set's images in an epoch, their input being `size` pixels high and wide. */
export function trainBatch(
  set: LabelledImages,
  indices: Uint32Array,
  run: RunEpoch,
  augment: AugmentSettings | undefined,
  size: number,
): TrainBatch {
  const batch = seenParts(set, indices, run);
  if (!isAugmented(augment)) return batch;
  return { batch, changes: drawChanges(augment, indices, { ...run, count: set.count }, [size, size]) };
}

/** The images, and of each the part that is seen in this epoch. */
function seenParts({ crop }: LabelledImages, indices: Uint32Array, { seed, epoch }: RunEpoch): ImageBatch {
  if (!crop) return indices;
  const windows = new Float32Array(indices.length * 4);
  for (const [row, image] of indices.entries()) {
    const window = crop(image, new Random(seed, cropStream(epoch, image)));
    if (window?.length !== 4) {
      throw new RangeError(
        `Cannot crop image ${image} to ${quoted(window)}: a window is four numbers, top, left, height and width`,
      );
    }
    windows.set(window, row * 4);
  }
  return { indices, windows };
}

/** Streams of a seed from here on are crops: one an epoch and image. */
function cropStream(epoch: number, image: number): number {
  return 2 ** 52 + epoch * 2 ** 28 + image;
}

/** The batches of a run. */
export class EpochBatches {
  /** How many images batches have: the whole ones first, then the rest, where it can be normalized. */
  readonly sizes: readonly number[];
  /** How many images each epoch leaves out, other ones each time: a rest that cannot be normalized. */
  readonly leftOut: number;
  readonly #images: LabelledImages;
  readonly #description: RunDescription;

  /** @throws {UserError} when there are no images, or batches are too small to be normalized. */
  constructor(images: LabelledImages, description: RunDescription) {
    if (images.count === 0) throw new UserError("Cannot train: there are no images to train on");
    const size = Math.min(description.settings.batch_size, images.count), rest = images.count % size;
    const values = normalizedValues(description);
    if (size * values < 2) {
      throw new UserError(
        `Cannot train on batches of ${size} at image size ${description.input.image_size}: a batch norm gets a single ` +
          "value a channel, which cannot be normalized; use a larger batch or image size",
      );
    }
    this.sizes = rest * values >= 2 ? [size, rest] : [size];
    this.leftOut = rest * values === 1 ? rest : 0;
    this.#images = images;
    this.#description = description;
  }

  /** The order of an epoch's images, cut into batches; a rest that cannot be normalized is left out. */
  order(epoch: number): Uint32Array[] {
    const { count } = this.#images;
    const { batch_size, seed } = this.#description.settings;
    const order = permutation(count, seed, epoch);
    const batches: Uint32Array[] = [];
    for (let at = 0; at < count; at += batch_size) batches.push(order.subarray(at, at + batch_size));
    return batches.filter(({ length }) => this.sizes.includes(length));
  }

  /** The same, put together: one step each. The last group may have fewer batches. */
  groups(epoch: number): Uint32Array[][] {
    const order = this.order(epoch), { accumulate = 1 } = this.#description.settings;
    const steps = Math.ceil(order.length / accumulate);
    return Array.from({ length: steps }, (_, step) => order.slice(step * accumulate, (step + 1) * accumulate));
  }

  /** What a step is given of these images in this epoch. */
  batch(indices: Uint32Array, epoch: number): TrainBatch {
    const { input, settings: { augment, seed } } = this.#description;
    return trainBatch(this.#images, indices, { seed, epoch }, augment, input.image_size);
  }
}

/** The fewest values a channel that a batch norm which learns gets of an image: it needs two of a batch. */
function normalizedValues({ network, input: { image_size: size }, settings }: RunDescription): number {
  const module = describedNetwork(network), entries = [...module.stateEntries()];
  const isFrozen = frozenEntries(settings.frozen ?? [], entries.map(([name]) => name));
  const frozen = new Set(entries.flatMap(([name, entry]) => isFrozen(name) ? [entry] : []));
  const values = trace(module, { n: 1, c: 3, h: size, w: size }).nodes.flatMap(({ operation, inputs: [{ shape }] }) =>
    operation instanceof BatchNormOperation && !frozen.has(operation.state.weight) ? [shape.h * shape.w] : []
  );
  return values.reduce((fewest, each) => Math.min(fewest, each), 2);
}
