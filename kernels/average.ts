/** An exponential moving average. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";

/** `y += (1 - decay) * (x - y)`, as PyTorch's `lerp` writes `decay * y + (1 - decay) * x`. */
export function average(
  { x, y }: { readonly x: Operand; readonly y: Operand },
  { elements, decay }: { readonly elements: number; readonly decay: number },
  caps: Capabilities,
): Dispatch[] {
  return [each("average", { x: read(x), y: write(y) }, {
    load: (k) => `let x${k} = x[at${k}]; let y${k} = y[at${k}];`,
    use: (k) => `y[at${k}] = y${k} + RATE * (x${k} - y${k});`,
  }, { elements, flops: elements * 3, bytes: elements * 12, caps, constants: { RATE: f32(1 - decay) } })];
}
