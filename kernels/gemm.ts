/**
 * Matrix multiplication, the engine of every dense convolution: C[m, n] = sum over k of A[m, k] B[k, n].
 *
 * What A and B are is told by WGSL **loaders** that fetch four elements at once, so that one text serves 1x1 and
 * implicit-GEMM convolutions, forward and both gradients:
 *
 * | computation     | A is loaded      | B is loaded      |
 * | --------------- | ---------------- | ---------------- |
 * | output          | four along k     | four along n     |
 * | input gradient  | four along k     | four along k     |
 * | weight gradient | four along m     | four along n     |
 *
 * And there are three **strategies**, ways to share what is loaded:
 *
 * - `subgroup`: no shared memory. Each lane loads another piece of A and broadcasts it to the others from its register.
 *   Where a load costs far more than a multiplication (software adapters) nothing is faster.
 * - `shared`: tiles of A and B go through workgroup memory, each thread computes a block of registers. For GPUs.
 * - `registers`: a block of registers a thread and nothing else. For software adapters without subgroups.
 *
 * Long sums over few outputs are split over k (`splitK`); partial results are added in a fixed order.
 */

import type { Capabilities } from "./device.ts";
import { type Binding, type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { ceilDiv, itemGrid, unroll } from "./wgsl.ts";

/** Ways to compute a product. */
export type GemmStrategy = "subgroup" | "shared" | "registers";

/** A product to compute. All of its WGSL sees `bindings` and `constants`. */
export interface Gemm {
  readonly label: string;
  /** Rows of the result; a multiple of four when A is loaded along m. */
  readonly m: number;
  /** Columns of the result, a multiple of four. */
  readonly n: number;
  /** Length of the sums; a multiple of four when A is loaded along k. */
  readonly k: number;
  readonly bindings: Readonly<Record<string, Binding>>;
  /** Baked into the shader: for loaders that divide by them. */
  readonly constants?: Readonly<Record<string, number>>;
  /** Given at run time: products of all sizes share a shader. */
  readonly uniforms?: Readonly<Record<string, number>>;
  /**
   * How A is loaded. Along k: `fn a_row(m: u32) -> ARow` (with `alias` or `struct ARow`; what a row needs, computed once)
   * and `fn load_a(row: ARow, k4: u32) -> vec4f`. Along m: `fn load_a(m4: u32, k: u32) -> vec4f`. Called with m and k
   * inside the matrix only.
   */
  readonly a: { readonly along: "k" | "m"; readonly wgsl: string };
  /** How B is loaded. Along n: `fn load_b(k: u32, n4: u32) -> vec4f`. Along k: `fn load_b(k4: u32, n: u32) -> vec4f`. */
  readonly b: { readonly along: "n" | "k"; readonly wgsl: string };
  /** Where the result goes, `[m, n]` row-major. */
  readonly out: Operand;
  /** Added to every row, `[n]`. */
  readonly bias?: Operand;
  /** Added to the result, `[m, n]`. */
  readonly addend?: Operand;
  /** Receives the column sums of B, `[n]`; B loaded along n. */
  readonly columnSums?: Operand;
  /** Forced by tests; else chosen by {@linkcode chooseStrategy}. */
  readonly strategy?: GemmStrategy;
  /** Forced by tests: rows and columns / 4 of a lane's tile of the subgroup strategy. */
  readonly tile?: { readonly rows: number; readonly columns4: number };
  /** Least bytes moved. */
  readonly bytes: number;
}

/** The strategy for an adapter. */
export function chooseStrategy(caps: Capabilities): GemmStrategy {
  if (!caps.software) return "shared";
  return usableSubgroup(caps) ? "subgroup" : "registers";
}

function usableSubgroup({ subgroupSize }: Capabilities): boolean {
  return subgroupSize >= 4 && subgroupSize <= 32;
}

/** The dispatches that compute a product. */
export function gemm(problem: Gemm, caps: Capabilities): Dispatch[] {
  const strategy = problem.strategy ?? chooseStrategy(caps);
  const tile = STRATEGIES[strategy](problem, caps);
  const tiles = ceilDiv(problem.m, tile.rows) * ceilDiv(problem.n, tile.columns);
  const splits = splitCount(problem, tiles, tile.kStep, caps);
  return splits === 1
    ? [productDispatch(problem, tile, 1, problem.out, problem.columnSums, caps)]
    : splitDispatches(problem, tile, splits, caps);
}

/** How many pieces to cut the sums into: enough workgroups for a GPU, none shorter than is worth a pass of its own. */
function splitCount({ k, bias, addend }: Gemm, tiles: number, kStep: number, caps: Capabilities): number {
  if (caps.software || bias || addend) return 1;
  const wanted = ceilDiv(ENOUGH_WORKGROUPS, tiles);
  return Math.max(1, Math.min(wanted, Math.floor(k / LEAST_SPLIT), ceilDiv(k, kStep), MOST_SPLITS));
}

const ENOUGH_WORKGROUPS = 512;
const LEAST_SPLIT = 256;
const MOST_SPLITS = 256;

/** A strategy's plan for a product: the size of its tile and the WGSL that computes one. */
interface Tile {
  readonly rows: number;
  readonly columns: number;
  /** Sums advance by so many elements of k. */
  readonly kStep: number;
  readonly workgroupSize: number;
  /** WGSL at module scope. */
  readonly declarations: string;
  /**
   * WGSL of the entry's body. It sees `tile_m`, `tile_n` (first row and column of the tile), `k_begin`, `k_end`, `lane`
   * (index in the workgroup), and calls `store(m, n4, value)` and `store_sums(n4, value)`.
   */
  readonly body: string;
}

const STRATEGIES: Record<GemmStrategy, (problem: Gemm, caps: Capabilities) => Tile> = {
  subgroup: subgroupTile,
  shared: sharedTile,
  registers: registerTile,
};

// ---------------------------------------------------------------------------------------------------------------------
// One product as a dispatch
// ---------------------------------------------------------------------------------------------------------------------

function productDispatch(
  problem: Gemm,
  tile: Tile,
  splits: number,
  out: Operand,
  sums: Operand | undefined,
  caps: Capabilities,
): Dispatch {
  const { m, n, k, bias, addend } = problem;
  const chunk = ceilDiv(ceilDiv(k, splits), tile.kStep) * tile.kStep;
  const columns = ceilDiv(n, tile.columns), rows = ceilDiv(m, tile.rows);
  const [gridX, gridY] = itemGrid(columns * rows, 1, caps.maxWorkgroupsPerDimension);
  const added = [bias && "bias[n4]", addend && "addend[at]"].filter(Boolean).map((term) => ` + ${term}`).join("");
  const bindings: Record<string, Binding> = { ...problem.bindings, out: write(out) };
  if (bias) bindings.bias = read(bias);
  if (addend) bindings.addend = read(addend);
  if (sums) bindings.column_sums = write(sums);
  return {
    label: problem.label,
    bindings,
    constants: problem.constants,
    uniforms: { ...problem.uniforms, M: m, N4: n / 4, K: k, K_CHUNK: chunk, TILES_N: columns, TILES: columns * rows },
    source: /* wgsl */ `
${problem.a.wgsl}
${problem.b.wgsl}
${tile.declarations}
var<private> split: u32;
fn store(m: u32, n4: u32, value: vec4f) {
  if (m < M && n4 < N4) {
    let at = (split * M + m) * N4 + n4;
    out[at] = value${added};
  }
}
${sums ? "fn store_sums(n4: u32, value: vec4f) { if (n4 < N4) { column_sums[split * N4 + n4] = value; } }" : ""}
@compute @workgroup_size(${tile.workgroupSize})
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) count: vec3u, @builtin(local_invocation_index) lane: u32) {
  let tile = workgroup.y * count.x + workgroup.x;
  if (tile >= TILES) { return; }
  let tile_m = tile / TILES_N * ${tile.rows}u;
  let tile_n = tile % TILES_N * ${tile.columns}u;
  split = workgroup.z;
  let k_begin = split * K_CHUNK;
  let k_end = min(k_begin + K_CHUNK, K);
${tile.body}
}`,
    workgroups: [gridX, gridY, ceilDiv(k, chunk)],
    flops: 2 * m * n * k,
    bytes: problem.bytes,
  };
}

/** Partial products over pieces of k, and the dispatch that adds them. */
function splitDispatches(problem: Gemm, tile: Tile, splits: number, caps: Capabilities): Dispatch[] {
  const { label, m, n, k, out, columnSums } = problem;
  const chunk = ceilDiv(ceilDiv(k, splits), tile.kStep) * tile.kStep;
  const pieces = ceilDiv(k, chunk);
  const partial = operand(`${label}.partial`, pieces * m * n);
  const partialSums = columnSums && operand(`${label}.partial_sums`, pieces * n);
  const dispatches = [productDispatch(problem, tile, splits, partial, partialSums, caps)];
  dispatches.push(addPartials(`${label}.reduce`, partial, out, m * n, pieces, caps));
  if (columnSums && partialSums) {
    dispatches.push(addPartials(`${label}.reduce_sums`, partialSums, columnSums, n, pieces, caps));
  }
  return dispatches;
}

/** `out[i] = sum over p of partial[p, i]`, in order: `elements` floats from `pieces` rows. */
export function addPartials(
  label: string,
  partial: Operand,
  out: Operand,
  elements: number,
  pieces: number,
  caps: Capabilities,
): Dispatch {
  const items = elements / 4, workgroupSize = 64;
  return {
    label,
    bindings: { partial: read(partial), out: write(out) },
    uniforms: { ITEMS: items, PIECES: pieces },
    source: /* wgsl */ `
@compute @workgroup_size(${workgroupSize})
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) count: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (workgroup.y * count.x + workgroup.x) * ${workgroupSize}u + lane;
  if (i >= ITEMS) { return; }
  var sum = partial[i];
  for (var p = 1u; p < PIECES; p++) { sum += partial[p * ITEMS + i]; }
  out[i] = sum;
}`,
    workgroups: itemGrid(items, workgroupSize, caps.maxWorkgroupsPerDimension),
    flops: elements * (pieces - 1),
    bytes: 4 * elements * (pieces + 1),
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// The innermost step: four elements of k, on registers alone
// ---------------------------------------------------------------------------------------------------------------------

/** What a step works on: expressions for pieces of A and B, `rows` x `columns4` accumulators `acc_ROW_COLUMN4`. */
interface Step {
  readonly rows: number;
  readonly columns4: number;
  /** A along k: the piece of row `i`. Along m: of rows `4 i .. 4 i + 3` at the step's element `kk`. */
  readonly a: (i: number, kk: number) => string;
  /** B along n: four columns `j` at element `kk`. Along k: column `4 j + kk`. */
  readonly b: (j: number, kk: number) => string;
}

function step(
  { a: { along: aAlong }, b: { along: bAlong }, columnSums }: Gemm,
  { rows, columns4, a, b }: Step,
): string {
  const lines: string[] = [];
  if (columnSums) {
    for (let j = 0; j < columns4; j++) {
      lines.push(`sums_${j} += (${b(j, 0)} + ${b(j, 1)}) + (${b(j, 2)} + ${b(j, 3)});`);
    }
  }
  const each = (body: (i: number, j: number) => string) => {
    for (let i = 0; i < rows; i++) {
      if (aAlong === "k") lines.push(`let p_${i} = ${a(i, 0)};`);
      for (let j = 0; j < columns4; j++) lines.push(body(i, j));
    }
  };
  if (aAlong === "m") {
    for (let i4 = 0; i4 < rows / 4; i4++) {
      for (let kk = 0; kk < 4; kk++) lines.push(`let q_${i4}_${kk} = ${a(i4, kk)};`);
    }
    const term = (i: number, j: number) => (kk: number) => `q_${i >> 2}_${kk}.${"xyzw"[i & 3]} * ${b(j, kk)}`;
    each((i, j) => `acc_${i}_${j} += ${[0, 1, 2, 3].map(term(i, j)).join(" + ")};`);
  } else if (bAlong === "n") {
    const term = (i: number, j: number) => (kk: number) => `p_${i}.${"xyzw"[kk]} * ${b(j, kk)}`;
    each((i, j) => `acc_${i}_${j} += ${[0, 1, 2, 3].map(term(i, j)).join(" + ")};`);
  } else {
    each((i, j) => `acc_${i}_${j} += vec4f(${[0, 1, 2, 3].map((kk) => `dot(p_${i}, ${b(j, kk)})`).join(", ")});`);
  }
  return lines.join("\n");
}

function accumulators(problem: Gemm, rows: number, columns4: number): string {
  const sums = problem.columnSums ? unroll(columns4, (j) => `var sums_${j} = vec4f();`) : "";
  return unroll(rows * columns4, (i) => `var acc_${Math.floor(i / columns4)}_${i % columns4} = vec4f();`) + sums;
}

// ---------------------------------------------------------------------------------------------------------------------
// Strategy: subgroup
// ---------------------------------------------------------------------------------------------------------------------

/**
 * One subgroup a workgroup; a lane owns `columns4` times four columns and all of the tile's rows. A's pieces are spread over
 * the lanes, so that a step of four k costs `rows / lanes` loads of A and `4 columns4` of B for `16 rows columns4`
 * multiply-adds a lane.
 */
function subgroupTile(problem: Gemm, caps: Capabilities): Tile {
  const lanes = caps.subgroupSize;
  const { rows, columns4 } = problem.tile ?? subgroupTileSize(problem, lanes);
  const alongK = problem.a.along === "k";
  const loads = rows / lanes;
  // Along m, a load of all lanes covers `span` rows at `depth` elements of k.
  const span = Math.min(rows, lanes * 4), depth = lanes * 4 / span, perSpan = 4 / depth;
  const aName = (i4: number, kk: number) => {
    const piece = Math.floor(i4 * 4 / span) * perSpan + Math.floor(kk / depth);
    return `subgroupBroadcast(a_${piece}, ${(kk % depth) * span / 4 + i4 % (span / 4)}u)`;
  };
  const loadA = alongK ? unroll(loads, (r) => `let a_${r} = load_a(row_${r}, k / 4u);`) : unroll(loads, (r) => {
    const k = `k + ${(r % perSpan) * depth}u + lane / ${span / 4}u`;
    return `let a_${r} = select(vec4f(), load_a(m4_${Math.floor(r / perSpan)}, min(${k}, K - 1u)), ${k} < k_end);`;
  });
  const loadB = unroll(4 * columns4, (i) => {
    const j = i >> 2, kk = i & 3;
    if (problem.b.along === "k") return `let b_${j}_${kk} = load_b(k / 4u, n4_${j} * 4u + ${kk}u);`;
    return `let b_${j}_${kk} = load_b(${alongK ? `k + ${kk}u` : `min(k + ${kk}u, K - 1u)`}, n4_${j});`;
  });
  const sums = problem.columnSums
    ? unroll(4 * columns4, (i) => {
      const j = i >> 2, kk = i & 3;
      return `sums_${j} += select(vec4f(), b_${j}_${kk}, k + ${kk}u < k_end);`;
    })
    : "";
  const inner = step({ ...problem, columnSums: undefined }, {
    rows,
    columns4,
    a: alongK ? (i) => `subgroupBroadcast(a_${Math.floor(i / lanes)}, ${i % lanes}u)` : aName,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  return {
    rows,
    columns: lanes * columns4 * 4,
    kStep: 4,
    workgroupSize: lanes,
    declarations: "",
    body: /* wgsl */ `
  ${
      unroll(
        columns4,
        (j) => `let own_n4_${j} = tile_n / 4u + ${j * lanes}u + lane; let n4_${j} = min(own_n4_${j}, N4 - 1u);`,
      )
    }
  ${
      alongK ? unroll(loads, (r) => `let row_${r} = a_row(min(tile_m + ${r * lanes}u + lane, M - 1u));`) : unroll(
        rows / span,
        (g) => `let m4_${g} = min((tile_m + ${g * span}u) / 4u + lane % ${span / 4}u, M / 4u - 1u);`,
      )
    }
  ${accumulators(problem, rows, columns4)}
  for (var k = k_begin; k < k_end; k += 4u) {
    ${loadA}
    ${loadB}
    ${sums}
    ${inner}
  }
  ${
      unroll(rows * columns4, (q) => {
        const i = Math.floor(q / columns4), j = q % columns4;
        return `store(tile_m + ${i}u, own_n4_${j}, acc_${i}_${j});`;
      })
    }
  ${
      problem.columnSums
        ? `if (tile_m == 0u) { ${unroll(columns4, (j) => `store_sums(own_n4_${j}, sums_${j});`)} }`
        : ""
    }`,
  };
}

/**
 * The tile of a subgroup. Measured on a software adapter of eight lanes: 32 rows load half as much a multiplication as 8
 * and beat 64, whose code is twice as long, but for products of few rows.
 */
function subgroupTileSize({ m, b }: Gemm, lanes: number): { rows: number; columns4: number } {
  if (m > 16 || lanes > 16) return { rows: 32, columns4: 1 };
  return { rows: 16, columns4: b.along === "n" ? 2 : 1 };
}

// ---------------------------------------------------------------------------------------------------------------------
// Strategy: registers
// ---------------------------------------------------------------------------------------------------------------------

/** Eight rows by eight columns a thread, straight from memory; eight threads side by side in n. */
function registerTile(problem: Gemm): Tile {
  const rows = 8, columns4 = 2, lanes = 8;
  const alongK = problem.a.along === "k";
  const last = (k: string) => `min(${k}, K - 1u)`;
  const loadA = alongK ? unroll(rows, (i) => `let a_${i} = load_a(row_${i}, k / 4u);`) : unroll(rows, (i) => {
    const k = `k + ${i & 3}u`;
    return `let a_${i >> 2}_${i & 3} = select(vec4f(), load_a(min(tile_m / 4u + ${i >> 2}u, M / 4u - 1u), ${
      last(k)
    }), ${k} < k_end);`;
  });
  const loadB = unroll(4 * columns4, (i) => {
    const j = i >> 2, kk = i & 3;
    return problem.b.along === "n"
      ? `let b_${j}_${kk} = load_b(${last(`k + ${kk}u`)}, n4_${j});`
      : `let b_${j}_${kk} = load_b(k / 4u, n4_${j} * 4u + ${kk}u);`;
  });
  const sums = problem.columnSums
    ? unroll(4 * columns4, (i) => {
      const j = i >> 2, kk = i & 3;
      return `sums_${j} += select(vec4f(), b_${j}_${kk}, k + ${kk}u < k_end);`;
    })
    : "";
  const inner = step({ ...problem, columnSums: undefined }, {
    rows,
    columns4,
    a: (i, kk) => alongK ? `a_${i}` : `a_${i}_${kk}`,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  return {
    rows,
    columns: lanes * columns4 * 4,
    kStep: 4,
    workgroupSize: lanes,
    declarations: "",
    body: /* wgsl */ `
  ${
      unroll(columns4, (j) =>
        `let own_n4_${j} = tile_n / 4u + lane * ${columns4}u + ${j}u; let n4_${j} = min(own_n4_${j}, N4 - 1u);`)
    }
  ${alongK ? unroll(rows, (i) => `let row_${i} = a_row(min(tile_m + ${i}u, M - 1u));`) : ""}
  ${accumulators(problem, rows, columns4)}
  for (var k = k_begin; k < k_end; k += 4u) {
    ${loadA}
    ${loadB}
    ${sums}
    ${inner}
  }
  ${unroll(rows * columns4, (i) => `store(tile_m + ${i >> 1}u, own_n4_${i & 1}, acc_${i >> 1}_${i & 1});`)}
  ${
      problem.columnSums
        ? `if (tile_m == 0u) { ${unroll(columns4, (j) => `store_sums(own_n4_${j}, sums_${j});`)} }`
        : ""
    }`,
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Strategy: shared
// ---------------------------------------------------------------------------------------------------------------------

/**
 * 256 threads; a tile of 128x128 (8x8 a thread) for large products, 64x64 (4x4) for small ones; 16 elements of k at a time
 * through workgroup memory. Both tiles keep the loaders' `vec4f`: four along k by row or column, or four along m or n by
 * element of k, so nothing is transposed. A thread's rows lie 16 apart (along k) or in fours (along m), its columns in
 * fours, so that neighbours read neighbouring banks.
 */
function sharedTile(problem: Gemm, caps: Capabilities): Tile {
  const { m, n, a: { along: aAlong }, b: { along: bAlong } } = problem;
  const large = ceilDiv(m, 128) * ceilDiv(n, 128) >= 128 && caps.maxWorkgroupStorageBytes >= 16384;
  const perThread = large ? 8 : 4, size = perThread * 16, columns4 = perThread / 4, depth = 16;
  const vectors = size * depth / 4, loads = vectors / 256;
  const aLoad = (r: number) => {
    const index = `(lane + ${r * 256}u)`;
    return aAlong === "k"
      ? `{ let k4 = k / 4u + ${index} % ${depth / 4}u; let m = ${index} / ${depth / 4}u;
      tile_a[(${index} % ${
        depth / 4
      }u) * ${size}u + m] = select(vec4f(), load_a(row_${r}, min(k4, K / 4u - 1u)), k4 * 4u < k_end); }`
      : `{ let kk = k + ${index} / ${size / 4}u; let m4 = tile_m / 4u + ${index} % ${size / 4}u;
      tile_a[${index}] = select(vec4f(), load_a(min(m4, M / 4u - 1u), min(kk, K - 1u)), kk < k_end); }`;
  };
  const bLoad = (r: number) => {
    const index = `(lane + ${r * 256}u)`;
    return bAlong === "n"
      ? `{ let kk = k + ${index} / ${size / 4}u; let n4 = tile_n / 4u + ${index} % ${size / 4}u;
      tile_b[${index}] = select(vec4f(), load_b(min(kk, K - 1u), min(n4, N4 - 1u)), kk < k_end); }`
      // Column 4 j + i stands at i * size / 4 + j: a thread's four columns are then read without bank conflicts.
      : `{ let k4 = k / 4u + ${index} % ${depth / 4}u; let n = ${index} / ${depth / 4}u;
      tile_b[(${index} % ${depth / 4}u) * ${size}u + n % 4u * ${size / 4}u + n / 4u] =
        select(vec4f(), load_b(min(k4, K / 4u - 1u), min(tile_n + n, N4 * 4u - 1u)), k4 * 4u < k_end); }`;
  };
  const row = (i: number) => aAlong === "k" ? `ty + ${i * 16}u` : `(ty + ${(i >> 2) * 16}u) * 4u + ${i & 3}u`;
  const fetchA = aAlong === "k"
    ? unroll(perThread, (i) => `let a_${i} = tile_a[s * ${size}u + ty + ${i * 16}u];`)
    : unroll(perThread, (i) =>
      `let a_${i >> 2}_${i & 3} = tile_a[(s * 4u + ${i & 3}u) * ${size / 4}u + ty + ${(i >> 2) * 16}u];`);
  const fetchB = unroll(4 * columns4, (i) => {
    const j = i >> 2, kk = i & 3;
    return bAlong === "n"
      ? `let b_${j}_${kk} = tile_b[(s * 4u + ${kk}u) * ${size / 4}u + tx + ${j * 16}u];`
      : `let b_${j}_${kk} = tile_b[s * ${size}u + ${kk * size / 4}u + tx + ${j * 16}u];`;
  });
  const inner = step(problem, {
    rows: perThread,
    columns4,
    a: (i, kk) => aAlong === "k" ? `a_${i}` : `a_${i}_${kk}`,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  return {
    rows: size,
    columns: size,
    kStep: depth,
    workgroupSize: 256,
    declarations: `var<workgroup> tile_a: array<vec4f, ${vectors}>;\nvar<workgroup> tile_b: array<vec4f, ${vectors}>;`,
    body: /* wgsl */ `
  let tx = lane % 16u;
  let ty = lane / 16u;
  ${
      aAlong === "k"
        ? unroll(loads, (r) => `let row_${r} = a_row(min(tile_m + (lane + ${r * 256}u) / ${depth / 4}u, M - 1u));`)
        : ""
    }
  ${accumulators(problem, perThread, columns4)}
  for (var k = k_begin; k < k_end; k += ${depth}u) {
    ${unroll(loads, aLoad)}
    ${unroll(loads, bLoad)}
    workgroupBarrier();
    for (var s = 0u; s < ${depth / 4}u; s++) {
      ${fetchA}
      ${fetchB}
      ${inner}
    }
    workgroupBarrier();
  }
  ${
      unroll(perThread * columns4, (q) => {
        const i = Math.floor(q / columns4), j = q % columns4;
        return `store(tile_m + ${row(i)}, tile_n / 4u + tx + ${j * 16}u, acc_${i}_${j});`;
      })
    }
  ${
      problem.columnSums
        ? `if (tile_m == 0u && ty == 0u) { ${
          unroll(columns4, (j) => `store_sums(tile_n / 4u + tx + ${j * 16}u, sums_${j});`)
        } }`
        : ""
    }`,
  };
}
