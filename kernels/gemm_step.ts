/** The innermost step of every strategy of `gemm.ts`: four elements of k, on registers alone. */

import type { Gemm } from "./gemm_problem.ts";
import type { ChunkRows } from "./row_sums.ts";
import { unroll } from "./wgsl.ts";

/** What a step works on: expressions for pieces of A and B, `rows` x `columns4` accumulators `acc_ROW_COLUMN4`. */
export interface Step {
  readonly rows: number;
  readonly columns4: number;
  /** A along k: the piece of row `i`. Along m: of rows `4 i .. 4 i + 3` at the step's element `kk`. */
  readonly a: (i: number, kk: number) => string;
  /** B along n: four columns `j` at element `kk`. Along k: column `4 j + kk`. */
  readonly b: (j: number, kk: number) => string;
}

/** WGSL that adds the products of four elements of k to the accumulators; `along` is what the pieces of A and B are. */
export function step(
  along: { readonly a: "k" | "m"; readonly b: "n" | "k" },
  { rows, columns4, a, b }: Step,
): string {
  const lines: string[] = [];
  if (along.a === "m") {
    for (let i4 = 0; i4 < rows / 4; i4++) {
      for (let kk = 0; kk < 4; kk++) lines.push(`let q_${i4}_${kk} = ${a(i4, kk)};`);
    }
  }
  if (along.b === "k") {
    for (let j = 0; j < columns4; j++) {
      for (let kk = 0; kk < 4; kk++) {
        const columns = [0, 1, 2, 3].map((c) => `${b(j, c)}.${"xyzw"[kk]}`);
        lines.push(`let r_${j}_${kk} = vec4f(${columns.join(", ")});`);
      }
    }
  }
  const right = (j: number, kk: number) => along.b === "k" ? `r_${j}_${kk}` : b(j, kk);
  for (let i = 0; i < rows; i++) {
    if (along.a === "k") lines.push(`let p_${i} = ${a(i, 0)};`);
    const left = (kk: number) => along.a === "k" ? `p_${i}.${"xyzw"[kk]}` : `q_${i >> 2}_${kk}.${"xyzw"[i & 3]}`;
    for (let j = 0; j < columns4; j++) {
      for (let kk = 0; kk < 4; kk++) lines.push(`acc_${i}_${j} += ${left(kk)} * ${right(j, kk)};`);
    }
  }
  return lines.join("\n");
}

/** WGSL that declares the accumulators, zero. */
export function accumulators(problem: Gemm, rows: number, columns4: number): string {
  const sums = problem.columnSums ? unroll(columns4, (j) => `var sums_${j} = vec4f();`) : "";
  return unroll(rows * columns4, (i) => `var acc_${Math.floor(i / columns4)}_${i % columns4} = vec4f();`) + sums;
}

/** WGSL that adds four elements of k, `b(j, kk)`, to the column sums: in one order, whatever the strategy. */
export function addColumnSums({ columnSums }: Gemm, columns4: number, b: (j: number, kk: number) => string): string {
  if (!columnSums) return "";
  return unroll(columns4, (j) => `sums_${j} += (${b(j, 0)} + ${b(j, 1)}) + (${b(j, 2)} + ${b(j, 3)});`);
}

/** Whether storing needs something of each column: loaded once, not once a row. */
export function loadsColumns({ bias, norm, rowSums }: Gemm): boolean {
  return bias !== undefined || norm !== undefined || rowSums?.kind === "gradient";
}

/** The accumulators of a thread, and where they go. */
export interface Block {
  readonly rows: number;
  /** Row `i` is this row of the result. */
  readonly row: (i: number) => string;
  readonly columns4: number;
  /** Column `j` is this one of the result, in fours. */
  readonly column4: (j: number) => string;
  /** For strategies that take row sums (`row_sums.ts`): a thread's rows of one chunk, and the WGSL that makes sums of them. */
  readonly sums?: { readonly rows: number; readonly text: (chunk: number, of: ChunkRows) => string };
}

/** WGSL that stores the accumulators, and sums over them where the problem asks for that. */
export function stores(problem: Gemm, { rows, row, columns4, column4, sums }: Block): string {
  const loaded = loadsColumns(problem);
  const store = (i: number, j: number) => `store(${row(i)}, n4, acc_${i}_${j}${loaded ? ", column" : ""});`;
  const summed = problem.rowSums && sums;
  const chunk = ({ rows, text }: NonNullable<Block["sums"]>, c: number) => {
    const own = Array.from({ length: rows }, (_, i) => c * rows + i);
    return text(c, { terms: own.map((i) => `terms_${i}`), rows: own.map((i) => `(${row(i)})`) });
  };
  return unroll(columns4, (j) => /* wgsl */ `
  {
    let n4 = ${column4(j)};
    ${loaded ? "let column = load_column(min(n4, N4 - 1u));" : ""}
    ${unroll(rows, (i) => summed ? `let terms_${i} = ${store(i, j)}` : store(i, j))}
    ${summed ? unroll(rows / summed.rows, (c) => chunk(summed, c)) : ""}
  }`);
}
