/** How fast bytes arrive. */

/** How far a download is. */
export interface Progress {
  /** Bytes so far. */
  readonly bytes: number;
  /** Bytes in all, where known. */
  readonly total?: number;
  /** Over the last few seconds. */
  readonly bytesPerSecond: number;
  /** Where the total is known and bytes arrive. */
  readonly secondsLeft?: number;
}

/** Milliseconds between two reports. */
const INTERVAL = 100;
/** Milliseconds over which the speed is taken. */
const WINDOW = 5000;

/** Measures the speed over the last five seconds and reports at most ten times a second. */
export class Meter {
  readonly #report?: (progress: Progress) => void;
  readonly #now: () => number;
  #samples: { time: number; bytes: number }[] = [];
  #total?: number;

  /** @param now Milliseconds of a clock that never goes back. */
  constructor(report?: (progress: Progress) => void, now: () => number = () => performance.now()) {
    this.#report = report;
    this.#now = now;
  }

  /** `bytes` are there already, of `total`. */
  start(bytes: number, total?: number): void {
    this.#total = total;
    this.#samples = [{ time: this.#now(), bytes }];
  }

  /** `bytes` are there now. */
  update(bytes: number): void {
    if (this.#now() - this.#samples.at(-1)!.time >= INTERVAL) this.finish(bytes);
  }

  /** Reports in any case. */
  finish(bytes: number): void {
    const time = this.#now();
    this.#samples.push({ time, bytes });
    while (this.#samples.length > 2 && this.#samples[1].time < time - WINDOW) this.#samples.shift();
    const first = this.#samples[0];
    const bytesPerSecond = time > first.time ? (bytes - first.bytes) / (time - first.time) * 1000 : 0;
    const left = this.#total === undefined ? undefined : this.#total - bytes;
    const secondsLeft = left === undefined || bytesPerSecond === 0 ? undefined : left / bytesPerSecond;
    this.#report?.({ bytes, total: this.#total, bytesPerSecond, secondsLeft });
  }
}
