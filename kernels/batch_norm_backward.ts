/** The gradient of batch normalization, ReLU and residual sum included (forward: `batch_norm.ts`). */

import type { BatchNormSpec } from "./batch_norm.ts";
import { columnTiling, combineTiling, mapColumns, reduceColumns } from "./columns.ts";
import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { padded } from "./layout.ts";
import { unroll } from "./wgsl.ts";

/** Operands of {@linkcode batchNormBackward}. Activations are [rows, padded(channels)], all others padded vectors. */
export interface BatchNormBackwardOperands {
  readonly x: Operand;
  /** The output: needed (see {@linkcode needsOutput}) only for a ReLU behind a residual sum. */
  readonly y?: Operand;
  readonly dy: Operand;
  /** Saved by the forward pass. */
  readonly statistics: Operand;
  readonly dx: Operand;
  readonly dweight: Operand;
  readonly dbias: Operand;
  /** Written: the residual's gradient, which is `dy` where ReLU let through. */
  readonly dresidual?: Operand;
}

/** Whether the gradient reads the output `y`. Without a residual its sign is recomputed from `x`, which moves less. */
export function needsOutput(spec: BatchNormSpec, residual: boolean): boolean {
  return spec.relu && residual;
}

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
  const { x, y, dy, statistics, dx, dweight, dbias, dresidual } = operands;
  const { rows, channels, relu } = spec;
  const stored = padded(channels);
  const mask = !relu ? "none" : y ? "output" : "recomputed";
  const tiling = columnTiling(rows, channels, caps);
  const partials = operand("batch_norm.gradient_partials", 3 * tiling.chunks * stored);
  const coefficients = operand("batch_norm.coefficients", 5 * stored);

  /** `g` of row k from `x - center` (`d`), `dy` and what the mask needs. */
  const gradient = (k: number) =>
    ({
      none: `let g${k} = dy${k};`,
      output: `let g${k} = select(vec4f(), dy${k}, y${k} > vec4f());`,
      recomputed: `let g${k} = select(vec4f(), dy${k}, d${k} * scale + offset > vec4f());`,
    })[mask];
  const load = (k: number, masked: boolean) =>
    `let d${k} = get_x(at${k}) - center; let dy${k} = get_dy(at${k});` +
    (masked && mask === "output" ? `let y${k} = get_y(at${k});` : "");
  const maskOperations = { none: 0, output: 1, recomputed: 3 }[mask];

  const reduce = reduceColumns({
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
    load: (k) => load(k, true),
    use: (k) =>
      `${gradient(k)} sum0 += g${k}; sum1 += g${k} * d${k}; sum2 += d${k};` +
      (dresidual ? `set_dresidual(at${k}, g${k});` : ""),
    sums: 3,
    finish: unroll(3, (i) => `partials[partial(column, chunk, ${i}u)] = sum${i};`),
    flops: rows * channels * (5 + maskOperations),
    bytes: x.byteLength + dy.byteLength + (mask === "output" ? y!.byteLength : 0) + (dresidual?.byteLength ?? 0) +
      partials.byteLength,
  }, tiling);

  const combine = reduceColumns({
    label: "batch_norm.backward_combine",
    bindings: {
      partials: read(partials),
      statistics: read(statistics),
      dweight: write(dweight),
      dbias: write(dbias),
      coefficients: write(coefficients),
    },
    uniforms: { VALUES: rows },
    load: (k) => unroll(3, (i) => `let p${i}_${k} = partials[at${k} + ${i}u * ROWS * COLUMNS];`),
    use: (k) => unroll(3, (i) => `sum${i} += p${i}_${k};`),
    sums: 3,
    finish: /* wgsl */ `
    // What rounding took from the saved mean: where the mean is large, not negligible beside the deviation.
    let missing = sum2 / f32(VALUES);
    let deviation = statistics[COLUMNS + column];
    let scale = statistics[2u * COLUMNS + column];
    let gradient = (sum1 - sum0 * missing) * deviation;
    let slope = scale * deviation * (gradient / f32(VALUES));
    dweight[column] = gradient;
    dbias[column] = sum0;
    coefficients[column] = statistics[column];
    coefficients[COLUMNS + column] = scale;
    coefficients[2u * COLUMNS + column] = scale * (sum0 / f32(VALUES)) - slope * missing;
    coefficients[3u * COLUMNS + column] = slope;
    coefficients[4u * COLUMNS + column] = statistics[3u * COLUMNS + column];`,
    flops: 3 * tiling.chunks * channels,
    bytes: (3 * tiling.chunks + 11) * stored * 4,
  }, combineTiling(tiling, caps));

  // A residual's gradient, once written, is `g` itself.
  const masked = dresidual === undefined;
  const apply = mapColumns(
    {
      label: "batch_norm.backward_apply",
      bindings: {
        x: read(x),
        dy: read(dresidual ?? dy),
        coefficients: read(coefficients),
        ...(masked && mask === "output" && { y: read(y!) }),
        dx: write(dx),
      },
      setup: /* wgsl */ `
  let center = coefficients[column];
  let scale = coefficients[COLUMNS + column];
  let constant = coefficients[2u * COLUMNS + column];
  let slope = coefficients[3u * COLUMNS + column];
  ${masked && mask === "recomputed" ? "let offset = coefficients[4u * COLUMNS + column];" : ""}`,
      load: (k) => load(k, masked),
      use: (k) =>
        `${masked ? gradient(k) : `let g${k} = dy${k};`} set_dx(at${k}, g${k} * scale - constant - d${k} * slope);`,
      flops: rows * channels * (5 + (masked ? maskOperations : 0)),
      bytes: x.byteLength + dy.byteLength + dx.byteLength + (masked && mask === "output" ? y!.byteLength : 0) +
        coefficients.byteLength,
    },
    rows,
    channels,
    caps,
  );
  return [reduce, combine, apply];
}
