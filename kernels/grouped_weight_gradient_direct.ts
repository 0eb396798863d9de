/** The text of a grouped convolution's weight gradient whose invocations load what they need themselves. */

import { positions } from "./grouped_gather.ts";
import { canMiss, isRagged, range, sources } from "./grouped_tiling.ts";
import { type GradientSums, gradientSums } from "./grouped_weight_gradient_sums.ts";
import type { NormalizedLoads } from "./load_norm.ts";
import { addProduct, eachItem, guarded } from "./wgsl.ts";

interface Kernel extends GradientSums {
  readonly workgroupSize: number;
  /** See `addProduct`. */
  readonly fused: boolean;
  readonly loads: NormalizedLoads;
}

/** The text. A tile's `dy` and `x` are loaded once for all its taps. */
export function directSource(kernel: Kernel): string {
  const { outs, workgroupSize, loads, grouping: { outPerGroup, inPerGroup } } = kernel, sums = gradientSums(kernel);
  return /* wgsl */ `
${loads.functions}
${eachItem(workgroupSize)}
  let out_block = (item % OUT_ITEMS) * ${outs}u;
  let in_block = (item / OUT_ITEMS) % ${inPerGroup}u;
  let share = item / OUT_ITEMS / ${inPerGroup}u;
  let x_block = out_block / ${outPerGroup}u * ${inPerGroup}u + in_block;
  ${loads.prepare("by", "x_block")}
  ${sums.declarations}
  for (var step = 0u; step < TILES_EACH; step++) {
    let tile = share * TILES_EACH + step;
    if (tile >= TILES) { break; }
    ${tileBody(kernel)}
  }
  ${sums.stores}
}`;
}

/** One tile: its `dy`, then each row of `x` with all that it contributes to. */
function tileBody({ rows, columns, grouping, taps, outs, fused, loads, bias }: Kernel): string {
  const lines = [
    `let tile_column = ${columns.tiles === 1 ? "0u" : `tile % ${columns.tiles}u`};`,
    `let tile_row = ${rows.tiles === 1 ? "0u" : `(tile / ${columns.tiles}u) % ${rows.tiles}u`};`,
    `let image = tile / ${columns.tiles * rows.tiles}u;`,
  ];
  for (const r of range(rows.size)) {
    const row = `tile_row * ${rows.size}u + ${r}u`;
    lines.push(`let dy_row_${r} = ${isRagged(rows) ? `min(${row}, DY_ROWS - 1u)` : row};`);
    for (const p of range(columns.size)) {
      const column = `tile_column * ${columns.size}u + ${p}u`;
      const guards = [
        ...(isRagged(rows) ? [`${row} < DY_ROWS`] : []),
        ...(isRagged(columns) ? [`${column} < DY_COLUMNS`] : []),
      ];
      const at = isRagged(columns) ? `min(${column}, DY_COLUMNS - 1u)` : column;
      lines.push(
        `let dy_at_${r}_${p} = ((image * DY_ROWS + dy_row_${r}) * DY_COLUMNS + ${at}) * DY_BLOCKS + out_block;`,
      );
      for (const k of range(outs)) {
        const load = `get_dy(dy_at_${r}_${p} + ${k}u)`;
        lines.push(`let d_${r}_${p}_${k} = ${guarded(load, guards)};`);
        if (bias) lines.push(`bias_${k} += d_${r}_${p}_${k};`);
      }
    }
  }
  const xRows = sources(rows, taps.rows), xColumns = sources(columns);
  lines.push(...positions("row", rows, xRows.map(({ reach }) => reach)));
  lines.push(...positions("column", columns, xColumns.map(({ reach }) => reach)));
  xRows.forEach((row, y) => {
    lines.push(`let x_at_${y} = (image * X_ROWS + row_${y}) * (X_COLUMNS * X_BLOCKS) + x_block;`);
    xColumns.forEach((column, x) => {
      const guards = [
        ...(canMiss(rows, row.reach) ? [`row_in_${y}`] : []),
        ...(canMiss(columns, column.reach) ? [`column_in_${x}`] : []),
      ];
      const load = loads.apply(`get_x(x_at_${y} + column_${x} * X_BLOCKS)`, "by");
      const value = `x_${y}_${x}`;
      lines.push(`let ${value} = ${guarded(load, guards)};`);
      for (const { offset: r, tap: ky } of row.uses) {
        for (const { offset: p, tap: kx } of column.uses) {
          for (const k of range(outs)) {
            grouping.swizzles.forEach((swizzle, j) =>
              lines.push(addProduct(`sum_${ky}_${kx}_${j}_${k}`, `${value}.${swizzle}`, `d_${r}_${p}_${k}`, fused))
            );
          }
        }
      }
    });
  });
  return lines.join("\n");
}
