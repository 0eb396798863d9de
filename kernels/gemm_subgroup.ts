/** Matrix multiplication by the strategy `subgroup`; see `gemm.ts`. */

import type { Capabilities } from "./device.ts";
import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { accumulators, addColumnSums, step, stores } from "./gemm_step.ts";
import { unroll } from "./wgsl.ts";

/**
 * One subgroup a workgroup; a lane owns `columns4` times four columns and all of the tile's rows. A's pieces are spread over
 * the lanes, so that a step of four k costs `rows / lanes` loads of A and `4 columns4` of B for `16 rows columns4`
 * multiply-adds a lane.
 */
export function subgroupTile(problem: Gemm, { rows, columns4 }: GemmVariant, caps: Capabilities): Tile {
  const lanes = caps.subgroupSize;
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
  // What lies beyond the sum's end is loaded from inside of it, and must not count.
  const sums = addColumnSums(problem, columns4, (j, kk) => `select(vec4f(), b_${j}_${kk}, k + ${kk}u < k_end)`);
  const inner = step(problem, {
    rows,
    columns4,
    a: alongK ? (i) => `subgroupBroadcast(a_${Math.floor(i / lanes)}, ${i % lanes}u)` : aName,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  return {
    rows,
    columns: lanes * columns4 * 4,
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
  ${stores(problem, { rows, row: (i) => `tile_m + ${i}u`, columns4, column4: (j) => `own_n4_${j}` })}
  ${
      problem.columnSums
        ? `if (tile_m == 0u) { ${unroll(columns4, (j) => `store_sums(own_n4_${j}, sums_${j});`)} }`
        : ""
    }`,
  };
}

/**
 * The variants, the best guess first. Measured on a software adapter of eight lanes: 32 rows load half as much a
 * multiplication as 8 and beat 64, whose code is twice as long, but for products of few rows.
 */
export function subgroupVariants({ m, b }: Gemm, { subgroupSize: lanes }: Capabilities): GemmVariant[] {
  const wide = b.along === "n" ? 2 : 1;
  const sizes = m > 16 || lanes > 16 ? [[32, 1], [32, 2], [16, 2], [16, 1]] : [[16, wide], [16, 3 - wide], [32, 1]];
  return sizes.filter(([rows]) => rows % lanes === 0).map(([rows, columns4]) => ({
    strategy: "subgroup",
    rows,
    columns4,
  }));
}
