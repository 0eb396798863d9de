/**
 * How the weights of a grouped convolution reach the invocations that gather (`grouped_gather.ts`).
 *
 * - `each`: loaded where they are needed, once a tile and source vec4.
 * - `held`: all loaded before the walk over tiles, where they are few.
 * - `staged`: a workgroup's invocations own some target vec4s together, each for several tiles, and load what all of them
 *   need of one source vec4 into workgroup memory. A GPU's caches hold the weights of a few groups; where groups are wide
 *   and others use them next, they would be loaded again and again.
 */

import type { Axis, Grouping } from "./grouped_tiling.ts";
import { range, reachableTaps, sources } from "./grouped_tiling.ts";
import { ceilDiv, unroll } from "./wgsl.ts";

/** What a text of weights needs to know of a kernel. */
export interface WeightUse {
  readonly rows: Axis;
  readonly columns: Axis;
  readonly grouping: Grouping;
  /** Whether the target is `dx`: weights are then used transposed. */
  readonly transposed: boolean;
  /** Target vec4s of an invocation. */
  readonly targets: number;
}

/** The weights in a kernel's text. */
export interface WeightTexts {
  /** Called where the text of a source row begins. */
  beginRow(): void;
  /** The weight rows of a tap, source `s` (a name or a number) and target `k`, with what declares them. */
  use(tap: number, s: string, k: number): { readonly declaration?: string; readonly terms: readonly string[] };
}

/** Weights loaded by each invocation that needs them. */
export class LoadedWeights implements WeightTexts {
  readonly #declared = new Set<string>();

  constructor(readonly kernel: WeightUse) {}

  beginRow(): void {}

  use(tap: number, s: string, k: number): { declaration?: string; terms: string[] } {
    const name = `w_${tap}_${s}_${k}`, source = s === "s" ? "s" : `${s}u`;
    const rows = loads(this.kernel, {
      tap: `${tap}u`,
      source,
      block: `block + ${k}u`,
      inGroup: `in_group + ${k}u`,
      firstSource: "first_source",
    });
    const terms = rows.map((_, j) => `${name}_${j}`);
    if (this.#declared.has(name)) return { terms };
    this.#declared.add(name);
    if (!isTurned(this.kernel)) {
      return { declaration: terms.map((term, j) => `let ${term} = ${rows[j]};`).join("\n"), terms };
    }
    const loaded = rows.map((row, j) => `let ${name}_row_${j} = ${row};`);
    const columns = terms.map((term, j) => `let ${term} = ${turned(this.kernel, j, (i) => `${name}_row_${i}`)};`);
    return { declaration: [...loaded, ...columns].join("\n"), terms };
  }

  /** The loads of every weight of an invocation. */
  all(sourcesPerGroup: number): string {
    const { rows, columns, targets } = this.kernel;
    const lines: string[] = [];
    for (const s of range(sourcesPerGroup).map(String)) {
      for (const { tap: ky } of sources(rows).flatMap(({ uses }) => uses)) {
        for (const { tap: kx } of sources(columns).flatMap(({ uses }) => uses)) {
          for (const k of range(targets)) {
            const { declaration } = this.use(ky * columns.kernel + kx, s, k);
            if (declaration) lines.push(declaration);
          }
        }
      }
    }
    return lines.join("\n");
  }
}

/** Weights that pass through workgroup memory, one source vec4 at a time. */
export class StagedWeights implements WeightTexts {
  readonly #declared = new Set<number>();
  #row = 0;
  readonly #tapRows: readonly number[];
  readonly #tapColumns: readonly number[];
  /** Weight rows of a tap. */
  readonly #terms: number;
  /** What is to be loaded for all, of a tap and a target vec4 each, and how much of it by each invocation. */
  readonly #units: number;
  readonly #rounds: number;

  /**
   * @param together Target vec4s of a workgroup.
   * @param workgroupSize Invocations that load for each other.
   */
  constructor(readonly kernel: WeightUse, readonly together: number, readonly workgroupSize: number) {
    this.#tapRows = span(reachableTaps(kernel.rows));
    this.#tapColumns = span(reachableTaps(kernel.columns));
    this.#terms = kernel.grouping.swizzles.length;
    this.#units = this.#tapRows.length * this.#tapColumns.length * together;
    this.#rounds = ceilDiv(this.#units, workgroupSize);
  }

  /** WGSL at module scope. */
  get declarations(): string {
    return `var<workgroup> tile_w: array<array<vec4f, ${stagedLine(this.kernel)}>, ${this.together}>;`;
  }

  /** WGSL that says what an invocation loads for all; sees `local` and `first_block`, the workgroup's first target vec4. */
  prepare(perGroup: number, sourcesPerGroup: number): string {
    const [firstRow] = this.#tapRows, [firstColumn] = this.#tapColumns, across = this.#tapColumns.length;
    return unroll(this.#rounds, (r) => /* wgsl */ `
  let unit_${r} = min(local + ${r * this.workgroupSize}u, ${this.#units - 1}u);
  let line_${r} = unit_${r} % ${this.together}u;
  let place_${r} = unit_${r} / ${this.together}u;
  let tap_${r} = (place_${r} / ${across}u + ${firstRow}u) * ${this.kernel.columns.kernel}u + place_${r} % ${across}u + ${firstColumn}u;
  let block_${r} = first_block + line_${r};
  let in_group_${r} = block_${r} % ${perGroup}u;
  let first_source_${r} = block_${r} / ${perGroup}u * ${sourcesPerGroup}u;
  ${unroll(this.#terms, (j) => `var next_${r}_${j} = vec4f();`)}`);
  }

  /** WGSL that loads the weights of source vec4 `s` into registers. */
  fetch(s: string): string {
    return unroll(this.#rounds, (r) => {
      const rows = loads(this.kernel, {
        tap: `tap_${r}`,
        source: s,
        block: `block_${r}`,
        inGroup: `in_group_${r}`,
        firstSource: `first_source_${r}`,
      });
      return rows.map((row, j) => `next_${r}_${j} = ${row};`).join("\n");
    });
  }

  /** WGSL that hands them to the others, who see them after a barrier. */
  get store(): string {
    return unroll(this.#rounds, (r) => {
      const value = (j: number) =>
        isTurned(this.kernel) ? turned(this.kernel, j, (i) => `next_${r}_${i}`) : `next_${r}_${j}`;
      const stores = unroll(
        this.#terms,
        (j) => `tile_w[line_${r}][place_${r} * ${this.#terms}u + ${j}u] = ${value(j)};`,
      );
      const whole = (r + 1) * this.workgroupSize <= this.#units;
      return whole ? stores : `if (local + ${r * this.workgroupSize}u < ${this.#units}u) { ${stores} }`;
    });
  }

  /** Weights are read again for each source row, which keeps registers free. */
  beginRow(): void {
    this.#row++;
    this.#declared.clear();
  }

  use(tap: number, _s: string, _k: number): { declaration?: string; terms: string[] } {
    const { kernel } = this.kernel.columns, [ky, kx] = [Math.floor(tap / kernel), tap % kernel];
    const place = this.#tapRows.indexOf(ky) * this.#tapColumns.length + this.#tapColumns.indexOf(kx);
    const terms = range(this.#terms).map((j) => `w_${this.#row}_${tap}_${j}`);
    if (this.#declared.has(tap)) return { terms };
    this.#declared.add(tap);
    const declaration = terms.map((term, j) => `let ${term} = tile_w[line][${place * this.#terms + j}u];`).join("\n");
    return { declaration, terms };
  }
}

/** vec4s that a target vec4's staged weights take of workgroup memory. */
export function stagedLine({ rows, columns, grouping }: Pick<WeightUse, "rows" | "columns" | "grouping">): number {
  return span(reachableTaps(rows)).length * span(reachableTaps(columns)).length * grouping.swizzles.length | 1;
}

/** All from the first to the last. */
function span(taps: readonly number[]): number[] {
  return taps.length === 0 ? [] : range(taps.at(-1)! - taps[0] + 1).map((index) => taps[0] + index);
}

/** Whether what is loaded is turned before it is used: rows of input channels to columns of output channels. */
function isTurned({ grouping, transposed }: WeightUse): boolean {
  return transposed && grouping.inWidth > 1;
}

/** The weight rows of a tap, source vec4 and target vec4, given WGSL for each. */
function loads(
  { grouping: { inWidth, swizzles }, transposed }: WeightUse,
  { tap, source, block, inGroup, firstSource }: Readonly<
    Record<"tap" | "source" | "block" | "inGroup" | "firstSource", string>
  >,
): string[] {
  return swizzles.map((_, j) =>
    transposed
      ? `get_weight((${tap} * ${inWidth}u + ${j}u + (${inGroup}) * 4u) * WEIGHT_COLUMNS + ${firstSource} + ${source})`
      : `get_weight((${tap} * ${inWidth}u + ${j}u + ${source} * 4u) * WEIGHT_COLUMNS + ${block})`
  );
}

/** Column `j` of the matrix of rows `row(i)`: for two groups a vec4, of both their 2 x 2 matrices. */
function turned({ grouping: { inWidth } }: WeightUse, j: number, row: (i: number) => string): string {
  const component = (i: number, letter: string) => `${row(i)}.${letter}`;
  if (inWidth === 2) {
    const [a, b] = j === 0 ? ["x", "z"] : ["y", "w"];
    return `vec4f(${[component(0, a), component(1, a), component(0, b), component(1, b)].join(", ")})`;
  }
  return `vec4f(${range(4).map((i) => component(i, "xyzw"[j])).join(", ")})`;
}
