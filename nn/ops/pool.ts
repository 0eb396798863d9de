/** Pooling: the largest of a window, the mean of an image. */

import { operand } from "../../kernels/dispatch.ts";
import type { Operand } from "../../kernels/dispatch.ts";
import { type Shape, storedElements } from "../../kernels/layout.ts";
import {
  checkMaxPool,
  globalAveragePool,
  globalAveragePoolBackward,
  maxPoolBackward,
  maxPoolForward,
  maxPoolIndexElements,
  maxPoolOutput,
} from "../../kernels/pool.ts";
import { apply, type Backward, type Lowering, type Operation, type Tensor } from "../tensor.ts";
import { addToGradient } from "./sum.ts";

/** PyTorch's settings of a max pool. */
export interface MaxPoolSettings {
  /** Side of the window, at most 15. */
  readonly kernel: number;
  /** Default: the kernel. */
  readonly stride?: number;
  /** Default 0; at most half of the kernel. */
  readonly padding?: number;
}

/**
 * The largest value of each window; the gradient goes to the first of equals, as PyTorch's.
 *
 * @throws {RangeError} when the window does not fit, or is larger than 15.
 */
export function maxPool(x: Tensor, { kernel, stride = kernel, padding = 0 }: MaxPoolSettings): Tensor {
  const spec = { input: x.shape, kernel, stride, padding };
  checkMaxPool(spec);
  return apply(new MaxPoolOperation({ kernel, stride, padding }), [x], maxPoolOutput(spec));
}

/** See {@linkcode maxPool}. */
export class MaxPoolOperation implements Operation {
  readonly name = "max_pool";
  readonly parameters = [];
  readonly keepsPadding = true;

  constructor(readonly settings: Required<MaxPoolSettings>) {}

  forward(lowering: Lowering, [input]: readonly Tensor[], y: Operand): Backward {
    const { caps } = lowering;
    const spec = { input: input.shape, ...this.settings };
    const indices = lowering.training ? operand("max_pool.indices", maxPoolIndexElements(spec)) : undefined;
    const { operand: x, norm: loadNorm } = lowering.load(input);
    lowering.emit(maxPoolForward({ x, y, indices, loadNorm }, spec, caps));
    return (dy) => {
      if (!lowering.needsGradient(input) || !indices) return;
      const dx = lowering.activation("max_pool.dx", input.shape);
      lowering.emit(maxPoolBackward({ dy, indices, dx }, spec, caps));
      addToGradient(lowering, input, dx);
    };
  }

  flops(_: readonly Tensor[], output: Shape): number {
    return storedElements(output) * this.settings.kernel ** 2;
  }
}

/** The mean over all pixels: `[n, c, h, w]` to `[n, c, 1, 1]`. */
export function globalAvgPool(x: Tensor): Tensor {
  return apply(new GlobalAvgPoolOperation(), [x], { ...x.shape, h: 1, w: 1 });
}

/** See {@linkcode globalAvgPool}. */
export class GlobalAvgPoolOperation implements Operation {
  readonly name = "global_avg_pool";
  readonly parameters = [];
  readonly keepsPadding = true;

  forward(lowering: Lowering, [input]: readonly Tensor[], y: Operand): Backward {
    lowering.emit(globalAveragePool({ x: lowering.value(input), y }, input.shape, lowering.caps));
    return (dy) => {
      if (!lowering.needsGradient(input)) return;
      const dx = lowering.activation("global_avg_pool.dx", input.shape);
      lowering.emit(globalAveragePoolBackward({ dy, dx }, input.shape, lowering.caps));
      addToGradient(lowering, input, dx);
    };
  }

  flops([input]: readonly Tensor[]): number {
    return storedElements(input.shape);
  }
}
