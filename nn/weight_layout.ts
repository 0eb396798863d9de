/** Where each parameter and running statistic of a module lies in the buffers of its network. */

import type { Device } from "../kernels/device.ts";
import type { Module } from "./module.ts";
import { float32Tensor, type TensorData } from "./safetensors.ts";
import { Counter, Parameter, type StateBuffer, type StateEntry } from "./state.ts";

/** WebGPU's default alignment of bindings, which every device takes. */
export const ALIGNMENT = 256;

/** See the file's head. */
export interface WeightLayout {
  readonly alignment: number;
  readonly entries: { name: string; entry: Parameter | StateBuffer; offset: number }[];
  /** Of the parameters that are more than a vector: they stand first, so that weight decay can end where they do. */
  readonly matrixBytes: number;
  readonly parameterBytes: number;
  readonly statisticBytes: number;
}

/** Lays out a module's state, each entry once. */
export function layOut(module: Module, alignment: number): WeightLayout {
  const ends = { matrices: 0, vectors: 0, statistics: 0 };
  const seen = new Set<StateEntry>();
  const placed = [...module.stateEntries()].flatMap(([name, entry]) => {
    if (entry instanceof Counter || seen.has(entry)) return [];
    seen.add(entry);
    const kind = entry instanceof Parameter ? (entry.shape.length > 1 ? "matrices" : "vectors") : "statistics";
    const offset = ends[kind];
    ends[kind] += Math.ceil(entry.storedElements * 4 / alignment) * alignment;
    return [{ name, entry, kind, offset }];
  });
  return {
    alignment,
    entries: placed.map(({ name, entry, kind, offset }) => ({
      name,
      entry,
      offset: kind === "vectors" ? ends.matrices + offset : offset,
    })),
    matrixBytes: ends.matrices,
    parameterBytes: Math.max(alignment, ends.matrices + ends.vectors),
    statisticBytes: Math.max(alignment, ends.statistics),
  };
}

/** Reads a buffer of one float a parameter's: by name, in PyTorch's layouts, as it is when it is called. */
export async function readParameters(
  device: Device,
  { entries }: WeightLayout,
  buffer: GPUBuffer,
): Promise<Map<string, TensorData>> {
  const bytes = await device.read(buffer, 0, buffer.size);
  return new Map(
    entries.filter(({ entry }) => entry instanceof Parameter).map(({ name, entry, offset }) => {
      const stored = new Float32Array(bytes, offset, entry.storedElements);
      return [name, float32Tensor(entry.fromStored(stored), entry.shape)];
    }),
  );
}
