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
  // A vector of four numbers: halves lie in pairs, the first of a pair in the lower bits.
  const half = x.type === "f16", type = half ? "vec2u" : "vec4u";
  const vecs = x.byteLength / (half ? 8 : 16), rows = ceilDiv(vecs, RUN);
  const masks = half ? ["0x7c000000u", "0x7c00u"] : ["0x7f800000u"];
  const workgroupSize = caps.software ? 8 : 64;
  return {
    label: "find_non_finite",
    bindings: {
      x: read(x, `array<${type}>`),
      found: write(found, "array<atomic<u32>>"),
      settings: readStepSettings(settings),
    },
    uniforms: { VECS: vecs, ITEMS: rows, CODE: code },
    source: /* wgsl */ `
${STEP_SETTINGS}
${eachItem(workgroupSize)}
  var bad = ${half ? "vec2<bool>()" : "vec4<bool>()"};
  for (var at = item; at < VECS; at += ITEMS) {
    ${masks.map((mask) => `bad |= (x[at] & ${type}(${mask})) == ${type}(${mask});`).join("\n    ")}
  }
  if (any(bad)) { atomicMax(&found[settings.slot], CODE); }
}`,
    workgroups: itemGrid(rows, workgroupSize, caps.maxWorkgroupsPerDimension),
    flops: 0,
    bytes: x.byteLength,
  };
}
