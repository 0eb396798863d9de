/** Matrix multiplication by the strategy `shared`; see `gemm.ts`. */

import { reluOf } from "./elementwise.ts";
import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { accumulators, addColumnSums, step, stores } from "./gemm_step.ts";
import { chunkMoments, type ChunkRows, chunkSums, storeChunk } from "./row_sums.ts";
import { ceilDiv, unroll } from "./wgsl.ts";

/** Threads side by side in n. */
const LINE = 16;
/** Elements of k that pass through workgroup memory at a time. */
const DEPTH = 16;
const DEPTH4 = DEPTH / 4;

/**
 * Lines of threads in a workgroup. A thread of 8x2 takes some 160 registers: three workgroups of 8 lines find room on a
 * processor of NVIDIA's, but only one of 16.
 */
function linesOf({ rows, columns4 }: GemmVariant): number {
  return rows * columns4 > 8 ? 8 : 16;
}

/**
 * 16 lines of 16 threads, or 8, share a tile of A and a tile of B in workgroup memory; each thread computes 4 or 8 rows by 4
 * or 8 columns. A's tile has four rows by element of k: what is loaded along k is turned on its way there, number by number.
 * B's has four columns by element of k, too, or, but for 8x2, columns as they are loaded along k. While a tile is used, the
 * next one is already on its way to registers.
 *
 * A tile is one line for each `ty` (A) or `tx` (B), with all that the threads of that line will read. Where in it is then a
 * constant, so that a read is one instruction, without arithmetic or a check of its bounds; what the elements of k do is
 * written out for the same reason. A line is a few `vec4f` longer than needed, so that neighbours meet different banks.
 */
export function sharedTile(problem: Gemm, variant: GemmVariant): Tile {
  const { a: { along: aAlong }, b: { along: bAlong } } = problem;
  const { rows: rowsPerThread, columns4 } = variant, lines = linesOf(variant), threads = lines * LINE;
  const rows = rowsPerThread * lines, columns = columns4 * 4 * LINE;
  const [aLine, bLine] = lineLengths(problem, variant);
  const aLoads = rows * DEPTH4 / threads, bLoads = columns * DEPTH4 / threads;
  // Threads that load four columns turn them on the way to the tile: it is as if B were loaded along n.
  const turned = bAlong === "k" && bLoads === 4;

  // The vec4 that load `r` of a thread fetches: where in the matrices, and where in the tiles.
  const index = (r: number) => `(lane + ${r * threads}u)`;
  const alongK = (r: number) => ({ k4: `${index(r)} % ${DEPTH4}u`, line: `${index(r)} / ${DEPTH4}u` });
  // A thread's rows lie in fours. In a turned tile, element `kk` of piece `k4` lies at `k4` and four times `kk`: neighbours,
  // who have the next pieces, meet different banks.
  const storeA = (r: number) => {
    if (aAlong === "m") {
      const k = `${index(r)} / ${rows / 4}u`, m4 = `${index(r)} % ${rows / 4}u`;
      return `tile_a[${m4} % ${lines}u][${m4} / ${lines}u * ${DEPTH}u + ${k}] = next_a_${r};`;
    }
    const { k4, line } = alongK(r), m4 = `${line} / 4u`;
    return unroll(4, (kk) => {
      const at = `(${m4} / ${lines}u * ${DEPTH}u + ${k4} + ${kk * DEPTH4}u) * 4u + ${line} % 4u`;
      return `tile_a[${m4} % ${lines}u][${at}] = next_a_${r}.${"xyzw"[kk]};`;
    });
  };
  // Its columns lie in fours.
  const bPlace = (r: number) => {
    const { k4, line } = alongK(r), k = `${index(r)} / ${columns / 4}u`, n4 = `${index(r)} % ${columns / 4}u`;
    return bAlong === "k"
      ? `[${line} / 4u % ${LINE}u][${line} / ${4 * LINE}u * ${DEPTH}u + ${line} % 4u * ${DEPTH4}u + ${k4}]`
      : `[${n4} % ${LINE}u][${n4} / ${LINE}u * ${DEPTH}u + ${k}]`;
  };
  const prepareA = (r: number) =>
    aAlong === "k"
      ? `let row_${r} = a_row(min(tile_m + ${alongK(r).line}, M - 1u));`
      : `let column_${r} = a_column(min(tile_m / 4u + ${index(r)} % ${rows / 4}u, M / 4u - 1u));`;
  // Sums that are cut at whole tiles need no test: what is fetched beyond their end is never used.
  const whole = problem.k % DEPTH === 0;
  const upTo = (at: string, end: string) => whole ? at : `min(${at}, ${end} - 1u)`;
  const within = (value: string, k: string) => whole ? value : `select(vec4f(), ${value}, ${k} < k_end)`;
  const fetchA = (r: number, k: string) => {
    if (aAlong === "k") {
      const k4 = `(${k}) / 4u + ${alongK(r).k4}`;
      return `next_a_${r} = ${within(`load_a(row_${r}, ${upTo(k4, "K / 4u")})`, `(${k4}) * 4u`)};`;
    }
    const element = `${k} + ${index(r)} / ${rows / 4}u`;
    return `next_a_${r} = ${within(`load_a(column_${r}, ${upTo(element, "K")})`, element)};`;
  };
  const fetchB = (r: number, k: string) => {
    if (bAlong === "k") {
      const column = turned ? `lane / ${DEPTH4}u * 4u + ${r}u` : alongK(r).line;
      const k4 = `(${k}) / 4u + ${alongK(r).k4}`, n = `min(tile_n + ${column}, N4 * 4u - 1u)`;
      return `next_b_${r} = ${within(`load_b(${upTo(k4, "K / 4u")}, ${n})`, `(${k4}) * 4u`)};`;
    }
    const element = `${k} + ${index(r)} / ${columns / 4}u`, n4 = `tile_n / 4u + ${index(r)} % ${columns / 4}u`;
    return `next_b_${r} = ${within(`load_b(${upTo(element, "K")}, min(${n4}, N4 - 1u))`, element)};`;
  };
  // In a turned tile, element `kk` of piece `k4` lies at `2 k4` and this: neighbours, who have the next pieces, meet
  // different banks.
  const turnedAt = (kk: number) => kk % 2 + (kk >> 1) * DEPTH / 2;
  const storeB = turned
    ? unroll(4, (kk) => {
      const n4 = `lane / ${DEPTH4}u`, values = [0, 1, 2, 3].map((r) => `next_b_${r}.${"xyzw"[kk]}`);
      return `tile_b[${n4} % ${LINE}u][${n4} / ${LINE}u * ${DEPTH}u + lane % ${DEPTH4}u * 2u + ${
        turnedAt(kk)
      }u] = vec4f(${values});`;
    })
    : unroll(bLoads, (r) => `tile_b${bPlace(r)} = next_b_${r};`);
  const fetch = (k: string) => unroll(aLoads, (r) => fetchA(r, k)) + "\n" + unroll(bLoads, (r) => fetchB(r, k));

  // Four elements of k.
  const steps = unroll(DEPTH4, (s) => {
    const a = (i4: number, kk: number) =>
      aAlong === "k" ? fourOfA("ty", (i4 * DEPTH + kk * DEPTH4 + s) * 4) : `tile_a[ty][${i4 * DEPTH + s * 4 + kk}]`;
    const b = (j: number, kk: number) => `b_${j}_${kk}`;
    const readB = (j: number, kk: number) =>
      j * DEPTH + (turned ? s * 2 + turnedAt(kk) : bAlong === "k" ? kk * DEPTH4 + s : s * 4 + kk);
    return `{
      ${unroll(4 * columns4, (q) => `let ${b(q >> 2, q & 3)} = tile_b[tx][${readB(q >> 2, q & 3)}];`)}
      ${step({ a: "m", b: turned ? "n" : bAlong }, { rows: rowsPerThread, columns4, a, b })}
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
  const row = (i: number) => `(ty + ${(i >> 2) * lines}u) * 4u + ${i & 3}u`;
  const column4 = (j: number) => `tile_n / 4u + tx + ${j * LINE}u`;
  const sums = problem.columnSums
    ? `if (${firstRows}) { ${unroll(columns4, (j) => `store_sums(${column4(j)}, sums_${j});`)} }`
    : "";
  return {
    rows,
    columns,
    workgroupSize: threads,
    declarations: /* wgsl */ `
var<workgroup> tile_a: array<array<${aAlong === "k" ? `f32, ${aLine * 4}` : `vec4f, ${aLine}`}>, ${lines}>;
var<workgroup> tile_b: array<array<vec4f, ${bLine}>, ${LINE}>;`,
    body: /* wgsl */ `
  ${columns4 === 1 ? BLOCKED_LANES : STRAIGHT_LANES}
  ${unroll(aLoads, prepareA)}
  ${unroll(aLoads, (r) => `var next_a_${r} = vec4f();`)}
  ${unroll(bLoads, (r) => `var next_b_${r} = vec4f();`)}
  ${fetch("k_begin")}
  ${accumulators(problem, rowsPerThread, columns4)}
  for (var k = k_begin; k < k_end; k += ${DEPTH}u) {
    ${unroll(aLoads, storeA)}
    ${storeB}
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
        sums: { rows: SHARED_CHUNK / lines, text: (chunk, of) => sharedSums(problem, chunk, of, lines) },
      })
    }
  ${sums}`,
  };
}

/**
 * Four numbers of a turned tile of A, which is of floats: by WGSL's rules threads that each wrote a component of one `vec4f`
 * would race. NVIDIA's compiler, at least, reads all four at once.
 */
function floatsOfA(line: string, at: number | string): string[] {
  return [0, 1, 2, 3].map((c) => `tile_a[${line}][${typeof at === "number" ? at + c : `${at} + ${c}u`}]`);
}

function fourOfA(line: string, at: number | string): string {
  return `vec4f(${floatsOfA(line, at).join(", ")})`;
}

/**
 * How many `vec4f` a line of each tile takes: what is read, and so many more that neighbouring threads store to different
 * banks as well as read from them: eight whose vec4s pass through workgroup memory together, 32 with a number each.
 */
function lineLengths({ a }: Gemm, { rows, columns4 }: GemmVariant): [a: number, b: number] {
  return [rows * DEPTH4 + (a.along === "k" ? 4 : 1), columns4 * DEPTH + 1];
}

/** Where a thread is in the workgroup's block: line by line. */
const STRAIGHT_LANES = /* wgsl */ `let tx = lane % ${LINE}u;
  let ty = lane / ${LINE}u;`;
/**
 * Or 32 threads as 4 lines of 8, neighbours above one another: what they read of a tile is then the same for two of them,
 * which NVIDIA's workgroup memory serves at once. On an H200 8x1 gains 1 to 3 %; 8x2, when it had 16 lines, lost more.
 */
const BLOCKED_LANES = /* wgsl */ `let tx = lane / 2u % 8u + lane / 32u % 2u * 8u;
  let ty = lane % 2u + lane / 16u % 2u * 2u + lane / 64u * 4u;`;

/** What makes up a chunk of row sums, however many lines there are: so many sums, of four rows in a row each. */
const SUMS = 16;
/** Rows of such a chunk. */
export const SHARED_CHUNK = 4 * SUMS;

/**
 * The threads of a column tell their sums by way of the tiles, which are done with; the first of them adds, in order. Of 8
 * lines, each thread has two of the 16 sums.
 */
function sharedSums({ rowSums }: Gemm, chunk: number, { terms, rows }: ChunkRows, lines: number): string {
  const name = `chunk_${chunk}`, first = `(tile_m + ${chunk * SHARED_CHUNK}u)`;
  const to = { row: first, chunkRows: SHARED_CHUNK };
  const parts = Array.from({ length: SUMS / lines }, (_, part) => {
    const own = (all: readonly string[]) => all.slice(4 * part, 4 * part + 4);
    return { name: `${name}_${part}`, line: `(ty + ${part * lines}u)`, of: { terms: own(terms), rows: own(rows) } };
  });
  const column = (part: number) => `(tx + ${part * LINE}u) * 4u`;
  const firstAt = (line: number) => fourOfA(String(line % lines), column(Math.floor(line / lines)));
  const exchange = (one: string, other: string, add: string) => /* wgsl */ `
  ${
    parts.map(({ name }, part) =>
      [
        ...floatsOfA("ty", column(part)).map((place, c) => `${place} = ${name}_${one}.${"xyzw"[c]};`),
        `tile_b[tx][ty + ${part * lines}u] = ${name}_${other};`,
      ].join("\n")
    ).join("\n")
  }
  workgroupBarrier();
  if (ty == 0u) {
    var sum = vec4f();
    var second = vec4f();
    ${add}
  }
  workgroupBarrier();`;
  if (rowSums?.kind === "gradient") {
    return parts.map(({ name, of }) => chunkSums(name, of)).join("") + exchange(
      "first",
      "second",
      /* wgsl */ `
    ${unroll(SUMS, (t) => `sum += ${firstAt(t)}; second += tile_b[tx][${t}];`)}
    ${storeChunk("sum", "second", to)}`,
    );
  }
  // Rows of a sum that lie inside.
  const own = (t: string) => `f32(min(max(M, ${first} + ${t} * 4u) - ${first} - ${t} * 4u, 4u))`;
  return parts.map(({ name, line, of }) => chunkMoments(name, of, own(line))).join("") + exchange(
    "mean",
    "squares",
    /* wgsl */ `
    let shift = ${firstAt(0)};
    ${
      unroll(SUMS, (t) =>
        /* wgsl */ `{
      let n = ${own(`${t}u`)};
      let d = ${firstAt(t)} - shift;
      sum += n * d;
      second += tile_b[tx][${t}] + n * d * d;
    }`)
    }
    let n = f32(min(max(M, ${first}) - ${first}, ${SHARED_CHUNK}u));
    let squares = second - sum * sum / n;
    ${storeChunk("shift + sum / n", reluOf("squares"), to)}`,
  );
}

/**
 * The variants, the best guess first: the largest tile that lies mostly inside the result and makes enough workgroups, the
 * sums being cut into `pieces`. By measurement on an H200, 8x2 is the fastest where it is both, but for input gradients with
 * short sums: these are little more than their epilogue's loads and stores, which many workgroups hide best, and 4x1 takes 8
 * to 21 % less time.
 */
export function sharedVariants({ m, n, k, b }: Gemm, pieces: number): GemmVariant[] {
  const inside = (size: GemmVariant) =>
    (size.rows === 4 || m > size.rows * linesOf(size) / 2) && (size.columns4 === 1 || n > size.columns4 * 32);
  const busy = (size: GemmVariant) => {
    const lines = linesOf(size), tiles = ceilDiv(m, size.rows * lines) * ceilDiv(n, size.columns4 * 64);
    return tiles * pieces * lines * LINE >= ENOUGH_TILES * 256;
  };
  const variants = SIZES.filter(inside);
  const short = b.along === "k" && k <= SHORT_SUM;
  const guess = (short ? undefined : variants.find(busy)) ?? variants.at(-1)!;
  return [guess, ...variants.filter((size) => size !== guess)];
}

/** Each fits into the workgroup memory that WebGPU guarantees; the smallest, which is inside of everything, is last. */
const SIZES = [[8, 2], [8, 1], [4, 1]].map(([rows, columns4]): GemmVariant => ({ strategy: "shared", rows, columns4 }));

/** Elements of k that count as few. */
const SHORT_SUM = 128;

/** Workgroups of 256 threads that keep a large GPU busy. */
export const ENOUGH_TILES = 128;
