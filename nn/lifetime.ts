/** When what holds memory on a device may be used. */

/** What may be used until it is destroyed, and as long as all that it needs may be. */
export class Lifetime {
  readonly #name: string;
  readonly #needs: readonly { check(): void }[];
  #ended = false;

  /**
   * Begins now.
   *
   * @param name Told when it is used afterwards, such as `the step`.
   */
  constructor(name: string, needs: readonly { check(): void }[] = []) {
    this.#name = name;
    this.#needs = needs;
  }

  /**
   * Called before anything is written: a device that is handed a freed buffer refuses all work from then on.
   *
   * @throws {Error} when it is over.
   */
  check(): void {
    for (const each of this.#needs) each.check();
    if (this.#ended) throw new Error(`Cannot use ${this.#name}: it was destroyed; make another one`);
  }

  /** Whether {@linkcode check} throws. */
  get over(): boolean {
    try {
      this.check();
      return false;
    } catch {
      return true;
    }
  }

  /** Ends it. */
  end(): void {
    this.#ended = true;
  }
}
