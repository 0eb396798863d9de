/** The same numbers as another type. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";

/** `y = x`, rounded to nearest where `y` is halves. `elements` are a multiple of four. */
export function cast(
  { x, y }: { readonly x: Operand; readonly y: Operand },
  elements: number,
  caps: Capabilities,
): Dispatch[] {
  return [each("cast", { x: read(x), y: write(y) }, {
    load: (k) => `let x${k} = get_x(at${k});`,
    use: (k) => `set_y(at${k}, x${k});`,
  }, { elements, flops: 0, caps })];
}
