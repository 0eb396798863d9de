/** How much of a device a whole run takes, and the largest batches that fit one: by planning, before anything is made. */

import type { Capabilities } from "../kernels/device.ts";
import { storedElements } from "../kernels/layout.ts";
import { isAugmented } from "./augment.ts";
import { largest } from "./batch_size.ts";
import { residentSizes } from "./image_source.ts";
import { describedNetwork } from "./described_network.ts";
import { stepMemory } from "./memory.ts";
import type { Module } from "./module.ts";
import type { RunDescription, TrainingData } from "./run_description.ts";
import { RING_SLOTS } from "./step.ts";
import { Counter } from "./state.ts";

/** Bytes on the device. */
export interface RunMemory {
  /** Weights, and what belongs to them: gradients, their sums, what the optimizer keeps, the moving average. */
  readonly weights: number;
  /** Batches, and all that lives within a step, of training and of testing. */
  readonly activations: number;
  /** The data set's, where they are resident. */
  readonly images: number;
  /** All of these. */
  readonly total: number;
  /** The largest piece that a kernel binds. */
  readonly binding: number;
}

/** The most images that {@linkcode largestBatch} puts into a batch: larger ones are hardly faster, and train worse. */
export const LARGEST_BATCH = 1024;

/** The largest batch that fits, and what bounds it. */
export interface LargestBatch {
  /** 0 where not even one image fits. */
  readonly rows: number;
  /** What the run takes then. */
  readonly memory: RunMemory;
  /** The device's memory, the size of its bindings, {@linkcode LARGEST_BATCH}, or the images that there are. */
  readonly bound: "memory" | "binding" | "limit" | "images";
}

/** Plans a run with batches of so many rows. */
export function runMemory(
  data: TrainingData,
  { network, input, settings }: RunDescription,
  rows: number,
  caps: Capabilities,
  module: Module = describedNetwork(network),
): RunMemory {
  const shape = { n: rows, c: 3, h: input.image_size, w: input.image_size };
  const accumulate = (settings.accumulate ?? 1) > 1;
  const { precision, optimizer } = settings;
  const train = stepMemory(module, shape, { training: true, accumulate, optimizer, precision, caps });
  const tested = { ...shape, n: Math.min(rows, data.test.count) };
  const test = stepMemory(module, tested, { training: false, precision, caps });
  const slabs = Array.from(
    { length: Math.max(train.slabBytes.length, test.slabBytes.length) },
    (_, i) => Math.max(train.slabBytes[i] ?? 0, test.slabBytes[i] ?? 0),
  );
  // The input, before and after augmentation; and what each step in flight was taken for.
  const batch = storedElements(shape) * 4 * (isAugmented(settings.augment) ? 2 : 1) + rows * 4 * RING_SLOTS;
  const activations = slabs.reduce((sum, bytes) => sum + bytes, batch);
  const average = settings.ema_decay === undefined ? 0 : 2 * stateBytes(module);
  const weights = train.stateBytes + average;
  let images = 0;
  for (const set of [data.train, data.test]) {
    const sizes = residentSizes(set, caps);
    images += sizes ? sizes.images + sizes.labels : 0;
  }
  const binding = Math.max(train.bindingBytes, test.bindingBytes);
  return { weights, activations, images, total: weights + activations + images, binding };
}

/** Parameters and running statistics. */
function stateBytes(module: Module): number {
  let bytes = 0;
  for (const [, entry] of module.stateEntries()) if (!(entry instanceof Counter)) bytes += entry.storedElements * 4;
  return bytes;
}

/** Batch sizes that people use: powers of two up to 8, then multiples of 8, at most `most`. */
export function usualBatches(most: number): number[] {
  return [
    ...[1, 2, 4].filter((rows) => rows <= most),
    ...Array.from({ length: Math.floor(most / 8) }, (_, i) => (i + 1) * 8),
  ];
}

/**
 * The largest of {@linkcode usualBatches} whose run fits a device.
 *
 * @param roomFor Asked once, for what the largest batch within the device's other limits would take: how much there is.
 */
export async function largestBatch(
  data: TrainingData,
  description: RunDescription,
  caps: Capabilities,
  roomFor: (most: number) => Promise<number>,
): Promise<LargestBatch & { readonly room: number }> {
  const module = describedNetwork(description.network);
  const images = Math.max(1, Math.floor(data.train.count / (description.settings.accumulate ?? 1)));
  const sizes = usualBatches(Math.min(LARGEST_BATCH, images));
  const plans = new Map<number, RunMemory>();
  const memory = (rows: number) => {
    const found = plans.get(rows) ?? runMemory(data, description, rows, caps, module);
    plans.set(rows, found);
    return found;
  };
  const bindable = lastThat(
    sizes,
    (rows) => memory(rows).binding <= Math.min(caps.maxBindingBytes, caps.maxBufferBytes),
  );
  if (bindable < 0) return { rows: 0, memory: memory(1), bound: "binding", room: 0 };
  const wanted = memory(sizes[bindable]).total, room = await roomFor(wanted);
  const fitting = room >= wanted ? bindable : lastThat(sizes, (rows) => memory(rows).total <= room);
  return {
    rows: sizes[fitting] ?? 0,
    memory: memory(sizes[Math.max(0, fitting)]),
    bound: fitting < bindable
      ? "memory"
      : bindable < sizes.length - 1
      ? "binding"
      : images < LARGEST_BATCH
      ? "images"
      : "limit",
    room,
  };
}

/** The index of the last that fits, what fits being all up to some index; -1 where none does. */
function lastThat<T>(all: readonly T[], fits: (each: T) => boolean): number {
  return largest(all.length, (n) => fits(all[n - 1])) - 1;
}
