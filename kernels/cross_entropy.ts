/** Softmax cross-entropy: loss, gradient, correct counts. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, operand, read, write } from "./dispatch.ts";
import { padded } from "./layout.ts";
import { LOSS_SCALE, readLossScale } from "./loss_scale.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";
import { ceilDiv } from "./wgsl.ts";

/** Operands of {@linkcode crossEntropy}. */
export interface CrossEntropyOperands {
  /** [rows, padded(classes)]. */
  readonly logits: Operand;
  /** One u32 a row, below `classes`. */
  readonly labels: Operand;
  /**
   * `vec4f(weight, other label, unused, unused)` a row, for images mixed of two: the target is `weight` the label's and the
   * rest the other label's. Absent: the label alone.
   */
  readonly mixes?: Operand;
  /** Written: the gradient of the mean loss by the logits, times the settings' scale and the loss scale. */
  readonly dlogits?: Operand;
  /** See `loss_scale.ts`. Default: none. */
  readonly lossScale?: Operand;
  /** A ring of `vec4f(loss sum, correct, correct within 5, valid rows)`; the slot that `settings` names is written. */
  readonly metrics: Operand;
  /** See `step_settings.ts`: rows from `valid_rows` on count for nothing, their gradient is zero. */
  readonly settings: Operand;
  /**
   * Written: one u32 a row, the class of the largest logit; 0 for rows that do not count, {@linkcode NO_CLASS} for those
   * whose logits have no softmax.
   */
  readonly predictions?: Operand;
}

/** Sizes and settings of {@linkcode crossEntropy}. */
export interface CrossEntropySpec {
  readonly rows: number;
  readonly classes: number;
  /** From 0 to 1: the share of the target spread evenly over all classes. */
  readonly labelSmoothing: number;
}

/** The prediction of a row whose logits have no softmax: with a NaN, with an infinity, or with negative infinities alone. */
export const NO_CLASS = 2 ** 32 - 1;

/** Floats of a ring of metrics. */
export function metricsElements(slots: number): number {
  return slots * 4;
}

/**
 * Cross-entropy as `torch.nn.CrossEntropyLoss(label_smoothing=s)` has it. With `p` the softmax of a row's logits:
 *
 *     loss = (1 - s) * -log p[label] + s / classes * sum over classes of -log p
 *     dlogits = (p - (1 - s) * onehot(label) - s / classes) / validRows * gradientScale
 *
 * For an image mixed of two, `onehot(label)` is `weight * onehot(label) + (1 - weight) * onehot(other)`.
 * The metrics hold the sum of the losses; the mean is over `validRows`. A row is correct when the first of its largest
 * logits is the label's, and within 5 when fewer than 5 classes are larger (or equal and earlier). A row whose
 * logits have no softmax is neither, though nothing is larger than a NaN, and its loss and gradient are NaN. Its bits tell
 * it, see `finite.ts`, and its NaN are written as bits: compilers may compute `x - x` as 0.
 */
export function crossEntropy(
  operands: CrossEntropyOperands,
  { rows, classes, labelSmoothing }: CrossEntropySpec,
  caps: Capabilities,
): Dispatch[] {
  const { logits, labels, mixes, dlogits, lossScale, metrics, settings, predictions } = operands;
  const stored = padded(classes), scaled = dlogits && lossScale;
  // Many classes are shared by a workgroup's lanes; few are one invocation's work, as is everything in software.
  const lanes = caps.software || classes <= 64 ? 1 : 64;
  const groupRows = lanes > 1 ? 1 : caps.software ? 8 : 64;
  const results = operand("cross_entropy.rows", rows * 4);
  const perRow: Dispatch = {
    label: "cross_entropy.rows",
    bindings: {
      logits: read(logits, "array<f32>"),
      labels: read(labels, "array<u32>"),
      ...(mixes && { mixes: read(mixes) }),
      settings: readStepSettings(settings),
      results: write(results),
      ...(dlogits && { dlogits: write(dlogits, "array<f32>") }),
      ...(scaled && { loss_scale: readLossScale(scaled) }),
      ...(predictions && { predictions: write(predictions, "array<u32>") }),
    },
    constants: {
      ROWS: rows,
      CLASSES: classes,
      STORED: stored,
      LANES: lanes,
      SMOOTHING: f32(labelSmoothing),
      ...(predictions && { NO_CLASS }),
    },
    source: /* wgsl */ `
${STEP_SETTINGS}${scaled ? LOSS_SCALE : ""}
${lanes > 1 ? sharedReductions(lanes) : ""}
@compute @workgroup_size(${groupRows * lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let row = group.x * ${groupRows}u + local / LANES;
  let lane = local % LANES;
  ${groupRows > 1 ? "if (row >= ROWS) { return; }" : ""}
  let valid = row < settings.valid_rows;
  let first = row * STORED;
  let label = labels[row];
  let label_logit = logits[first + min(label, CLASSES - 1u)];
  ${mixes ? "let weight = mixes[row].x;\n  let other = u32(mixes[row].y);" : ""}

  var largest = logits[first + min(lane, CLASSES - 1u)];
  var prediction = min(lane, CLASSES - 1u);
  var rank = 0u;
  var bad = 0u;
  for (var class_ = lane; class_ < CLASSES; class_ += LANES) {
    let logit = logits[first + class_];
    if (logit > largest) {
      largest = logit;
      prediction = class_;
    }
    if (logit > label_logit || (logit == label_logit && class_ < label)) { rank++; }
    // A NaN or infinity; a negative infinity is a probability of 0.
    bad |= u32((bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u && bitcast<u32>(logit) != 0xff800000u);
  }
  ${lanes > 1 ? "let best = reduce_best(local, largest, prediction); largest = best.logit; prediction = best.at;" : ""}
  bad |= u32(bitcast<u32>(largest) == 0xff800000u);

  var exponentials = 0.0;
  var shifted = 0.0;
  for (var class_ = lane; class_ < CLASSES; class_ += LANES) {
    let logit = logits[first + class_] - largest;
    exponentials += exp(logit);
    shifted += logit;
  }
  ${
      lanes > 1
        ? "let sums = reduce_sums(local, vec4f(exponentials, shifted, f32(rank), f32(bad))); exponentials = sums.x; shifted = sums.y; rank = u32(sums.z); bad = u32(sums.w);"
        : ""
    }

  let none = bad > 0u;
  let not_a_number = bitcast<f32>(select(0u, 0x7fc00000u, none));
  let log_sum = log(exponentials);
  let uniform_ = SMOOTHING / f32(CLASSES);
  ${
      dlogits
        ? /* wgsl */ `
  for (var class_ = lane; class_ < STORED; class_ += LANES) {
    var gradient = 0.0;
    if (valid && class_ < CLASSES) {
      let probability = exp(logits[first + class_] - largest) / exponentials;
      let target_ = ${mixes ? MIXED_TARGET : "select(0.0, 1.0, class_ == label)"};
      gradient = (probability - uniform_ - (1.0 - SMOOTHING) * target_) / f32(settings.valid_rows) *
        settings.gradient_scale${scaled ? " * loss_scale.scale" : ""};
      gradient = select(gradient, not_a_number, none);
    }
    dlogits[first + class_] = gradient;
  }`
        : ""
    }
  if (lane == 0u) {
    let target_logit = ${
      mixes ? "weight * label_logit + (1.0 - weight) * logits[first + min(other, CLASSES - 1u)]" : "label_logit"
    };
    let loss = (1.0 - SMOOTHING) * (log_sum - (target_logit - largest))${
      labelSmoothing ? " + uniform_ * (f32(CLASSES) * log_sum - shifted)" : ""
    };
    let right = vec2<bool>(prediction == label, rank < 5u) & vec2<bool>(!none);
    let result = vec4f(select(loss, not_a_number, none), vec2f(right), 1.0);
    results[row] = select(vec4f(), result, valid);
    ${predictions ? "predictions[row] = select(0u, select(prediction, NO_CLASS, none), valid);" : ""}
  }
}`,
    workgroups: [ceilDiv(rows, groupRows), 1, 1],
    flops: rows * classes * (dlogits ? 9 : 5),
    bytes: (rows * stored * (dlogits ? 2 : 1) + rows * (predictions ? 6 : 5)) * 4,
  };
  const sumLanes = caps.software ? 1 : 64;
  const sum: Dispatch = {
    label: "cross_entropy.metrics",
    bindings: { results: read(results), settings: readStepSettings(settings), metrics: write(metrics) },
    constants: { ROWS: rows, LANES: sumLanes },
    source: /* wgsl */ `
${STEP_SETTINGS}
${sumLanes > 1 ? sharedReductions(sumLanes) : ""}
@compute @workgroup_size(${sumLanes})
fn main(@builtin(local_invocation_index) local: u32) {
  var sum = vec4f();
  for (var row = local; row < ROWS; row += LANES) { sum += results[row]; }
  ${sumLanes > 1 ? "sum = reduce_sums(local, sum);" : ""}
  if (local == 0u) { metrics[settings.slot] = sum; }
}`,
    workgroups: [1, 1, 1],
    flops: rows * 4,
    bytes: (rows + 1) * 16,
  };
  return [perRow, sum];
}

const MIXED_TARGET = "weight * f32(u32(class_ == label)) + (1.0 - weight) * f32(u32(class_ == other))";

/** WGSL for a workgroup of `lanes` that works on one row: every lane gets the result. */
function sharedReductions(lanes: number): string {
  return /* wgsl */ `
struct Best {
  logit: f32,
  at: u32,
}
var<workgroup> shared_best: array<Best, ${lanes}>;
var<workgroup> shared_sums: array<vec4f, ${lanes}>;

fn reduce_best(local: u32, logit: f32, at: u32) -> Best {
  shared_best[local] = Best(logit, at);
  workgroupBarrier();
  for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {
    if (local < half) {
      let mine = shared_best[local];
      let other = shared_best[local + half];
      if (other.logit > mine.logit || (other.logit == mine.logit && other.at < mine.at)) { shared_best[local] = other; }
    }
    workgroupBarrier();
  }
  return shared_best[0];
}

fn reduce_sums(local: u32, values: vec4f) -> vec4f {
  shared_sums[local] = values;
  workgroupBarrier();
  for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {
    if (local < half) { shared_sums[local] += shared_sums[local + half]; }
    workgroupBarrier();
  }
  return shared_sums[0];
}`;
}
