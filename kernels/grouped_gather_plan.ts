/**
 * How a gathering kernel is cut for a device.
 *
 * On a GPU an invocation takes one vec4 of channels and one tile of a few pixels: many invocations matter most. On a CPU
 * (Mesa's llvmpipe) eight invocations are the lanes of a vector register, a vec4 loaded or stored costs as much as
 * several 4x4 products, and long texts compile slowly; so every small tile is weighed, and the one that costs least by that
 * measure is taken. Nothing is shared between invocations: neighbouring lanes own neighbouring channels, so a load brings
 * them all values of their own, and subgroup broadcasts would have nothing to save.
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
  RUN_COST,
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
  return {
    ...plan,
    ...caps.software ? softwareCut(geometry, grouping, transposed) : gpuCut(geometry, grouping, transposed),
  };
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

/**
 * Pixels whose sums an invocation of a GPU keeps, by measurement on an H200: eight, in two rows where a group is one vec4 and
 * pixels cost more than weights; twice as many in gradients whose weights cost most, being few for each pixel (strides) or
 * transposed from many rows (wide groups).
 */
const GPU_PIXELS = 8;

function gpuCut(geometry: ConvGeometry, { inPerGroup }: Grouping, transposed: boolean): Cut {
  const { n, h, w } = transposed ? geometry.input : convOutput(geometry);
  const multiple = transposed ? geometry.stride : 1;
  const pixels = transposed && (multiple > 1 || inPerGroup >= 4) ? 2 * GPU_PIXELS : GPU_PIXELS;
  const across = multiple > 1 || inPerGroup === 1 ? Math.floor(pixels / Math.max(2, multiple)) : pixels;
  const width = tileSize(w, Math.max(multiple, across), multiple);
  const height = tileSize(h, Math.max(multiple, Math.floor(pixels / width)), multiple);
  const [rows, columns] = axes(geometry, transposed, height, width);
  const whole = rows.tiles * columns.tiles === 1;
  const tileImages = whole ? Math.max(1, Math.min(n, Math.floor(pixels / (height * width)))) : 1;
  return { rows, columns, targets: 1, tileImages, tilesEach: 1, held: false };
}

/** The cheapest of all small cuts whose text is not too long; the shortest where all are. */
function softwareCut(geometry: ConvGeometry, grouping: Grouping, transposed: boolean): Cut {
  let best: Cut | undefined, least = Infinity;
  for (const cut of softwareCuts(geometry, grouping, transposed)) {
    const { text, run } = price(cut, geometry, grouping, transposed);
    const score = text <= MOST_TEXT ? text + RUN_COST * run : 1e12 * text;
    if (score < least) [best, least] = [cut, score];
  }
  return best!;
}

function* softwareCuts(geometry: ConvGeometry, grouping: Grouping, transposed: boolean): Generator<Cut> {
  const { n, h, w } = transposed ? geometry.input : convOutput(geometry);
  const multiple = transposed ? geometry.stride : 1;
  const perGroup = transposed ? grouping.inPerGroup : grouping.outPerGroup;
  const targetBlocks = transposed ? grouping.inBlocks : grouping.outBlocks;
  const targetCounts = [1, 2, 4].filter((targets) => perGroup % targets === 0);
  for (const height of tileSizes(h, MOST_ROWS, multiple)) {
    for (const width of tileSizes(w, MOST_COLUMNS, multiple)) {
      const [rows, columns] = axes(geometry, transposed, height, width);
      const pixelTiles = rows.tiles * columns.tiles;
      for (const targets of targetCounts) {
        const tilesEach = Math.max(1, Math.floor(n * pixelTiles * targetBlocks / targets / SOFTWARE_INVOCATIONS));
        yield { rows, columns, targets, held: true, tileImages: 1, tilesEach };
        // Weights that are not held are worth sharing between images, where one has few pixels.
        for (const tileImages of pixelTiles === 1 ? [1, 2, 4, 8, 16].filter((images) => images <= n) : [1]) {
          yield { rows, columns, targets, held: false, tileImages, tilesEach: 1 };
        }
      }
    }
  }
}

/** What a cut costs, in products of a 4x4 matrix with a vec4: the length of its text, and all invocations' work. */
function price(
  cut: Cut,
  geometry: ConvGeometry,
  grouping: Grouping,
  transposed: boolean,
): { text: number; run: number } {
  const { rows, columns, targets, held, tileImages, tilesEach } = cut;
  const perGroup = transposed ? grouping.outPerGroup : grouping.inPerGroup;
  const blocks = (transposed ? grouping.inBlocks : grouping.outBlocks) / targets;
  const rowsOfWeights = grouping.swizzles.length;
  const weights = reachableTaps(rows).length * reachableTaps(columns).length * rowsOfWeights * perGroup * targets;
  const loads = tileImages * sources(rows).length * sources(columns).length * perGroup;
  const stores = tileImages * rows.size * columns.size * targets;
  const products = tileImages * uses(rows) * uses(columns) * perGroup * targets * rowsOfWeights / 4;
  const tiles = ceilDiv(geometry.input.n, tileImages) * rows.tiles * columns.tiles;
  const looped = held ? 1 : perGroup;
  return {
    text: (LOAD_COST * (loads + weights) + products) / looped + LOAD_COST * stores,
    run: (LOAD_COST * (loads + stores + weights / tilesEach) + products) * tiles * blocks,
  };
}
