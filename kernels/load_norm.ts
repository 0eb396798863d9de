/**
 * A batch norm, and the ReLU behind it, applied to an activation as it is loaded: the normalized values are never written
 * to memory. The arithmetic is that of `batch_norm.ts`, operation by operation, so the values are the same bits.
 */

import { type Binding, type Operand, read } from "./dispatch.ts";
import { RELU } from "./elementwise.ts";

/** What an activation is normalized by when it is loaded. */
export interface LoadNorm {
  /** As `batchNormStatistics` writes it. */
  readonly statistics: Operand;
  /** Whether a ReLU follows. */
  readonly relu: boolean;
}

/** WGSL for kernels that load an activation as it is, or normalized. */
export interface NormalizedLoads {
  readonly bindings: Readonly<Record<string, Binding>>;
  /** Functions that the expressions below call, of names of their own. */
  readonly functions: string;
  /** Statement that makes `name`, what a column (one vec4 of channels) is normalized by; nothing without a norm. */
  readonly prepare: (name: string, column: string) => string;
  /** Expression for a loaded value, normalized by what was prepared as `name`. */
  readonly apply: (value: string, name: string) => string;
}

/**
 * Loads of an activation.
 *
 * @param norm Absent: values are taken as they are.
 * @param columns WGSL for the vec4s of a pixel.
 */
export function normalizedLoads(norm: LoadNorm | undefined, columns: string): NormalizedLoads {
  if (!norm) return { bindings: {}, functions: "", prepare: () => "", apply: (value) => value };
  const value = "(value - by.center) * by.scale + by.offset";
  return {
    bindings: { load_norm: read(norm.statistics) },
    functions: /* wgsl */ `
${norm.relu ? RELU.replace("fn relu", "fn load_relu") : ""}
struct LoadNorm { center: vec4f, scale: vec4f, offset: vec4f }
fn load_norm_of(column: u32) -> LoadNorm {
  return LoadNorm(load_norm[column], load_norm[2u * ${columns} + column], load_norm[3u * ${columns} + column]);
}
fn normalized(value: vec4f, by: LoadNorm) -> vec4f { return ${norm.relu ? `load_relu(${value})` : value}; }`,
    prepare: (name, column) => `let ${name} = load_norm_of(${column});`,
    apply: (loaded, name) => `normalized(${loaded}, ${name})`,
  };
}
