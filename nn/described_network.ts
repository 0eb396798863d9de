/** The network that a checkpoint describes, and whether weights are its. */

import { UserError } from "../kernels/user_error.ts";
import type { NetworkDescription } from "./checkpoint.ts";
import type { Module } from "./module.ts";
import { Counter } from "./state.ts";
import { float32Tensor, int64Scalar, type TensorData, toFloat32 } from "./safetensors.ts";
import { quoted } from "./json.ts";
import { checkNames } from "./state_check.ts";
import type { StateDict } from "./weights.ts";
import { ARCHITECTURES, isArchitecture, resnext } from "./resnext.ts";

/**
 * Builds the module.
 *
 * @throws {UserError} for an unknown architecture, or sizes that make none.
 */
export function describedNetwork(
  { arch, num_classes: numClasses, cardinality, layers, channels, base_width: baseWidth, stem }: NetworkDescription,
): Module {
  if (!isArchitecture(arch)) {
    throw new UserError(
      `Unknown architecture ${quoted(arch)}: this version knows ${Object.keys(ARCHITECTURES).join(", ")}`,
    );
  }
  try {
    return resnext(arch, { numClasses, cardinality, layers, channels, baseWidth, stem });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const why = error.message.replace(/^Cannot build a ResNeXt: /, "");
    throw new UserError(`Cannot build ${arch}: ${why}`, { cause: error });
  }
}

/**
 * A module's `state_dict` out of tensors: in the module's order, weights as float32, absent counters zero.
 *
 * @throws {UserError} naming the first tensor that is missing, too many, of another shape, or without the bytes that its
 * shape needs.
 */
export function fittedState(module: Module, tensors: StateDict): StateDict {
  const entries = [...module.stateEntries()];
  checkNames(tensors, entries);
  return new Map(entries.map(([name, entry]): [string, TensorData] => {
    const tensor = tensors.get(name);
    if (entry instanceof Counter) return [name, tensor ?? int64Scalar(0)];
    return [name, tensor!.dtype === "F32" ? tensor! : float32Tensor(toFloat32(tensor!, name), entry.shape)];
  }));
}
