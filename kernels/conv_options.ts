/** What a convolution can do beside convolving, at no pass over memory of its own. */

import type { ColumnNorm } from "./column_epilogue.ts";
import type { Operand } from "./dispatch.ts";
import type { LoadNorm } from "./load_norm.ts";
import type { GradientSums, RowChunks } from "./row_sums.ts";

/** See the file's head. All but `loadNorm` is for the forward pass. */
export interface ConvOptions {
  /** Forward pass and weight gradient: `x` is normalized as it is loaded. */
  readonly loadNorm?: LoadNorm;
  /** Batch norm by running statistics, behind the bias. */
  readonly norm?: ColumnNorm;
  /** Added after it: as large as y. */
  readonly residual?: Operand;
  /** Apply ReLU last. */
  readonly relu?: boolean;
  /** Where the output's moments go, for kernels that have `chunkRows`. */
  readonly moments?: RowChunks;
}

/** What the input gradient can do beside. */
export interface InputGradientOptions {
  /** It is the gradient of a batch norm's output: masked and summed, for kernels that have `chunkRows`. */
  readonly sums?: { readonly norm: GradientSums; readonly chunks: RowChunks };
}
