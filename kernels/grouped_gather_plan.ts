/**
 * How a gathering kernel is cut for a device.
 *
 * On a GPU an invocation takes one vec4 of channels and one tile of a few pixels: many invocations matter most. On a CPU
 * (Mesa's llvmpipe) eight invocations are the lanes of a vector register, a vec4 loaded or stored costs as much as
 * several 4x4 products, and long texts compile slowly; so every small tile is tried, and the one that costs least by that
 * measure is taken.
 */

import { type ConvGeometry, convOutput } from "./conv_geometry.ts";
import type { Capabilities } from "./device.ts";
import type { Gather } from "./grouped_gather.ts";
import {
  type Axis,
  forwardAxis,
  gradientAxis,
  type Grouping,
  LOAD_COST,
  MOST_COLUMNS,
  MOST_ROWS,
  MOST_TEXT,
  reachableTaps,
  SOFTWARE_INVOCATIONS,
  sources,
  tileSize,
  tileSizes,
  uses,
} from "./grouped_tiling.ts";
import { ceilDiv } from "./wgsl.ts";

/** The parts of a {@linkcode Gather} that a plan decides. */
export type GatherPlan = Pick<
  Gather,
  | "images"
  | "rows"
  | "columns"
  | "grouping"
  | "transposed"
  | "targets"
  | "tileImages"
  | "tilesEach"
  | "held"
  | "workgroupSize"
  | "maxWorkgroups"
>;

/** Chooses the tiling of a forward pass, or of an input gradient (`transposed`). */
export function planGather(
  geometry: ConvGeometry,
  grouping: Grouping,
  transposed: boolean,
  caps: Capabilities,
): GatherPlan {
  const plan = {
    images: geometry.input.n,
    grouping,
    transposed,
    workgroupSize: caps.software ? 8 : 64,
    maxWorkgroups: caps.maxWorkgroupsPerDimension,
  };
  return { ...plan, ...caps.software ? softwareCut(geometry, grouping, transposed) : gpuCut(geometry, transposed) };
}

type Cut = Pick<Gather, "rows" | "columns" | "targets" | "tileImages" | "tilesEach" | "held">;

/** Makes the two axes of a pass for a tile of `rows` x `columns`. */
function axes(geometry: ConvGeometry, transposed: boolean, rows: number, columns: number): [Axis, Axis] {
  const { input, kernelHeight, kernelWidth, stride, padding } = geometry;
  const output = convOutput(geometry);
  const row = { kernel: kernelHeight, stride, padding, size: rows };
  const column = { kernel: kernelWidth, stride, padding, size: columns };
  return transposed
    ? [gradientAxis(input.h, output.h, row), gradientAxis(input.w, output.w, column)]
    : [forwardAxis(output.h, input.h, row), forwardAxis(output.w, input.w, column)];
}

/** Pixels whose sums an invocation of a GPU keeps. */
const GPU_PIXELS = 8;

function gpuCut(geometry: ConvGeometry, transposed: boolean): Cut {
  const { n, h, w } = transposed ? geometry.input : convOutput(geometry);
  const multiple = transposed ? geometry.stride : 1;
  const width = tileSize(w, Math.max(multiple, Math.floor(GPU_PIXELS / multiple)), multiple);
  const height = tileSize(h, Math.max(multiple, Math.floor(GPU_PIXELS / width)), multiple);
  const [rows, columns] = axes(geometry, transposed, height, width);
  const whole = rows.tiles * columns.tiles === 1;
  const tileImages = whole ? Math.max(1, Math.min(n, Math.floor(GPU_PIXELS / (height * width)))) : 1;
  return { rows, columns, targets: 1, tileImages, tilesEach: 1, held: false };
}

function softwareCut(geometry: ConvGeometry, grouping: Grouping, transposed: boolean): Cut {
  const { n, h, w } = transposed ? geometry.input : convOutput(geometry);
  const multiple = transposed ? geometry.stride : 1;
  const perGroup = transposed ? grouping.inPerGroup : grouping.outPerGroup;
  const sourcesPerGroup = transposed ? grouping.outPerGroup : grouping.inPerGroup;
  const targetBlocks = transposed ? grouping.inBlocks : grouping.outBlocks;
  let best: Cut | undefined, least = Infinity, shortest = Infinity;
  for (const height of tileSizes(h, MOST_ROWS, multiple)) {
    for (const width of tileSizes(w, MOST_COLUMNS, multiple)) {
      const [rows, columns] = axes(geometry, transposed, height, width);
      const weights = reachableTaps(rows).length * reachableTaps(columns).length * grouping.swizzles.length;
      const loads = sources(rows).length * sources(columns).length;
      const products = uses(rows) * uses(columns);
      const wholes = rows.tiles * columns.tiles;
      for (const targets of [1, 2, 4].filter((targets) => perGroup % targets === 0)) {
        for (const held of [true, false]) {
          for (const tileImages of held || wholes > 1 ? [1] : [1, 2, 4, 8, 16].filter((images) => images <= n)) {
            const tiles = ceilDiv(n, tileImages) * wholes;
            const tilesEach = held ? Math.max(1, Math.floor(tiles * targetBlocks / targets / SOFTWARE_INVOCATIONS)) : 1;
            const moves = tileImages * (loads * sourcesPerGroup + height * width * targets);
            const weightLoads = weights * sourcesPerGroup * targets;
            const sums = tileImages * products * sourcesPerGroup * targets * grouping.swizzles.length / 4;
            const cost = (LOAD_COST * (moves + weightLoads / tilesEach) + sums) * tiles / targets;
            const looped = held ? 1 : sourcesPerGroup;
            const text = LOAD_COST * (moves + weightLoads) / looped + sums / looped;
            const fits = text <= MOST_TEXT;
            if (fits ? cost < least : least === Infinity && text < shortest) {
              best = { rows, columns, targets, tileImages, tilesEach, held };
              if (fits) least = cost;
              else shortest = text;
            }
          }
        }
      }
    }
  }
  return best!;
}
