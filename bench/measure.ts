/** How measurements are taken and told: medians of interleaved repeats, with their spread. */

/** What repeats of one measurement gave. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The median and the extremes. */
export function spread(values: readonly number[]): Spread {
  if (values.length === 0) throw new RangeError("Cannot tell the spread of no values");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}

/** Each value of a spread through a decreasing or increasing function, such as seconds to images a second. */
export function mapSpread({ median, min, max }: Spread, change: (value: number) => number): Spread {
  const [low, high] = [change(min), change(max)].sort((a, b) => a - b);
  return { median: change(median), min: low, max: high };
}

/**
 * Runs each task `repeats` times, in turns, so that whatever else the machine does falls on all of them alike.
 *
 * @returns What each task's runs gave, in the order of the tasks.
 */
export async function interleave<T>(tasks: readonly (() => Promise<T>)[], repeats: number): Promise<T[][]> {
  const results: T[][] = tasks.map(() => []);
  for (let repeat = 0; repeat < repeats; repeat++) {
    for (const [index, task] of tasks.entries()) results[index].push(await task());
  }
  return results;
}

/** Milliseconds that something takes. */
export async function timed(run: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await run();
  return performance.now() - started;
}

/** A number to three or four digits: `1234`, `123`, `12.3`, `1.23`, `0.012`. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (value === 0 || Math.abs(value) >= 100) return value.toFixed(0);
  return Math.abs(value) >= 10 ? value.toFixed(1) : Math.abs(value) >= 1 ? value.toFixed(2) : value.toPrecision(2);
}
