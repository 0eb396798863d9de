/**
 * Measures, on the adapter at hand, the variants of what a network computes: the other half of `tuning.ts`.
 *
 * A GPU that idles lowers its clock, to a sixth within two seconds (an H200), and at a low clock arithmetic looks dearer
 * beside memory than it is. So all is compiled first, then measured in one go, each choice once the clock is up.
 */

import { type Device, OutOfMemoryError } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { Program } from "./program.ts";
import { passTimes, type TimedPass } from "./timestamps.ts";
import type { Choice, Tuning } from "./tuning.ts";

/** What was tried for one choice. */
export interface Trial {
  readonly key: string;
  /** Milliseconds of each variant, in the order tried: the one that rules choose first. */
  readonly tried: readonly { readonly variant: string; readonly milliseconds: number }[];
  readonly won: string;
}

/** How a tuner goes about it. */
export interface TunerOptions {
  /** Only variants that are likely to win: quicker. Default true. */
  readonly likelyOnly?: boolean;
  /** Called after each choice whose variants are compiled; nothing is measured before all are. */
  readonly onCompile?: (done: number, all: number) => void;
  /** Called after each choice measured. */
  readonly onTrial?: (trial: Trial, done: number, all: number) => void;
}

/**
 * Timed work of one variant in one round, in milliseconds: long beside the noise of a read, or of other work on the cores
 * that a software adapter runs on. By a GPU's own clock less is enough: what a pass takes to start must not count.
 */
const ROUND = 25;
const STAMPED_GPU_ROUND = 4;
const ROUNDS = 3;
/** Milliseconds for which a GPU is woken before the first choice, and warmed up before each, at most. */
const WAKING = 1500;
const WARMING = 200;
/** Passes that are submitted together to see whether the first takes as long as the last, up to a part that is noise. */
const WARMING_PASSES = 4;
const STEADY = 0.03;
/** Of a program in one submission. */
const MOST_REPEATS = 4096;
/** What a challenger must save to win: less is noise. */
const MARGIN = 0.05;

/** A choice, its variants, and what each of them runs. */
interface Candidates {
  readonly key: string;
  readonly variants: readonly string[];
  readonly lists: readonly (readonly Dispatch[])[];
}

/**
 * Measures all that a tuning has noted, and teaches it the winners. What the device cannot hold stays unknown: no step will
 * run it.
 */
export async function tune(device: Device, tuning: Tuning, options: TunerOptions = {}): Promise<Trial[]> {
  const { maxBindingBytes } = device.capabilities;
  const choices = tuning.unknown.flatMap((choice) => candidates(choice, maxBindingBytes, options.likelyOnly ?? true));
  await compile(device, choices, options);
  const trials: Trial[] = [];
  for (const { key, variants, lists } of choices) {
    const times = await measure(device, lists, trials.length === 0).catch((error) => {
      if (error instanceof OutOfMemoryError) return undefined;
      throw error;
    });
    if (!times) continue;
    const won = variants[winnerOf(times)];
    tuning.learn(key, won);
    const trial = { key, tried: variants.map((variant, i) => ({ variant, milliseconds: times[i] })), won };
    trials.push(trial);
    options.onTrial?.(trial, trials.length, choices.length);
  }
  return trials;
}

/** What is to be measured of a choice; nothing where its operands cannot be bound. */
function candidates({ key, variants, likely }: Choice, maxBindingBytes: number, likelyOnly: boolean): Candidates[] {
  const tried = [...variants].slice(0, likelyOnly ? likely : undefined);
  const lists = tried.map(([, make]) => make());
  const fits = lists[0].every(({ bindings }) =>
    Object.values(bindings).every(({ operand }) => operand.byteLength <= maxBindingBytes)
  );
  return fits ? [{ key, variants: tried.map(([name]) => name), lists }] : [];
}

/** Has the device keep all pipelines, so that programs made later are made at once. */
async function compile(device: Device, choices: readonly Candidates[], { onCompile }: TunerOptions): Promise<void> {
  for (const [index, { lists }] of choices.entries()) {
    await Promise.all(lists.flat().map((dispatch) => device.pipeline(dispatch)));
    onCompile?.(index + 1, choices.length);
  }
}

/** Which of some times wins: the least, where that saves enough beside the first, which the rules choose. */
export function winnerOf(times: readonly number[]): number {
  const least = Math.min(...times);
  return least < times[0] * (1 - MARGIN) ? times.indexOf(least) : 0;
}

/** Milliseconds of each list of dispatches: the least of some rounds, in turns. The device may have idled before. */
async function measure(device: Device, lists: readonly (readonly Dispatch[])[], idled: boolean): Promise<number[]> {
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
    const run: TimedRun = (program, times) => timedRun(device, program, times, probe);
    if (idled && !device.capabilities.software) await wake(programs[0], run);
    return await byDeviceClock(device, programs) ?? await byHostClock(programs, run);
  } finally {
    for (const program of programs) program.destroy();
    for (const buffer of buffers.values()) buffer.destroy();
  }
}

/** All rounds at once; undefined where the device has no clock that can be believed. */
async function byDeviceClock(device: Device, programs: readonly Program[]): Promise<number[] | undefined> {
  const once = programs.map((program) => timedPass(program, 1));
  // Drivers may finish compiling in the first run.
  const [first] = await passTimes(device, once) ?? [];
  if (!device.capabilities.software) await warmUp(device, programs[0], first);
  const rough = await passTimes(device, once);
  if (!rough?.every((ms) => ms > 0)) return undefined;
  const repeats = repeatsOf(rough, device.capabilities.software ? ROUND : STAMPED_GPU_ROUND, 1);
  // Each round begins with another variant: clocks may still change.
  const order = Array.from({ length: ROUNDS }, (_, round) => programs.map((_, i) => (i + round) % programs.length))
    .flat();
  const times = await passTimes(device, order.map((i) => timedPass(programs[i], repeats[i])));
  if (!times?.every((ms) => ms > 0)) return undefined;
  const least = programs.map(() => Infinity);
  for (const [at, i] of order.entries()) least[i] = Math.min(least[i], times[at] / repeats[i]);
  return least;
}

/**
 * Runs a program, a run of which took some `ms`, until it is no longer quicker the longer it runs. A batch's passes follow
 * each other at once: the device idles while their times are read.
 */
async function warmUp(device: Device, program: Program, ms = STAMPED_GPU_ROUND): Promise<void> {
  const started = performance.now();
  while (performance.now() - started < WARMING) {
    const [repeats] = repeatsOf([ms], STAMPED_GPU_ROUND, 1);
    const times = await passTimes(device, Array(WARMING_PASSES).fill(timedPass(program, repeats)));
    if (!times) return;
    const [first, last] = [times[0], times[WARMING_PASSES - 1]];
    if (Math.abs(first - last) < STEADY * last) return;
    ms = last / repeats;
  }
}

function timedPass(program: Program, times: number): TimedPass {
  return (encoder, stamps) => program.encode(encoder, times, stamps);
}

/** Runs a program so often; gives the milliseconds until the host has read a few bytes after it. */
type TimedRun = (program: Program, times: number) => Promise<number>;

async function timedRun(device: Device, program: Program, times: number, probe: GPUBuffer): Promise<number> {
  const encoder = device.gpu.createCommandEncoder();
  program.encode(encoder, times);
  const started = performance.now();
  device.gpu.queue.submit([encoder.finish()]);
  await device.read(probe, 0, 16);
  return performance.now() - started;
}

/** Keeps a GPU that has idled at work: its clock stays low for a while before it rises. */
async function wake(program: Program, run: TimedRun): Promise<void> {
  const started = performance.now();
  // As often as takes long beside the wait for a read, in which the device idles.
  for (let times = 1; performance.now() - started < WAKING;) {
    if (await run(program, times) < 2 * ROUND) times = Math.min(MOST_REPEATS, 2 * times);
  }
}

/** Each variant and round waited for by itself. */
async function byHostClock(programs: readonly Program[], run: TimedRun): Promise<number[]> {
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
  return rough.map((ms) => Math.max(least, Math.min(MOST_REPEATS, Math.ceil(round / Math.max(0.01, ms)))));
}
