/** What the strategies without shared memory have in common; see `gemm.ts`. */

import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { accumulators, addColumnSums, step, stores } from "./gemm_step.ts";
import { unroll } from "./wgsl.ts";

/** Where such strategies differ: which columns a lane owns, and how it comes by A. */
export interface Lanes {
  /** Of a workgroup. */
  readonly lanes: number;
  /** The lane's column `j`, in fours, counted from the tile's first. */
  readonly column4: (j: number) => string;
  /** WGSL ahead of the sum: what loads of A need, computed once. */
  readonly prepareA: string;
  /** WGSL that loads the lane's pieces of A for four elements from `k` on. */
  readonly loadA: string;
  /** As in `gemm_step.ts`: an expression for a piece of A. */
  readonly a: (i: number, kk: number) => string;
}

/** A tile whose lanes own all of its rows and some of its columns; B goes from memory straight to registers. */
export function laneTile(
  problem: Gemm,
  { rows, columns4 }: GemmVariant,
  { lanes, column4, prepareA, loadA, a }: Lanes,
): Tile {
  // Where A lies along k, k is a multiple of four: no step of four goes beyond it.
  const inside = (k: string) => problem.a.along === "k" ? k : `min(${k}, K - 1u)`;
  const loadB = unroll(4 * columns4, (i) => {
    const j = i >> 2, kk = i & 3;
    return problem.b.along === "n"
      ? `let b_${j}_${kk} = load_b(${inside(`k + ${kk}u`)}, n4_${j});`
      : `let b_${j}_${kk} = load_b(k / 4u, n4_${j} * 4u + ${kk}u);`;
  });
  const b = (j: number, kk: number) => `b_${j}_${kk}`;
  // What lies beyond the sum's end is loaded from inside of it, and must not count.
  const sums = addColumnSums(problem, columns4, (j, kk) => `select(vec4f(), ${b(j, kk)}, k + ${kk}u < k_end)`);
  const storeSums = unroll(columns4, (j) => `store_sums(own_n4_${j}, sums_${j});`);
  return {
    rows,
    columns: lanes * columns4 * 4,
    workgroupSize: lanes,
    declarations: "",
    body: /* wgsl */ `
  ${unroll(columns4, (j) => `let own_n4_${j} = tile_n / 4u + ${column4(j)}; let n4_${j} = min(own_n4_${j}, N4 - 1u);`)}
  ${prepareA}
  ${accumulators(problem, rows, columns4)}
  for (var k = k_begin; k < k_end; k += 4u) {
    ${loadA}
    ${loadB}
    ${sums}
    ${step({ a: problem.a.along, b: problem.b.along }, { rows, columns4, a, b })}
  }
  ${stores(problem, { rows, row: (i) => `tile_m + ${i}u`, columns4, column4: (j) => `own_n4_${j}` })}
  ${problem.columnSums ? `if (tile_m == 0u) { ${storeSums} }` : ""}`,
  };
}
