/** The words of matrix multiplication: what a product is, and what a strategy makes of it. See `gemm.ts`. */

import type { ColumnEpilogue } from "./column_epilogue.ts";
import type { Binding, Operand } from "./dispatch.ts";
import type { RowSums } from "./row_sums.ts";

/** Ways to compute a product. */
export type GemmStrategy = "subgroup" | "shared" | "registers";

/** One way to compute a product: a strategy, and the block of the result that one thread computes. */
export interface GemmVariant {
  readonly strategy: GemmStrategy;
  /** Rows of a thread. */
  readonly rows: number;
  /** Columns of a thread, in fours. */
  readonly columns4: number;
}

/** A variant's name in tables and options, such as `shared 8x2`. */
export function variantName({ strategy, rows, columns4 }: GemmVariant): string {
  return `${strategy} ${rows}x${columns4}`;
}

/** A product to compute. All of its WGSL sees `bindings` and `constants`. */
export interface Gemm extends ColumnEpilogue {
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
   * and `fn load_a(row: ARow, k4: u32) -> vec4f`. Along m: `fn a_column(m4: u32) -> AColumn`, likewise, and
   * `fn load_a(column: AColumn, k: u32) -> vec4f`. Both matrices are loaded with m and n inside; where k is not, the value is
   * not used.
   */
  readonly a: { readonly along: "k" | "m"; readonly wgsl: string };
  /** How B is loaded. Along n: `fn load_b(k: u32, n4: u32) -> vec4f`. Along k: `fn load_b(k4: u32, n: u32) -> vec4f`. */
  readonly b: { readonly along: "n" | "k"; readonly wgsl: string };
  /** Where the result goes, `[m, n]` row-major. */
  readonly out: Operand;
  /** Receives the column sums of B, `[n]`; B loaded along n. */
  readonly columnSums?: Operand;
  /** Sums over the rows of the result, in chunks of `gemmChunkRows`: for A along k, where sums are not split. */
  readonly rowSums?: RowSums;
  /** Forced by tests; else the tuned one, else the one that rules choose. */
  readonly variant?: GemmVariant;
  /** Least bytes moved. */
  readonly bytes: number;
}

/** A strategy's plan for a product: the size of its tile and the WGSL that computes one. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly workgroupSize: number;
  /** WGSL at module scope. */
  readonly declarations: string;
  /**
   * WGSL of the entry's body. It sees `tile_m`, `tile_n` (first row and column of the tile), `k_begin`, `k_end`, `lane`
   * (index in the workgroup), stores by `stores` of `gemm_step.ts`, and calls `store_sums(n4, value)`.
   */
  readonly body: string;
}
