/** A plan that watches itself: after each kernel its results are looked through for what is no number any more. */

import type { Capabilities } from "../kernels/device.ts";
import type { Binding, Dispatch, Operand } from "../kernels/dispatch.ts";
import { findNonFinite } from "../kernels/finite.ts";
import { owners } from "./owners.ts";

/** Watched dispatches, and what their findings mean. */
export interface Watched {
  readonly dispatches: readonly Dispatch[];
  /** What an entry of the ring of findings says: where the first value that is not finite appeared; undefined for 0. */
  describe(found: number): string | undefined;
}

/** What a step's dispatches are watched with. */
export interface WatchOptions {
  /** A `u32` a slot. */
  readonly found: Operand;
  readonly settings: Operand;
  /** Names of parameters and statistics, by their operands and by those of their gradients. */
  readonly names: ReadonlyMap<Operand, string>;
  readonly caps: Capabilities;
  /** What the first dispatch is part of; after the loss it is the backward pass. */
  readonly pass?: "forward" | "backward";
}

/** Follows each dispatch by a look at every float that it wrote. Costs about as much as the memory's traffic once more. */
export function watch(
  dispatches: readonly Dispatch[],
  { found, settings, names, caps, pass = "forward" }: WatchOptions,
): Watched {
  const watched: Dispatch[] = [], places: string[] = [];
  const total = dispatches.reduce((sum, { bindings }) => sum + Object.values(bindings).filter(isFloatOutput).length, 0);
  let layer = "the input", passed = pass;
  const owner = owners(dispatches, (operand) => names.get(operand));
  for (const [i, dispatch] of dispatches.entries()) {
    const { label, bindings } = dispatch, name = owner[i];
    if (label.startsWith("cross_entropy")) layer = "the loss";
    else if (label.startsWith("grad_norm")) layer = "the gradients' norm";
    else if (label === "cast") layer = "the weights in half precision";
    else if (label === "accumulate") layer = "the gradients' sums";
    else if (label === "unscale" || label === "loss_scale.update") layer = "the loss scale";
    else if (label === "sgd" || label === "adamw") layer = "the optimizer's step";
    else if (name !== undefined) layer = name.replace(/\.[^.]*$/, "");
    watched.push(dispatch);
    for (const { operand } of Object.values(bindings).filter(isFloatOutput)) {
      // The first one has the largest code, as the largest is kept.
      watched.push(findNonFinite({ x: operand, found, settings }, total - places.length, caps));
      places.push(`${layer} in the ${passed} pass (kernel "${label}", result "${operand.label}")`);
    }
    if (layer === "the loss") passed = "backward";
  }
  return {
    dispatches: watched,
    describe: (code) => code === 0 ? undefined : places[total - code],
  };
}

function isFloatOutput({ access, type, operand }: Binding): boolean {
  return access === "read_write" && (operand.type === "f16" || /^array<(vec4f|f32|vec4<f32>)>$/.test(type));
}
