/** A golden file as cases, and what comparing one gives. */

import type { ElementType } from "../../kernels/dispatch.ts";
import type { TensorData } from "../../nn/safetensors.ts";
import { type Golden, relativeError } from "../support.ts";

/** PyTorch's settings of a case; which ones there are depends on its form. */
// deno-lint-ignore no-explicit-any
export type Settings = Record<string, any>;

/** One case of a golden file: its tensors by what they are, and its settings. */
export class ParityCase {
  constructor(
    readonly golden: Golden,
    readonly name: string,
    readonly settings: Settings,
    /** What it is computed in here; PyTorch's values are float32. */
    readonly precision: ElementType = "f32",
  ) {}

  has(...whats: string[]): boolean {
    return whats.every((what) => this.golden.has(`${this.name}.${what}`));
  }

  shape(what: string): number[] {
    return this.golden.shape(`${this.name}.${what}`);
  }

  values(what: string): Float32Array<ArrayBuffer> {
    return this.golden.values(`${this.name}.${what}`);
  }

  /** The tensors under `prefix.`, by the rest of their names; with no prefix all of the case. */
  under(prefix = ""): Map<string, TensorData> {
    const start = `${this.name}.${prefix && `${prefix}.`}`;
    return new Map(
      [...this.golden.file.tensors].filter(([key]) => key.startsWith(start))
        .map(([key, tensor]) => [key.slice(start.length), tensor]),
    );
  }
}

/** The cases of a file, those with settings first, in its order. A name may hold dots where it has settings. */
export function casesOf(golden: Golden, precision?: ElementType): ParityCase[] {
  const described = new Map<string, Settings>();
  for (const name of golden.cases) {
    const settings = parseSettings(golden.file.metadata[name]);
    if (settings) described.set(name, settings);
  }
  const names = new Set<string>();
  const byLength = [...described.keys()].sort((a, b) => b.length - a.length);
  for (const key of golden.file.tensors.keys()) {
    names.add(byLength.find((name) => key.startsWith(`${name}.`)) ?? key.split(".", 1)[0]);
  }
  const order = [...described.keys(), ...names].filter((name) => names.has(name));
  return [...new Set(order)].map((name) => new ParityCase(golden, name, described.get(name) ?? {}, precision));
}

function parseSettings(text: string): Settings | undefined {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    // Such as `format: pt`, which libraries write: no case's settings.
    return undefined;
  }
}

/** How far one tensor is from PyTorch's. */
export interface Comparison {
  readonly what: string;
  /** Relative, see `relativeError`. */
  readonly error: number;
  readonly tolerance: number;
}

/** How near to PyTorch's float32 values a precision comes. */
export interface Tolerances {
  /** Of single operations and blocks. */
  readonly operation: number;
  /** Of losses after several steps and of deep networks' logits. */
  readonly deep: number;
  /** Of single weights after training: what started from zero is all sums of gradients. */
  readonly trained: number;
  /** Of gradients that came through several operations. */
  readonly gradient: number;
}

/**
 * In float32 it is sums in another order that differ. In half precision weights and whatever lies between two operations
 * are rounded to 11 bits, 5e-4 at most, layer after layer; and where a value next to zero changes its sign by that, a ReLU
 * passes another gradient.
 */
export const TOLERANCES: Readonly<Record<ElementType, Tolerances>> = {
  f32: { operation: 1e-4, deep: 1e-3, trained: 5e-3, gradient: 1e-4 },
  f16: { operation: 2e-3, deep: 1e-2, trained: 5e-2, gradient: 5e-2 },
};

/** What a case came to. */
export class Findings {
  readonly comparisons: Comparison[] = [];
  /** What a reader must know of the verdict. */
  note = "";

  constructor(readonly precision: ElementType = "f32") {}

  /** Compares; `scale` is a size below which differences are rounding, where the values themselves are nothing but that. */
  compare(
    what: string,
    actual: ArrayLike<number>,
    expected: ArrayLike<number>,
    tolerance = TOLERANCES[this.precision].operation,
    scale = 0,
  ): void {
    this.comparisons.push({ what, error: scaledError(actual, expected, scale), tolerance });
  }

  /**
   * Compares gradients that came through ReLUs; `scale` as above. In half precision the error is of the whole, as root mean
   * squares: single values differ by what a ReLU lets through. PyTorch itself, rounding to halves between the operations of
   * `block`'s case `identity`, has a `dx` whose largest error is 0.11 of the largest value, and 0.009 of the whole.
   */
  compareGradient(what: string, actual: ArrayLike<number>, expected: ArrayLike<number>, scale = 0): void {
    const tolerance = TOLERANCES[this.precision].gradient;
    if (this.precision === "f32") return this.compare(what, actual, expected, tolerance, scale);
    const difference = rootMeanSquare(Array.from(expected, (value, i) => value - actual[i]));
    const error = actual.length === expected.length
      ? difference / (Math.max(rootMeanSquare(expected), scale) || 1)
      : NaN;
    this.comparisons.push({ what, error, tolerance });
  }

  /** Whether every comparison is within its tolerance; one that is not a number is not. */
  get ok(): boolean {
    return this.misses === 0;
  }

  /** How many comparisons are not within their tolerance. */
  get misses(): number {
    return this.comparisons.filter((each) => !isWithin(each)).length;
  }

  /** The comparison nearest to its tolerance, or furthest beyond. */
  get worst(): Comparison | undefined {
    const badness = ({ error, tolerance }: Comparison) => Number.isNaN(error) ? Infinity : error / tolerance;
    return this.comparisons.reduce<Comparison | undefined>(
      (worst, each) => !worst || badness(each) > badness(worst) ? each : worst,
      undefined,
    );
  }
}

function isWithin({ error, tolerance }: Comparison): boolean {
  return error <= tolerance;
}

/** `max|a - b| / max(max|b|, scale)`. */
export function scaledError(actual: ArrayLike<number>, expected: ArrayLike<number>, scale: number): number {
  const largest = largestOf(expected);
  return relativeError(actual, expected) * (largest || 1) / (Math.max(largest, scale) || 1);
}

function rootMeanSquare(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ** 2;
  return Math.sqrt(sum / values.length);
}

/** `max|x|`. */
export function largestOf(values: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]));
  return largest;
}

/**
 * The size that a bias's values and gradients are measured by: a bias right before a batch norm changes nothing, so its
 * gradient is zero but for rounding, whose size is that of the sums it came of: the weight's gradient.
 */
export function biasScale(
  name: string,
  tensors: ReadonlyMap<string, TensorData>,
  values: (name: string) => Float32Array,
) {
  const weight = name.replace(/bias$/, "weight");
  return name.endsWith("bias") && tensors.get(weight)?.shape.length === 4 ? largestOf(values(weight)) : 0;
}
