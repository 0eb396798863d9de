/** How the weight gradient of a grouped convolution is cut for a device: tiles of pixels, kernel rows, shares. */

import { type ConvGeometry, convOutput } from "./conv_geometry.ts";
import {
  type Axis,
  forwardAxis,
  type Grouping,
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
import { ceilDiv } from "./wgsl.ts";

/** A cut. */
export interface Plan {
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
export function gpuPlan(geometry: ConvGeometry, grouping: Grouping): Plan {
  const y = convOutput(geometry), pixels = grouping.inPerGroup === 1 ? 8 : 4;
  const width = tileSize(y.w, 4);
  const { rows, columns } = axes(geometry, y, [tileSize(y.h, Math.floor(pixels / width)), width]);
  const sumsPerRow = Math.max(1, reachableTaps(columns).length) * grouping.swizzles.length;
  const rowsEach = Math.max(1, Math.floor(GPU_SUMS / sumsPerRow));
  return { rows, columns, outs: 1, rowsEach, invocations: 132 * 256, workgroupSize: 64 };
}

/** The tiling that costs least by the measure of `grouped_tiling.ts`. */
export function softwarePlan(geometry: ConvGeometry, grouping: Grouping): Plan {
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

/** How the pixels are shared out. */
export function shares({ rows, columns, outs, invocations }: Plan, geometry: ConvGeometry, grouping: Grouping) {
  const tiles = geometry.input.n * rows.tiles * columns.tiles;
  const lanes = grouping.outBlocks / outs * grouping.inPerGroup;
  const tilesEach = ceilDiv(tiles, Math.min(ceilDiv(invocations, lanes), tiles, MAX_CHUNKS));
  return { tiles, tilesEach, chunks: ceilDiv(tiles, tilesEach) };
}

/** Kernel rows by dispatch: at most `each` reachable ones in each, the unreachable ones (all zero) in the first. */
export function partition(
  kernel: number,
  reachable: readonly number[],
  each: number,
): { rows: number[]; zero: number[] }[] {
  const zero = range(kernel).filter((tap) => !reachable.includes(tap));
  const parts = range(Math.max(1, ceilDiv(reachable.length, each))).map((part) => ({
    rows: reachable.slice(part * each, (part + 1) * each),
    zero: part === 0 ? zero : [],
  }));
  return parts;
}
