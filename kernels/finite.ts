/** Looks for what is no number any more. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, read, write } from "./dispatch.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";
import { ceilDiv, eachItem, itemGrid } from "./wgsl.ts";

/** vec4s that one invocation looks at. */
const RUN = 16;

/**
 * Where `x` holds a NaN or an infinity, raises the slot's entry of `found` to at least `code`. Bits are compared, as
 * compilers may take it for granted that there is no NaN. The maximum of integers is the same in any order.
 */
export function findNonFinite(
  { x, found, settings }: {
    readonly x: Operand;
    /** A `u32` a slot of the ring; 0 where nothing was found. */
    readonly found: Operand;
    /** See `step_settings.ts`: its slot tells the entry. */
    readonly settings: Operand;
  },
  code: number,
  caps: Capabilities,
): Dispatch {
  const vecs = x.byteLength / 16, rows = ceilDiv(vecs, RUN);
  const workgroupSize = caps.software ? 8 : 64;
  return {
    label: "find_non_finite",
    bindings: {
      x: read(x, "array<vec4u>"),
      found: write(found, "array<atomic<u32>>"),
      settings: readStepSettings(settings),
    },
    uniforms: { VECS: vecs, ITEMS: rows, CODE: code },
    source: /* wgsl */ `
${STEP_SETTINGS}
${eachItem(workgroupSize)}
  var bad = vec4<bool>();
  for (var at = item; at < VECS; at += ITEMS) {
    bad |= (x[at] & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
  }
  if (any(bad)) { atomicMax(&found[settings.slot], CODE); }
}`,
    workgroups: itemGrid(rows, workgroupSize, caps.maxWorkgroupsPerDimension),
    flops: 0,
    bytes: x.byteLength,
  };
}
