/** The sums of a grouped convolution's weight gradient that an invocation keeps, and where they go in the end. */

import { type Axis, type Grouping, range, reachableTaps } from "./grouped_tiling.ts";

/** What an invocation sums, and into which bindings. */
export interface GradientSums {
  readonly rows: Axis;
  readonly columns: Axis;
  readonly grouping: Grouping;
  /** Kernel rows, and those that reach nothing, whose gradient is zero. */
  readonly taps: { readonly rows: readonly number[]; readonly zero: readonly number[] };
  /** Output vec4s. */
  readonly outs: number;
  readonly output: string;
  /** The bias gradient, and from where on it goes. */
  readonly bias?: { readonly output: string; readonly at: number };
}

/**
 * WGSL for sums `sum_KY_KX_J_K` (tap, row of the weights, output vec4) and `bias_K`. What stores them sees `share`, `in_block`
 * and `out_block`.
 */
export function gradientSums(
  { rows, columns, grouping: { inWidth, swizzles }, taps, outs, output, bias }: GradientSums,
): { readonly declarations: string; readonly stores: string } {
  const tapColumns = reachableTaps(columns);
  const ofTap = (ky: number, kx: number) =>
    range(swizzles.length).flatMap((j) => range(outs).map((k) => ({ ky, kx, j, k })));
  const sums = taps.rows.flatMap((ky) => tapColumns.flatMap((kx) => ofTap(ky, kx)));
  const zeros = range(rows.kernel).flatMap((ky) =>
    range(columns.kernel).filter((kx) => taps.zero.includes(ky) || taps.rows.includes(ky) && !tapColumns.includes(kx))
      .flatMap((kx) => ofTap(ky, kx))
  );
  type Sum = typeof sums[number];
  const name = ({ ky, kx, j, k }: Sum) => `sum_${ky}_${kx}_${j}_${k}`;
  const store = ({ ky, kx, j, k }: Sum, value: string) =>
    `${output}[share * PARTIAL + (${
      (ky * columns.kernel + kx) * inWidth + j
    }u + in_block * 4u) * DY_BLOCKS + out_block + ${k}u] = ${value};`;
  const biases = bias ? range(outs) : [];
  const biasStores = biases.map((k) =>
    `${bias!.output}[share * PARTIAL + ${bias!.at}u + out_block + ${k}u] = bias_${k};`
  );
  return {
    declarations: [...sums.map(name), ...biases.map((k) => `bias_${k}`)].map((sum) => `var ${sum} = vec4f();`).join(
      "\n",
    ),
    stores: [
      ...sums.map((sum) => store(sum, name(sum))),
      ...zeros.map((sum) => store(sum, "vec4f()")),
      ...(bias ? [`if (in_block == 0u) {`, ...biasStores, "}"] : []),
    ].join("\n"),
  };
}
