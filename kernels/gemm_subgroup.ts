/** Matrix multiplication by the strategy `subgroup`; see `gemm.ts`. */

import type { Capabilities } from "./device.ts";
import { laneTile } from "./gemm_lanes.ts";
import type { Gemm, GemmVariant, Tile } from "./gemm_problem.ts";
import { unroll } from "./wgsl.ts";

/**
 * One subgroup a workgroup; a lane owns `columns4` times four columns and all of the tile's rows. A's pieces are spread over
 * the lanes, so that a step of four k costs `rows / lanes` loads of A and `4 columns4` of B for `16 rows columns4`
 * multiply-adds a lane.
 */
export function subgroupTile(problem: Gemm, variant: GemmVariant, caps: Capabilities): Tile {
  const { rows } = variant, lanes = caps.subgroupSize, loads = rows / lanes;
  const own = { lanes, column4: (j: number) => `${j * lanes}u + lane` };
  const broadcast = (piece: number, from: number) => `subgroupBroadcast(a_${piece}, ${from}u)`;
  if (problem.a.along === "k") {
    return laneTile(problem, variant, {
      ...own,
      prepareA: unroll(loads, (r) => `let row_${r} = a_row(min(tile_m + ${r * lanes}u + lane, M - 1u));`),
      loadA: unroll(loads, (r) => `let a_${r} = load_a(row_${r}, k / 4u);`),
      a: (i) => broadcast(Math.floor(i / lanes), i % lanes),
    });
  }
  // A load of all lanes covers `span` rows at `depth` elements of k.
  const span = Math.min(rows, lanes * 4), depth = lanes * 4 / span, perSpan = 4 / depth;
  return laneTile(problem, variant, {
    ...own,
    prepareA: unroll(
      rows / span,
      (g) => `let column_${g} = a_column(min((tile_m + ${g * span}u) / 4u + lane % ${span / 4}u, M / 4u - 1u));`,
    ),
    loadA: unroll(loads, (r) => {
      const column = `column_${Math.floor(r / perSpan)}`, k = `k + ${(r % perSpan) * depth}u + lane / ${span / 4}u`;
      return `let a_${r} = select(vec4f(), load_a(${column}, min(${k}, K - 1u)), ${k} < k_end);`;
    }),
    a: (i4, kk) => {
      const piece = Math.floor(i4 * 4 / span) * perSpan + Math.floor(kk / depth);
      return broadcast(piece, (kk % depth) * span / 4 + i4 % (span / 4));
    },
  });
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
