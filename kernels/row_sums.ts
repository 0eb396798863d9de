/**
 * Sums over the rows of a matrix product's result, taken while it is in registers: what a batch norm behind it, or the
 * gradient of one before it, would else read the whole result again for. A workgroup sums a **chunk** of rows at a time, in
 * a fixed order, and writes two sums of each column and chunk beside the result; `batch_norm.ts` and
 * `batch_norm_backward.ts` go on from there as from their own first passes.
 */

import { type Binding, type Operand, operand, read, write } from "./dispatch.ts";
import { reluGradient } from "./elementwise.ts";
import { ceilDiv } from "./wgsl.ts";

/** Two sums of each column and chunk of rows, laid out [sum, chunk, column]. */
export interface RowChunks {
  /** The sums. */
  readonly partials: Operand;
  /** Rows of a chunk; the last one may be shorter. */
  readonly chunkRows: number;
  /** How many. */
  readonly chunks: number;
}

/** New sums of a [rows, columns] matrix; `columns` as stored. */
export function rowChunks(label: string, rows: number, columns: number, chunkRows: number): RowChunks {
  const chunks = ceilDiv(rows, chunkRows);
  return { partials: operand(label, 2 * chunks * columns), chunkRows, chunks };
}

/** Which sums are taken. */
export type RowSums = RowMoments | RowGradient;

/** Of the result: a chunk's mean, and the sum of squared deviations from it. */
export interface RowMoments {
  readonly kind: "moments";
  readonly chunks: RowChunks;
}

/**
 * Of the result `dy`, which is the gradient of a batch norm's output: the result becomes `g`, which is `dy` where the norm's
 * ReLU let through, and the sums are those of `g` and `g (x - mean)`.
 */
export interface RowGradient extends GradientSums {
  readonly kind: "gradient";
  readonly chunks: RowChunks;
}

/** The batch norm whose output a gradient is of. */
export interface GradientSums {
  /** Its input. */
  readonly x: Operand;
  /** As `batchNormStatistics` wrote it. */
  readonly statistics: Operand;
  /** Where ReLU let through: everywhere; where the norm of `x` is above zero; where an output, given, is. */
  readonly mask: "none" | "recomputed" | Operand;
}

/** WGSL of row sums, for `gemm.ts`. */
export interface RowSumsText {
  readonly bindings: Readonly<Record<string, Binding>>;
  /** `struct Terms`, what a stored element adds to the two sums, and for gradients `Column` and `load_column`. */
  readonly functions: string;
  /** Statements that store a result, given as an expression, and return its terms; they see `at` and `column`. */
  readonly store: (result: string) => string;
}

/** Writes them. */
export function rowSumsText(sums: RowSums): RowSumsText {
  const bindings = { row_sums: write(sums.chunks.partials) };
  const terms = "struct Terms { first: vec4f, second: vec4f }";
  if (sums.kind === "moments") {
    return {
      bindings,
      functions: terms,
      store: (result) => `let stored = ${result};\nset_out(at, stored);\nreturn Terms(stored, vec4f());`,
    };
  }
  const { x, statistics, mask } = sums;
  const activated = mask === "recomputed" ? "deviation * column.scale + column.offset" : "get_mask(at)";
  return {
    bindings: {
      ...bindings,
      norm_x: read(x),
      norm_statistics: read(statistics),
      ...(typeof mask === "object" && { mask: read(mask) }),
    },
    functions: /* wgsl */ `${terms}
struct Column { center: vec4f, scale: vec4f, offset: vec4f }
fn load_column(n4: u32) -> Column {
  return Column(norm_statistics[n4], norm_statistics[2u * N4 + n4], norm_statistics[3u * N4 + n4]);
}`,
    store: (result) =>
      /* wgsl */ `let deviation = get_norm_x(at) - column.center;
let stored = ${mask === "none" ? result : reluGradient(result, activated)};
set_out(at, stored);
return Terms(stored, stored * deviation);`,
  };
}

/** How a strategy sums the rows of one column: see {@linkcode chunkMoments}. */
export interface ChunkRows {
  /** Expressions of the rows' terms, and of the rows' numbers, in order. */
  readonly terms: readonly string[];
  readonly rows: readonly string[];
}

/** WGSL for the mean and squared deviations of a few rows, of which those below M count: `NAME_mean`, `NAME_squares`. */
export function chunkMoments(name: string, { terms, rows }: ChunkRows, count: string): string {
  const squares = terms.map((term, i) =>
    `select(vec4f(), (${term}.first - ${name}_mean) * (${term}.first - ${name}_mean), ${rows[i]} < M)`
  );
  return /* wgsl */ `
  let ${name}_mean = (${terms.map((term) => `${term}.first`).join(" + ")}) / max(${count}, 1.0);
  let ${name}_squares = ${squares.join(" + ")};`;
}

/** WGSL for the two sums of a few rows: `NAME_first`, `NAME_second`. */
export function chunkSums(name: string, { terms }: ChunkRows): string {
  return /* wgsl */ `
  let ${name}_first = ${terms.map((term) => `${term}.first`).join(" + ")};
  let ${name}_second = ${terms.map((term) => `${term}.second`).join(" + ")};`;
}

/** WGSL that writes the two sums of a chunk and column; nothing beyond the result. */
export function storeChunk(
  first: string,
  second: string,
  { row, chunkRows }: { row: string; chunkRows: number },
): string {
  return /* wgsl */ `
  if (${row} < M && n4 < N4) {
    let at_chunk = ${row} / ${chunkRows}u * N4 + n4;
    row_sums[at_chunk] = ${first};
    row_sums[CHUNKS * N4 + at_chunk] = ${second};
  }`;
}
