/** What becomes of a convolution's result on its way to memory, by column: bias, batch norm of evaluation, ReLU. */

import { type Binding, type Dispatch, f32, type Operand, read } from "./dispatch.ts";
import { RELU } from "./elementwise.ts";

/** Statistics and parameters of a batch norm in evaluation, each one value a channel. */
export interface ColumnNorm {
  readonly mean: Operand;
  readonly variance: Operand;
  readonly weight: Operand;
  readonly bias: Operand;
  readonly eps: number;
}

/** See the file's head. */
export interface ColumnEpilogue {
  /** Added first, one value a channel. */
  readonly bias?: Operand;
  readonly norm?: ColumnNorm;
  /** Added to the result, as large as it. */
  readonly addend?: Operand;
  /** Apply ReLU last. */
  readonly relu?: boolean;
}

/** An epilogue's WGSL. */
export interface EpilogueText {
  readonly bindings: Readonly<Record<string, Binding>>;
  readonly constants: NonNullable<Dispatch["constants"]>;
  /** `Column` and `load_column(n4)`, where something is needed of each column. */
  readonly functions: string;
  /** Whether it is. */
  readonly hasColumns: boolean;
  /** Expression for the result that goes to vec4 index `at`, of a value and its column's `Column`. */
  readonly result: (value: string, column: string, at: string) => string;
}

/** Writes an epilogue. The norm's formula is `batchNormInference`'s, the bias taken into its centre. */
export function columnEpilogue({ bias, norm, addend, relu }: ColumnEpilogue): EpilogueText {
  const functions = norm
    ? /* wgsl */ `
struct Column { center: vec4f, scale: vec4f, offset: vec4f }
fn load_column(n4: u32) -> Column {
  let scale = norm_weight[n4] / sqrt(norm_variance[n4] + EPS);
  return Column(${bias ? "bias[n4] - norm_mean[n4]" : "-norm_mean[n4]"}, scale, norm_bias[n4]);
}`
    : bias
    ? "alias Column = vec4f;\nfn load_column(n4: u32) -> Column { return bias[n4]; }"
    : "";
  return {
    bindings: {
      ...(bias && { bias: read(bias) }),
      ...(norm && {
        norm_mean: read(norm.mean),
        norm_variance: read(norm.variance),
        norm_weight: read(norm.weight),
        norm_bias: read(norm.bias),
      }),
      ...(addend && { addend: read(addend) }),
    },
    constants: norm ? { EPS: f32(norm.eps) } : {},
    functions: (relu ? RELU : "") + functions,
    hasColumns: functions !== "",
    result: (value, column, at) => {
      let result = value;
      if (norm) result = `(${result} + ${column}.center) * ${column}.scale + ${column}.offset`;
      else if (bias) result = `${result} + ${column}`;
      if (addend) result = `${result} + get_addend(${at})`;
      return relu ? `relu(${result})` : result;
    },
  };
}
