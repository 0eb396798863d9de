/**
 * What measuring has found: for each product of matrices, the variant that was fastest on this adapter.
 *
 * A {@linkcode Tuning} is asked while dispatches are made. What it does not know it notes, and rules decide; the tuner
 * (`tuner.ts`) measures what was noted, and the dispatches are made anew. Its entries go to a file and come from one as
 * plain text.
 */

import type { Capabilities } from "./device.ts";
import { gemmKey, gemmVariants } from "./gemm.ts";
import { type Gemm, type GemmVariant, variantName } from "./gemm_problem.ts";

/** Variant names by product: what a file keeps. */
export type TuningEntries = Readonly<Record<string, string>>;

/** See the file's head. */
export class Tuning {
  readonly #known: Map<string, string>;
  readonly #unknown = new Map<string, { problem: Gemm; caps: Capabilities }>();
  readonly #used = new Set<string>();

  /** Begins with what is known. */
  constructor(entries: TuningEntries = {}) {
    this.#known = new Map(Object.entries(entries));
  }

  /**
   * The variant found for a product; undefined, and noted, where none was. Names that no variant has count as none.
   *
   * @internal Kernels ask.
   */
  choose(problem: Gemm, caps: Capabilities): GemmVariant | undefined {
    const key = gemmKey(problem), name = this.#known.get(key);
    const found = name && gemmVariants(problem, caps).find((variant) => variantName(variant) === name);
    if (found) {
      this.#used.add(key);
      return found;
    }
    if (!this.#unknown.has(key)) this.#unknown.set(key, { problem, caps });
    return undefined;
  }

  /**
   * What was asked for and not known.
   *
   * @internal The tuner asks.
   */
  get unknown(): readonly { readonly problem: Gemm; readonly caps: Capabilities }[] {
    return [...this.#unknown.values()];
  }

  /** Products that were asked for and known. */
  get used(): readonly string[] {
    return [...this.#used];
  }

  /**
   * Notes what was found.
   *
   * @internal The tuner asks.
   */
  learn(problem: Gemm, variant: GemmVariant): void {
    const key = gemmKey(problem);
    this.#known.set(key, variantName(variant));
    this.#unknown.delete(key);
  }

  /** All that is known, for a file. */
  get entries(): TuningEntries {
    return Object.fromEntries([...this.#known].sort(([a], [b]) => a < b ? -1 : 1));
  }
}

/** A tuning that takes one variant wherever a product has it: for tests and measurements. */
export class ForcedVariant extends Tuning {
  /** @param name As `variantName` gives it, such as `shared 8x2`. */
  constructor(readonly name: string) {
    super();
  }

  /**
   * The variant; undefined where the product has none of that name.
   *
   * @internal Kernels ask.
   */
  override choose(problem: Gemm, caps: Capabilities): GemmVariant | undefined {
    return gemmVariants(problem, caps).find((variant) => variantName(variant) === this.name);
  }
}
