/** Measures the variants of products on the adapter at hand: the other half of `tuning.ts`. */

import { type Device, OutOfMemoryError } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { gemm, gemmKey, gemmVariants } from "./gemm.ts";
import { variantName } from "./gemm_problem.ts";
import { Program } from "./program.ts";
import { passTimes, type TimedPass } from "./timestamps.ts";
import type { Tuning } from "./tuning.ts";

/** What was tried for one product. */
export interface Trial {
  readonly key: string;
  /** Milliseconds of each variant, in the order tried: the one that rules choose first. */
  readonly tried: readonly { readonly variant: string; readonly milliseconds: number }[];
  readonly won: string;
}

/** How a tuner goes about it. */
export interface TunerOptions {
  /** Only variants of the strategy that rules choose: quicker, and nearly always the winner's. Default true. */
  readonly sameStrategy?: boolean;
  /** Called after each product. */
  readonly onTrial?: (trial: Trial, done: number, all: number) => void;
}

/**
 * Timed work of one variant in one round, in milliseconds: long beside the noise of a read, or of other work on the cores
 * that a software adapter runs on. By a GPU's own clock little is enough.
 */
const ROUND = 25;
const STAMPED_GPU_ROUND = 1;
const ROUNDS = 3;
/** What a challenger must save to win: less is noise. */
const MARGIN = 0.05;

/**
 * Measures every product that a tuning has noted, and teaches it the winners. Products that the device cannot hold stay
 * unknown: no step will run them.
 */
export async function tune(device: Device, tuning: Tuning, options: TunerOptions = {}): Promise<Trial[]> {
  const trials: Trial[] = [];
  const measurable = tuning.unknown.map(({ problem, caps }) => {
    // Asked without the tuning itself: its own rules would answer.
    return { problem, rules: { ...caps, tuning: undefined } };
  }).filter(({ problem, rules }) =>
    gemm(problem, rules).every(({ bindings }) =>
      Object.values(bindings).every(({ operand }) => operand.byteLength <= rules.maxBindingBytes)
    )
  );
  for (const { problem, rules } of measurable) {
    const all = gemmVariants(problem, rules);
    const variants = options.sameStrategy ?? true ? all.filter(({ strategy }) => strategy === all[0].strategy) : all;
    const lists = variants.map((variant) => gemm({ ...problem, variant }, rules));
    const times = await measure(device, lists).catch((error) => {
      if (error instanceof OutOfMemoryError) return undefined;
      throw error;
    });
    if (!times) continue;
    const winner = variants[winnerOf(times)];
    tuning.learn(problem, winner);
    const trial = {
      key: gemmKey(problem),
      tried: variants.map((variant, i) => ({ variant: variantName(variant), milliseconds: times[i] })),
      won: variantName(winner),
    };
    trials.push(trial);
    options.onTrial?.(trial, trials.length, measurable.length);
  }
  return trials;
}

/** Which of some times wins: the least, where that saves enough beside the first, which the rules choose. */
export function winnerOf(times: readonly number[]): number {
  const least = Math.min(...times);
  return least < times[0] * (1 - MARGIN) ? times.indexOf(least) : 0;
}

/** Milliseconds of each list of dispatches: the least of some rounds, in turns. */
async function measure(device: Device, lists: readonly (readonly Dispatch[])[]): Promise<number[]> {
  const buffers = new Map<Operand, GPUBuffer>();
  const programs: Program[] = [];
  try {
    for (const { bindings } of lists.flat()) {
      for (const { operand } of Object.values(bindings)) {
        if (!buffers.has(operand)) buffers.set(operand, await device.buffer(operand.label, operand.byteLength));
      }
    }
    const place = (operand: Operand) => ({ buffer: buffers.get(operand)!, offset: 0 });
    for (const list of lists) programs.push(await Program.create(device, list, place));
    const [probe] = buffers.values();
    return await byDeviceClock(device, programs) ?? await byHostClock(device, programs, probe);
  } finally {
    for (const program of programs) program.destroy();
    for (const buffer of buffers.values()) buffer.destroy();
  }
}

/** All rounds at once; undefined where the device has no clock that can be believed. */
async function byDeviceClock(device: Device, programs: readonly Program[]): Promise<number[] | undefined> {
  const pass = (program: Program, times: number): TimedPass => (encoder, stamps) =>
    program.encode(encoder, times, stamps);
  const once = programs.map((program) => pass(program, 1));
  // The first run warms up: drivers may finish compiling then.
  await passTimes(device, once);
  const rough = await passTimes(device, once);
  if (!rough?.every((ms) => ms > 0)) return undefined;
  const repeats = repeatsOf(rough, device.capabilities.software ? ROUND : STAMPED_GPU_ROUND, 1);
  // Each round begins with another variant: clocks rise while a device that was idle works.
  const order = Array.from({ length: ROUNDS }, (_, round) => programs.map((_, i) => (i + round) % programs.length))
    .flat();
  const times = await passTimes(device, order.map((i) => pass(programs[i], repeats[i])));
  if (!times?.every((ms) => ms > 0)) return undefined;
  const least = programs.map(() => Infinity);
  for (const [at, i] of order.entries()) least[i] = Math.min(least[i], times[at] / repeats[i]);
  return least;
}

/** Each variant and round waited for by itself. */
async function byHostClock(device: Device, programs: readonly Program[], probe: GPUBuffer): Promise<number[]> {
  const run = async (program: Program, times: number) => {
    const encoder = device.gpu.createCommandEncoder();
    program.encode(encoder, times);
    const started = performance.now();
    device.gpu.queue.submit([encoder.finish()]);
    await device.read(probe, 0, 16);
    return performance.now() - started;
  };
  // A read alone costs several milliseconds: it is measured too, and taken off.
  const idle = Math.min(await run(programs[0], 0), await run(programs[0], 0), await run(programs[0], 0));
  const rough: number[] = [];
  for (const program of programs) {
    await run(program, 1);
    const once = await run(program, 1) - idle;
    // What is short is better told by several; many of what is long may count as a device that hangs.
    rough.push(once < ROUND ? (await run(program, 4) - idle) / 4 : once);
  }
  const repeats = repeatsOf(rough, ROUND, 2);
  const least = programs.map(() => Infinity);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, program] of programs.entries()) {
      least[i] = Math.min(least[i], Math.max(1e-4, await run(program, repeats[i]) - idle) / repeats[i]);
    }
  }
  return least;
}

/** How often to run what takes `rough` milliseconds, for a round of `round`. */
function repeatsOf(rough: readonly number[], round: number, least: number): number[] {
  return rough.map((ms) => Math.max(least, Math.min(4096, Math.ceil(round / Math.max(0.01, ms)))));
}
