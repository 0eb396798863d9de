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
 * And there are three **strategies**, ways to share what is loaded, each in a file of its own:
 *
 * - `subgroup`: no shared memory. Each lane loads another piece of A and broadcasts it to the others from its register.
 *   Where a load costs far more than a multiplication (software adapters) nothing is faster.
 * - `shared`: tiles of A and B go through workgroup memory, each thread computes a block of registers. For GPUs.
 * - `registers`: a block of registers a thread and nothing else. For software adapters without subgroups.
 *
 * Long sums over few outputs are split over k; partial results are added in a fixed order.
 */

import { columnEpilogue, type EpilogueText } from "./column_epilogue.ts";
import type { Capabilities } from "./device.ts";
import { type Binding, type Dispatch, type Operand, operand, write } from "./dispatch.ts";
import { type Gemm, type GemmStrategy, type GemmVariant, type Tile, variantName } from "./gemm_problem.ts";
import { loadsColumns } from "./gemm_step.ts";
import { registerTile, registerVariants } from "./gemm_registers.ts";
import { ENOUGH_TILES, SHARED_CHUNK, sharedTile, sharedVariants } from "./gemm_shared.ts";
import { subgroupTile, subgroupVariants } from "./gemm_subgroup.ts";
import { partialSums } from "./partial_sums.ts";
import { type RowSumsText, rowSumsText } from "./row_sums.ts";
import { chosenDispatches } from "./tuning.ts";
import { ceilDiv, entryPoint, itemGrid } from "./wgsl.ts";

const TILES: Record<GemmStrategy, (problem: Gemm, variant: GemmVariant, caps: Capabilities) => Tile> = {
  subgroup: subgroupTile,
  shared: sharedTile,
  registers: registerTile,
};

/** The strategy that rules choose for an adapter. */
export function chooseStrategy(caps: Capabilities): GemmStrategy {
  if (!caps.software) return "shared";
  return subgroupsServe(caps) ? "subgroup" : "registers";
}

function subgroupsServe({ subgroupSize }: Capabilities): boolean {
  return subgroupSize >= 4 && subgroupSize <= 32;
}

/** All ways to compute a product on an adapter, the one that rules choose first. */
function gemmVariants(problem: Gemm, caps: Capabilities): GemmVariant[] {
  const variants = [
    ...sharedVariants(problem, splitCount(problem, caps)),
    ...(subgroupsServe(caps) ? subgroupVariants(problem, caps) : []),
    ...registerVariants(),
  ];
  const chosen = chooseStrategy(caps);
  if (problem.rowSums) return variants.filter(({ strategy }) => strategy === "shared");
  return [
    ...variants.filter(({ strategy }) => strategy === chosen),
    ...variants.filter(({ strategy }) => strategy !== chosen),
  ];
}

/**
 * Rows of a chunk of row sums (`row_sums.ts`) on an adapter; 0 where a product should not take them: where its sums are
 * split, and in software, where each product would be compiled twice for a hundredth of a step.
 */
export function gemmChunkRows(product: Pick<Gemm, "m" | "n" | "k" | "bias">, caps: Capabilities): number {
  const pieces = splitCount({ ...product, a: { along: "k" } }, caps);
  return chooseStrategy(caps) === "shared" && pieces === 1 ? SHARED_CHUNK : 0;
}

/** What tells a product from others, for a table of tuned variants. */
function gemmKey({ m, n, k, a, b, bindings, constants, rowSums }: Gemm): string {
  const more = [
    constants && Object.values(constants).join(),
    rowSums?.kind,
    Object.values(bindings).some(({ operand }) => operand.type === "f16") && "f16",
  ].filter(Boolean);
  return [`gemm ${a.along}${b.along} ${m}x${n}x${k}`, ...more].join(" ");
}

/** The dispatches that compute a product. */
export function gemm(problem: Gemm, caps: Capabilities): Dispatch[] {
  if (problem.variant) return dispatchesBy(problem.variant, problem, caps);
  const variants = gemmVariants(problem, caps);
  const makers = variants.map((variant) => [variantName(variant), () => dispatchesBy(variant, problem, caps)] as const);
  const likely = variants.filter(({ strategy }) => strategy === variants[0].strategy).length;
  return chosenDispatches({ key: gemmKey(problem), variants: new Map(makers), likely }, caps.tuning);
}

function dispatchesBy(variant: GemmVariant, problem: Gemm, caps: Capabilities): Dispatch[] {
  const { label, m, n, k, out, columnSums } = problem;
  if (problem.rowSums && variant.strategy !== "shared") throw new Error(`${label}: row sums by "${variant.strategy}"`);
  const tile = TILES[variant.strategy](problem, variant, caps);
  const chunk = ceilDiv(ceilDiv(k, splitCount(problem, caps)), SPLIT_STEP) * SPLIT_STEP;
  const pieces = ceilDiv(k, chunk);
  if (pieces === 1) {
    const sums = columnSums && { binding: write(columnSums), at: "n4" };
    return [productDispatch(problem, tile, { chunk, pieces, out, sums }, caps)];
  }
  // A row of partial results: the product, then the column sums.
  const vectors = (m * n + (columnSums ? n : 0)) / 4;
  const partial = operand(`${label}.partial`, pieces * vectors * 4);
  const sums = columnSums && { at: "split * STRIDE_OUT + M * N4 + n4" };
  const outputs = [{ operand: out, vecs: m * n / 4 }, ...(columnSums ? [{ operand: columnSums, vecs: n / 4 }] : [])];
  return [
    productDispatch(problem, tile, { chunk, pieces, out: partial, sums, stride: vectors }, caps),
    ...partialSums(partial, pieces, outputs, caps),
  ];
}

/**
 * How many pieces to cut the sums into: enough workgroups for a GPU, none shorter than is worth a pass of its own. By the
 * product alone, not its variant: with that, every variant adds in the same order and gives the same bits. Weight gradients
 * have the longest sums: those make enough pieces as if tiles were of 128x128, twice the largest variant's. With tiles enough
 * for a large GPU as it is, partial results cost more than they bring.
 */
function splitCount({ a, m, n, k, bias, norm, addend, relu, rowSums }: Splittable, caps: Capabilities): number {
  const side = a.along === "m" ? 128 : 64, tiles = ceilDiv(m, side) * ceilDiv(n, side);
  if (caps.software || bias || norm || addend || relu || rowSums || tiles >= ENOUGH_TILES) return 1;
  return Math.max(1, Math.min(ceilDiv(ENOUGH_WORKGROUPS, tiles), Math.floor(k / LEAST_SPLIT), MOST_SPLITS));
}

type Splittable = Pick<Gemm, "m" | "n" | "k" | "bias" | "norm" | "addend" | "relu" | "rowSums"> & {
  readonly a: Pick<Gemm["a"], "along">;
};

const ENOUGH_WORKGROUPS = 384;
/** Pieces are cut at multiples of every strategy's step. */
const SPLIT_STEP = 16;
const LEAST_SPLIT = 256;
const MOST_SPLITS = 256;

/** Where a product's results go. */
interface Destination {
  /** Elements of k that a workgroup sums, and into how many pieces that cuts them. */
  readonly chunk: number;
  readonly pieces: number;
  readonly out: Operand;
  /** The column sums' own binding, or none where they go to `out`; and the index of column `n4`. */
  readonly sums?: { readonly binding?: Binding; readonly at: string };
  /** vec4s from one piece's results to the next's. */
  readonly stride?: number;
}

/** WGSL `store`: what becomes of a finished sum on its way to memory; with row sums, what it adds to those. */
function storeFunction(
  { functions, result }: EpilogueText,
  sums: RowSumsText | undefined,
  columns: boolean,
) {
  const made = result("value", "column", "at");
  return /* wgsl */ `${functions}
${sums?.functions ?? ""}
fn store(m: u32, n4: u32, value: vec4f${columns ? ", column: Column" : ""})${sums ? " -> Terms" : ""} {
  if (m < M && n4 < N4) {
    let at = split * STRIDE_OUT + m * N4 + n4;
    ${sums ? sums.store(made) : `set_out(at, ${made});`}
  }
  ${sums ? "return Terms(vec4f(), vec4f());" : ""}
}`;
}

function productDispatch(problem: Gemm, tile: Tile, to: Destination, caps: Capabilities): Dispatch {
  const { m, n, k } = problem;
  const columns = ceilDiv(n, tile.columns), rows = ceilDiv(m, tile.rows);
  const [gridX, gridY] = itemGrid(columns * rows, 1, caps.maxWorkgroupsPerDimension);
  const epilogue = columnEpilogue(problem), rowSums = problem.rowSums && rowSumsText(problem.rowSums);
  const bindings: Record<string, Binding> = {
    ...problem.bindings,
    out: write(to.out),
    ...epilogue.bindings,
    ...rowSums?.bindings,
  };
  if (to.sums?.binding) bindings.column_sums = to.sums.binding;
  const storeSums = to.sums
    ? `fn store_sums(n4: u32, value: vec4f) {
  if (n4 < N4) { ${to.sums.binding ? "column_sums" : "out"}[${to.sums.at}] = value; }
}`
    : "";
  return {
    label: problem.label,
    bindings,
    constants: { ...problem.constants, ...epilogue.constants },
    uniforms: {
      ...problem.uniforms,
      M: m,
      N4: n / 4,
      K: k,
      K_CHUNK: to.chunk,
      TILES_N: columns,
      TILES: columns * rows,
      STRIDE_OUT: to.stride ?? 0,
      ...(problem.rowSums && { CHUNKS: problem.rowSums.chunks.chunks }),
    },
    source: /* wgsl */ `
${problem.a.wgsl}
${problem.b.wgsl}
${tile.declarations}
var<private> split: u32;
${storeFunction(epilogue, rowSums, loadsColumns(problem))}
${storeSums}
${entryPoint(tile.workgroupSize)}
  let lane = local;
  let tile = workgroup_index;
  if (tile >= TILES) { return; }
  let tile_m = tile / TILES_N * ${tile.rows}u;
  let tile_n = tile % TILES_N * ${tile.columns}u;
  split = workgroup.z;
  // Not of 'split': browsers take no private variable for uniform, and refuse barriers within loops that hang on one.
  let k_begin = workgroup.z * K_CHUNK;
  let k_end = min(k_begin + K_CHUNK, K);
${tile.body}
}`,
    workgroups: [gridX, gridY, to.pieces],
    flops: 2 * m * n * k,
    bytes: problem.bytes +
      (rowSums ? Object.values(rowSums.bindings).reduce((sum, b) => sum + b.operand.byteLength, 0) : 0),
  };
}
