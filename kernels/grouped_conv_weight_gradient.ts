/**
 * Weight gradient of a grouped convolution: for a tap, `dweight[i, o] = sum over pixels of x[i] dy[o]`.
 *
 * An invocation owns one vec4 of input channels, some of output channels and some kernel rows, and walks over its share
 * of the tiles of pixels with all those sums in registers. A tile's `dy` and `x` are loaded once for all its taps.
 * Shares ("chunks") write partial sums, which further dispatches add in a fixed order. The bias gradient rides along.
 */

import { convFlops, type ConvGeometry, convKey, convOutput } from "./conv_geometry.ts";
import type { Capabilities } from "./device.ts";
import type { Binding, Dispatch, Operand } from "./dispatch.ts";
import { operand, read, write } from "./dispatch.ts";
import { type StagedBlock, stagedBlock, stagedSource } from "./grouped_dweight_staged.ts";
import { positions } from "./grouped_gather.ts";
import {
  type Axis,
  canMiss,
  forwardAxis,
  type Grouping,
  isRagged,
  LOAD_COST,
  MOST_COLUMNS,
  MOST_ROWS,
  MOST_TEXT,
  range,
  reachableTaps,
  RUN_COST,
  SOFTWARE_INVOCATIONS,
  sources,
  tileSize,
  tileSizes,
  uses,
} from "./grouped_tiling.ts";
import type { Shape } from "./layout.ts";
import { type LoadNorm, type NormalizedLoads, normalizedLoads } from "./load_norm.ts";
import { partialSums } from "./partial_sums.ts";
import { chosenDispatches } from "./tuning.ts";
import { ceilDiv, eachItem, guarded, itemGrid } from "./wgsl.ts";

/** Operands of a weight gradient. */
export interface WeightGradientOperands {
  readonly x: Operand;
  readonly dy: Operand;
  readonly dweight: Operand;
  /** The column sum of `dy`. */
  readonly dbias?: Operand;
  /** `x` is normalized as it is loaded. */
  readonly loadNorm?: LoadNorm;
}

/** The dispatches of the weight gradient, and of the bias gradient when asked for. */
export function groupedWeightGradientDispatches(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  grouping: Grouping,
  caps: Capabilities,
): Dispatch[] {
  const gpu = gpuPlan(geometry, grouping), block = stagedBlock(gpu, grouping, caps);
  const direct = caps.software ? softwarePlan(geometry, grouping) : gpu;
  const variants = new Map([["direct", () => directDispatches(operands, geometry, grouping, direct, caps)]]);
  if (block) variants.set("staged", () => stagedDispatches(operands, geometry, grouping, gpu, block, caps));
  const key = `grouped dweight ${convKey(geometry)}${operands.x.type === "f16" ? " f16" : ""}`;
  return chosenDispatches({ key, variants, likely: caps.software ? 1 : variants.size }, caps.tuning);
}

/** An invocation by itself, some kernel rows a dispatch. */
function directDispatches(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  grouping: Grouping,
  plan: Plan,
  caps: Capabilities,
): Dispatch[] {
  const { rows, columns, outs, rowsEach, workgroupSize } = plan;
  const { tiles, tilesEach, chunks } = shares(plan, geometry, grouping);
  const to = destination(operands, geometry, grouping, chunks);
  const loads = normalizedLoads(operands.loadNorm, "X_BLOCKS");
  const items = grouping.outBlocks / outs * grouping.inPerGroup * chunks;
  const parts = partition(rows.kernel, reachableTaps(rows), rowsEach);
  const dispatches = parts.map((taps, part): Dispatch => ({
    label: "conv2d.grouped.dweight",
    bindings: bindings(operands, loads, to, part === 0),
    constants: {
      ITEMS: items,
      OUT_ITEMS: grouping.outBlocks / outs,
      TILES: tiles,
      TILES_EACH: tilesEach,
      ...sizes(geometry, grouping, to),
    },
    source: source({
      ...{ rows, columns, grouping, taps, outs, workgroupSize, loads },
      output: to.output,
      bias: part > 0 ? undefined : to.bias,
    }),
    workgroups: itemGrid(items, workgroupSize, caps.maxWorkgroupsPerDimension),
    ...work(operands, geometry, parts.length),
  }));
  return [...dispatches, ...to.added(caps)];
}

/** A workgroup's invocations together: see `grouped_dweight_staged.ts`. */
function stagedDispatches(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  grouping: Grouping,
  plan: Plan,
  block: StagedBlock,
  caps: Capabilities,
): Dispatch[] {
  const { rows, columns } = plan;
  const { tiles, tilesEach, chunks } = shares(plan, geometry, grouping);
  const to = destination(operands, geometry, grouping, chunks);
  const loads = normalizedLoads(operands.loadNorm, "X_BLOCKS");
  const sets = grouping.outBlocks / block.outs * grouping.inPerGroup / block.ins * ceilDiv(chunks, block.shares);
  const dispatch: Dispatch = {
    label: "conv2d.grouped.dweight",
    bindings: bindings(operands, loads, to, true),
    constants: { TILES: tiles, TILES_EACH: tilesEach, CHUNKS: chunks, ...sizes(geometry, grouping, to) },
    source: stagedSource({ rows, columns, grouping, block, loads, output: to.output, bias: to.bias }),
    workgroups: itemGrid(sets, 1, caps.maxWorkgroupsPerDimension),
    ...work(operands, geometry, 1),
  };
  return [dispatch, ...to.added(caps)];
}

/** How the pixels are shared out. */
function shares({ rows, columns, outs, invocations }: Plan, geometry: ConvGeometry, grouping: Grouping) {
  const tiles = geometry.input.n * rows.tiles * columns.tiles;
  const lanes = grouping.outBlocks / outs * grouping.inPerGroup;
  const tilesEach = ceilDiv(tiles, Math.min(ceilDiv(invocations, lanes), tiles, MAX_CHUNKS));
  return { tiles, tilesEach, chunks: ceilDiv(tiles, tilesEach) };
}

/** Where sums go: to the gradients, or where there are several shares to partial results. */
interface Destination {
  /** vec4s of one share's results. */
  readonly stride: number;
  readonly bindings: Readonly<Record<string, Binding>>;
  readonly biasBinding: Readonly<Record<string, Binding>>;
  /** Name of the binding that takes weights. */
  readonly output: string;
  /** Likewise, and from where on. */
  readonly bias?: { readonly output: string; readonly at: number };
  /** What adds partial results. */
  readonly added: (caps: Capabilities) => Dispatch[];
}

function destination(
  { dweight, dbias }: WeightGradientOperands,
  { kernelHeight, kernelWidth }: ConvGeometry,
  { inWidth, outBlocks }: Grouping,
  chunks: number,
): Destination {
  const weightVecs = kernelHeight * kernelWidth * inWidth * outBlocks, biasVecs = dbias ? outBlocks : 0;
  const stride = weightVecs + biasVecs;
  if (chunks === 1) {
    return {
      stride,
      bindings: { dweight: write(dweight) },
      biasBinding: dbias ? { dbias: write(dbias) } : {},
      output: "dweight",
      bias: dbias && { output: "dbias", at: 0 },
      added: () => [],
    };
  }
  const partial = operand("partial dweight", chunks * stride * 4);
  const outputs = [{ operand: dweight, vecs: weightVecs }, ...(dbias ? [{ operand: dbias, vecs: biasVecs }] : [])];
  return {
    stride,
    bindings: { partial: write(partial) },
    biasBinding: {},
    output: "partial",
    bias: dbias && { output: "partial", at: weightVecs },
    added: (caps) => partialSums(partial, chunks, outputs, caps),
  };
}

function bindings({ x, dy }: WeightGradientOperands, loads: NormalizedLoads, to: Destination, bias: boolean) {
  return { x: read(x), dy: read(dy), ...loads.bindings, ...to.bindings, ...(bias && to.biasBinding) };
}

function sizes(geometry: ConvGeometry, { inBlocks, outBlocks }: Grouping, { stride }: Destination) {
  const { input } = geometry, y = convOutput(geometry);
  return {
    ...{ X_ROWS: input.h, X_COLUMNS: input.w, X_BLOCKS: inBlocks },
    ...{ DY_ROWS: y.h, DY_COLUMNS: y.w, DY_BLOCKS: outBlocks, PARTIAL: stride },
  };
}

function work({ x, dy, dweight }: WeightGradientOperands, geometry: ConvGeometry, parts: number) {
  return { flops: convFlops(geometry) / parts, bytes: x.byteLength + dy.byteLength + dweight.byteLength / parts };
}

interface Plan {
  readonly rows: Axis;
  readonly columns: Axis;
  /** Output vec4s of an invocation. */
  readonly outs: number;
  /** Kernel rows of an invocation. */
  readonly rowsEach: number;
  /** Invocations wanted; the pixels are shared out to reach them. */
  readonly invocations: number;
  readonly workgroupSize: number;
}

const MAX_CHUNKS = 4096;
/** vec4 sums in the registers of a GPU's invocation, and those a CPU's may have in its nearest cache. */
const GPU_SUMS = 36;
const SOFTWARE_SUMS = 80;

function axes({ input, kernelHeight, kernelWidth, stride, padding }: ConvGeometry, y: Shape, size: [number, number]) {
  return {
    rows: forwardAxis(y.h, input.h, { kernel: kernelHeight, stride, padding, size: size[0] }),
    columns: forwardAxis(y.w, input.w, { kernel: kernelWidth, stride, padding, size: size[1] }),
  };
}

/**
 * Tiles of four pixels, two rows of them where a group is one vec4 (an H200 takes half as long for 56x56 pixels), and enough
 * invocations to fill a large GPU.
 */
function gpuPlan(geometry: ConvGeometry, grouping: Grouping): Plan {
  const y = convOutput(geometry), pixels = grouping.inPerGroup === 1 ? 8 : 4;
  const width = tileSize(y.w, 4);
  const { rows, columns } = axes(geometry, y, [tileSize(y.h, Math.floor(pixels / width)), width]);
  const sumsPerRow = Math.max(1, reachableTaps(columns).length) * grouping.swizzles.length;
  const rowsEach = Math.max(1, Math.floor(GPU_SUMS / sumsPerRow));
  return { rows, columns, outs: 1, rowsEach, invocations: 132 * 256, workgroupSize: 64 };
}

/** The tiling that costs least by the measure of `grouped_tiling.ts`. */
function softwarePlan(geometry: ConvGeometry, grouping: Grouping): Plan {
  const y = convOutput(geometry);
  const terms = grouping.swizzles.length;
  let best: Plan | undefined, least = Infinity, shortest = Infinity;
  for (const height of tileSizes(y.h, MOST_ROWS)) {
    for (const width of tileSizes(y.w, MOST_COLUMNS)) {
      const { rows, columns } = axes(geometry, y, [height, width]);
      const tapRows = reachableTaps(rows).length, tapColumns = reachableTaps(columns).length;
      for (const outs of [1, 2, 4].filter((outs) => grouping.outPerGroup % outs === 0)) {
        const rowsEach = Math.max(1, Math.min(tapRows, Math.floor(SOFTWARE_SUMS / (tapColumns * terms * outs))));
        const parts = Math.max(1, ceilDiv(tapRows, rowsEach));
        const loads = sources(rows).length * sources(columns).length / Math.min(parts, 2) + height * width * outs;
        const products = uses(rows) * uses(columns) * outs * terms / 4 / parts;
        const lanes = grouping.outBlocks / outs * grouping.inPerGroup;
        const tiles = y.n * rows.tiles * columns.tiles;
        const chunks = Math.min(ceilDiv(SOFTWARE_INVOCATIONS, lanes), tiles);
        const stores = geometry.kernelHeight * geometry.kernelWidth * terms * outs / parts;
        const perWalk = LOAD_COST * stores * chunks * (chunks > 1 ? 2 : 1);
        const cost = ((LOAD_COST * loads + products) * tiles + perWalk) * parts * lanes;
        const text = LOAD_COST * (loads + stores) + products;
        const score = RUN_COST * cost + text * parts;
        const fits = text <= MOST_TEXT;
        if (fits ? score < least : least === Infinity && text < shortest) {
          best = { rows, columns, outs, rowsEach, invocations: SOFTWARE_INVOCATIONS, workgroupSize: 8 };
          if (fits) least = score;
          else shortest = text;
        }
      }
    }
  }
  return best!;
}

/** Kernel rows by dispatch: at most `each` reachable ones in each, the unreachable ones (all zero) in the first. */
function partition(kernel: number, reachable: readonly number[], each: number): { rows: number[]; zero: number[] }[] {
  const zero = range(kernel).filter((tap) => !reachable.includes(tap));
  const parts = range(Math.max(1, ceilDiv(reachable.length, each))).map((part) => ({
    rows: reachable.slice(part * each, (part + 1) * each),
    zero: part === 0 ? zero : [],
  }));
  return parts;
}

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

function source(kernel: Kernel): string {
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
