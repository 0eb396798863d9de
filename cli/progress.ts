/** A line that tells how far a long work is: redrawn in place on a terminal, a plain line now and then elsewhere. */

import { show } from "./print.ts";

/** Where the line goes. */
export interface ProgressOutput {
  write(text: string): void;
  /** A terminal redraws; anything else gets whole lines. */
  readonly isTerminal: boolean;
  /** Columns of the terminal now. */
  columns(): number;
}

/** Options of {@linkcode ProgressLine}. */
export interface ProgressOptions {
  /** Default: stderr, so that stdout holds results alone. */
  readonly output?: ProgressOutput;
  /** Milliseconds, rising. Default: `performance.now`. */
  readonly now?: () => number;
}

/** Milliseconds between two drawings: on a terminal as fast as an eye follows, else a line every few seconds. */
const TERMINAL_INTERVAL = 100, PLAIN_INTERVAL = 5000;
const ERASE_LINE = "\r\x1b[2K", ERASE_REST = "\x1b[K";

/**
 * The line. Call {@linkcode ProgressLine.update} as often as you like, and {@linkcode ProgressLine.clear} before
 * anything else is printed and at the end.
 *
 * @example
 * ```ts
 * const progress = new ProgressLine();
 * for (let step = 1; step <= 100; step++) progress.update(`step ${step}/100`);
 * progress.clear();
 * console.log("done");
 * ```
 */
export class ProgressLine {
  readonly #output: ProgressOutput;
  readonly #now: () => number;
  #drawnAt = -Infinity;
  #visible = false;

  constructor(options: ProgressOptions = {}) {
    this.#output = options.output ?? stderrOutput();
    this.#now = options.now ?? (() => performance.now());
  }

  /** Shows the text, unless the last one was shown a moment ago. */
  update(text: string): void {
    const now = this.#now();
    if (now - this.#drawnAt < (this.#output.isTerminal ? TERMINAL_INTERVAL : PLAIN_INTERVAL)) return;
    this.#drawnAt = now;
    if (this.#output.isTerminal) {
      // The last column stays free: some terminals wrap when it is written.
      this.#output.write(`\r${[...text].slice(0, this.#output.columns() - 1).join("")}${ERASE_REST}`);
      this.#visible = true;
    } else {
      this.#output.write(`${text}\n`);
    }
  }

  /** Takes the line off the terminal; the next update shows at once. Plain lines stay, and keep their distance in time. */
  clear(): void {
    if (!this.#visible) return;
    this.#output.write(ERASE_LINE);
    this.#visible = false;
    this.#drawnAt = -Infinity;
  }
}

/** Stderr as the place of a progress line. */
export function stderrOutput(): ProgressOutput {
  return {
    isTerminal: Deno.stderr.isTerminal(),
    write: show,
    columns: () => {
      try {
        return Deno.consoleSize().columns || 80;
      } catch {
        return 80;
      }
    },
  };
}

/** A time in seconds: `42s`, `1m 05s`, `2h 03m`, `3d 04h`; `?` where it is not known. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "?";
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  const s = Math.round(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (s < 60) return `${s}s`;
  if (m < 60) return `${m}m ${two(s % 60)}s`;
  if (h < 24) return `${h}h ${two(m % 60)}m`;
  return `${Math.floor(h / 24)}d ${two(h % 24)}h`;
}

/** A size in bytes, in powers of 1000: `512 B`, `12.3 MB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0, value = bytes;
  // 999.95 would print as 1000.0.
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A number of things a second with three digits: `1.23 img/s`, `45.6 img/s`, `1234 img/s`; `? img/s` where unknown. */
export function formatRate(perSecond: number, unit: string): string {
  if (!Number.isFinite(perSecond) || perSecond < 0) return `? ${unit}/s`;
  const digits = perSecond >= 99.95 ? 0 : perSecond >= 9.995 ? 1 : 2;
  return `${perSecond.toFixed(digits)} ${unit}/s`;
}
