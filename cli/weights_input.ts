/** Files of weights that a user names. */

import { join } from "@std/path";
import { FileSource } from "../data/file_source.ts";
import { fileSize, touching } from "../data/files.ts";
import { UserError } from "../kernels/user_error.ts";
import { SafetensorsReader } from "../nn/safetensors_reader.ts";
import { isTorchFile } from "../nn/torch_file.ts";
import { readWeightsFile, type WeightsFile } from "../nn/weights_file.ts";

/**
 * Reads weights, safetensors or PyTorch's, by range: they are in memory once.
 *
 * @throws {UserError} for other files, damaged ones, and what a pickle may not do.
 */
export async function readWeights(path: string): Promise<WeightsFile> {
  await using source = await openFile(path);
  return await readWeightsFile(source, path);
}

/** Tells what was done to find weights, beside a command's output. */
export function tellNotes(notes: readonly string[]): void {
  for (const note of notes) console.error(`${note[0].toUpperCase()}${note.slice(1)}`);
}

/** Whether a file is a checkpoint of this program's, as its header says. @throws {UserError} where it cannot be read. */
export async function isCheckpoint(path: string): Promise<boolean> {
  await using source = await openFile(path);
  if (isTorchFile(await source.read(0, Math.min(16, source.size)))) return false;
  return (await SafetensorsReader.open(source, path)).metadata.resnext !== undefined;
}

async function openFile(path: string): Promise<FileSource> {
  await refuseRunFolder(path, "best.safetensors");
  return await FileSource.open(path);
}

/** @throws {UserError} where `path` is the folder of a run, with the file in it that is meant. */
export async function refuseRunFolder(path: string, file: "best.safetensors" | "last.safetensors"): Promise<void> {
  const meant = join(path, file);
  if (await touching(`read "${path}"`, () => fileSize(meant)) === undefined) return;
  throw new UserError(`Cannot read "${path}": it is a folder; name the file in it: ${meant}`);
}
