/** Rectified linear unit. */

import type { Operand } from "../../kernels/dispatch.ts";
import { relu as reluKernel, reluBackward } from "../../kernels/elementwise.ts";
import { type Shape, storedElements } from "../../kernels/layout.ts";
import { apply, type Backward, type Lowering, type Operation, type Tensor } from "../tensor.ts";
import { addToGradient } from "./sum.ts";

/** max(x, 0); the gradient at 0 is 0, as PyTorch's. */
export function relu(x: Tensor): Tensor {
  return apply(new ReluOperation(), [x], x.shape);
}

/** See {@linkcode relu}. */
export class ReluOperation implements Operation {
  readonly name = "relu";
  readonly parameters = [];
  readonly keepsPadding = true;

  forward(lowering: Lowering, [input]: readonly Tensor[], y: Operand): Backward {
    const elements = storedElements(input.shape);
    lowering.emit(reluKernel({ x: lowering.value(input), y }, elements, lowering.caps));
    return (dy) => {
      if (!lowering.needsGradient(input)) return;
      const dx = lowering.activation("relu.dx", input.shape);
      lowering.emit(reluBackward({ y, dy, dx }, elements, lowering.caps));
      addToGradient(lowering, input, dx);
    };
  }

  flops(_: readonly Tensor[], output: Shape): number {
    return storedElements(output);
  }
}
