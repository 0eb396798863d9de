/**
 * Where tunings are kept, by adapter, Deno version and generation of kernels: one file in the data directory, and before it
 * the table that comes with the program (`tunings.json`, of the same form; `bench/ship_tunings.ts` fills it). The user's own
 * measurements count for more, operation by operation.
 */

import { dirname, join } from "@std/path";
import { stepMemory } from "../nn/memory.ts";
import type { Device } from "../kernels/device.ts";
import type { ElementType } from "../kernels/dispatch.ts";
import type { Shape } from "../kernels/layout.ts";
import { type Trial, tune, type TunerOptions } from "../kernels/tuner.ts";
import { Tuning, type TuningEntries } from "../kernels/tuning.ts";
import { UserError } from "../kernels/user_error.ts";
import { dataDirectory } from "../data/directory.ts";
import { touching, tryWriting } from "../data/files.ts";
import type { Module } from "../nn/module.ts";
import shipped from "./tunings.json" with { type: "json" };

/** `off`: rules choose. `auto`: what the file knows; on a GPU what it does not is measured. `full`: measured anywhere. */
const TUNE_MODES = ["off", "auto", "full"] as const;
/** See {@linkcode TUNE_MODES}. */
type TuneMode = typeof TUNE_MODES[number];

/** Whether to tune, and the data directory, where it is remembered. */
export interface TuneSettings {
  readonly mode: TuneMode;
  /** Absent where there is no place for it: nothing is remembered. */
  readonly directory?: string;
}

/** The option of commands that measure nothing by themselves. */
export const knownTuneOption = {
  type: "choice",
  choices: ["off", "auto"],
  default: "auto",
  doc: "Kernels by measurement: auto (those that `tune` or train found) or off",
} as const;

/** The option of commands that may measure. */
export const tuneOption = {
  type: "choice",
  choices: TUNE_MODES,
  default: "auto",
  doc:
    "Kernels by measurement: off, auto (what is known; on a GPU what is not is measured) or full (measured anywhere)",
} as const;

/** The file of tunings in a data directory. */
export function tuningFile(dataDirectory: string): string {
  return join(dataDirectory, "tuning.json");
}

/** Counts the kernels' rewritings: what was measured of older ones says nothing of these. */
const KERNELS = 4;

/** What a tuning is valid for. */
function tuningKey(device: Device): string {
  return `${device.name} | Deno ${Deno.version.deno} | kernels ${KERNELS}`;
}

/**
 * Notes in a tuning the operations that a network's steps need and it does not know: planned, not run. Tells whether the
 * device can bind all that they need.
 */
function notePlans(
  device: Device,
  tuning: Tuning,
  module: Module,
  inputs: readonly Shape[],
  precision?: ElementType,
): boolean {
  const caps = { ...device.capabilities, tuning };
  const bindings = inputs.flatMap((input) =>
    [true, false].map((training) => stepMemory(module, input, { training, caps, precision }).bindingBytes)
  );
  return bindings.every((bytes) => bytes <= caps.maxBindingBytes);
}

/** What tuning did. */
export interface Tuned {
  readonly trials: readonly Trial[];
  /** Operations that were known. */
  readonly known: number;
  /** Those of them that the table knew which comes with the program. */
  readonly shipped: number;
  /** Operations that the device cannot hold. */
  readonly tooLarge: number;
  /** Why what was found could not be kept. */
  readonly unkept?: UserError;
}

/**
 * Tunes a device for a network's steps on inputs of some sizes, and remembers what it found. A file that cannot be read
 * counts as empty; that one cannot be written is told and no failure: tuning is a convenience. With `again` nothing counts
 * as known, but what other networks, sizes and precisions need stays. What is found is kept choice by choice, so that who
 * interrupts loses little.
 *
 * @throws {UserError} with `mustKeep`, where nothing can be kept: before anything is measured.
 */
export async function tuneFor(
  device: Device,
  module: Module,
  inputs: readonly Shape[],
  { mode, directory, again, mustKeep, wholeOnly, precision, ...options }: TunerOptions & TuneSettings & {
    readonly again?: boolean;
    readonly mustKeep?: boolean;
    /** Nothing is measured for steps that the device cannot run, as it cannot bind all that they need. Default false. */
    readonly wholeOnly?: boolean;
    /** Of the steps. Default `f32`. */
    readonly precision?: ElementType;
  },
): Promise<Tuned> {
  const key = tuningKey(device), file = directory === undefined ? undefined : tuningFile(directory);
  if (mode === "off") return { trials: [], known: 0, shipped: 0, tooLarge: 0 };
  const own = again || file === undefined ? {} : (await readTunings(file))[key] ?? {};
  const tuning = again ? new Tuning() : merged(key, own);
  const measure = mode === "full" || !device.capabilities.software;
  const bound = measure && notePlans(device, tuning, module, inputs, precision);
  const { used } = tuning;
  // What the shipped table says stays out of the file: a later table may know better.
  const found: Record<string, string> = {};
  const keep = async (path: string) =>
    await writeTunings(path, (all) => ({ ...all, [key]: { ...all[key], ...found } }));
  let written: Promise<UserError | undefined> = Promise.resolve(undefined);
  const onTrial: TunerOptions["onTrial"] = (trial, ...at) => {
    found[trial.key] = trial.won;
    if (file !== undefined) written = written.then(() => keep(file));
    options.onTrial?.(trial, ...at);
  };
  const worthwhile = measure && (bound || !wholeOnly) && tuning.unknown.length > 0;
  if (worthwhile && mustKeep && file !== undefined) await touching(keeping(file), () => tryWriting(dirname(file)));
  const trials = worthwhile ? await tune(device, tuning, { ...options, onTrial }) : [];
  const unkept = await written;
  device.useTuning(tuning);
  return {
    trials,
    known: used.length,
    shipped: used.filter((key) => !Object.hasOwn(own, key)).length,
    tooLarge: tuning.unknown.length,
    unkept,
  };
}

/** What is known of a device: the table that comes with the program, over it the user's own. */
function merged(key: string, own: TuningEntries | undefined): Tuning {
  return new Tuning({ ...shippedTunings[key], ...own });
}

/**
 * Lets a device use what is known of it; the user's own file only where there is a data directory at all. Measures
 * nothing.
 *
 * @param directory As `--data-dir` gives it.
 */
export async function useKnownTuning(
  device: Device,
  { mode = "auto", directory }: { readonly mode?: TuneMode; readonly directory?: string } = {},
): Promise<void> {
  if (mode === "off") return;
  const key = tuningKey(device);
  let own: TuningEntries | undefined;
  try {
    own = (await readTunings(tuningFile(dataDirectory(directory))))[key];
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
  }
  device.useTuning(merged(key, own));
}

/** Tunings by what they are valid for. */
export type Tunings = Readonly<Record<string, TuningEntries>>;

/** All tunings of a file; none where there is no such file, or it holds something else. */
export async function readTunings(file: string): Promise<Tunings> {
  try {
    return tuningsOf(JSON.parse(await Deno.readTextFile(file)));
  } catch {
    return {};
  }
}

/** What of a file's content has the form of tunings. */
function tuningsOf(value: unknown): Tunings {
  const isRecord = (item: unknown) => typeof item === "object" && item !== null && !Array.isArray(item);
  if (!isRecord(value)) return {};
  const whole = Object.entries(value as Record<string, unknown>).filter(([, entries]) =>
    isRecord(entries) && Object.values(entries as object).every((name) => typeof name === "string")
  );
  return Object.fromEntries(whole) as Tunings;
}

/** The table that comes with the program. */
export const shippedTunings: Tunings = tuningsOf(shipped);

/** A file's text; keys in order, so that two of them are easily compared. */
export function tuningsText(tunings: Tunings): string {
  const sorted = <V>(record: Readonly<Record<string, V>>) => Object.entries(record).sort(([a], [b]) => a < b ? -1 : 1);
  const all = sorted(tunings).map(([key, entries]) => [key, Object.fromEntries(sorted(entries))]);
  return JSON.stringify(Object.fromEntries(all), null, 2) + "\n";
}

const keeping = (file: string) => `keep what is measured in "${file}"`;

/** Why they could not be written; undefined where they were. */
async function writeTunings(file: string, change: (tunings: Tunings) => Tunings): Promise<UserError | undefined> {
  const part = `${file}.${Deno.pid}.part`;
  try {
    // Read now: another process may have tuned meanwhile.
    const text = tuningsText(change(await readTunings(file)));
    await touching(keeping(file), async () => {
      await Deno.mkdir(dirname(file), { recursive: true });
      await Deno.writeTextFile(part, text);
      await Deno.rename(part, file);
    });
  } catch (error) {
    await Deno.remove(part).catch(() => {});
    if (error instanceof UserError) return error;
    throw error;
  }
}
