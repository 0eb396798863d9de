/** Batch normalization over the channels of an image batch, alone or with what follows it in a residual network. */

import {
  batchNormApply,
  batchNormInference,
  type BatchNormSpec,
  batchNormStatistics,
  statisticsElements,
} from "../../kernels/batch_norm.ts";
import { batchNormBackward, needsOutput } from "../../kernels/batch_norm_backward.ts";
import type { Operand } from "../../kernels/dispatch.ts";
import { operand } from "../../kernels/dispatch.ts";
import { type Shape, storedElements } from "../../kernels/layout.ts";
import { type Allowed, between, checkOptions } from "../number_check.ts";
import type { Parameter, StateBuffer } from "../state.ts";
import { apply, type Backward, type Lowering, type Operation, type Tensor } from "../tensor.ts";
import { addToGradient } from "./sum.ts";

/** What a batch norm learns and keeps, each `[channels]`. */
export interface BatchNormState {
  /** Scale of each channel. */
  readonly weight: Parameter;
  /** Shift of each channel. */
  readonly bias: Parameter;
  /** Mean of each channel over training. */
  readonly running_mean: StateBuffer;
  /** Variance of each channel over training. */
  readonly running_var: StateBuffer;
}

/** PyTorch's settings of a batch norm. */
export interface BatchNormSettings {
  /** Added to the variance; positive. Default 1e-5. */
  readonly eps?: number;
  /** The batch's weight in the running statistics, from 0 to 1. Default 0.1. */
  readonly momentum?: number;
}

/** The least float32 that no device takes for 0. */
const LEAST_EPS = 2 ** -126;

/** What the settings may be. */
export const BATCH_NORM_SETTINGS = {
  // The variance of the padding's channels is 0, and they must stay 0.
  eps: { check: between(LEAST_EPS), words: "positive" },
  momentum: { check: between(0, 1), words: "a number from 0 to 1, as there is no cumulative average" },
} as const satisfies Record<string, Allowed>;

/**
 * (x - mean) / sqrt(var + eps) * weight + bias by channel (Ioffe and Szegedy 2015): with the batch's statistics in
 * training, whose running means are kept (variance unbiased, as PyTorch's), with the running ones in evaluation.
 *
 * @throws {RangeError} when a part of the state is not of as many channels, `eps` is no positive number of float32, or the
 * momentum is not from 0 to 1.
 */
export function batchNorm(x: Tensor, state: BatchNormState, settings: BatchNormSettings = {}): Tensor {
  const { eps = 1e-5, momentum = 0.1 } = settings;
  const { weight, bias, running_mean, running_var } = state;
  for (const [name, { elements }] of Object.entries({ weight, bias, running_mean, running_var })) {
    if (elements === x.shape.c) continue;
    throw new RangeError(`Cannot normalize ${x.shape.c} channels: the batch norm's ${name} has ${elements}`);
  }
  checkOptions("normalize", settings, BATCH_NORM_SETTINGS);
  return apply(new BatchNormOperation(state, { eps, momentum }), [x], x.shape);
}

/**
 * See {@linkcode batchNorm}. Takes a second input, a residual, to be added to the result; `relu` comes last. Neither is
 * made by tracing: they come of fusing nodes that follow.
 */
export class BatchNormOperation implements Operation {
  readonly name: string;
  readonly needsMoments = true;
  readonly keepsPadding = true;

  constructor(
    readonly state: BatchNormState,
    readonly settings: Required<BatchNormSettings>,
    readonly relu = false,
    readonly residual = false,
    /** In training the result is not written: the one operation that uses it normalizes what it loads. */
    readonly deferred = false,
  ) {
    this.name = `batch_norm${residual ? "+add" : ""}${relu ? "+relu" : ""}`;
  }

  get parameters(): readonly Parameter[] {
    return [this.state.weight, this.state.bias];
  }

  forward(lowering: Lowering, inputs: readonly Tensor[], y: Operand): Backward {
    const { caps } = lowering;
    const [input, added] = inputs;
    const { n, h, w, c: channels } = input.shape;
    const spec: BatchNormSpec = { rows: n * h * w, channels, relu: this.relu, ...this.settings };
    const x = lowering.value(input);
    const weight = lowering.state(this.state.weight), bias = lowering.state(this.state.bias);
    const runningMean = lowering.state(this.state.running_mean), runningVar = lowering.state(this.state.running_var);
    if (!lowering.training) {
      const residual = this.residual ? lowering.value(added) : undefined;
      lowering.emit(batchNormInference({ x, weight, bias, runningMean, runningVar, y, residual }, spec, caps));
      return () => {
        throw new Error("Cannot take gradients in evaluation mode");
      };
    }
    const statistics = operand("batch_norm.statistics", statisticsElements(channels));
    const moments = lowering.moments(x);
    lowering.emit(batchNormStatistics({ x, weight, bias, runningMean, runningVar, statistics, moments }, spec, caps));
    if (this.deferred) lowering.defer(y, { operand: x, norm: { statistics, relu: this.relu } });
    else {
      const { operand: residual, norm: residualNorm } = this.residual ? lowering.load(added) : {};
      lowering.emit(batchNormApply({ x, statistics, y, residual, residualNorm }, spec, caps));
    }
    const mask = !this.relu ? "none" : this.residual ? y : "recomputed";
    lowering.offerSums(y, { x, statistics, mask });
    return (dy) => {
      const dx = lowering.activation("batch_norm.dx", input.shape), sums = lowering.sums(dy, statistics);
      // Without a ReLU, or once it is masked, the residual's gradient is dy itself.
      const dresidual = this.residual && this.relu && !sums
        ? lowering.activation("batch_norm.dresidual", input.shape)
        : undefined;
      lowering.emit(batchNormBackward(
        {
          x,
          y: needsOutput(spec, this.residual) ? y : undefined,
          dy,
          sums,
          statistics,
          dx,
          dweight: lowering.parameterGradient(this.state.weight),
          dbias: lowering.parameterGradient(this.state.bias),
          dresidual,
        },
        spec,
        caps,
      ));
      addToGradient(lowering, input, dx);
      if (this.residual) addToGradient(lowering, added, dresidual ?? dy);
    };
  }

  flops(_: readonly Tensor[], output: Shape): number {
    return storedElements(output) * (2 + Number(this.relu) + Number(this.residual));
  }
}
