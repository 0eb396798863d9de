/** Matrix multiplication by the strategy `registers`; see `gemm.ts`. */

import { laneTile } from "./gemm_lanes.ts";
import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { unroll } from "./wgsl.ts";

/** A block of registers a thread, straight from memory; eight threads side by side in n. */
export function registerTile(problem: Gemm, variant: GemmVariant): Tile {
  const { rows, columns4 } = variant;
  const own = { lanes: 8, column4: (j: number) => `lane * ${columns4}u + ${j}u` };
  if (problem.a.along === "k") {
    return laneTile(problem, variant, {
      ...own,
      prepareA: unroll(rows, (i) => `let row_${i} = a_row(min(tile_m + ${i}u, M - 1u));`),
      loadA: unroll(rows, (i) => `let a_${i} = load_a(row_${i}, k / 4u);`),
      a: (i) => `a_${i}`,
    });
  }
  return laneTile(problem, variant, {
    ...own,
    prepareA: unroll(rows / 4, (i) => `let column_${i} = a_column(min(tile_m / 4u + ${i}u, M / 4u - 1u));`),
    loadA: unroll(rows, (i) => {
      const i4 = i >> 2, kk = i & 3, k = `k + ${kk}u`;
      return `let a_${i4}_${kk} = select(vec4f(), load_a(column_${i4}, min(${k}, K - 1u)), ${k} < k_end);`;
    }),
    a: (i4, kk) => `a_${i4}_${kk}`,
  });
}

/** The variants, the best guess first. */
export function registerVariants(): GemmVariant[] {
  return [[8, 2], [4, 2], [8, 1]].map(([rows, columns4]) => ({ strategy: "registers", rows, columns4 }));
}
