/** Matrix multiplication by the strategy `shared`; see `gemm.ts`. */

import type { Capabilities } from "./device.ts";
import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { accumulators, addColumnSums, step, stores } from "./gemm_step.ts";
import { chunkMoments, type ChunkRows, chunkSums, storeChunk } from "./row_sums.ts";
import { ceilDiv, unroll } from "./wgsl.ts";

/** Threads of a workgroup, 16 by 16. */
const THREADS = 256;
/** Elements of k that pass through workgroup memory at a time. */
const DEPTH = 16;
const DEPTH4 = DEPTH / 4;

/**
 * 256 threads share a tile of A and a tile of B in workgroup memory; each computes 4 or 8 rows by 4, 8 or 16 columns. Both
 * tiles keep the loaders' `vec4f`: four along k by row or column, or four along m or n by element of k, so nothing is
 * transposed. While a tile is used, the next one is already on its way to registers.
 *
 * A tile is one line for each `ty` (A) or `tx` (B), with all that the threads of that line will read. Where in it is then a
 * constant, so that a read is one instruction, without arithmetic or a check of its bounds; what the 16 elements of k do is
 * written out for the same reason. A line is a few `vec4f` longer than needed, so that neighbours meet different banks.
 */
export function sharedTile(problem: Gemm, variant: GemmVariant): Tile {
  const { a: { along: aAlong }, b: { along: bAlong } } = problem, { rows: rowsPerThread, columns4 } = variant;
  const rows = rowsPerThread * 16, columns = columns4 * 64;
  const [aLine, bLine] = lineLengths(problem, variant);
  const aLoads = rows * DEPTH4 / THREADS, bLoads = columns * DEPTH4 / THREADS;

  // The vec4 that load `r` of a thread fetches: where in the matrices, and where in the tiles.
  const index = (r: number) => `(lane + ${r * THREADS}u)`;
  const alongK = (r: number) => ({ k4: `${index(r)} % ${DEPTH4}u`, line: `${index(r)} / ${DEPTH4}u` });
  // A thread's rows lie 16 apart (along k) or in fours (along m).
  const aPlace = (r: number) => {
    const { k4, line } = alongK(r), k = `${index(r)} / ${rows / 4}u`, m4 = `${index(r)} % ${rows / 4}u`;
    return aAlong === "k"
      ? `[${line} % 16u][${line} / 16u * ${DEPTH4}u + ${k4}]`
      : `[${m4} % 16u][${m4} / 16u * ${DEPTH}u + ${k}]`;
  };
  // Its columns lie in fours.
  const bPlace = (r: number) => {
    const { k4, line } = alongK(r), k = `${index(r)} / ${columns / 4}u`, n4 = `${index(r)} % ${columns / 4}u`;
    return bAlong === "k"
      ? `[${line} / 4u % 16u][${line} / 64u * ${DEPTH}u + ${line} % 4u * ${DEPTH4}u + ${k4}]`
      : `[${n4} % 16u][${n4} / 16u * ${DEPTH}u + ${k}]`;
  };
  const prepareA = (r: number) =>
    aAlong === "k"
      ? `let row_${r} = a_row(min(tile_m + ${alongK(r).line}, M - 1u));`
      : `let column_${r} = a_column(min(tile_m / 4u + ${index(r)} % ${rows / 4}u, M / 4u - 1u));`;
  const fetchA = (r: number, k: string) => {
    if (aAlong === "k") {
      const k4 = `(${k}) / 4u + ${alongK(r).k4}`;
      return `next_a_${r} = select(vec4f(), load_a(row_${r}, min(${k4}, K / 4u - 1u)), (${k4}) * 4u < k_end);`;
    }
    const element = `${k} + ${index(r)} / ${rows / 4}u`;
    return `next_a_${r} = select(vec4f(), load_a(column_${r}, min(${element}, K - 1u)), ${element} < k_end);`;
  };
  const fetchB = (r: number, k: string) => {
    if (bAlong === "k") {
      const k4 = `(${k}) / 4u + ${alongK(r).k4}`, n = `min(tile_n + ${alongK(r).line}, N4 * 4u - 1u)`;
      return `next_b_${r} = select(vec4f(), load_b(min(${k4}, K / 4u - 1u), ${n}), (${k4}) * 4u < k_end);`;
    }
    const element = `${k} + ${index(r)} / ${columns / 4}u`, n4 = `tile_n / 4u + ${index(r)} % ${columns / 4}u`;
    return `next_b_${r} = select(vec4f(), load_b(min(${element}, K - 1u), min(${n4}, N4 - 1u)), ${element} < k_end);`;
  };
  const fetch = (k: string) => unroll(aLoads, (r) => fetchA(r, k)) + "\n" + unroll(bLoads, (r) => fetchB(r, k));

  // Four elements of k.
  const steps = unroll(DEPTH4, (s) => {
    const a = (i: number, kk: number) => `tile_a[ty][${aAlong === "k" ? i * DEPTH4 + s : i * DEPTH + s * 4 + kk}]`;
    const b = (j: number, kk: number) => `b_${j}_${kk}`;
    const readB = (j: number, kk: number) => j * DEPTH + (bAlong === "k" ? kk * DEPTH4 + s : s * 4 + kk);
    return `{
      ${unroll(4 * columns4, (q) => `let ${b(q >> 2, q & 3)} = tile_b[tx][${readB(q >> 2, q & 3)}];`)}
      ${step(problem, { rows: rowsPerThread, columns4, a, b })}
    }`;
  });
  const firstRows = "tile_m == 0u && ty == 0u";
  // The threads of the first rows sum for all. In a loop, so that nothing it reads is kept for the steps.
  const columnSums = problem.columnSums
    ? `if (${firstRows}) {
      for (var s = 0u; s < ${DEPTH}u; s += 4u) {
        ${addColumnSums(problem, columns4, (j, kk) => `tile_b[tx][s + ${j * DEPTH + kk}u]`)}
      }
    }`
    : "";
  const row = (i: number) => aAlong === "k" ? `ty + ${i * 16}u` : `(ty + ${(i >> 2) * 16}u) * 4u + ${i & 3}u`;
  const column4 = (j: number) => `tile_n / 4u + tx + ${j * 16}u`;
  const sums = problem.columnSums
    ? `if (${firstRows}) { ${unroll(columns4, (j) => `store_sums(${column4(j)}, sums_${j});`)} }`
    : "";
  return {
    rows,
    columns,
    workgroupSize: THREADS,
    declarations: /* wgsl */ `
var<workgroup> tile_a: array<array<vec4f, ${aLine}>, 16>;
var<workgroup> tile_b: array<array<vec4f, ${bLine}>, 16>;`,
    body: /* wgsl */ `
  let tx = lane % 16u;
  let ty = lane / 16u;
  ${unroll(aLoads, prepareA)}
  ${unroll(aLoads, (r) => `var next_a_${r} = vec4f();`)}
  ${unroll(bLoads, (r) => `var next_b_${r} = vec4f();`)}
  ${fetch("k_begin")}
  ${accumulators(problem, rowsPerThread, columns4)}
  for (var k = k_begin; k < k_end; k += ${DEPTH}u) {
    ${unroll(aLoads, (r) => `tile_a${aPlace(r)} = next_a_${r};`)}
    ${unroll(bLoads, (r) => `tile_b${bPlace(r)} = next_b_${r};`)}
    workgroupBarrier();
    ${fetch(`k + ${DEPTH}u`)}
    ${columnSums}
    ${steps}
    workgroupBarrier();
  }
  ${
      stores(problem, {
        rows: rowsPerThread,
        row: (i) => `tile_m + ${row(i)}`,
        columns4,
        column4,
        sums: { rows: SHARED_CHUNK / 16, text: (chunk, of) => sharedSums(problem, chunk, of) },
      })
    }
  ${sums}`,
  };
}

/**
 * How many `vec4f` a line of each tile takes: what is read, and so many more that eight neighbouring threads, whose vec4s
 * pass through workgroup memory together, store to different banks as well as read from them.
 */
function lineLengths({ a }: Gemm, { rows, columns4 }: GemmVariant): [a: number, b: number] {
  return [rows * DEPTH4 + (a.along === "k" ? 4 : 1), columns4 * DEPTH + 1];
}

/** Rows of a chunk of row sums: those of 16 threads, four each. */
export const SHARED_CHUNK = 64;

/** The threads of a column tell their sums by way of the tiles, which are done with; the first of them adds, in order. */
function sharedSums({ rowSums }: Gemm, chunk: number, of: ChunkRows): string {
  const name = `chunk_${chunk}`, first = `(tile_m + ${chunk * SHARED_CHUNK}u)`;
  const to = { row: first, chunkRows: SHARED_CHUNK };
  const exchange = (one: string, other: string, add: string) => /* wgsl */ `
  tile_a[tx][ty] = ${one};
  tile_b[tx][ty] = ${other};
  workgroupBarrier();
  if (ty == 0u) {
    var sum = vec4f();
    var second = vec4f();
    ${add}
  }
  workgroupBarrier();`;
  if (rowSums?.kind === "gradient") {
    return chunkSums(name, of) + exchange(
      `${name}_first`,
      `${name}_second`,
      /* wgsl */ `
    ${unroll(16, (t) => `sum += tile_a[tx][${t}]; second += tile_b[tx][${t}];`)}
    ${storeChunk("sum", "second", to)}`,
    );
  }
  // Rows of a thread that lie inside: they are 16 apart.
  const own = (t: string) => `f32(min((max(M, ${first} + ${t}) - ${first} - ${t} + 15u) / 16u, 4u))`;
  return chunkMoments(name, of, own("ty")) + exchange(
    `${name}_mean`,
    `${name}_squares`,
    /* wgsl */ `
    let shift = tile_a[tx][0];
    ${
      unroll(16, (t) =>
        /* wgsl */ `{
      let n = ${own(`${t}u`)};
      let d = tile_a[tx][${t}] - shift;
      sum += n * d;
      second += tile_b[tx][${t}] + n * d * d;
    }`)
    }
    let n = f32(min(max(M, ${first}) - ${first}, ${SHARED_CHUNK}u));
    ${storeChunk("shift + sum / n", "max(second - sum * sum / n, vec4f())", to)}`,
  );
}

/**
 * The variants, the best guess first: the largest tile that lies mostly inside the result and makes enough workgroups, the
 * sums being cut into `pieces`.
 */
export function sharedVariants(problem: Gemm, pieces: number, caps: Capabilities): GemmVariant[] {
  const { m, n, k } = problem;
  const fits = (size: GemmVariant) => {
    const { rows, columns4 } = size, [aLine, bLine] = lineLengths(problem, size);
    const inside = (rows === 4 || m > rows * 8) && (columns4 === 1 || n > columns4 * 32);
    return inside && 16 * (aLine + bLine) * 16 <= caps.maxWorkgroupStorageBytes;
  };
  const busy = ({ rows, columns4 }: GemmVariant) =>
    ceilDiv(m, rows * 16) * ceilDiv(n, columns4 * 64) * pieces >= ENOUGH_TILES;
  const variants = SIZES.map(([rows, columns4]): GemmVariant => ({ strategy: "shared", rows, columns4 })).filter(fits);
  // The largest takes most of a GPU's registers: only measuring chooses it. Short sums are over soon, and what comes before
  // and after them is hidden by another workgroup's: two of 8x1 find room on a processor.
  const most = k > SHORT ? 2 : 1;
  const guess = variants.find((size) => size.columns4 <= most && busy(size)) ?? variants.at(-1)!;
  return [guess, ...variants.filter((size) => size !== guess)];
}

/** Sums of so many elements do about as long with them as with loading and storing. */
const SHORT = 128;

/** Rows and columns (in fours) of a thread. */
const SIZES = [[8, 4], [8, 2], [8, 1], [4, 2], [4, 1]];

/** Workgroups that keep a large GPU busy. */
export const ENOUGH_TILES = 128;
