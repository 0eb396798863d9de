/** Files of weights that a user names. */

import { FileSource } from "../data/file_source.ts";
import { SafetensorsReader } from "../nn/safetensors_reader.ts";
import { isTorchFile } from "../nn/torch_file.ts";
import { readWeightsFile, type WeightsFile } from "../nn/weights_file.ts";

/**
 * Reads weights, safetensors or PyTorch's, by range: they are in memory once.
 *
 * @throws {UserError} for other files, damaged ones, and what a pickle may not do.
 */
export async function readWeights(path: string): Promise<WeightsFile> {
  await using source = await FileSource.open(path);
  return await readWeightsFile(source, path);
}

/** Whether a file is a checkpoint of this program's, as its header says. @throws {UserError} where it cannot be read. */
export async function isCheckpoint(path: string): Promise<boolean> {
  await using source = await FileSource.open(path);
  if (isTorchFile(await source.read(0, Math.min(16, source.size)))) return false;
  return (await SafetensorsReader.open(source, path)).metadata.resnext !== undefined;
}
