/** Weights of one task as the beginning of another: all of them but the head, where that is of another size or missing. */

import { fittedState } from "./described_network.ts";
import type { Module } from "./module.ts";
import { Counter } from "./state.ts";
import type { StateDict } from "./weights.ts";

/** The last layer, which says the classes. */
export const HEAD: readonly string[] = ["fc.weight", "fc.bias"];

/** Whether weights are a network's without its head, as timm saves one of `num_classes=0`. */
export function isHeadless(state: StateDict): boolean {
  return !HEAD.some((name) => state.has(name));
}

/** Weights to begin with. */
export interface FineTuning {
  /** What is taken over; a replaced head is left out. */
  readonly state: StateDict;
  /** Classes of the head that is replaced, 0 where there was none; undefined where it is kept. */
  readonly replacedClasses?: number;
}

/**
 * Fits weights to a network, its head aside.
 *
 * @throws {UserError} naming the first tensor that does not fit.
 *
 * @example
 * ```ts
 * import { fineTuning, Network, openDevice, resnext50 } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const sizes = { layers: [1], channels: [16], cardinality: 4 };
 * const trained = await (await Network.create(device, resnext50({ ...sizes, numClasses: 100 }))).stateDict();
 * const { state, replacedClasses } = fineTuning(resnext50({ ...sizes, numClasses: 3 }), trained);
 * if (replacedClasses !== 100 || state.has("fc.weight")) throw new Error("the head is left out");
 * device.close();
 * ```
 */
export function fineTuning(module: Module, tensors: StateDict): FineTuning {
  const wanted = new Map([...module.stateEntries()].flatMap(([name, entry]) => {
    return entry instanceof Counter ? [] : [[name, entry.shape] as const];
  }));
  const next = wanted.get(HEAD[0]) ?? [], headless = next.length > 0 && isHeadless(tensors);
  const own = headless ? [0, next[1]] : tensors.get(HEAD[0])?.shape ?? [];
  const replaced = own.length === 2 && own[1] === next[1] && own[0] !== next[0];
  if (!replaced) return { state: fittedState(module, tensors) };
  const state = new Map(tensors);
  // Fitted with a stand-in of the right size, which is then left out.
  for (const name of HEAD) {
    const shape = wanted.get(name)!;
    const bytes = new Uint8Array(shape.reduce((product, size) => product * size, 4));
    if (headless || tensors.has(name)) state.set(name, { dtype: "F32", shape, bytes });
  }
  const fitted = new Map(fittedState(module, state));
  for (const name of HEAD) fitted.delete(name);
  return { state: fitted, replacedClasses: own[0] };
}
