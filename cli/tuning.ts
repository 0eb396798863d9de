/** Where tunings are kept: one file in the data directory, by adapter and Deno version. */

import { join } from "@std/path";
import { stepMemory } from "../nn/memory.ts";
import type { Device } from "../kernels/device.ts";
import type { Shape } from "../kernels/layout.ts";
import { type Trial, tune, type TunerOptions } from "../kernels/tuner.ts";
import { Tuning, type TuningEntries } from "../kernels/tuning.ts";
import { UserError } from "../kernels/user_error.ts";
import { dataDirectory } from "../data/directory.ts";
import type { Module } from "../nn/module.ts";

/** `off`: rules choose. `auto`: what the file knows; on a GPU what it does not is measured. `full`: measured anywhere. */
export const TUNE_MODES = ["off", "auto", "full"] as const;
/** See {@linkcode TUNE_MODES}. */
export type TuneMode = typeof TUNE_MODES[number];

/** Whether to tune, and the data directory, where it is remembered. */
export interface TuneSettings {
  readonly mode: TuneMode;
  readonly directory: string;
}

/** An option of commands that run networks. */
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

/** What a tuning is valid for. */
export function tuningKey(device: Device): string {
  return `${device.name} | Deno ${Deno.version.deno}`;
}

/** The products that a network's steps need and a tuning does not know: planned, not run. */
export function notePlans(device: Device, tuning: Tuning, module: Module, inputs: readonly Shape[]): void {
  const caps = { ...device.capabilities, tuning };
  for (const input of inputs) {
    stepMemory(module, input, { training: true, caps });
    stepMemory(module, input, { training: false, caps });
  }
}

/**
 * Tunes a device for a network's steps on inputs of some sizes, and remembers what it found. A file that cannot be read
 * counts as empty, one that cannot be written is not: tuning is a convenience.
 */
export async function tuneFor(
  device: Device,
  module: Module,
  inputs: readonly Shape[],
  { mode, directory, ...options }: TunerOptions & TuneSettings,
): Promise<Trial[]> {
  if (mode === "off") return [];
  const tuning = await knownTuning(device, directory);
  let trials: Trial[] = [];
  if (mode === "full" || !device.capabilities.software) {
    notePlans(device, tuning, module, inputs);
    if (tuning.unknown.length > 0) {
      trials = await tune(device, tuning, options);
      await writeTuning(tuningFile(directory), tuningKey(device), tuning.entries);
    }
  }
  device.useTuning(tuning);
  return trials;
}

/** What the file of a data directory knows of a device. */
async function knownTuning(device: Device, directory: string): Promise<Tuning> {
  return new Tuning((await readTunings(tuningFile(directory)))[tuningKey(device)]);
}

/** Lets a device use what is known of it, where there is a data directory at all. */
export async function useKnownTuning(device: Device): Promise<void> {
  let directory: string;
  try {
    directory = dataDirectory();
  } catch (error) {
    if (error instanceof UserError) return;
    throw error;
  }
  device.useTuning(await knownTuning(device, directory));
}

/** Forgets what is known of a device. */
export async function forgetTuning(device: Device, directory: string): Promise<void> {
  await writeTuning(tuningFile(directory), tuningKey(device), undefined);
}

type Tunings = Record<string, TuningEntries>;

/** All tunings of a file; none where there is no such file, or it holds something else. */
export async function readTunings(file: string): Promise<Tunings> {
  let value: unknown;
  try {
    value = JSON.parse(await Deno.readTextFile(file));
  } catch {
    return {};
  }
  const isRecord = (item: unknown) => typeof item === "object" && item !== null && !Array.isArray(item);
  if (!isRecord(value)) return {};
  const whole = Object.entries(value as Record<string, unknown>).filter(([, entries]) =>
    isRecord(entries) && Object.values(entries as object).every((name) => typeof name === "string")
  );
  return Object.fromEntries(whole) as Tunings;
}

async function writeTuning(file: string, key: string, entries: TuningEntries | undefined): Promise<void> {
  const part = `${file}.${Deno.pid}.part`;
  try {
    // Read again: another process may have tuned meanwhile.
    const { [key]: _, ...others } = await readTunings(file);
    await Deno.mkdir(join(file, ".."), { recursive: true });
    await Deno.writeTextFile(part, JSON.stringify(entries ? { ...others, [key]: entries } : others, null, 1) + "\n");
    await Deno.rename(part, file);
  } catch {
    await Deno.remove(part).catch(() => {});
  }
}
