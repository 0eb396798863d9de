/**
 * The kernel behind a grouped convolution's forward pass and its input gradient: both gather, for each target pixel, the
 * source pixels its taps reach, times a small matrix of weights.
 *
 * An invocation owns some target vec4s of one group (`targets`) and walks over tiles of pixels, `images` x `rows` x
 * `columns` each, all of whose sums it keeps in registers. Every source row of the tile is loaded once and used by all
 * taps and target rows. How weights come is for `grouped_weights.ts`. Neighbouring invocations own neighbouring channels, so
 * loads and stores are contiguous. However it is cut, each sum is added in the same order: source vec4s, rows, columns.
 */

import { type ColumnEpilogue, columnEpilogue, type EpilogueText } from "./column_epilogue.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { read, write } from "./dispatch.ts";
import type { Axis, Grouping } from "./grouped_tiling.ts";
import { canMiss, isRagged, range, sources } from "./grouped_tiling.ts";
import { LoadedWeights, StagedWeights, type WeightTexts } from "./grouped_weights.ts";
import { type LoadNorm, type NormalizedLoads, normalizedLoads } from "./load_norm.ts";
import { addProduct, ceilDiv, eachItem, entryPoint, guarded, itemGrid } from "./wgsl.ts";

/** What a gathering kernel computes, and how it is cut. */
export interface Gather {
  readonly label: string;
  readonly source: Operand;
  readonly weight: Operand;
  readonly target: Operand;
  /** The source is normalized as it is loaded. */
  readonly loadNorm?: LoadNorm;
  /** What becomes of the result. A bias begins the sum where there is no norm. */
  readonly epilogue: ColumnEpilogue;
  readonly images: number;
  readonly rows: Axis;
  readonly columns: Axis;
  readonly grouping: Grouping;
  /** Whether the target is `dx`: weights are then used transposed. */
  readonly transposed: boolean;
  /** Target vec4s of an invocation: divides those of a group. */
  readonly targets: number;
  /** Images of a tile. */
  readonly tileImages: number;
  /** Tiles an invocation walks over: one where weights are staged. */
  readonly tilesEach: number;
  /** See `grouped_weights.ts`. */
  readonly weights: "each" | "held" | "staged";
  /** Staged: target vec4s that a workgroup owns, whole groups or a part of one. Divides the workgroup's size. */
  readonly together: number;
  readonly workgroupSize: number;
  /** See `addProduct`. */
  readonly fused: boolean;
  readonly maxWorkgroups: number;
  readonly flops: number;
  readonly bytes: number;
}

/** The dispatch of a gathering kernel. */
export function gatherDispatch(gather: Gather): Dispatch {
  const { rows, columns, grouping, images, targets, tileImages, tilesEach, workgroupSize, transposed } = gather;
  const targetBlocks = transposed ? grouping.inBlocks : grouping.outBlocks;
  const blocks = targetBlocks / targets;
  const imageTiles = ceilDiv(images, tileImages);
  const tiles = imageTiles * rows.tiles * columns.tiles;
  const walks = ceilDiv(tiles, tilesEach), tilesAtOnce = workgroupSize / gather.together;
  const workgroups = gather.weights === "staged"
    ? itemGrid(targetBlocks / gather.together * ceilDiv(tiles, tilesAtOnce), 1, gather.maxWorkgroups)
    : itemGrid(blocks * walks, workgroupSize, gather.maxWorkgroups);
  const loads = normalizedLoads(gather.loadNorm, "SOURCE_BLOCKS"), epilogue = columnEpilogue(gather.epilogue);
  const bindings = {
    source: read(gather.source),
    weight: read(gather.weight),
    ...loads.bindings,
    ...epilogue.bindings,
    target_: write(gather.target),
  };
  return {
    label: gather.label,
    bindings,
    constants: {
      ...(gather.weights !== "staged" && { ITEMS: blocks * walks, BLOCKS: blocks, TILES_EACH: tilesEach }),
      TILES: tiles,
      IMAGES: images,
      SOURCE_BLOCKS: transposed ? grouping.outBlocks : grouping.inBlocks,
      SOURCE_ROWS: rows.source,
      SOURCE_COLUMNS: columns.source,
      TARGET_BLOCKS: targetBlocks,
      TARGET_ROWS: rows.target,
      TARGET_COLUMNS: columns.target,
      WEIGHT_COLUMNS: grouping.outBlocks,
      ...epilogue.constants,
    },
    source: (gather.weights === "staged" ? stagedSource : walkingSource)(gather, loads, epilogue),
    workgroups,
    flops: gather.flops,
    bytes: gather.bytes,
  };
}

/** Each invocation by itself, over its tiles. */
function walkingSource(gather: Gather, loads: NormalizedLoads, epilogue: EpilogueText): string {
  const { grouping, transposed, targets, tilesEach, workgroupSize } = gather, held = gather.weights === "held";
  const perGroup = transposed ? grouping.inPerGroup : grouping.outPerGroup;
  const sourcesPerGroup = transposed ? grouping.outPerGroup : grouping.inPerGroup;
  const weights = new LoadedWeights(gather);
  const heldWeights = held ? weights.all(sourcesPerGroup) : "";
  const looped = !held && sourcesPerGroup > 1;
  const norms = looped ? [] : range(sourcesPerGroup).map((s) => loads.prepare(`norm_${s}`, `first_source + ${s}u`));
  const gathered = looped
    ? `for (var s = 0u; s < ${sourcesPerGroup}u; s++) {
      ${loads.prepare("norm_s", "first_source + s")}
      ${gatherFrom("s", gather, weights, loads)}
    }`
    : range(sourcesPerGroup).map((s) => gatherFrom(String(s), gather, weights, loads)).join("\n");
  const body = [tilePlaces(gather), sums(gather), gathered, stores(gather, epilogue)].join("\n");
  const walk = tilesEach === 1 ? `let tile = walk;\n${body}` : `
  for (var step = 0u; step < TILES_EACH; step++) {
    let tile = walk * TILES_EACH + step;
    if (tile >= TILES) { break; }
    ${body}
  }`;
  return /* wgsl */ `
${loads.functions}
${epilogue.functions}
${eachItem(workgroupSize)}
  let block = (item % BLOCKS) * ${targets}u;
  let walk = item / BLOCKS;
  let group = block / ${perGroup}u;
  let in_group = block % ${perGroup}u;
  let first_source = group * ${sourcesPerGroup}u;
  ${range(targets).map((k) => epilogue.hasColumns ? `let epilogue_${k} = load_column(block + ${k}u);` : "").join("\n")}
  ${norms.join("\n")}
  ${heldWeights}
  ${walk}
}`;
}

/** A workgroup's invocations side by side: each one target vec4 and one tile, the weights of a source vec4 at a time. */
function stagedSource(gather: Gather, loads: NormalizedLoads, epilogue: EpilogueText): string {
  const { grouping, transposed, together, workgroupSize } = gather;
  const perGroup = transposed ? grouping.inPerGroup : grouping.outPerGroup;
  const sourcesPerGroup = transposed ? grouping.outPerGroup : grouping.inPerGroup;
  const sets = (transposed ? grouping.inBlocks : grouping.outBlocks) / together;
  const weights = new StagedWeights(gather, together, workgroupSize);
  const gathered = (s: string) =>
    /* wgsl */ `${loads.prepare(`norm_${s}`, `first_source + ${s === "s" ? s : `${s}u`}`)}
    ${gatherFrom(s, gather, weights, loads)}`;
  // While weights are used, the next ones are already on their way to registers.
  const steps = sourcesPerGroup === 1
    ? `${weights.store}
  workgroupBarrier();
  ${gathered("0")}`
    : `for (var s = 0u; s < ${sourcesPerGroup}u; s++) {
    ${weights.store}
    workgroupBarrier();
    let next = min(s + 1u, ${sourcesPerGroup - 1}u);
    ${weights.fetch("next")}
    ${gathered("s")}
    workgroupBarrier();
  }`;
  return /* wgsl */ `
${loads.functions}
${epilogue.functions}
${weights.declarations}
${entryPoint(workgroupSize)}
  let first_block = workgroup_index % ${sets}u * ${together}u;
  let line = local % ${together}u;
  let block = first_block + line;
  let walk = workgroup_index / ${sets}u * ${workgroupSize / together}u + local / ${together}u;
  // Who has no tile takes the last one: all must load, and reach the barriers.
  let tile = min(walk, TILES - 1u);
  let first_source = block / ${perGroup}u * ${sourcesPerGroup}u;
  ${epilogue.hasColumns ? "let epilogue_0 = load_column(block);" : ""}
  ${weights.prepare(perGroup, sourcesPerGroup)}
  ${weights.fetch("0u")}
  ${tilePlaces(gather)}
  ${sums(gather)}
  ${steps}
  if (walk < TILES) {
    ${stores(gather, epilogue)}
  }
}`;
}

/** Where a tile and its sources are. */
function tilePlaces({ rows, columns, images, tileImages }: Gather): string {
  const imageTiles = ceilDiv(images, tileImages), ragged = imageTiles * tileImages > images;
  return [
    `let tile_column = ${columns.tiles === 1 ? "0u" : `tile % ${columns.tiles}u`};`,
    `let tile_row = ${rows.tiles === 1 ? "0u" : `(tile / ${columns.tiles}u) % ${rows.tiles}u`};`,
    `let first_image = ${imageTiles === 1 ? "0u" : `tile / ${columns.tiles * rows.tiles}u * ${tileImages}u`};`,
    ...range(tileImages).map((b) => {
      const image = `first_image + ${b}u`;
      return `let image_${b} = ${ragged ? `min(${image}, IMAGES - 1u)` : image};`;
    }),
    ...positions("row", rows, sources(rows).map(({ reach }) => reach)),
    ...positions("column", columns, sources(columns).map(({ reach }) => reach)),
  ].join("\n");
}

/** Whether the sums begin with a bias: with one that stands alone. One operation less, and the order of PyTorch's kernels. */
function biasFirst({ epilogue }: Gather): boolean {
  return epilogue.bias !== undefined && !epilogue.norm;
}

function sums(gather: Gather): string {
  const lines: string[] = [];
  eachSum(
    gather,
    (sum, _b, _r, _p, k) => lines.push(`var ${sum} = ${biasFirst(gather) ? `epilogue_${k}` : "vec4f()"};`),
  );
  return lines.join("\n");
}

/** What source vec4 `s` of the group ("s" or a number) adds to a tile's sums; sees `norm_` and its name. */
function gatherFrom(s: string, gather: Gather, weights: WeightTexts, loads: NormalizedLoads): string {
  const { rows, columns, tileImages, targets, grouping, fused } = gather;
  const sourceRows = sources(rows), sourceColumns = sources(columns);
  const lines: string[] = [];
  for (const b of range(tileImages)) {
    sourceRows.forEach((row, y) => {
      const at = `at_${s}_${b}_${y}`;
      lines.push(
        `let ${at} = (image_${b} * SOURCE_ROWS + row_${y}) * (SOURCE_COLUMNS * SOURCE_BLOCKS) + first_source + ${
          s === "s" ? s : `${s}u`
        };`,
      );
      weights.beginRow();
      sourceColumns.forEach((column, x) => {
        const guards = [
          ...(canMiss(rows, row.reach) ? [`row_in_${y}`] : []),
          ...(canMiss(columns, column.reach) ? [`column_in_${x}`] : []),
        ];
        const load = loads.apply(`get_source(${at} + column_${x} * SOURCE_BLOCKS)`, `norm_${s}`);
        const value = `v_${s}_${b}_${y}_${x}`;
        lines.push(`let ${value} = ${guarded(load, guards)};`);
        for (const { offset: r, tap: ky } of row.uses) {
          for (const { offset: p, tap: kx } of column.uses) {
            for (const k of range(targets)) {
              const { declaration, terms } = weights.use(ky * columns.kernel + kx, s, k);
              if (declaration) lines.push(declaration);
              // One statement each: a sum of products would be added to the sum by an addition of its own.
              const sum = `sum_${b}_${r}_${p}_${k}`;
              lines.push(...terms.map((w, j) => addProduct(sum, `${value}.${grouping.swizzles[j]}`, w, fused)));
            }
          }
        }
      });
    });
  }
  return lines.join("\n");
}

function stores(gather: Gather, epilogue: EpilogueText): string {
  const { rows, columns, images, tileImages } = gather;
  const ragged = images % tileImages !== 0;
  const { result } = biasFirst(gather) ? columnEpilogue({ ...gather.epilogue, bias: undefined }) : epilogue;
  const lines: string[] = [];
  eachSum(gather, (sum, b, r, p, k) => {
    const at = `((image_${b} * TARGET_ROWS + tile_row * ${rows.size}u + ${r}u) * TARGET_COLUMNS + ` +
      `tile_column * ${columns.size}u + ${p}u) * TARGET_BLOCKS + block + ${k}u`;
    const guards = [
      ...(ragged && b > 0 ? [`first_image + ${b}u < IMAGES`] : []),
      ...(isRagged(rows) ? [`tile_row * ${rows.size}u + ${r}u < TARGET_ROWS`] : []),
      ...(isRagged(columns) ? [`tile_column * ${columns.size}u + ${p}u < TARGET_COLUMNS`] : []),
    ];
    const guard = guards.length ? `if (${guards.join(" && ")}) ` : "";
    lines.push(`${guard}{ let at = ${at}; set_target_(at, ${result(sum, `epilogue_${k}`, "at")}); }`);
  });
  return lines.join("\n");
}

/** WGSL for the source positions of a tile along one axis: clamped, with a guard where a tile may miss. */
export function positions(name: "row" | "column", axis: Axis, reaches: readonly number[]): string[] {
  return reaches.flatMap((reach, index) => {
    const base = axis.tiles === 1 ? `${reach}` : `i32(tile_${name} * ${axis.step}u) + ${reach}`;
    if (!canMiss(axis, reach)) return [`let ${name}_${index} = u32(${base});`];
    return [
      `let ${name}_at_${index} = ${base};`,
      `let ${name}_in_${index} = (${name}_at_${index} >= 0) & (${name}_at_${index} < ${axis.source});`,
      `let ${name}_${index} = u32(clamp(${name}_at_${index}, 0, ${axis.source - 1}));`,
    ];
  });
}

function eachSum(gather: Gather, visit: (sum: string, b: number, r: number, p: number, k: number) => void): void {
  for (const b of range(gather.tileImages)) {
    for (const r of range(gather.rows.size)) {
      for (const p of range(gather.columns.size)) {
        for (const k of range(gather.targets)) visit(`sum_${b}_${r}_${p}_${k}`, b, r, p, k);
      }
    }
  }
}
