/** Sum of two tensors, as operation and for gradients that meet. */

import type { Operand } from "../../kernels/dispatch.ts";
import { add as addKernel } from "../../kernels/elementwise.ts";
import { type Shape, storedElements } from "../../kernels/layout.ts";
import { apply, type Backward, type Lowering, type Operation, type Tensor } from "../tensor.ts";

/**
 * a + b, of equal sizes.
 *
 * @throws {RangeError} when the sizes differ.
 */
export function add(a: Tensor, b: Tensor): Tensor {
  for (const axis of ["n", "h", "w", "c"] as const) {
    if (a.shape[axis] !== b.shape[axis]) {
      throw new RangeError(`Cannot add tensors of ${describe(a.shape)} and ${describe(b.shape)}`);
    }
  }
  return apply(new AddOperation(), [a, b], a.shape);
}

/** `[n, c, h, w]`, as PyTorch tells sizes. */
export function describe({ n, c, h, w }: Shape): string {
  return `[${n}, ${c}, ${h}, ${w}]`;
}

/** See {@linkcode add}. */
export class AddOperation implements Operation {
  readonly name = "add";
  readonly parameters = [];
  readonly keepsPadding = true;

  forward(lowering: Lowering, inputs: readonly Tensor[], y: Operand): Backward {
    const [a, b] = inputs.map((input) => lowering.value(input));
    const elements = storedElements(inputs[0].shape);
    lowering.emit(addKernel({ a, b, y }, elements, lowering.caps));
    return (dy) => {
      for (const input of inputs) addToGradient(lowering, input, dy);
    };
  }

  flops(_: readonly Tensor[], output: Shape): number {
    return storedElements(output);
  }
}

/** For operations whose kernels take no addend: adds `gradient` to what a tensor's gradient is so far. */
export function addToGradient(lowering: Lowering, tensor: Tensor, gradient: Operand): void {
  lowering.addGradient(tensor, (addend) => {
    if (!addend) return gradient;
    const elements = storedElements(tensor.shape), sum = lowering.activation("gradient.sum", tensor.shape);
    lowering.emit(addKernel({ a: addend, b: gradient, y: sum }, elements, lowering.caps));
    return sum;
  });
}
