/** Sums of gradients over several batches. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";

/** Operands of {@linkcode accumulate}, of one size. */
export interface AccumulateOperands {
  /** Read and updated; zero before the first batch. */
  readonly sums: Operand;
  readonly gradients: Operand;
}

/** `sums += gradients`, over contiguous parameters. `elements` are floats, padding included. */
export function accumulate({ sums, gradients }: AccumulateOperands, elements: number, caps: Capabilities): Dispatch[] {
  return [each("accumulate", { sums: write(sums), gradients: read(gradients) }, {
    load: (k) => `let s${k} = sums[at${k}]; let g${k} = gradients[at${k}];`,
    use: (k) => `sums[at${k}] = s${k} + g${k};`,
  }, { elements, flops: elements, bytes: elements * 12, caps })];
}
