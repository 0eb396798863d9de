/** Matrix multiplication by the strategy `registers`; see `gemm.ts`. */

import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { accumulators, addColumnSums, step, stores } from "./gemm_step.ts";
import { unroll } from "./wgsl.ts";

/** A block of registers a thread, straight from memory; eight threads side by side in n. */
export function registerTile(problem: Gemm, { rows, columns4 }: GemmVariant): Tile {
  const lanes = 8;
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
  // What lies beyond the sum's end is loaded from inside of it, and must not count.
  const sums = addColumnSums(problem, columns4, (j, kk) => `select(vec4f(), b_${j}_${kk}, k + ${kk}u < k_end)`);
  const inner = step(problem, {
    rows,
    columns4,
    a: (i, kk) => alongK ? `a_${i}` : `a_${i}_${kk}`,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  return {
    rows,
    columns: lanes * columns4 * 4,
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
  ${stores(problem, { rows, row: (i) => `tile_m + ${i}u`, columns4, column4: (j) => `own_n4_${j}` })}
  ${
      problem.columnSums
        ? `if (tile_m == 0u) { ${unroll(columns4, (j) => `store_sums(own_n4_${j}, sums_${j});`)} }`
        : ""
    }`,
  };
}

/** The variants, the best guess first. */
export function registerVariants(): GemmVariant[] {
  return [[8, 2], [4, 2], [8, 1]].map(([rows, columns4]) => ({ strategy: "registers", rows, columns4 }));
}
