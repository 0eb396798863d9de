/**
 * What a run's folder tells beside its checkpoints: `config.json`, what it was told to do, and `metrics.jsonl`, how it went.
 * What is wrong in them counts as absent, so that one bad run takes no list with it.
 */

import { basename, join } from "@std/path";
import { checkReadable, touching } from "../data/files.ts";
import { UserError } from "../kernels/user_error.ts";
import type { CheckpointDescription, EpochMetrics } from "../nn/checkpoint.ts";
import { isEpochLine, isRunConfig, wrongInDescription } from "../nn/description_check.ts";
import type { RunDescription } from "../nn/run_description.ts";

/** The file of what a run was told to do. */
export const CONFIG_FILE = "config.json";
/** The file of its epochs, a JSON object a line. */
export const METRICS_FILE = "metrics.jsonl";

/** Options as a config file holds them, by flag. */
export type ConfigOptions = Readonly<Record<string, string | number | boolean>>;

/** What a run was told to do, and where. */
export interface RunConfig extends RunDescription {
  /** The options that do it again, as a config file holds them; absent where it was not begun by options. */
  readonly options?: ConfigOptions;
  /** It was given other epochs or another patience on its way, so that they do not. */
  readonly lengthened?: boolean;
  readonly class_names: readonly string[];
  readonly parameters: number;
  readonly train_images: number;
  readonly test_images: number;
  readonly device: string;
  readonly software: boolean;
  /** Of this program and of Deno. */
  readonly version: string;
  readonly deno: string;
  /** When it was begun or last gone on with, in ISO 8601. */
  readonly started: string;
}

/** What an epoch came to. */
export interface EpochRecord extends EpochMetrics {
  /** Of the epoch's last step. */
  readonly lr?: number;
  /** Training and testing; of an epoch that was gone on with, its first part counts as fast as the rest. */
  readonly seconds?: number;
  readonly images_per_second?: number;
}

/** A run as its folder tells it. */
export interface RecordedRun {
  readonly path: string;
  readonly name: string;
  /** Absent for a run of a version that wrote none. */
  readonly config?: RunConfig;
  /** Absent where there is no checkpoint either. */
  readonly description?: CheckpointDescription;
  readonly epochs: readonly EpochRecord[];
  /** Of all files in the folder. */
  readonly bytes: number;
}

/**
 * Reads a run's folder, without its tensors.
 *
 * @throws {UserError} where it is no run's.
 */
export async function readRun(path: string): Promise<RecordedRun> {
  const run = await findRun(path);
  if (!run) {
    throw new UserError(
      `Cannot read the run "${path}": it holds no checkpoint and no ${CONFIG_FILE} of a run; name its folder`,
    );
  }
  return run;
}

/** As {@linkcode readRun}; undefined where the folder is no run's. */
export async function findRun(path: string): Promise<RecordedRun | undefined> {
  const config = await readConfig(join(path, CONFIG_FILE));
  const description = await readDescription(join(path, "last.safetensors")) ??
    await readDescription(join(path, "best.safetensors"));
  if (!config && !description) return undefined;
  let bytes = 0;
  for await (const { name, isFile } of Deno.readDir(path)) {
    // One that a run is writing may have got its name by now.
    if (isFile) bytes += await Deno.stat(join(path, name)).then(({ size }) => size, () => 0);
  }
  const told = await readEpochs(path);
  const saved = description?.progress?.history ?? [];
  // A checkpoint knows the metrics too; the lines know more.
  const epochs = told.length >= saved.length ? told : saved;
  return { path, name: basename(path), config, description, epochs, bytes };
}

/** The lines of a folder's `metrics.jsonl`; none where there is no such file. */
export async function readEpochs(folder: string): Promise<EpochRecord[]> {
  return parseEpochs(await readText(join(folder, METRICS_FILE)) ?? "");
}

/** The epochs that lines tell; a line that was cut off is left out. */
export function parseEpochs(text: string): EpochRecord[] {
  // An epoch that was done again, as after the device was lost, counts as it was the last time.
  const epochs = new Map<number, EpochRecord>();
  for (const line of text.split("\n")) {
    try {
      const value = JSON.parse(line);
      if (isEpochLine(value)) epochs.set(value.epoch, value);
    } catch {
      // Empty, or cut off by a crash or a full disk.
    }
  }
  return [...epochs.values()];
}

/** The epoch with the highest test accuracy, the first of them. */
export function bestEpoch<Epoch extends EpochMetrics>(epochs: readonly Epoch[]): Epoch | undefined {
  return epochs.length === 0 ? undefined : epochs.reduce((a, b) => b.test_acc > a.test_acc ? b : a);
}

async function readText(path: string): Promise<string | undefined> {
  return await touching(`read "${path}"`, async () => {
    try {
      await checkReadable(path);
      return await Deno.readTextFile(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
      throw error;
    }
  });
}

async function readConfig(path: string): Promise<RunConfig | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(text);
    return isRunConfig(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** A checkpoint's description, out of the head of its file. */
async function readDescription(path: string): Promise<CheckpointDescription | undefined> {
  try {
    await checkReadable(path);
    using file = await Deno.open(path);
    const length = Number(new DataView(await readExactly(file, 8)).getBigUint64(0, true));
    if (length > 100 * 2 ** 20) return undefined;
    const head = JSON.parse(new TextDecoder().decode(await readExactly(file, length)));
    const description = JSON.parse(head.__metadata__.resnext);
    return wrongInDescription(description) === undefined ? description : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return undefined;
  }
}

async function readExactly(file: Deno.FsFile, length: number): Promise<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const n = await file.read(bytes.subarray(at));
    if (n === null) throw new Error("the file ends");
    at += n;
  }
  return bytes.buffer;
}
