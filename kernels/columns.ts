/**
 * Passes over the columns of a [rows, channels] matrix, which is what batch norm, bias gradients and their like see of
 * an NHWC activation. A **column** here is one vec4 of channels, so that neighbouring invocations load neighbouring
 * vec4s. Two kinds of pass:
 *
 * - a **map** visits each element with a few values of its column at hand, one invocation taking a block of rows so
 *   that those values are loaded once for many elements;
 * - a **reduction** sums over rows. The rows are split in chunks, one workgroup summing one chunk of some columns (its
 *   row lanes by a tree in workgroup memory); the chunks' partial sums are the rows of a second, small reduction.
 *   The order of summation is fixed by the sizes alone.
 *
 * On a software adapter a workgroup has one row lane (no barriers) and is as wide as the SIMD unit.
 */

import type { Capabilities } from "./device.ts";
import type { Binding, Dispatch } from "./dispatch.ts";
import { padded } from "./layout.ts";
import { type RowChunks, rowChunks } from "./row_sums.ts";
import { ceilDiv, eachItem, itemGrid, unroll } from "./wgsl.ts";

/** Rows in flight at once: independent loads hide memory's latency. */
const UNROLL = 4;

/** How a reduction is split. */
export interface ColumnTiling {
  readonly rows: number;
  /** vec4s in a row. */
  readonly columns: number;
  /** Columns of one workgroup. */
  readonly columnLanes: number;
  /** Invocations that share a column's chunk. A power of two. */
  readonly rowLanes: number;
  readonly chunkRows: number;
  readonly chunks: number;
}

/** Splits the first stage of a reduction: enough workgroups to fill a large GPU, few long ones in software. */
export function columnTiling(rows: number, channels: number, caps: Capabilities): ColumnTiling {
  const columns = padded(channels) / 4;
  const columnLanes = Math.min(caps.software ? 8 : 16, powerOfTwo(columns));
  const rowLanes = caps.software ? 1 : 256 / columnLanes;
  const wantedChunks = ceilDiv(caps.software ? 32 : 1024, ceilDiv(columns, columnLanes));
  // A lane sums at most so many rows in one float: rounding errors grow with the length of a sum. In software it also
  // keeps the pages of a chunk at hand for the next columns.
  const most = caps.software ? 128 : 64, least = caps.software ? 32 : 4;
  const wanted = Math.min(most, Math.max(least, ceilDiv(rows, wantedChunks * rowLanes)));
  const laneRows = Math.max(wanted, ceilDiv(rows, caps.maxWorkgroupsPerDimension * rowLanes));
  const chunkRows = laneRows * rowLanes;
  return { rows, columns, columnLanes, rowLanes, chunkRows, chunks: ceilDiv(rows, chunkRows) };
}

/** The last stage: the rows are an earlier one's chunks, and one chunk holds them all. */
export function combineTiling(chunks: number, channels: number, caps: Capabilities): ColumnTiling {
  const columns = padded(channels) / 4;
  const columnLanes = caps.software ? Math.min(8, powerOfTwo(columns)) : 1;
  // A lane that adds few chunks waits for few loads: a GPU's time for this is nearly all waiting.
  const rowLanes = caps.software ? 1 : Math.min(256, powerOfTwo(chunks));
  return { rows: chunks, columns, columnLanes, rowLanes, chunkRows: chunks, chunks: 1 };
}

/** Chunks that the last stage may take, and how many become one in a stage between where there are more. */
const MOST_CHUNKS = 1024;
const MERGED = 32;

/**
 * Chunks few enough for the last stage: of so many, `merge` makes one of 32 at a time, as often as it takes.
 *
 * @param rows Of the matrix.
 * @param merge The stage that sums the chunks `from` into `to`.
 */
export function fewChunks(
  chunks: RowChunks,
  { rows, channels }: { readonly rows: number; readonly channels: number },
  caps: Capabilities,
  merge: (from: RowChunks, to: RowChunks, tiling: ColumnTiling) => Dispatch,
): { readonly chunks: RowChunks; readonly dispatches: Dispatch[] } {
  const columns = padded(channels) / 4, columnLanes = Math.min(caps.software ? 8 : 16, powerOfTwo(columns));
  const rowLanes = caps.software ? 1 : 4, dispatches: Dispatch[] = [];
  while (chunks.chunks > MOST_CHUNKS) {
    const to = rowChunks(chunks.partials.label, rows, padded(channels), chunks.chunkRows * MERGED);
    const tiling = { rows: chunks.chunks, columns, columnLanes, rowLanes, chunkRows: MERGED, chunks: to.chunks };
    dispatches.push(merge(chunks, to, tiling));
    chunks = to;
  }
  return { chunks, dispatches };
}

function powerOfTwo(atLeast: number): number {
  return 2 ** Math.ceil(Math.log2(atLeast));
}

/** What both kinds of pass are told. WGSL parts see `column`, and `K` stands for one of a few rows in flight. */
export interface ColumnPass {
  readonly label: string;
  readonly bindings: Readonly<Record<string, Binding>>;
  readonly constants?: Dispatch["constants"];
  readonly uniforms?: Dispatch["uniforms"];
  /** WGSL functions that the parts below call. */
  readonly functions?: string;
  /** WGSL once before the rows. */
  readonly setup?: string;
  /** WGSL that loads what row K needs from vec4 index `atK`, into names that end in K. */
  readonly load: (k: number) => string;
  /** WGSL that uses what `load` loaded. */
  readonly use: (k: number) => string;
  readonly flops: number;
  readonly bytes: number;
}

/** A {@linkcode ColumnPass} that sums; see {@linkcode reduceColumns}. */
export interface ColumnReduction extends ColumnPass {
  /** How many vec4f sums `sum0, sum1, ...` it has, which `use` adds to. */
  readonly sums: number;
  /** WGSL once a column and chunk, with whole sums, `chunk`, and `count`: the rows summed. */
  readonly finish: string;
}

/**
 * One stage of a reduction. `setup`, `use` and `finish` see `chunk`, `begin` and `end` (its rows) and `row`; `partial(i)`
 * is the index of sum `i` of this column and chunk in an array of partial sums, laid out [sum, chunk, column] so that
 * the next stage finds sum `i` of its row at `at + i * ROWS * COLUMNS`.
 */
export function reduceColumns(pass: ColumnReduction, tiling: ColumnTiling): Dispatch {
  const { rows, columns, columnLanes, rowLanes, chunkRows, chunks } = tiling;
  const size = columnLanes * rowLanes;
  const shared = rowLanes === 1 ? "" : unroll(pass.sums, (i) => `var<workgroup> shared${i}: array<vec4f, ${size}>;`);
  const tree: string[] = [];
  for (let half = rowLanes / 2; half >= 1; half /= 2) {
    tree.push(`
  ${unroll(pass.sums, (i) => `shared${i}[local] = sum${i};`)}
  workgroupBarrier();
  if (row_lane < ${half}u) {
    ${unroll(pass.sums, (i) => `sum${i} += shared${i}[local + ${half * columnLanes}u];`)}
  }
  ${half > 1 ? "workgroupBarrier();" : ""}`);
  }
  return {
    label: pass.label,
    bindings: pass.bindings,
    constants: { COLUMN_LANES: columnLanes, ...pass.constants },
    uniforms: { ROWS: rows, COLUMNS: columns, CHUNK_ROWS: chunkRows, CHUNKS: chunks, ...pass.uniforms },
    source: /* wgsl */ `
${shared}
${pass.functions ?? ""}
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let row_lane = local / COLUMN_LANES;
  let column = group.x * COLUMN_LANES + local % COLUMN_LANES;
  let chunk = group.y;
  let begin = chunk * CHUNK_ROWS;
  let end = min(begin + CHUNK_ROWS, ROWS);
  ${unroll(pass.sums, (i) => `var sum${i} = vec4f();`)}
  if (column < COLUMNS) {
    ${pass.setup ?? ""}
    ${eachRow("begin + row_lane", "end", rowLanes, pass)}
  }
  ${tree.join("\n")}
  if (row_lane == 0u && column < COLUMNS) {
    let count = f32(end - begin);
    ${pass.finish}
  }
}
fn partial(column: u32, chunk: u32, sum: u32) -> u32 { return (sum * CHUNKS + chunk) * COLUMNS + column; }`,
    workgroups: [ceilDiv(columns, columnLanes), chunks, 1],
    flops: pass.flops,
    bytes: pass.bytes,
  };
}

/** A map over all elements: `use` writes them. */
export function mapColumns(pass: ColumnPass, rows: number, channels: number, caps: Capabilities): Dispatch {
  const columns = padded(channels) / 4;
  const size = caps.software ? 8 : 256;
  const [enough, most] = caps.software ? [512, 64] : [131072, 8];
  const blockRows = Math.min(most, Math.max(1, Math.floor(rows * columns / enough)));
  const items = columns * ceilDiv(rows, blockRows);
  return {
    label: pass.label,
    bindings: pass.bindings,
    constants: pass.constants,
    uniforms: { ROWS: rows, COLUMNS: columns, BLOCK_ROWS: blockRows, ITEMS: items, ...pass.uniforms },
    source: /* wgsl */ `
${pass.functions ?? ""}
${eachItem(size)}
  let column = item % COLUMNS;
  let begin = item / COLUMNS * BLOCK_ROWS;
  ${pass.setup ?? ""}
  ${eachRow("begin", "min(begin + BLOCK_ROWS, ROWS)", 1, pass)}
}`,
    workgroups: itemGrid(items, size, caps.maxWorkgroupsPerDimension),
    flops: pass.flops,
    bytes: pass.bytes,
  };
}

/** A loop over rows `first, first + stride, ..` before `end`, some at a time: all their loads, then all their uses. */
function eachRow(first: string, end: string, stride: number, { load, use }: ColumnPass): string {
  return /* wgsl */ `
    var row = ${first};
    let last = ${end};
    for (; row + ${(UNROLL - 1) * stride}u < last; row += ${UNROLL * stride}u) {
      ${unroll(UNROLL, (k) => `let at${k} = (row + ${k * stride}u) * COLUMNS + column;\n${load(k)}`)}
      ${unroll(UNROLL, use)}
    }
    for (; row < last; row += ${stride}u) {
      let at0 = row * COLUMNS + column;
      ${load(0)}
      ${use(0)}
    }`;
}
