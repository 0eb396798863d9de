/** Whether tensors are the state of a module: asked before anything is taken from them. */

import { UserError } from "../kernels/user_error.ts";
import { scalarOf, type TensorData, wrongInTensor } from "./safetensors.ts";
import { Counter, type StateEntry } from "./state.ts";
import type { StateDict } from "./weights.ts";

/** Why a tensor cannot be an entry's value, as a predicate; undefined where it can. */
export function wrongForEntry(tensor: TensorData, entry: StateEntry): string | undefined {
  const wrong = wrongInTensor(tensor);
  if (wrong) return wrong;
  if (entry instanceof Counter) return Number.isSafeInteger(scalarOf(tensor)) ? undefined : "is no count";
  if (tensor.dtype === "BOOL") return "holds truth values, no numbers";
  if (String(tensor.shape) === String(entry.shape)) return undefined;
  return `has shape [${tensor.shape}], this network's is [${entry.shape}]; they are of another network`;
}

/**
 * Makes sure that a `state_dict` is of these entries, each with as many bytes as its shape needs; counters may be absent.
 *
 * @throws {UserError} naming what is wrong.
 */
export function checkNames(state: StateDict, entries: readonly (readonly [string, StateEntry])[]): void {
  for (const [name, entry] of entries) {
    const tensor = state.get(name);
    if (!tensor && entry instanceof Counter) continue;
    if (!tensor) throw new UserError(`Cannot load the weights: "${name}" is missing; they are of another network`);
    const wrong = wrongForEntry(tensor, entry);
    if (wrong) throw new UserError(`Cannot load the weights: "${name}" ${wrong}`);
  }
  const known = new Set(entries.map(([name]) => name));
  for (const name of state.keys()) {
    if (!known.has(name)) {
      throw new UserError(`Cannot load the weights: this network has no "${name}"; they are of another network`);
    }
  }
}
