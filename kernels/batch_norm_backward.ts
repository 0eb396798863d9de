/** The gradient of batch normalization, ReLU and residual sum included (forward: `batch_norm.ts`). */

import type { BatchNormSpec } from "./batch_norm.ts";
import {
  type ColumnReduction,
  type ColumnTiling,
  columnTiling,
  combineTiling,
  fewChunks,
  mapColumns,
  reduceColumns,
} from "./columns.ts";
import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { reluGradient } from "./elementwise.ts";
import { padded } from "./layout.ts";
import { type RowChunks, rowChunks } from "./row_sums.ts";
import { unroll } from "./wgsl.ts";

/** Operands of {@linkcode batchNormBackward}. Activations are [rows, padded(channels)], all others padded vectors. */
export interface BatchNormBackwardOperands {
  readonly x: Operand;
  /** The output: needed (see {@linkcode needsOutput}) only for a ReLU behind a residual sum. */
  readonly y?: Operand;
  readonly dy: Operand;
  /** Where `dy`'s producer has masked and summed it (`row_sums.ts`): its sums. `dy` is `g` then, and `y` is not needed. */
  readonly sums?: RowChunks;
  /** Saved by the forward pass. */
  readonly statistics: Operand;
  readonly dx: Operand;
  readonly dweight: Operand;
  readonly dbias: Operand;
  /** Written: the residual's gradient, which is `dy` where ReLU let through. Not with `sums`. */
  readonly dresidual?: Operand;
}

/** Whether the gradient reads the output `y`. Without a residual its sign is recomputed from `x`, which moves less. */
export function needsOutput(spec: BatchNormSpec, residual: boolean): boolean {
  return spec.relu && residual;
}

/** How `g` is made of `dy`: as it is, by the sign of y, or by the sign of y recomputed from x. */
type Mask = "none" | "output" | "recomputed";

/**
 * All gradients, with `g = dy` where ReLU let through:
 *
 *     dbias = sum g,  dweight = sum g xhat,  dx = weight invstd (g - dbias / rows - xhat dweight / rows)
 *
 * where `xhat = (x - mean) invstd` (Ioffe & Szegedy 2015, section 3, simplified). With `y` given and `spec.relu`, ReLU's
 * mask is taken from `y`, else recomputed from `x` as if there had been no residual.
 */
export function batchNormBackward(
  operands: BatchNormBackwardOperands,
  spec: BatchNormSpec,
  caps: Capabilities,
): Dispatch[] {
  const { rows, channels } = spec;
  const dispatches: Dispatch[] = [];
  const mask = !spec.relu || operands.sums ? "none" : operands.y ? "output" : "recomputed";
  let sums = operands.sums;
  if (!sums) {
    const tiling = columnTiling(rows, channels, caps);
    sums = rowChunks("batch_norm.gradient_partials", rows, padded(channels), tiling.chunkRows);
    dispatches.push(reduce(sums, mask, operands, spec, tiling));
  }
  const few = fewChunks(sums, spec, caps, (from, to, tiling) => merge(from, to, channels, tiling));
  dispatches.push(...few.dispatches);
  const coefficients = operand("batch_norm.coefficients", 2 * padded(channels));
  dispatches.push(combine(few.chunks, coefficients, operands, spec, caps));
  return [...dispatches, apply(coefficients, mask, operands, spec, caps)];
}

/** `x - center` (`d`), `dy` and what the mask needs, of row k. */
function load(mask: Mask): (k: number) => string {
  return (k) =>
    `let d${k} = get_x(at${k}) - center; let dy${k} = get_dy(at${k});` +
    (mask === "output" ? `let y${k} = get_y(at${k});` : "");
}

/** `g` of row k. */
function masked(mask: Mask): (k: number) => string {
  return (k) =>
    ({
      none: `let g${k} = dy${k};`,
      output: `let g${k} = ${reluGradient(`dy${k}`, `y${k}`)};`,
      recomputed: `let g${k} = ${reluGradient(`dy${k}`, `d${k} * scale + offset`)};`,
    })[mask];
}

const MASK_FLOPS: Record<Mask, number> = { none: 0, output: 1, recomputed: 3 };

/** The first pass: a chunk's sums of `g` and `g (x - mean)`. */
function reduce(
  { partials }: RowChunks,
  mask: Mask,
  { x, y, dy, statistics, dresidual }: BatchNormBackwardOperands,
  { rows, channels }: BatchNormSpec,
  tiling: ColumnTiling,
): Dispatch {
  return reduceColumns({
    label: "batch_norm.backward_reduce",
    bindings: {
      x: read(x),
      dy: read(dy),
      statistics: read(statistics),
      partials: write(partials),
      ...(mask === "output" && { y: read(y!) }),
      ...(dresidual && { dresidual: write(dresidual) }),
    },
    setup: "let center = statistics[column];" +
      (mask === "recomputed"
        ? "let scale = statistics[2u * COLUMNS + column]; let offset = statistics[3u * COLUMNS + column];"
        : ""),
    load: load(mask),
    use: (k) =>
      `${masked(mask)(k)} sum0 += g${k}; sum1 += g${k} * d${k};` + (dresidual ? `set_dresidual(at${k}, g${k});` : ""),
    sums: 2,
    finish: unroll(2, (i) => `partials[partial(column, chunk, ${i}u)] = sum${i};`),
    flops: rows * channels * (4 + MASK_FLOPS[mask]),
    bytes: x.byteLength + dy.byteLength + (mask === "output" ? y!.byteLength : 0) + (dresidual?.byteLength ?? 0) +
      partials.byteLength,
  }, tiling);
}

const CHUNK_SUMS: Pick<ColumnReduction, "load" | "use" | "sums"> = {
  load: (k) => unroll(2, (i) => `let p${i}_${k} = partials[at${k} + ${i}u * ROWS * COLUMNS];`),
  use: (k) => unroll(2, (i) => `sum${i} += p${i}_${k};`),
  sums: 2,
};

function merge(from: RowChunks, to: RowChunks, channels: number, tiling: ColumnTiling): Dispatch {
  return reduceColumns({
    ...CHUNK_SUMS,
    label: "batch_norm.backward_merge",
    bindings: { partials: read(from.partials), merged: write(to.partials) },
    finish: unroll(2, (i) => `merged[partial(column, chunk, ${i}u)] = sum${i};`),
    flops: 2 * from.chunks * channels,
    bytes: from.partials.byteLength + to.partials.byteLength,
  }, tiling);
}

/** The parameters' gradients, and what the last pass needs of each channel beside its statistics: constant and slope. */
function combine(
  { partials, chunks }: RowChunks,
  coefficients: Operand,
  { statistics, dweight, dbias }: BatchNormBackwardOperands,
  { rows, channels }: BatchNormSpec,
  caps: Capabilities,
): Dispatch {
  return reduceColumns({
    ...CHUNK_SUMS,
    label: "batch_norm.backward_combine",
    bindings: {
      partials: read(partials),
      statistics: read(statistics),
      dweight: write(dweight),
      dbias: write(dbias),
      coefficients: write(coefficients),
    },
    uniforms: { VALUES: rows },
    finish: /* wgsl */ `
    // What rounding took from the saved mean: where the mean is large, not negligible beside the deviation.
    let missing = statistics[4u * COLUMNS + column];
    let deviation = statistics[COLUMNS + column];
    let scale = statistics[2u * COLUMNS + column];
    let gradient = (sum1 - sum0 * missing) * deviation;
    let slope = scale * deviation * (gradient / f32(VALUES));
    dweight[column] = gradient;
    dbias[column] = sum0;
    coefficients[column] = scale * (sum0 / f32(VALUES)) - slope * missing;
    coefficients[COLUMNS + column] = slope;`,
    flops: 2 * chunks * channels,
    bytes: (2 * chunks + 9) * padded(channels) * 4,
  }, combineTiling(chunks, channels, caps));
}

/** The last pass: `dx`. */
function apply(
  coefficients: Operand,
  mask: Mask,
  { x, y, dy, statistics, dx, dresidual }: BatchNormBackwardOperands,
  { rows, channels }: BatchNormSpec,
  caps: Capabilities,
): Dispatch {
  // A residual's gradient, once written, is `g` itself.
  const left = dresidual ? "none" : mask;
  return mapColumns(
    {
      label: "batch_norm.backward_apply",
      bindings: {
        x: read(x),
        dy: read(dresidual ?? dy),
        statistics: read(statistics),
        coefficients: read(coefficients),
        ...(left === "output" && { y: read(y!) }),
        dx: write(dx),
      },
      setup: /* wgsl */ `
  let center = statistics[column];
  let scale = statistics[2u * COLUMNS + column];
  let constant = coefficients[column];
  let slope = coefficients[COLUMNS + column];
  ${left === "recomputed" ? "let offset = statistics[3u * COLUMNS + column];" : ""}`,
      load: load(left),
      use: (k) => `${masked(left)(k)} set_dx(at${k}, g${k} * scale - constant - d${k} * slope);`,
      flops: rows * channels * (5 + MASK_FLOPS[left]),
      bytes: x.byteLength + dy.byteLength + dx.byteLength + (left === "output" ? y!.byteLength : 0) +
        statistics.byteLength + coefficients.byteLength,
    },
    rows,
    channels,
    caps,
  );
}
