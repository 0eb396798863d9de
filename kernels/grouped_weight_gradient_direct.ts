/** The text of a grouped convolution's weight gradient whose invocations load what they need themselves. */

import { positions } from "./grouped_gather.ts";
import { type Axis, canMiss, type Grouping, isRagged, range, reachableTaps, sources } from "./grouped_tiling.ts";
import type { NormalizedLoads } from "./load_norm.ts";
import { eachItem, guarded } from "./wgsl.ts";

interface Kernel {
  readonly rows: Axis;
  readonly columns: Axis;
  readonly grouping: Grouping;
  readonly taps: { readonly rows: readonly number[]; readonly zero: readonly number[] };
  /** Output vec4s of an invocation. */
  readonly outs: number;
  readonly workgroupSize: number;
  readonly loads: NormalizedLoads;
  readonly output: string;
  readonly bias?: { readonly output: string; readonly at: number };
}

/** The text. A tile's `dy` and `x` are loaded once for all its taps. */
export function directSource(kernel: Kernel): string {
  const { rows, columns, grouping, taps, outs, workgroupSize, loads, output, bias } = kernel;
  const { inWidth, outPerGroup, inPerGroup, swizzles } = grouping;
  const tapColumns = reachableTaps(columns);
  const sums = taps.rows.flatMap((ky) =>
    tapColumns.flatMap((kx) => range(swizzles.length).flatMap((j) => range(outs).map((k) => ({ ky, kx, j, k }))))
  );
  const store = (ky: number, kx: number, j: number, k: number, value: string) =>
    `${output}[chunk * PARTIAL + (${
      (ky * columns.kernel + kx) * inWidth + j
    }u + in_block * 4u) * DY_BLOCKS + out_block + ${k}u] = ${value};`;
  const zeros = range(rows.kernel).flatMap((ky) =>
    range(columns.kernel).filter((kx) => taps.zero.includes(ky) || taps.rows.includes(ky) && !tapColumns.includes(kx))
      .flatMap((kx) => range(swizzles.length).flatMap((j) => range(outs).map((k) => store(ky, kx, j, k, "vec4f()"))))
  );
  return /* wgsl */ `
${loads.functions}
${eachItem(workgroupSize)}
  let out_block = (item % OUT_ITEMS) * ${outs}u;
  let in_block = (item / OUT_ITEMS) % ${inPerGroup}u;
  let chunk = item / OUT_ITEMS / ${inPerGroup}u;
  let x_block = out_block / ${outPerGroup}u * ${inPerGroup}u + in_block;
  ${loads.prepare("by", "x_block")}
  ${sums.map(({ ky, kx, j, k }) => `var sum_${ky}_${kx}_${j}_${k} = vec4f();`).join("\n")}
  ${bias ? range(outs).map((k) => `var bias_${k} = vec4f();`).join("\n") : ""}
  for (var step = 0u; step < TILES_EACH; step++) {
    let tile = chunk * TILES_EACH + step;
    if (tile >= TILES) { break; }
    ${tileBody(kernel)}
  }
  ${sums.map(({ ky, kx, j, k }) => store(ky, kx, j, k, `sum_${ky}_${kx}_${j}_${k}`)).join("\n")}
  ${zeros.join("\n")}
  ${
    bias
      ? `if (in_block == 0u) {\n${
        range(outs).map((k) => `${bias.output}[chunk * PARTIAL + ${bias.at}u + out_block + ${k}u] = bias_${k};`).join(
          "\n",
        )
      }\n}`
      : ""
  }
}`;
}

/** One tile: its `dy`, then each row of `x` with all that it contributes to. */
function tileBody({ rows, columns, grouping, taps, outs, loads, bias }: Kernel): string {
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
              lines.push(`sum_${ky}_${kx}_${j}_${k} += ${value}.${swizzle} * d_${r}_${p}_${k};`)
            );
          }
        }
      }
    });
  });
  return lines.join("\n");
}
