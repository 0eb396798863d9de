/** Adds partial sums in a fixed order, so that a gradient has the same bits every time. */

import type { Capabilities } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { operand, read, write } from "./dispatch.ts";
import { ceilDiv, eachItem, entryPoint, itemGrid, unroll } from "./wgsl.ts";

/** Partial sums that one invocation adds. */
const FAN_IN = 32;
/** Of them loaded at a time: the next load need not wait for the last one's addition. */
const AT_ONCE = 8;
/** On a GPU, whose dispatches cost more than a few additions: invocations that share a sum of more than `FAN_IN`. */
const SHARERS = 8;

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
  const most = caps.software ? FAN_IN : FAN_IN * SHARERS;
  while (chunks > most) {
    const next = ceilDiv(chunks, most);
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
  const sharers = chunks > FAN_IN && !caps.software ? SHARERS : 1;
  const workgroupSize = caps.software ? 8 : 64, each = workgroupSize / sharers;
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
    source: sharers === 1
      ? /* wgsl */ `
${eachItem(workgroupSize)}
  ${sumOf(1)}
  ${stores.join("\n  ")}
}`
      : /* wgsl */ `
var<workgroup> shared_sums: array<vec4f, ${workgroupSize}>;
${entryPoint(workgroupSize)}
  let item = workgroup_index * ${each}u + local % ${each}u;
  ${sumOf(sharers, `local / ${each}u`)}
  shared_sums[local] = sum;
  workgroupBarrier();
  if (local >= ${each}u || item >= ITEMS) { return; }
  ${unroll(sharers - 1, (i) => `sum += shared_sums[local + ${(i + 1) * each}u];`)}
  ${stores.join("\n  ")}
}`,
    workgroups: itemGrid(items, each, caps.maxWorkgroupsPerDimension),
    flops: vecs * 4 * chunks,
    bytes: 16 * vecs * (chunks + rows),
  };
}

/** WGSL of `sum`: of an item's chunks, or those that the sharer `own` of several adds. */
function sumOf(sharers: number, own = "0u"): string {
  return /* wgsl */ `let first = item / VECS * ${FAN_IN * sharers}u;
  let end = min(first + ${FAN_IN * sharers}u, CHUNKS);
  let column = item % VECS;
  var sum = vec4f();
  var chunk = first + ${own};
  for (; chunk + ${(AT_ONCE - 1) * sharers}u < end; chunk += ${AT_ONCE * sharers}u) {
    ${unroll(AT_ONCE, (i) => `let part_${i} = partial[(chunk + ${i * sharers}u) * VECS + column];`)}
    ${unroll(AT_ONCE, (i) => `sum += part_${i};`)}
  }
  for (; chunk < end; chunk += ${sharers}u) {
    sum += partial[chunk * VECS + column];
  }`;
}
