/** A network's state by the formula of `tests/goldens/README.md`. */

import type { Module } from "../../nn/module.ts";
import { float32Tensor, int64Scalar, type TensorData } from "../../nn/safetensors.ts";
import { Counter } from "../../nn/state.ts";
import { formula } from "../support.ts";

/** Entry number `j` of the `state_dict` comes of stream `streamBase + j`; its scale depends on its kind. */
export function formulaState(module: Module, streamBase: number): Map<string, TensorData> {
  const state = new Map<string, TensorData>();
  let stream = streamBase;
  for (const [name, entry] of module.stateEntries()) {
    if (entry instanceof Counter) {
      state.set(name, int64Scalar(0));
    } else {
      const { scale, offset } = ruleOf(name, entry.shape);
      const values = formula(entry.elements, stream, scale);
      state.set(name, float32Tensor(offset ? values.map((value) => offset + value) : values, entry.shape));
    }
    stream++;
  }
  return state;
}

function ruleOf(name: string, shape: readonly number[]): { scale: number; offset: number } {
  if (name.endsWith("running_mean") || name.endsWith("bias")) return { scale: 0.1, offset: 0 };
  if (shape.length === 1) return { scale: 0.25, offset: 1 };
  const fanIn = shape.slice(1).reduce((product, size) => product * size, 1);
  return { scale: Math.sqrt((shape.length === 4 ? 6 : 3) / fanIn), offset: 0 };
}
