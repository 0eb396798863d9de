/**
 * What measuring has found: of several kernels that compute the same, the one that was fastest on this adapter.
 *
 * A {@linkcode Tuning} is asked while dispatches are made. What it does not know it notes, and rules decide; the tuner
 * (`tuner.ts`) measures what was noted, and the dispatches are made anew. Its entries go to a file and come from one as
 * plain text.
 */

import type { Dispatch } from "./dispatch.ts";

/** Something that several kernels can compute, to the same bits. */
export interface Choice {
  /** What tells it from others, for a table. */
  readonly key: string;
  /** The dispatches of each kernel ("variant") by name, of the one that rules choose first. */
  readonly variants: ReadonlyMap<string, () => Dispatch[]>;
  /** So many of them, the first, are worth measuring; the others are meant for adapters of another kind. */
  readonly likely: number;
}

/** The dispatches that compute something: those a tuning chooses, else those that rules do. */
export function chosenDispatches(choice: Choice, tuning: Tuning | undefined): Dispatch[] {
  const [[first, byRule]] = choice.variants;
  return (choice.variants.get(tuning?.choose(choice) ?? first) ?? byRule)();
}

/** Variant names by what they compute: what a file keeps. */
export type TuningEntries = Readonly<Record<string, string>>;

/** See the file's head. */
export class Tuning {
  readonly #known: Map<string, string>;
  readonly #unknown = new Map<string, Choice>();
  readonly #used = new Set<string>();

  /** Begins with what is known. */
  constructor(entries: TuningEntries = {}) {
    this.#known = new Map(Object.entries(entries));
  }

  /**
   * The name of the variant found; undefined, and noted where there is something to measure, where none was. Names that no
   * variant has count as none.
   *
   * @internal Kernels ask.
   */
  choose(choice: Choice): string | undefined {
    const { key, variants, likely } = choice, found = this.#known.get(key);
    if (found !== undefined && variants.has(found)) {
      this.#used.add(key);
      return found;
    }
    if (likely > 1 && !this.#unknown.has(key)) this.#unknown.set(key, choice);
    return undefined;
  }

  /**
   * What was asked for and not known.
   *
   * @internal The tuner asks.
   */
  get unknown(): readonly Choice[] {
    return [...this.#unknown.values()];
  }

  /** Keys that were asked for and known. */
  get used(): readonly string[] {
    return [...this.#used];
  }

  /**
   * Notes what was found.
   *
   * @internal The tuner asks.
   */
  learn(key: string, variant: string): void {
    this.#known.set(key, variant);
    this.#unknown.delete(key);
  }

  /** All that is known, for a file. */
  get entries(): TuningEntries {
    return Object.fromEntries([...this.#known].sort(([a], [b]) => a < b ? -1 : 1));
  }
}

/** A tuning that takes one variant, or the first of a kind, wherever there is one: for tests and measurements. */
export class ForcedVariant extends Tuning {
  /** @param name Such as `shared 8x2`, or `staged`. */
  constructor(readonly name: string) {
    super();
  }

  /**
   * The variant; undefined where there is none of that name.
   *
   * @internal Kernels ask.
   */
  override choose({ variants }: Choice): string | undefined {
    return [...variants.keys()].find((name) => name === this.name || name.startsWith(`${this.name} `));
  }
}
