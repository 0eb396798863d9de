/**
 * How a gathering kernel is cut for a device.
 *
 * On a GPU an invocation takes one vec4 of channels and one tile of a few pixels: many invocations matter most. On a CPU
 * (Mesa's llvmpipe) eight invocations are the lanes of a vector register, a vec4 loaded or stored costs as much as
 * several 4x4 products, and long texts compile slowly; so every small tile is weighed, and the one that costs least by that
 * measure is taken. Nothing is shared between invocations there: neighbouring lanes own neighbouring channels, so a load
 * brings them all values of their own, and subgroup broadcasts would have nothing to save.
 */

import { type ConvGeometry, convOutput } from "./conv_geometry.ts";
import type { Capabilities } from "./device.ts";
import type { Gather } from "./grouped_gather.ts";
import {
  type Axis,
  blocksTogether,
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
import { stagedLine } from "./grouped_weights.ts";
import { ceilDiv } from "./wgsl.ts";

/** The parts of a {@linkcode Gather} that a plan decides. */
export type GatherPlan = Pick<
  Gather,
  "images" | "grouping" | "transposed" | "fused" | "maxWorkgroups" | keyof Cut
>;

type Cut = Pick<
  Gather,
  "rows" | "columns" | "targets" | "tileImages" | "tilesEach" | "weights" | "together" | "workgroupSize"
>;

/**
 * The ways to cut a forward pass, or an input gradient (`transposed`), by name, the one that rules choose first: `direct`
 * or, with staged weights, `staged`, and the pixels of a tile.
 */
export function gatherPlans(
  geometry: ConvGeometry,
  grouping: Grouping,
  transposed: boolean,
  caps: Capabilities,
): Map<string, GatherPlan> {
  const size = (cut: Cut) =>
    [cut.rows.size, cut.columns.size, ...(cut.tileImages > 1 ? [cut.tileImages] : [])].join("x");
  const shared = {
    ...{ images: geometry.input.n, grouping, transposed, maxWorkgroups: caps.maxWorkgroupsPerDimension },
    fused: !caps.software,
  };
  const byRule = pixelsByRule(geometry, grouping, transposed);
  const gpu = (pixels: number) => gpuCut(geometry, grouping, transposed, pixels);
  const direct = caps.software ? softwareCut(geometry, grouping, transposed) : gpu(byRule);
  // Groups of one or two channels have few weights.
  const sizes = grouping.swizzles.length < 4 ? [] : [byRule, ...GPU_PIXELS.filter((pixels) => pixels !== byRule)];
  const staged = sizes.flatMap((pixels) => stagedCut(gpu(pixels), grouping, transposed, caps) ?? []);
  const kind = ({ weights }: Cut) => weights === "staged" ? "staged" : "direct";
  const cuts = !caps.software && stagesByRule(grouping, transposed)
    ? [...staged.slice(0, 1), direct, ...staged.slice(1)]
    : [direct, ...staged];
  return new Map(cuts.map((cut) => [`${kind(cut)} ${size(cut)}`, { ...shared, ...cut }]));
}

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

/** Pixels whose sums an invocation of a GPU keeps: the one or the other. */
const GPU_PIXELS = [8, 16];

/**
 * By measurement on an H200: eight, and sixteen in gradients whose weights cost most, being few for each pixel (strides) or
 * transposed from many rows (wide groups).
 */
function pixelsByRule({ stride }: ConvGeometry, { inPerGroup }: Grouping, transposed: boolean): number {
  return transposed && (stride > 1 || inPerGroup >= 4) ? GPU_PIXELS[1] : GPU_PIXELS[0];
}

/**
 * Whether weights are staged: where they are turned, in groups of several vec4s. By measurement on an H100 ResNeXt-50's input
 * gradients with 8 and 16 channels a group then take 42 to 82 % of the time in float32; forward passes 95 to 110 %.
 */
function stagesByRule({ inPerGroup }: Grouping, transposed: boolean): boolean {
  return transposed && inPerGroup >= 2;
}

/** Tiles of so many pixels, in two rows where a group is one vec4 and pixels cost more than weights. */
function gpuCut(geometry: ConvGeometry, { inPerGroup }: Grouping, transposed: boolean, pixels: number): Cut {
  const { n, h, w } = transposed ? geometry.input : convOutput(geometry);
  const multiple = transposed ? geometry.stride : 1;
  const across = multiple > 1 || inPerGroup === 1 ? Math.floor(pixels / Math.max(2, multiple)) : pixels;
  const width = tileSize(w, Math.max(multiple, across), multiple);
  const height = tileSize(h, Math.max(multiple, Math.floor(pixels / width)), multiple);
  const [rows, columns] = axes(geometry, transposed, height, width);
  const whole = rows.tiles * columns.tiles === 1;
  const tileImages = whole ? Math.max(1, Math.min(n, Math.floor(pixels / (height * width)))) : 1;
  return { rows, columns, targets: 1, tileImages, tilesEach: 1, weights: "each", together: 1, workgroupSize: 64 };
}

/** Invocations, at most, of a workgroup that stages weights, and target vec4s that it owns: a cache line of them. */
const STAGED_INVOCATIONS = 128;
const STAGED_TOGETHER = 8;

/** The same tiles with staged weights; undefined where they find no room. */
function stagedCut(cut: Cut, grouping: Grouping, transposed: boolean, caps: Capabilities): Cut | undefined {
  const [perGroup, blocks] = transposed
    ? [grouping.inPerGroup, grouping.inBlocks]
    : [grouping.outPerGroup, grouping.outBlocks];
  const most = Math.min(
    STAGED_TOGETHER,
    Math.floor(caps.maxWorkgroupStorageBytes / (16 * stagedLine({ ...cut, grouping }))),
  );
  const together = blocksTogether(blocks, perGroup, most);
  if (together === undefined) return undefined;
  return { ...cut, weights: "staged", together, workgroupSize: Math.floor(STAGED_INVOCATIONS / together) * together };
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
  const alone = { together: 1, workgroupSize: 8 };
  const targetCounts = [1, 2, 4].filter((targets) => perGroup % targets === 0);
  for (const height of tileSizes(h, MOST_ROWS, multiple)) {
    for (const width of tileSizes(w, MOST_COLUMNS, multiple)) {
      const [rows, columns] = axes(geometry, transposed, height, width);
      const pixelTiles = rows.tiles * columns.tiles;
      for (const targets of targetCounts) {
        const tilesEach = Math.max(1, Math.floor(n * pixelTiles * targetBlocks / targets / SOFTWARE_INVOCATIONS));
        yield { rows, columns, targets, weights: "held", tileImages: 1, tilesEach, ...alone };
        // Weights that are not held are worth sharing between images, where one has few pixels.
        for (const tileImages of pixelTiles === 1 ? [1, 2, 4, 8, 16].filter((images) => images <= n) : [1]) {
          yield { rows, columns, targets, weights: "each", tileImages, tilesEach: 1, ...alone };
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
  const { rows, columns, targets, tileImages, tilesEach } = cut;
  const perGroup = transposed ? grouping.outPerGroup : grouping.inPerGroup;
  const blocks = (transposed ? grouping.inBlocks : grouping.outBlocks) / targets;
  const rowsOfWeights = grouping.swizzles.length;
  const weights = reachableTaps(rows).length * reachableTaps(columns).length * rowsOfWeights * perGroup * targets;
  const loads = tileImages * sources(rows).length * sources(columns).length * perGroup;
  const stores = tileImages * rows.size * columns.size * targets;
  const products = tileImages * uses(rows) * uses(columns) * perGroup * targets * rowsOfWeights / 4;
  const tiles = ceilDiv(geometry.input.n, tileImages) * rows.tiles * columns.tiles;
  const looped = cut.weights === "held" ? 1 : perGroup;
  return {
    text: (LOAD_COST * (loads + weights) + products) / looped + LOAD_COST * stores,
    run: (LOAD_COST * (loads + stores + weights / tilesEach) + products) * tiles * blocks,
  };
}
