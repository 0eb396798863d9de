/** Adds partial sums in a fixed order, so that a gradient has the same bits every time. */

import type { Capabilities } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { operand, read, write } from "./dispatch.ts";
import { ceilDiv, eachItem, itemGrid, unroll } from "./wgsl.ts";

/** Partial sums one invocation adds. */
const FAN_IN = 32;
/** Of them loaded at a time: the next load need not wait for the last one's addition. */
const AT_ONCE = 8;

/** Where a part of the sums goes. */
export interface SumOutput {
  readonly operand: Operand;
  /** vec4s written from its start. */
  readonly vecs: number;
}

/**
 * Dispatches that add `chunks` rows of `partial`, each row the concatenation of `outputs`, into the outputs. Many chunks
 * take several rounds.
 */
export function partialSums(
  partial: Operand,
  chunks: number,
  outputs: readonly SumOutput[],
  caps: Capabilities,
): Dispatch[] {
  const vecs = outputs.reduce((sum, output) => sum + output.vecs, 0);
  const dispatches: Dispatch[] = [];
  while (chunks > FAN_IN) {
    const next = ceilDiv(chunks, FAN_IN);
    const into = operand(partial.label, next * vecs * 4);
    dispatches.push(round(partial, chunks, [{ operand: into, vecs: next * vecs }], vecs, next, caps));
    [partial, chunks] = [into, next];
  }
  return [...dispatches, round(partial, chunks, outputs, vecs, 1, caps)];
}

function round(
  partial: Operand,
  chunks: number,
  outputs: readonly SumOutput[],
  vecs: number,
  rows: number,
  caps: Capabilities,
): Dispatch {
  const items = vecs * rows;
  const workgroupSize = caps.software ? 8 : 64;
  // Where each output begins is told at run time: sums of all sizes share a shader.
  const starts: Record<string, number> = {};
  let from = 0;
  const stores = outputs.map((output, index) => {
    if (index > 0) starts[`FROM_${index}`] = from;
    from += output.vecs;
    const store = `set_output_${index}(item${index > 0 ? ` - FROM_${index}` : ""}, sum);`;
    return index === outputs.length - 1 ? store : `if (item < FROM_${index + 1}) { ${store} return; }`;
  });
  return {
    label: "partial_sums",
    bindings: {
      partial: read(partial),
      ...Object.fromEntries(outputs.map((output, index) => [`output_${index}`, write(output.operand)])),
    },
    uniforms: { ITEMS: items, VECS: vecs, CHUNKS: chunks, ...starts },
    source: /* wgsl */ `
${eachItem(workgroupSize)}
  let first = item / VECS * ${FAN_IN}u;
  let end = min(first + ${FAN_IN}u, CHUNKS);
  let column = item % VECS;
  var sum = vec4f();
  var chunk = first;
  for (; chunk + ${AT_ONCE}u <= end; chunk += ${AT_ONCE}u) {
    ${unroll(AT_ONCE, (i) => `let part_${i} = partial[(chunk + ${i}u) * VECS + column];`)}
    ${unroll(AT_ONCE, (i) => `sum += part_${i};`)}
  }
  for (; chunk < end; chunk++) {
    sum += partial[chunk * VECS + column];
  }
  ${stores.join("\n  ")}
}`,
    workgroups: itemGrid(items, workgroupSize, caps.maxWorkgroupsPerDimension),
    flops: vecs * 4 * chunks,
    bytes: 16 * vecs * (chunks + rows),
  };
}
