/**
 * Batch normalization, forward and inference (the gradient: `batch_norm_backward.ts`). An NHWC activation is seen as a
 * matrix of `n*h*w` rows. Ioffe & Szegedy, "Batch Normalization" (2015), algorithm 1, with PyTorch's conventions: the
 * batch is normalized with its biased variance, the running variance takes the unbiased one.
 *
 * Variance is the sum of squares of data shifted by one of its own values (Chan, Golub & LeVeque, "Algorithms for
 * Computing the Sample Variance", 1983, equation 1.5): first within a chunk of rows by its first row, then over chunks by
 * the first chunk's mean. The shift itself being in the data bounds the error by (count * float epsilon), whatever the mean.
 */

import {
  type ColumnPass,
  type ColumnReduction,
  type ColumnTiling,
  columnTiling,
  combineTiling,
  fewChunks,
  mapColumns,
  reduceColumns,
} from "./columns.ts";
import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, read, write } from "./dispatch.ts";
import { RELU } from "./elementwise.ts";
import { padded } from "./layout.ts";
import { type LoadNorm, normalizedLoads } from "./load_norm.ts";
import { type RowChunks, rowChunks } from "./row_sums.ts";
import { UserError } from "./user_error.ts";

/** The sizes and settings of a batch norm. */
export interface BatchNormSpec {
  /** `n * h * w`: how many values a channel has. */
  readonly rows: number;
  readonly channels: number;
  /** Added to the variance. Above zero, as padding has none. */
  readonly eps: number;
  /** The batch's weight in the running statistics. */
  readonly momentum: number;
  /** Apply ReLU last. */
  readonly relu: boolean;
}

/** Operands of {@linkcode batchNormStatistics}. Activations are [rows, padded(channels)], all others padded vectors. */
export interface BatchNormStatisticsOperands {
  readonly x: Operand;
  readonly weight: Operand;
  readonly bias: Operand;
  /** Read and updated. */
  readonly runningMean: Operand;
  /** Read and updated. */
  readonly runningVar: Operand;
  /** Written: see {@linkcode statisticsElements}. */
  readonly statistics: Operand;
  /** The moments of `x`, where its producer has summed them: it is not read then. */
  readonly moments?: RowChunks;
}

/**
 * Floats of the operand that keeps what a batch is normalized by: five padded vectors, `mean`, `invstd`
 * (`1 / sqrt(variance + eps)`), `scale` (`invstd * weight`), `offset` (the bias), and what rounding took from the mean.
 */
export function statisticsElements(channels: number): number {
  return 5 * padded(channels);
}

/**
 * Training, first half: the batch's own statistics, saved for {@linkcode batchNormApply} and the gradient, and the running
 * ones updated.
 *
 * @throws {UserError} for one row, which has no variance.
 */
export function batchNormStatistics(
  operands: BatchNormStatisticsOperands,
  spec: BatchNormSpec,
  caps: Capabilities,
): Dispatch[] {
  const { rows, channels } = spec;
  if (rows < 2) {
    throw new UserError(
      `Cannot normalize a batch: Expected more than 1 value per channel when training, got ${rows}; ` +
        "use a larger batch or image size",
    );
  }
  const dispatches: Dispatch[] = [];
  let moments = operands.moments;
  if (!moments) {
    const tiling = columnTiling(rows, channels, caps);
    moments = rowChunks("batch_norm.partials", rows, padded(channels), tiling.chunkRows);
    dispatches.push(momentsOf(operands.x, moments, spec, tiling));
  }
  const few = fewChunks(moments, spec, caps, (from, to, tiling) => merge(from, to, spec, tiling));
  return [...dispatches, ...few.dispatches, combine(few.chunks, operands, spec, caps)];
}

/** The first pass: a chunk's mean and sum of squared deviations. */
function momentsOf(
  x: Operand,
  { partials }: RowChunks,
  { rows, channels }: BatchNormSpec,
  tiling: ColumnTiling,
): Dispatch {
  return reduceColumns({
    label: "batch_norm.statistics",
    bindings: { x: read(x), partials: write(partials) },
    functions: SQUARES_ABOUT_MEAN,
    setup: "let shift = get_x(begin * COLUMNS + column);",
    load: (k) => `let d${k} = get_x(at${k}) - shift;`,
    use: (k) => `sum0 += d${k}; sum1 += d${k} * d${k};`,
    sums: 2,
    finish: /* wgsl */ `
    partials[partial(column, chunk, 0u)] = get_x(begin * COLUMNS + column) + sum0 / count;
    partials[partial(column, chunk, 1u)] = squares_about_mean(sum0, sum1, count);`,
    flops: 4 * rows * channels,
    bytes: x.byteLength + partials.byteLength,
  }, tiling);
}

/** From sums about any shift. Rounding may take them below 0; NaN stays, as in `relu`. */
const SQUARES_ABOUT_MEAN = /* wgsl */ `${RELU}
fn squares_about_mean(sum: vec4f, squares: vec4f, count: f32) -> vec4f {
  return relu(squares - sum * sum / count);
}`;

/** What a reduction over chunks needs of each: its deviation from the first one, its squares, its rows. */
const CHUNK_MOMENTS: Pick<ColumnReduction, "functions" | "load" | "use" | "sums"> = {
  functions: SQUARES_ABOUT_MEAN,
  load: (k) => `let d${k} = partials[at${k}] - shift; let m${k} = partials[at${k} + ROWS * COLUMNS];`,
  // The last chunk may be short.
  use: (k) =>
    /* wgsl */ `{
        let n = f32(min(ROWS_OF_CHUNK, VALUES - at${k} / COLUMNS * ROWS_OF_CHUNK));
        sum0 += n * d${k};
        sum1 += m${k} + n * d${k} * d${k};
      }`,
  sums: 2,
};

/** Moments of larger chunks. */
function merge(from: RowChunks, to: RowChunks, { rows, channels }: BatchNormSpec, tiling: ColumnTiling): Dispatch {
  return reduceColumns({
    ...CHUNK_MOMENTS,
    label: "batch_norm.merge",
    bindings: { partials: read(from.partials), merged: write(to.partials) },
    uniforms: { VALUES: rows, ROWS_OF_CHUNK: from.chunkRows },
    setup: "let shift = partials[begin * COLUMNS + column];",
    finish: /* wgsl */ `
    let values = f32(min(end * ROWS_OF_CHUNK, VALUES) - begin * ROWS_OF_CHUNK);
    merged[partial(column, chunk, 0u)] = partials[begin * COLUMNS + column] + sum0 / values;
    merged[partial(column, chunk, 1u)] = squares_about_mean(sum0, sum1, values);`,
    flops: 8 * from.chunks * channels,
    bytes: from.partials.byteLength + to.partials.byteLength,
  }, tiling);
}

/** The last pass: the batch's statistics of all chunks, and the running ones. */
function combine(
  { partials, chunkRows, chunks }: RowChunks,
  { weight, bias, runningMean, runningVar, statistics }: BatchNormStatisticsOperands,
  { rows, channels, eps, momentum }: BatchNormSpec,
  caps: Capabilities,
): Dispatch {
  return reduceColumns({
    ...CHUNK_MOMENTS,
    label: "batch_norm.combine",
    bindings: {
      partials: read(partials),
      weight: read(weight),
      bias: read(bias),
      statistics: write(statistics),
      running_mean: write(runningMean),
      running_var: write(runningVar),
    },
    constants: { EPS: f32(eps), MOMENTUM: f32(momentum) },
    uniforms: { VALUES: rows, ROWS_OF_CHUNK: chunkRows, ZERO: 0 },
    setup: "let shift = partials[column];",
    // What rounding takes from the mean is kept. A compiler that calculates with real numbers (Metal's does) would make
    // it nothing, if it knew that the mean is this sum.
    finish: /* wgsl */ `
    let from_first = sum0 / f32(VALUES);
    let batch_mean = bitcast<vec4f>(bitcast<vec4u>(partials[column] + from_first) ^ vec4u(ZERO));
    let squares = squares_about_mean(sum0, sum1, f32(VALUES));
    let invstd = 1.0 / sqrt(squares / f32(VALUES) + EPS);
    statistics[column] = batch_mean;
    statistics[COLUMNS + column] = invstd;
    statistics[2u * COLUMNS + column] = invstd * weight[column];
    statistics[3u * COLUMNS + column] = bias[column];
    statistics[4u * COLUMNS + column] = from_first - (batch_mean - partials[column]);
    running_mean[column] = (1.0 - MOMENTUM) * running_mean[column] + MOMENTUM * batch_mean;
    running_var[column] = (1.0 - MOMENTUM) * running_var[column] + MOMENTUM * (squares / f32(VALUES - 1u));`,
    flops: 8 * chunks * channels,
    bytes: (2 * chunks + 11) * padded(channels) * 4,
  }, combineTiling(chunks, channels, caps));
}

/** Operands of {@linkcode batchNormApply}, sized as {@linkcode BatchNormStatisticsOperands}. */
export interface BatchNormApplyOperands {
  readonly x: Operand;
  /** As {@linkcode batchNormStatistics} wrote it. */
  readonly statistics: Operand;
  readonly y: Operand;
  /** Added after the normalization, before ReLU. */
  readonly residual?: Operand;
  /** The residual is normalized, too, as it is loaded. */
  readonly residualNorm?: LoadNorm;
}

/** Training, second half: `y = relu?((x - mean) * scale + offset + residual?)`. */
export function batchNormApply(
  { x, statistics, y, residual, residualNorm }: BatchNormApplyOperands,
  spec: Pick<BatchNormSpec, "rows" | "channels" | "relu">,
  caps: Capabilities,
): Dispatch[] {
  return [normalize(
    "batch_norm.normalize",
    { x, y, residual, residualNorm },
    {
      bindings: { statistics: read(statistics) },
      setup: /* wgsl */ `
  let center = statistics[column];
  let scale = statistics[2u * COLUMNS + column];
  let offset = statistics[3u * COLUMNS + column];`,
    },
    spec,
    caps,
  )];
}

/** Operands of {@linkcode batchNormInference}, sized as {@linkcode BatchNormStatisticsOperands}. */
export interface BatchNormInferenceOperands {
  readonly x: Operand;
  readonly weight: Operand;
  readonly bias: Operand;
  readonly runningMean: Operand;
  readonly runningVar: Operand;
  readonly y: Operand;
  readonly residual?: Operand;
}

/** Evaluation: `y = relu?((x - runningMean) / sqrt(runningVar + eps) * weight + bias + residual?)`. */
export function batchNormInference(
  { x, weight, bias, runningMean, runningVar, y, residual }: BatchNormInferenceOperands,
  spec: BatchNormSpec,
  caps: Capabilities,
): Dispatch[] {
  return [normalize(
    "batch_norm.inference",
    { x, y, residual },
    {
      bindings: { mean: read(runningMean), variance: read(runningVar), weight: read(weight), bias: read(bias) },
      constants: { EPS: f32(spec.eps) },
      setup: /* wgsl */ `
  let center = mean[column];
  let scale = 1.0 / sqrt(variance[column] + EPS) * weight[column];
  let offset = bias[column];`,
    },
    spec,
    caps,
  )];
}

/** The map of both; `by` gives the column's `center`, `scale` and `offset`. */
function normalize(
  label: string,
  { x, y, residual, residualNorm }: Omit<BatchNormApplyOperands, "statistics">,
  by: Pick<ColumnPass, "bindings" | "constants" | "setup">,
  { rows, channels, relu }: Pick<BatchNormSpec, "rows" | "channels" | "relu">,
  caps: Capabilities,
): Dispatch {
  const loads = normalizedLoads(residualNorm, "COLUMNS");
  return mapColumns(
    {
      ...by,
      label,
      bindings: {
        x: read(x),
        ...by.bindings,
        ...(residual && { residual: read(residual) }),
        ...loads.bindings,
        y: write(y),
      },
      functions: RELU + loads.functions,
      setup: `${by.setup ?? ""}\n${loads.prepare("residual_by", "column")}`,
      load: (k) =>
        `let x${k} = get_x(at${k});` +
        (residual ? `let r${k} = ${loads.apply(`get_residual(at${k})`, "residual_by")};` : ""),
      use: (k) => {
        const value = `(x${k} - center) * scale + offset` + (residual ? ` + r${k}` : "");
        return `set_y(at${k}, ${relu ? `relu(${value})` : value});`;
      },
      flops: rows * channels * (3 + (residual ? 1 : 0) + (relu ? 1 : 0)),
      bytes: x.byteLength + y.byteLength + (residual?.byteLength ?? 0) + 4 * padded(channels) * 4,
    },
    rows,
    channels,
    caps,
  );
}
