/** Sums over the rows of a matrix: the gradient of a bias. */

import { columnTiling, combineTiling, reduceColumns } from "./columns.ts";
import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { padded } from "./layout.ts";

/**
 * `sums[c] = sum over rows of x[row, c]`; `x` is [rows, padded(channels)], `sums` a padded vector. Padding that is zero
 * in `x` is zero in `sums`.
 */
export function columnSum(
  { x, sums }: { readonly x: Operand; readonly sums: Operand },
  { rows, channels }: { readonly rows: number; readonly channels: number },
  caps: Capabilities,
): Dispatch[] {
  const tiling = columnTiling(rows, channels, caps);
  const stored = padded(channels);
  const load = (k: number) => `let x${k} = x[at${k}];`;
  const use = (k: number) => `sum0 += x${k};`;
  const stage = (label: string, from: Operand, to: Operand, fromRows: number, toRows: number) => ({
    label,
    bindings: { x: read(from), sums: write(to) },
    load,
    use,
    sums: 1,
    finish: "sums[partial(column, chunk, 0u)] = sum0;",
    flops: fromRows * channels,
    bytes: (fromRows + toRows) * stored * 4,
  });
  if (tiling.chunks === 1) return [reduceColumns(stage("column_sum", x, sums, rows, 1), tiling)];
  const partials = operand("column_sum.partials", tiling.chunks * stored);
  return [
    reduceColumns(stage("column_sum.partial", x, partials, rows, tiling.chunks), tiling),
    reduceColumns(stage("column_sum.combine", partials, sums, tiling.chunks, 1), combineTiling(tiling, caps)),
  ];
}
