/** Files of weights, of whatever kind: safetensors, or PyTorch's own. */

import type { ByteSource } from "./byte_source.ts";
import type { TensorData } from "./safetensors.ts";
import { SafetensorsReader } from "./safetensors_reader.ts";
import { withoutWrappers } from "./state_names.ts";
import { isTorchFile, readTorchFile } from "./torch_file.ts";

/** What a file of weights holds. */
export interface WeightsFile {
  /** Which kind of file it is. */
  readonly format: "safetensors" | "torch";
  /** By name, in the file's order; without what wrappers of a network put before the names. */
  readonly tensors: ReadonlyMap<string, TensorData>;
  /** A safetensors file's; empty for PyTorch's. */
  readonly metadata: Readonly<Record<string, string>>;
  /** What was done to find the weights, for people. */
  readonly notes: readonly string[];
}

/**
 * Reads weights; what kind the file is, its first bytes tell. What PyTorch's wrappers put before every name, such as
 * `module.` and `_orig_mod.`, is taken off, and `notes` say so; `parseSafetensors` leaves names as they are.
 *
 * @param name Stands in error messages.
 * @throws {UserError} for other files, damaged ones, and what a pickle may not do.
 */
export async function readWeightsFile(source: ByteSource, name = "input"): Promise<WeightsFile> {
  const { format, tensors, metadata, notes } = await readAsStored(source, name);
  const { state, notes: more } = withoutWrappers(tensors);
  return { format, tensors: state, metadata, notes: [...notes, ...more] };
}

async function readAsStored(source: ByteSource, name: string): Promise<WeightsFile> {
  const head = await source.read(0, Math.min(16, source.size));
  if (isTorchFile(head)) return { format: "torch", metadata: {}, ...await readTorchFile(source, name) };
  const { tensors, metadata } = await (await SafetensorsReader.open(source, name)).all();
  return { format: "safetensors", tensors, metadata, notes: [] };
}
