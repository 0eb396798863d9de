/** Whole steps of a network: what a user of `train` and `eval` gets, less what the host does between epochs. */

import type { Device } from "../kernels/device.ts";
import type { ElementType } from "../kernels/dispatch.ts";
import { DeviceImages, ImageSource } from "../nn/image_source.ts";
import type { LabelledImages } from "../nn/labelled_images.ts";
import type { Module } from "../nn/module.ts";
import { Network } from "../nn/network.ts";
import type { Plan } from "../nn/plan.ts";
import { evalStep } from "../nn/eval_step.ts";
import { RING_SLOTS } from "../nn/step.ts";
import { trainStep } from "../nn/train_step.ts";
import { mapSpread, type Spread, spread, timed } from "./measure.ts";

/** What is measured of a network. */
export type Mode = "train" | "infer";

/** Bytes on the device. */
export interface MemoryUse {
  readonly weights: number;
  readonly gradients: number;
  readonly momenta: number;
  /** Slabs of the steps' intermediate values: activations and their gradients. */
  readonly activations: number;
  /** Intermediate values alive at once, at most: what no assignment can go below. */
  readonly activationsPeak: number;
}

/** A compiled step that can be run as often as wanted. */
export interface Workload {
  readonly mode: Mode;
  readonly batchSize: number;
  readonly plan: Plan;
  readonly network: Network;
  readonly memory: MemoryUse;
  /** From the module to the end of the first step, compilation of kernels included. */
  readonly firstStepMs: number;
  /** Submits steps, then waits once. */
  run(steps: number): Promise<void>;
  /** Submits steps, at most as many as the ring holds; returns the milliseconds that it took. */
  submit(steps: number): number;
  /** Waits for what was submitted, and reads its results. */
  collect(): Promise<void>;
  /** Milliseconds of the host to submit one step. */
  readonly submitMs: () => number;
  destroy(): void;
}

/** Images made from a seed: what they show does not matter to speed. */
function noise(count: number, size: number): LabelledImages {
  const images = new Uint8Array(count * size * size * 3), labels = new Uint8Array(count);
  let state = 1;
  for (let i = 0; i < images.length; i++) images[i] = (state = Math.imul(state, 1664525) + 1013904223 | 0) >>> 24;
  for (let i = 0; i < count; i++) labels[i] = i % 10;
  return { count, images, labels };
}

/** The size of the stored images, CIFAR-10's: the step resizes them, as training does. */
const STORED_SIZE = 32;

/**
 * A network's step over images resident on the device, its first step done.
 *
 * @throws {UserError} when the batch does not fit the device.
 */
export async function openWorkload(
  device: Device,
  module: Module,
  { mode, imageSize, batchSize, precision }: {
    readonly mode: Mode;
    readonly imageSize: number;
    readonly batchSize: number;
    readonly precision?: ElementType;
  },
): Promise<Workload> {
  const started = performance.now();
  const network = await Network.create(device, module);
  // Halves belong to the weights.
  if (precision === "f16") await network.weights.prepareHalves();
  const weights = network.weights.bytes;
  const images = await DeviceImages.create(device, noise(Math.max(256, batchSize), STORED_SIZE));
  const input = {
    height: STORED_SIZE,
    width: STORED_SIZE,
    mean: [0.5, 0.5, 0.5],
    std: [0.25, 0.25, 0.25],
    imageSize,
  } as const;
  const source = await ImageSource.create(images, input, batchSize);
  const training = mode === "train" ? await trainStep(network, { source, precision }) : undefined;
  const step = training ?? await evalStep(network, { source, precision });
  const indices = Uint32Array.from({ length: batchSize }, (_, i) => i);
  // Small, so that any number of steps on the same images stays finite.
  const settings = { learningRate: 1e-4 };
  let submitted = 0, submitting = 0;
  const submit = (steps: number) => {
    const before = performance.now();
    for (let i = 0; i < steps; i++) step.run(indices, settings);
    const ms = performance.now() - before;
    submitting += ms;
    submitted += steps;
    return ms;
  };
  const collect = async () => void await step.collect();
  const run = async (steps: number) => {
    for (let left = steps; left > 0; left -= RING_SLOTS) {
      submit(Math.min(left, RING_SLOTS));
      await collect();
    }
  };
  await run(1);
  const firstStepMs = performance.now() - started;
  submitted = submitting = 0;
  const each = (network.weights.bytes - weights) / 2;
  return {
    mode,
    batchSize,
    plan: step.plan,
    network,
    firstStepMs,
    memory: {
      weights,
      gradients: each,
      momenta: each,
      activations: network.arena.bytes,
      activationsPeak: step.plan.assignment.peakBytes,
    },
    ...{ run, submit, collect },
    submitMs: () => submitting / submitted,
    destroy() {
      step.destroy();
      source.destroy();
      images.destroy();
      network.destroy();
    },
  };
}

/** Steps that take about `targetMs`, by a first look. */
export async function stepsFor(workload: Workload, targetMs: number): Promise<number> {
  const one = await timed(() => workload.run(1));
  const few = Math.max(1, Math.min(20, Math.floor(targetMs / 2 / one)));
  const each = await timed(() => workload.run(few)) / few;
  return Math.max(1, Math.min(RING_SLOTS, Math.round(targetMs / each)));
}

/** What repeats of a workload gave. */
export interface Throughput {
  readonly mode: Mode;
  readonly imagesPerSecond: Spread;
  readonly msPerStep: Spread;
  /** Floating-point operations a second, a multiply-add counting two. */
  readonly flopsPerSecond: number;
  /** Of one step. */
  readonly flops: number;
  /** Dispatches of one step. */
  readonly dispatches: number;
  readonly stepsPerRepeat: number;
  readonly repeats: number;
  /** Of the host, to submit one step. */
  readonly submitMs: number;
  readonly firstStepMs: number;
  readonly memory: MemoryUse;
}

/** Puts together what `repeats` runs of `steps` steps took, in milliseconds a run. */
export function throughput(workload: Workload, runs: readonly number[], steps: number): Throughput {
  const msPerStep = mapSpread(spread(runs), (ms) => ms / steps);
  return {
    mode: workload.mode,
    imagesPerSecond: mapSpread(msPerStep, (ms) => workload.batchSize * 1000 / ms),
    msPerStep,
    flopsPerSecond: workload.plan.flops * 1000 / msPerStep.median,
    flops: workload.plan.flops,
    dispatches: workload.plan.dispatches.length,
    stepsPerRepeat: steps,
    repeats: runs.length,
    submitMs: workload.submitMs(),
    firstStepMs: workload.firstStepMs,
    memory: workload.memory,
  };
}
