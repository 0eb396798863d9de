/**
 * Batch normalization, forward and inference (the gradient: `batch_norm_backward.ts`). An NHWC activation is seen as a
 * matrix of `n*h*w` rows. Ioffe & Szegedy, "Batch Normalization" (2015), algorithm 1, with PyTorch's conventions: the
 * batch is normalized with its biased variance, the running variance takes the unbiased one.
 *
 * Variance is the sum of squares of data shifted by one of its own values (Chan, Golub & LeVeque, "Algorithms for
 * Computing the Sample Variance", 1983, equation 1.5): first within a chunk of rows by its first row, then over chunks by
 * the first chunk's mean. The shift itself being in the data bounds the error by (count * float epsilon), whatever the mean.
 */

import { columnTiling, combineTiling, mapColumns, reduceColumns } from "./columns.ts";
import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, operand, read, write } from "./dispatch.ts";
import { RELU } from "./elementwise.ts";
import { padded } from "./layout.ts";
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

/** Operands of {@linkcode batchNormForward}. Activations are [rows, padded(channels)], all others padded vectors. */
export interface BatchNormForwardOperands {
  readonly x: Operand;
  readonly weight: Operand;
  readonly bias: Operand;
  /** Read and updated. */
  readonly runningMean: Operand;
  /** Read and updated. */
  readonly runningVar: Operand;
  readonly y: Operand;
  /** Written: the batch's mean, for the gradient. */
  readonly mean: Operand;
  /** Written: `1 / sqrt(variance + eps)`, for the gradient. */
  readonly invstd: Operand;
  /** Added after the normalization, before ReLU. */
  readonly residual?: Operand;
}

/**
 * Training: normalizes by the batch's own statistics, saves them, and updates the running ones.
 * `y = relu?((x - mean) * invstd * weight + bias + residual?)`.
 *
 * @throws {UserError} for one row, which has no variance.
 */
export function batchNormForward(
  operands: BatchNormForwardOperands,
  spec: BatchNormSpec,
  caps: Capabilities,
): Dispatch[] {
  const { rows, channels, eps, momentum } = spec;
  if (rows < 2) {
    throw new UserError(
      `Cannot normalize a batch: Expected more than 1 value per channel when training, got ${rows}; ` +
        "use a larger batch or image size",
    );
  }
  const { x, mean, invstd, runningMean, runningVar } = operands;
  const stored = padded(channels);
  const tiling = columnTiling(rows, channels, caps);
  const partials = operand("batch_norm.partials", 2 * tiling.chunks * stored);
  const statistics = reduceColumns({
    label: "batch_norm.statistics",
    bindings: { x: read(x), partials: write(partials) },
    setup: "let shift = x[begin * COLUMNS + column];",
    load: (k) => `let d${k} = x[at${k}] - shift;`,
    use: (k) => `sum0 += d${k}; sum1 += d${k} * d${k};`,
    sums: 2,
    finish: /* wgsl */ `
    partials[partial(column, chunk, 0u)] = x[begin * COLUMNS + column] + sum0 / count;
    partials[partial(column, chunk, 1u)] = max(sum1 - sum0 * sum0 / count, vec4f());`,
    flops: 4 * rows * channels,
    bytes: (rows + 2 * tiling.chunks) * stored * 4,
  }, tiling);
  const combine = reduceColumns({
    label: "batch_norm.combine",
    bindings: {
      partials: read(partials),
      mean: write(mean),
      invstd: write(invstd),
      running_mean: write(runningMean),
      running_var: write(runningVar),
    },
    constants: { EPS: f32(eps), MOMENTUM: f32(momentum) },
    uniforms: { VALUES: rows, ROWS_OF_CHUNK: tiling.chunkRows },
    setup: "let shift = partials[column];",
    load: (k) => `let d${k} = partials[at${k}] - shift; let m${k} = partials[at${k} + ROWS * COLUMNS];`,
    // The last chunk may be short.
    use: (k) =>
      /* wgsl */ `{
        let n = f32(min(ROWS_OF_CHUNK, VALUES - at${k} / COLUMNS * ROWS_OF_CHUNK));
        sum0 += n * d${k};
        sum1 += m${k} + n * d${k} * d${k};
      }`,
    sums: 2,
    finish: /* wgsl */ `
    let batch_mean = partials[column] + sum0 / f32(VALUES);
    let squares = max(sum1 - sum0 * sum0 / f32(VALUES), vec4f());
    mean[column] = batch_mean;
    invstd[column] = 1.0 / sqrt(squares / f32(VALUES) + EPS);
    running_mean[column] = (1.0 - MOMENTUM) * running_mean[column] + MOMENTUM * batch_mean;
    running_var[column] = (1.0 - MOMENTUM) * running_var[column] + MOMENTUM * (squares / f32(VALUES - 1u));`,
    flops: 8 * tiling.chunks * channels,
    bytes: (2 * tiling.chunks + 6) * stored * 4,
  }, combineTiling(tiling, caps));
  const normalize = normalizeBy("spread[column]", { ...operands, spread: invstd }, spec, caps, "batch_norm.normalize");
  return [statistics, combine, normalize];
}

/** Operands of {@linkcode batchNormInference}, sized as {@linkcode BatchNormForwardOperands}. */
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
  operands: BatchNormInferenceOperands,
  spec: BatchNormSpec,
  caps: Capabilities,
): Dispatch[] {
  const { runningMean: mean, runningVar: spread } = operands;
  const invstd = "1.0 / sqrt(spread[column] + EPS)";
  return [normalizeBy(invstd, { ...operands, mean, spread }, spec, caps, "batch_norm.inference")];
}

/** The map of both: `invstd` is WGSL, made of the operand `spread`. */
function normalizeBy(
  invstd: string,
  { x, weight, bias, mean, spread, y, residual }: {
    readonly x: Operand;
    readonly weight: Operand;
    readonly bias: Operand;
    readonly mean: Operand;
    readonly spread: Operand;
    readonly y: Operand;
    readonly residual?: Operand;
  },
  { rows, channels, eps, relu }: BatchNormSpec,
  caps: Capabilities,
  label: string,
): Dispatch {
  return mapColumns(
    {
      label,
      bindings: {
        x: read(x),
        mean: read(mean),
        spread: read(spread),
        weight: read(weight),
        bias: read(bias),
        ...(residual && { residual: read(residual) }),
        y: write(y),
      },
      constants: { EPS: f32(eps) },
      functions: RELU,
      setup: /* wgsl */ `
  let center = mean[column];
  let scale = ${invstd} * weight[column];
  let offset = bias[column];`,
      load: (k) => `let x${k} = x[at${k}];` + (residual ? `let r${k} = residual[at${k}];` : ""),
      use: (k) => {
        const value = `(x${k} - center) * scale + offset` + (residual ? ` + r${k}` : "");
        return `y[at${k}] = ${relu ? `relu(${value})` : value};`;
      },
      flops: rows * channels * (3 + (residual ? 1 : 0) + (relu ? 1 : 0)),
      bytes: (rows * (residual ? 3 : 2) + 4) * padded(channels) * 4,
    },
    rows,
    channels,
    caps,
  );
}
