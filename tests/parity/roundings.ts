/**
 * The start of a training, changed by rounding errors: where such a run goes, another float32 implementation may go.
 *
 * Why training can depend on the last bit: a ReLU passes the whole gradient or nothing, so a value that is zero but for
 * rounding changes the gradient by a finite amount, and a large learning rate makes another run of it. In the golden
 * case `nesterov_wd` it is one value of the first step: what enters the first ReLU of `layer2.0` (image 2, channel 4,
 * row 0, column 8) is 1.8e-7 in float64, where values are 0.77 on average; its sign in float32 is chance. No batch norm has a
 * channel that is constant there. PyTorch 1.13 itself has other losses from step 5 on with one thread than with two
 * (step 6: 1.569 and 1.606), and all others from step 1 on in float64 (1.801). With few values a channel it is worse: of
 * `full_networks`' resnext50 PyTorch's losses after two steps are 3.73, 3.67 and 5.05 with 1, 2 and 8 threads, and the
 * ones after one step 1.85, 1.67 and 1.67; 2.90 in float64.
 */

import type { ElementType } from "../../kernels/dispatch.ts";
import { Random } from "../../kernels/random.ts";
import { float32Tensor, type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import type { StateDict } from "../../nn/weights.ts";

/**
 * Starts that differ from `state` by rounding: each float32 value moved to a neighbour by chance, or left; in half precision
 * by as much as a neighbour among halves is away. Seeded.
 */
export function* roundings(
  state: StateDict,
  count: number,
  precision: ElementType = "f32",
): Generator<Map<string, TensorData>> {
  const step = precision === "f16" ? 2 ** 13 : 1;
  for (let seed = 0; seed < count; seed++) {
    const random = new Random(seed, 1);
    yield new Map(
      [...state].map(([name, tensor]) => [name, tensor.dtype === "F32" ? rounded(tensor, random, step) : tensor]),
    );
  }
}

function rounded(tensor: TensorData, random: Random, step: number): TensorData {
  const values = toFloat32(tensor);
  // Float32 numbers of one sign are in the order of their bits.
  const bits = new Int32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) if (values[i] !== 0) bits[i] += (random.below(3) - 1) * step;
  return float32Tensor(values, tensor.shape);
}
