/** The network that a checkpoint describes. */

import { UserError } from "../kernels/user_error.ts";
import type { NetworkDescription } from "./checkpoint.ts";
import type { Module } from "./module.ts";
import { ARCHITECTURES, isArchitecture, resnext } from "./resnext.ts";

/**
 * Builds the module.
 *
 * @throws {UserError} for an unknown architecture, or sizes that make none.
 */
export function describedNetwork(
  { arch, num_classes: numClasses, cardinality, layers, channels }: NetworkDescription,
): Module {
  if (!isArchitecture(arch)) {
    throw new UserError(`Unknown architecture "${arch}": this version knows ${Object.keys(ARCHITECTURES).join(", ")}`);
  }
  try {
    return resnext(arch, { numClasses, cardinality, ...(layers && { layers }), ...(channels && { channels }) });
  } catch (error) {
    if (error instanceof RangeError) throw new UserError(`Cannot build ${arch}: ${error.message}`, { cause: error });
    throw error;
  }
}
