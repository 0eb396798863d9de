/**
 * Each step of training leaves some 10 kB behind: the objects of WebGPU that recorded and submitted it. V8 sees a few bytes
 * of each and lets them pile up, hundreds of megabytes in a long run, so its collector is called now and then.
 */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Seconds between two collections, each of which takes some 20 ms. */
const EVERY = 20;

/** Collects garbage when it is time. */
export class GarbageCollector {
  readonly #collect: (() => void) | undefined;
  #last = performance.now();

  constructor() {
    try {
      setFlagsFromString("--expose-gc");
      this.#collect = runInNewContext("gc");
    } catch {
      // Then it piles up until V8 sees to it.
    }
  }

  /** To be called often. */
  tick(): void {
    if (performance.now() - this.#last < EVERY * 1000) return;
    this.#collect?.();
    this.#last = performance.now();
  }
}
