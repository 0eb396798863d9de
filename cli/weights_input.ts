/** Files of weights that a user names. */

import { FileSource } from "../data/file_source.ts";
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
