/**
 * The kernel behind a grouped convolution's forward pass and its input gradient: both gather, for each target pixel, the
 * source pixels its taps reach, times a small matrix of weights.
 *
 * An invocation owns some target vec4s of one group (`targets`) and walks over tiles of pixels, `images` x `rows` x
 * `columns` each, all of whose sums it keeps in registers. Every source row of the tile is loaded once and used by all
 * taps and target rows. Weights are loaded before the walk where they are few ("held"), else once a tile and source vec4.
 * Neighbouring invocations own neighbouring channels, so loads and stores are contiguous.
 */

import { type ColumnEpilogue, columnEpilogue, type EpilogueText } from "./column_epilogue.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { read, write } from "./dispatch.ts";
import type { Axis, Grouping } from "./grouped_tiling.ts";
import { canMiss, isRagged, range, sources } from "./grouped_tiling.ts";
import { type LoadNorm, type NormalizedLoads, normalizedLoads } from "./load_norm.ts";
import { ceilDiv, eachItem, guarded, itemGrid } from "./wgsl.ts";

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
  /** Tiles an invocation walks over. */
  readonly tilesEach: number;
  /** Weights are loaded once an invocation. */
  readonly held: boolean;
  readonly workgroupSize: number;
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
  const items = blocks * ceilDiv(tiles, tilesEach);
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
      ITEMS: items,
      BLOCKS: blocks,
      TILES: tiles,
      TILES_EACH: tilesEach,
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
    source: gatherSource(gather, loads, epilogue),
    workgroups: itemGrid(items, workgroupSize, gather.maxWorkgroups),
    flops: gather.flops,
    bytes: gather.bytes,
  };
}

function gatherSource(gather: Gather, loads: NormalizedLoads, epilogue: EpilogueText): string {
  const { grouping, transposed, targets, tilesEach, held, workgroupSize } = gather;
  const perGroup = transposed ? grouping.inPerGroup : grouping.outPerGroup;
  const sourcesPerGroup = transposed ? grouping.outPerGroup : grouping.inPerGroup;
  const weights = new Weights(gather);
  const heldWeights = held ? weights.all(sourcesPerGroup) : "";
  const looped = !held && sourcesPerGroup > 1;
  const norms = looped ? [] : range(sourcesPerGroup).map((s) => loads.prepare(`norm_${s}`, `first_source + ${s}u`));
  const body = tileBody(gather, weights, sourcesPerGroup, { loads, epilogue, looped });
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

/** One tile: sums, their sources, the stores. */
function tileBody(
  gather: Gather,
  weights: Weights,
  sourcesPerGroup: number,
  { loads, epilogue, looped }: {
    readonly loads: NormalizedLoads;
    readonly epilogue: EpilogueText;
    /** Over the sources of a group, rather than unrolled. */
    readonly looped: boolean;
  },
): string {
  const { rows, columns, images, tileImages, targets } = gather;
  // The sum begins with a bias that stands alone: one operation less, and the order of PyTorch's kernels.
  const first = gather.epilogue.bias && !gather.epilogue.norm;
  const { result } = first ? columnEpilogue({ ...gather.epilogue, bias: undefined }) : epilogue;
  const lines: string[] = [];
  const imageTiles = ceilDiv(images, tileImages);
  lines.push(
    `let tile_column = ${columns.tiles === 1 ? "0u" : `tile % ${columns.tiles}u`};`,
    `let tile_row = ${rows.tiles === 1 ? "0u" : `(tile / ${columns.tiles}u) % ${rows.tiles}u`};`,
    `let first_image = ${imageTiles === 1 ? "0u" : `tile / ${columns.tiles * rows.tiles}u * ${tileImages}u`};`,
  );
  const raggedImages = imageTiles * tileImages > images;
  for (const b of range(tileImages)) {
    const image = `first_image + ${b}u`;
    lines.push(`let image_${b} = ${raggedImages ? `min(${image}, IMAGES - 1u)` : image};`);
  }
  const sourceRows = sources(rows), sourceColumns = sources(columns);
  lines.push(...positions("row", rows, sourceRows.map(({ reach }) => reach)));
  lines.push(...positions("column", columns, sourceColumns.map(({ reach }) => reach)));
  eachSum(gather, (sum, _b, _r, _p, k) => lines.push(`var ${sum} = ${first ? `epilogue_${k}` : "vec4f()"};`));
  if (looped) {
    lines.push(`for (var s = 0u; s < ${sourcesPerGroup}u; s++) {`, loads.prepare("norm_s", "first_source + s"));
  }
  for (const s of looped ? ["s"] : range(sourcesPerGroup).map(String)) {
    const block = s === "s" ? "s" : `${s}u`;
    for (const b of range(tileImages)) {
      sourceRows.forEach((row, y) => {
        const at = `at_${s}_${b}_${y}`;
        lines.push(
          `let ${at} = (image_${b} * SOURCE_ROWS + row_${y}) * (SOURCE_COLUMNS * SOURCE_BLOCKS) + first_source + ${block};`,
        );
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
                const products = terms.map((w, j) => `${value}.${gather.grouping.swizzles[j]} * ${w}`);
                lines.push(...products.map((product) => `sum_${b}_${r}_${p}_${k} += ${product};`));
              }
            }
          }
        });
      });
    }
  }
  if (looped) lines.push("}");
  eachSum(gather, (sum, b, r, p, k) => {
    const at = `((image_${b} * TARGET_ROWS + tile_row * ${rows.size}u + ${r}u) * TARGET_COLUMNS + ` +
      `tile_column * ${columns.size}u + ${p}u) * TARGET_BLOCKS + block + ${k}u`;
    const guards = [
      ...(raggedImages && b > 0 ? [`first_image + ${b}u < IMAGES`] : []),
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

/** The weights a kernel's text has loaded so far, by tap, source vec4 and target vec4. */
class Weights {
  readonly #declared = new Set<string>();

  constructor(readonly gather: Gather) {}

  /** The weight rows of a tap, source `s` ("s" or a number) and target `k`; with their loads on first use. */
  use(tap: number, s: string, k: number): { declaration?: string; terms: string[] } {
    const { grouping, transposed } = this.gather;
    const { inWidth, swizzles } = grouping;
    const name = `w_${tap}_${s}_${k}`;
    const terms = swizzles.map((_, j) => `${name}_${j}`);
    if (this.#declared.has(name)) return { terms };
    this.#declared.add(name);
    const source = s === "s" ? "s" : `${s}u`;
    const row = (j: number) =>
      transposed
        ? `get_weight((${tap * inWidth + j}u + (in_group + ${k}u) * 4u) * WEIGHT_COLUMNS + first_source + ${source})`
        : `get_weight((${tap * inWidth + j}u + ${source} * 4u) * WEIGHT_COLUMNS + block + ${k}u)`;
    if (!transposed || inWidth === 1) {
      return { declaration: terms.map((term, j) => `let ${term} = ${row(j)};`).join("\n"), terms };
    }
    const rows = swizzles.map((_, j) => `let ${name}_row_${j} = ${row(j)};`);
    const columns = terms.map((term, j) => `let ${term} = vec4f(${transposedColumn(name, inWidth, j)});`);
    return { declaration: [...rows, ...columns].join("\n"), terms };
  }

  /** The loads of every weight of an invocation. */
  all(sourcesPerGroup: number): string {
    const { rows, columns, targets } = this.gather;
    const lines: string[] = [];
    for (const s of range(sourcesPerGroup).map(String)) {
      for (const { uses } of sources(rows)) {
        for (const { tap: ky } of uses) {
          for (const { tap: kx } of sources(columns).flatMap((column) => column.uses)) {
            for (const k of range(targets)) {
              const { declaration } = this.use(ky * columns.kernel + kx, s, k);
              if (declaration) lines.push(declaration);
            }
          }
        }
      }
    }
    return lines.join("\n");
  }
}

/** Column `j` of the matrix whose rows are loaded: for two groups a vec4, of both their 2 x 2 matrices. */
function transposedColumn(name: string, width: number, j: number): string {
  const component = (row: number, letter: string) => `${name}_row_${row}.${letter}`;
  if (width === 2) {
    const [a, b] = j === 0 ? ["x", "z"] : ["y", "w"];
    return [component(0, a), component(1, a), component(0, b), component(1, b)].join(", ");
  }
  return range(4).map((row) => component(row, "xyzw"[j])).join(", ");
}
