/** How much all workers may be decoding at a time: memory follows from pixels, whatever a file's own size. */

/** Pixels that a pool's workers share; each takes what a picture needs before it decodes, or waits. */
export class PixelBudget {
  readonly #free: Int32Array<SharedArrayBuffer>;

  /** @param memory Of a budget in another thread. */
  constructor(readonly memory: SharedArrayBuffer) {
    this.#free = new Int32Array(memory);
  }

  /** A new one. */
  static of(pixels: number): PixelBudget {
    const budget = new PixelBudget(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    budget.#free[0] = pixels;
    return budget;
  }

  /** Takes so many pixels as soon as there are, until what it gives is disposed of. */
  async take(pixels: number): Promise<Disposable> {
    for (;;) {
      const free = Atomics.load(this.#free, 0);
      if (free < pixels) await Atomics.waitAsync(this.#free, 0, free).value;
      else if (Atomics.compareExchange(this.#free, 0, free, free - pixels) === free) break;
    }
    return {
      [Symbol.dispose]: () => {
        Atomics.add(this.#free, 0, pixels);
        Atomics.notify(this.#free, 0);
      },
    };
  }
}
