/** How fast training goes, and how many steps to queue by it. */

import { RING_SLOTS } from "./step.ts";

/** How long steps are queued before their results are read, in seconds: a compromise of reading costs and reaction. */
const COLLECT_EVERY = 0.5;
/** Steps measured for the estimate, the first (which compiles) left out. */
const MEASURED_STEPS = 3;

/** Seconds from which on a single step says how long the others take. */
const SLOW_STEP = 5;
/** The same of a first step, which may be compiling for most of its time. */
const SLOW_FIRST_STEP = 60;

/** Speed of training, pauses and first runs (which compile) left out; how many steps to queue. */
export class TrainingClock {
  #steps = 0;
  #rows = 0;
  #seconds = 0;
  readonly #now: () => number;
  #since: number;
  /** Of the first step: until another is measured there is nothing else to tell. */
  #first: number | undefined;
  #slow = false;
  #announced = false;

  /** @param now Milliseconds of a clock that never goes back. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#since = now();
  }

  /** Steps until results are read again. */
  get stepsPerCollect(): number {
    if (this.#steps < MEASURED_STEPS) return 1;
    return Math.max(1, Math.min(RING_SLOTS / 2, Math.round(COLLECT_EVERY / (this.#seconds / this.#steps))));
  }

  get imagesPerSecond(): number {
    return this.#seconds > 0 ? this.#rows / this.#seconds : this.#first ?? 0;
  }

  /** Whether enough was measured for an estimate; true once. Where steps are slow one is enough. */
  justMeasured(): boolean {
    if (this.#announced || (this.#steps < MEASURED_STEPS && !this.#slow)) return false;
    return this.#announced = true;
  }

  /** Steps have been finished. `cold`: one of them ran for the first time, when drivers still compile. */
  count(steps: number, rows: number, cold: boolean): void {
    const now = this.#now(), seconds = (now - this.#since) / 1000;
    this.#since = now;
    if (cold) {
      this.#first ??= rows / seconds;
      this.#slow ||= seconds / steps > SLOW_FIRST_STEP;
      return;
    }
    this.#slow ||= seconds / steps > SLOW_STEP;
    this.#steps += steps;
    this.#rows += rows;
    this.#seconds += seconds;
  }

  /** Time that passes until now is not training's. */
  restart(): void {
    this.#since = this.#now();
  }
}
