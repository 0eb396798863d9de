/**
 * The weight gradient of a grouped convolution with what it loads staged in workgroup memory: where groups are wide, each
 * pixel of `x` and of `dy` is for many pairs of channels, and is loaded and normalized once for all of them.
 *
 * An invocation owns, as in `grouped_weight_gradient.ts`, one vec4 of input channels, one of output channels and all
 * taps. A workgroup owns some of each, and some shares of the pixels. The invocations of a share walk over its tiles
 * together, load each for all of them, and add in that file's order.
 */

import type { Capabilities } from "./device.ts";
import { type Axis, blocksTogether, canMiss, type Grouping, isRagged, reachableTaps } from "./grouped_tiling.ts";
import { range, sources } from "./grouped_tiling.ts";
import { type GradientSums, gradientSums } from "./grouped_weight_gradient_sums.ts";
import type { NormalizedLoads } from "./load_norm.ts";
import { addProduct, ceilDiv, entryPoint, guarded, unroll } from "./wgsl.ts";

/** What a workgroup owns: vec4s of output channels, of input channels of their groups, and shares of the pixels. */
export interface StagedBlock {
  readonly outs: number;
  readonly ins: number;
  readonly shares: number;
}

const MOST_OUTS = 8;
const MOST_INS = 16;
const MOST_INVOCATIONS = 128;

/** The block for tiles of one row, on a device; undefined where there is nothing to share, or not in this way. */
export function stagedBlock(
  { rows, columns, rowsEach }: { readonly rows: Axis; readonly columns: Axis; readonly rowsEach: number },
  { outBlocks, outPerGroup, inPerGroup }: Grouping,
  { maxWorkgroupStorageBytes }: Capabilities,
): StagedBlock | undefined {
  const shared = inPerGroup > 1 && outPerGroup > 1 && rows.size === 1 && rowsEach >= reachableTaps(rows).length;
  const outs = shared && isEven(rows) && isEven(columns)
    ? blocksTogether(outBlocks, outPerGroup, MOST_OUTS)
    : undefined;
  if (outs === undefined) return undefined;
  const ins = blocksTogether(inPerGroup, inPerGroup, Math.min(MOST_INS, inPerGroup))!;
  const lines = lineLengths(rows, columns),
    bytes = 16 * (xBlocks({ outs, ins }, outPerGroup) * lines.x + outs * lines.dy);
  const shares = Math.min(Math.floor(MOST_INVOCATIONS / (outs * ins)), Math.floor(maxWorkgroupStorageBytes / bytes));
  return shares > 0 ? { outs, ins, shares } : undefined;
}

/** Whether the sources of a tile lie at one distance from each other. */
function isEven(axis: Axis): boolean {
  const reaches = sources(axis).map(({ reach }) => reach);
  return reaches.length > 0 && reaches.every((reach, i) => reach === reaches[0] + i * distance(axis));
}

function distance(axis: Axis): number {
  const [first, second] = sources(axis);
  return second ? second.reach - first.reach : 1;
}

/** vec4s of x that a share's invocations need of a pixel. */
function xBlocks({ outs, ins }: Pick<StagedBlock, "outs" | "ins">, outPerGroup: number): number {
  return Math.max(1, outs / outPerGroup) * ins;
}

/** vec4s that a vec4 of channels takes of workgroup memory, for a tile: odd, so that neighbours meet different banks. */
function lineLengths(rows: Axis, columns: Axis): { x: number; dy: number } {
  return { x: sources(rows).length * sources(columns).length | 1, dy: columns.size | 1 };
}

interface Kernel extends GradientSums {
  readonly block: StagedBlock;
  readonly loads: NormalizedLoads;
}

/** The kernel's text. */
export function stagedSource(kernel: Kernel): string {
  const { rows, columns, grouping, block, loads, bias } = kernel, sums = gradientSums(kernel);
  const { outPerGroup, inPerGroup, outBlocks } = grouping, { outs, ins, shares } = block;
  const pairs = outs * ins, xs = xBlocks(block, outPerGroup), lines = lineLengths(rows, columns);
  const xRows = sources(rows), xColumns = sources(columns), places = xRows.length * xColumns.length;
  const xStep = pairs / xs, xRounds = ceilDiv(places, xStep), dyRounds = ceilDiv(columns.size, ins);
  const outSets = outBlocks / outs, inSets = inPerGroup / ins;
  const place = (r: number) => `min(x_place + ${r * xStep}u, ${places - 1}u)`;
  const missRows = xRows.some(({ reach }) => canMiss(rows, reach));
  const missColumns = xColumns.some(({ reach }) => canMiss(columns, reach));
  const at = (axis: Axis, tile: string, index: string) =>
    `i32(${tile} * ${axis.step}u + ${index} * ${distance(axis)}u) + ${sources(axis)[0].reach}`;
  const fetch = (step: string) =>
    /* wgsl */ `{
    let tile_at = share * TILES_EACH + ${step};
    let live = tile_at < TILES;
    let tile = min(tile_at, TILES - 1u);
    let tile_column = tile % ${columns.tiles}u;
    let tile_row = tile / ${columns.tiles}u % ${rows.tiles}u;
    let image = tile / ${columns.tiles * rows.tiles}u;
    ${
      unroll(xRounds, (r) => {
        const guards = [
          ...(missRows ? ["row_at >= 0", `row_at < ${rows.source}`] : []),
          ...(missColumns ? ["column_at >= 0", `column_at < ${columns.source}`] : []),
        ];
        return /* wgsl */ `{
      let row_at = ${at(rows, "tile_row", `x_row_${r}`)};
      let column_at = ${at(columns, "tile_column", `x_column_${r}`)};
      let row = u32(clamp(row_at, 0, ${rows.source - 1}));
      let column = u32(clamp(column_at, 0, ${columns.source - 1}));
      let value = ${loads.apply("get_x(((image * X_ROWS + row) * X_COLUMNS + column) * X_BLOCKS + x_block)", "by")};
      next_x_${r} = ${guarded("value", guards)};
    }`;
      })
    }
    ${
      unroll(dyRounds, (r) => {
        const column = `tile_column * ${columns.size}u + min(dy_place + ${r * ins}u, ${columns.size - 1}u)`;
        const guards = ["live", ...(isRagged(columns) ? ["column < DY_COLUMNS"] : [])];
        return /* wgsl */ `{
      let column = ${column};
      let value = get_dy(((image * DY_ROWS + tile_row) * DY_COLUMNS + min(column, DY_COLUMNS - 1u)) * DY_BLOCKS + dy_block);
      next_dy_${r} = ${guarded("value", guards)};
    }`;
      })
    }
  }`;
  const stage = (name: string, line: string, rounds: number, step: number, places: number) =>
    unroll(rounds, (r) => {
      const store = `tile_${name}[${line}][${name}_place + ${r * step}u] = next_${name}_${r};`;
      return (r + 1) * step <= places ? store : `if (${name}_place + ${r * step}u < ${places}u) { ${store} }`;
    });
  return /* wgsl */ `
${loads.functions}
var<workgroup> tile_x: array<array<vec4f, ${lines.x}>, ${xs * shares}>;
var<workgroup> tile_dy: array<array<vec4f, ${lines.dy}>, ${outs * shares}>;
${entryPoint(pairs * shares)}
  let first_out = workgroup_index % ${outSets}u * ${outs}u;
  let first_in = workgroup_index / ${outSets}u % ${inSets}u * ${ins}u;
  let own_share = local / ${pairs}u;
  let share = workgroup_index / ${outSets * inSets}u * ${shares}u + own_share;
  let pair = local % ${pairs}u;
  // The pair of channels that it owns.
  let out_block = first_out + pair % ${outs}u;
  let in_block = first_in + pair / ${outs}u;
  let x_line = own_share * ${xs}u + (out_block / ${outPerGroup}u - first_out / ${outPerGroup}u) * ${ins}u + pair / ${outs}u;
  let dy_line = own_share * ${outs}u + pair % ${outs}u;
  // What it loads for all of its share.
  let load_x = pair % ${xs}u;
  let x_place = pair / ${xs}u;
  let x_block = (first_out / ${outPerGroup}u + load_x / ${ins}u) * ${inPerGroup}u + first_in + load_x % ${ins}u;
  let load_x_line = own_share * ${xs}u + load_x;
  let dy_place = pair / ${outs}u;
  let dy_block = out_block;
  ${
    unroll(xRounds, (r) =>
      `let x_row_${r} = ${place(r)} / ${xColumns.length}u;\nlet x_column_${r} = ${place(r)} % ${xColumns.length}u;`)
  }
  ${loads.prepare("by", "x_block")}
  ${unroll(xRounds, (r) => `var next_x_${r} = vec4f();`)}
  ${unroll(dyRounds, (r) => `var next_dy_${r} = vec4f();`)}
  ${sums.declarations}
  ${fetch("0u")}
  for (var step = 0u; step < TILES_EACH; step++) {
    ${stage("x", "load_x_line", xRounds, xStep, places)}
    ${stage("dy", "dy_line", dyRounds, ins, columns.size)}
    workgroupBarrier();
    ${fetch("step + 1u")}
    ${
    range(columns.size).map((p) => `let d_${p} = tile_dy[dy_line][${p}u];${bias ? ` bias_0 += d_${p};` : ""}`).join(
      "\n",
    )
  }
    ${
    xRows.flatMap((row, y) =>
      xColumns.flatMap((column, x) => {
        const uses = row.uses.flatMap(({ tap: ky }) => column.uses.map(({ offset: p, tap: kx }) => ({ ky, kx, p })));
        const products = uses.flatMap(({ ky, kx, p }) =>
          grouping.swizzles.map((swizzle, j) =>
            addProduct(`sum_${ky}_${kx}_${j}_0`, `x_${y}_${x}.${swizzle}`, `d_${p}`, true)
          )
        );
        return [`let x_${y}_${x} = tile_x[x_line][${y * xColumns.length + x}u];`, ...products];
      })
    ).join("\n")
  }
    workgroupBarrier();
  }
  if (share < CHUNKS) {
    ${sums.stores}
  }
}`;
}
