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
 * 256 threads share a tile of A and a tile of B in workgroup memory; each computes 4 or 8 rows by 4 or 8 columns. Both tiles
 * keep the loaders' `vec4f`: four along k by row or column, or four along m or n by element of k, so nothing is transposed.
 * A thread's rows lie 16 apart (along k) or in fours (along m), its columns in fours, so that neighbours read neighbouring
 * banks. While a tile is used, the next one is already on its way to registers.
 */
export function sharedTile(problem: Gemm, { rows: rowsPerThread, columns4 }: GemmVariant): Tile {
  const { a: { along: aAlong }, b: { along: bAlong } } = problem;
  const rows = rowsPerThread * 16, columns = columns4 * 64;
  // Along k a row of the tile is one longer than needed: threads that store different k then meet different banks.
  const aStride = aAlong === "k" ? rows + 1 : rows / 4, bStride = bAlong === "k" ? columns + 1 : columns / 4;
  const aLoads = rows * DEPTH4 / THREADS, bLoads = columns * DEPTH4 / THREADS;

  // The vec4 that load `r` of a thread fetches: which one of the tile, where it stands there, how it is loaded.
  const index = (r: number) => `(lane + ${r * THREADS}u)`;
  const alongK = (r: number) => ({ k4: `${index(r)} % ${DEPTH4}u`, line: `${index(r)} / ${DEPTH4}u` });
  const aPlace = (r: number) => aAlong === "k" ? `${alongK(r).k4} * ${aStride}u + ${alongK(r).line}` : index(r);
  // Column 4 j + i stands at i * columns / 4 + j: a thread's four columns are then read without bank conflicts.
  const bPlace = (r: number) => {
    const { k4, line } = alongK(r);
    return bAlong === "k" ? `${k4} * ${bStride}u + ${line} % 4u * ${columns / 4}u + ${line} / 4u` : index(r);
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

  const readA = aAlong === "k"
    ? unroll(rowsPerThread, (i) => `let a_${i} = tile_a[s * ${aStride}u + ty + ${i * 16}u];`)
    : unroll(rowsPerThread, (i) => {
      const i4 = i >> 2, kk = i & 3;
      return `let a_${i4}_${kk} = tile_a[(s * 4u + ${kk}u) * ${aStride}u + ty + ${i4 * 16}u];`;
    });
  const readB = unroll(4 * columns4, (q) => {
    const j = q >> 2, kk = q & 3;
    return bAlong === "k"
      ? `let b_${j}_${kk} = tile_b[s * ${bStride}u + ${kk * columns / 4}u + tx + ${j * 16}u];`
      : `let b_${j}_${kk} = tile_b[(s * 4u + ${kk}u) * ${bStride}u + tx + ${j * 16}u];`;
  });
  const inner = step(problem, {
    rows: rowsPerThread,
    columns4,
    a: (i, kk) => aAlong === "k" ? `a_${i}` : `a_${i}_${kk}`,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  const row = (i: number) => aAlong === "k" ? `ty + ${i * 16}u` : `(ty + ${(i >> 2) * 16}u) * 4u + ${i & 3}u`;
  const column4 = (j: number) => `tile_n / 4u + tx + ${j * 16}u`;
  const sums = problem.columnSums
    ? `if (tile_m == 0u && ty == 0u) { ${unroll(columns4, (j) => `store_sums(${column4(j)}, sums_${j});`)} }`
    : "";
  return {
    rows,
    columns,
    workgroupSize: THREADS,
    declarations: /* wgsl */ `
var<workgroup> tile_a: array<vec4f, ${aStride * (aAlong === "k" ? DEPTH4 : DEPTH)}>;
var<workgroup> tile_b: array<vec4f, ${bStride * (bAlong === "k" ? DEPTH4 : DEPTH)}>;`,
    body: /* wgsl */ `
  let tx = lane % 16u;
  let ty = lane / 16u;
  ${unroll(aLoads, prepareA)}
  ${unroll(aLoads, (r) => `var next_a_${r} = vec4f();`)}
  ${unroll(bLoads, (r) => `var next_b_${r} = vec4f();`)}
  ${fetch("k_begin")}
  ${accumulators(problem, rowsPerThread, columns4)}
  for (var k = k_begin; k < k_end; k += ${DEPTH}u) {
    ${unroll(aLoads, (r) => `tile_a[${aPlace(r)}] = next_a_${r};`)}
    ${unroll(bLoads, (r) => `tile_b[${bPlace(r)}] = next_b_${r};`)}
    workgroupBarrier();
    ${fetch(`k + ${DEPTH}u`)}
    for (var s = 0u; s < ${DEPTH4}u; s++) {
      ${readA}
      ${readB}
      ${addColumnSums(problem, columns4, (j, kk) => `b_${j}_${kk}`)}
      ${inner}
    }
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

/** Rows of a chunk of row sums: those of 16 threads, four each. */
export const SHARED_CHUNK = 64;

/** The threads of a column tell their sums by way of the tiles, which are done with; the first of them adds, in order. */
function sharedSums({ rowSums }: Gemm, chunk: number, of: ChunkRows): string {
  const name = `chunk_${chunk}`, first = `(tile_m + ${chunk * SHARED_CHUNK}u)`;
  const to = { row: first, chunkRows: SHARED_CHUNK };
  const exchange = (one: string, other: string, add: string) => /* wgsl */ `
  tile_a[lane] = ${one};
  tile_b[lane] = ${other};
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
    for (var t = 0u; t < 16u; t++) {
      sum += tile_a[t * 16u + tx];
      second += tile_b[t * 16u + tx];
    }
    ${storeChunk("sum", "second", to)}`,
    );
  }
  // Rows of a thread that lie inside: they are 16 apart.
  const own = (t: string) => `f32(min((max(M, ${first} + ${t}) - ${first} - ${t} + 15u) / 16u, 4u))`;
  return chunkMoments(name, of, own("ty")) + exchange(
    `${name}_mean`,
    `${name}_squares`,
    /* wgsl */ `
    let shift = tile_a[tx];
    for (var t = 0u; t < 16u; t++) {
      let n = ${own("t")};
      let d = tile_a[t * 16u + tx] - shift;
      sum += n * d;
      second += tile_b[t * 16u + tx] + n * d * d;
    }
    let n = f32(min(max(M, ${first}) - ${first}, ${SHARED_CHUNK}u));
    ${storeChunk("shift + sum / n", "max(second - sum * sum / n, vec4f())", to)}`,
  );
}

/** The variants, the best guess first: the largest tile that makes enough workgroups and lies mostly inside the result. */
export function sharedVariants({ m, n, k }: Gemm, caps: Capabilities): GemmVariant[] {
  // Sums that are long enough to be split make workgroups of their own.
  const pieces = Math.max(1, Math.floor(k / 1024));
  const busy = ([rows, columns4]: readonly number[]) =>
    ceilDiv(m, rows * 16) * ceilDiv(n, columns4 * 64) * pieces >= ENOUGH_TILES;
  const roomy = caps.maxWorkgroupStorageBytes >= 2 * 129 * DEPTH4 * 16;
  const sizes = [[8, 2], [8, 1], [4, 2], [4, 1]].filter(([, columns4]) => columns4 === 1 || (n > 64 && roomy));
  const guess = sizes.filter(([rows, columns4]) => rows === 8 || columns4 === 1).find(busy) ?? [4, 1];
  const ordered = [guess, ...sizes.filter((size) => String(size) !== String(guess))];
  return ordered.map(([rows, columns4]) => ({ strategy: "shared", rows, columns4 }));
}

/** Workgroups that keep a large GPU busy. */
const ENOUGH_TILES = 128;
