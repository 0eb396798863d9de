/** A convolution with the batch norm behind it, in evaluation: made by `fuse.ts`, never by tracing. */

import { convKernels } from "../../kernels/conv2d.ts";
import type { Operand } from "../../kernels/dispatch.ts";
import type { Shape } from "../../kernels/layout.ts";
import type { Parameter } from "../state.ts";
import type { Backward, Lowering, Operation, Tensor } from "../tensor.ts";
import type { BatchNormOperation } from "./batch_norm.ts";
import type { Conv2dOperation } from "./conv2d.ts";

/**
 * y = relu?(batch_norm(conv2d(x)) + residual?) by running statistics, in one pass. The statistics are read as they are when
 * it runs: nothing has to be folded again when they change.
 */
export class ConvNormOperation implements Operation {
  /** Buffers that its dispatch binds at most. */
  static readonly bindings = 9;
  readonly name: string;
  readonly keepsPadding = true;

  constructor(readonly conv: Conv2dOperation, readonly norm: BatchNormOperation) {
    this.name = `${conv.name}+${norm.name}`;
  }

  get parameters(): readonly Parameter[] {
    return [...this.conv.parameters, ...this.norm.parameters];
  }

  forward(lowering: Lowering, [input, added]: readonly Tensor[], y: Operand): Backward {
    if (lowering.training) throw new Error("Cannot train with a batch norm fused into its convolution");
    const { state, settings, relu, residual } = this.norm;
    const { weight, bias } = this.conv;
    const geometry = this.conv.geometry(input.shape);
    lowering.emit(
      convKernels(geometry).forward(
        { x: lowering.value(input), weight: lowering.weight(weight), bias: bias && lowering.state(bias), y },
        geometry,
        lowering.caps,
        {
          norm: {
            mean: lowering.state(state.running_mean),
            variance: lowering.state(state.running_var),
            weight: lowering.state(state.weight),
            bias: lowering.state(state.bias),
            eps: settings.eps,
          },
          residual: residual ? lowering.value(added) : undefined,
          relu,
        },
      ),
    );
    return () => {
      throw new Error("Cannot take gradients in evaluation mode");
    };
  }

  flops(inputs: readonly Tensor[], output: Shape): number {
    return this.conv.flops(inputs) + this.norm.flops(inputs, output);
  }
}
