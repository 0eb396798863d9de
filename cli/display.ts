/**
 * The display of a training run on a terminal: a few lines redrawn in place, below what has been printed. The lines are a
 * function of the state and the terminal's width; `log-update` draws them, in one write, erasing only what changed.
 */

import { createLogUpdate } from "log-update";
import process from "node:process";
import { formatBytes, formatDuration, formatRate } from "./progress.ts";

/** What is shown. */
export interface DisplayState {
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  /** Done of the epoch. */
  readonly step: number;
  readonly steps: number;
  /** Of the last steps, the oldest first. */
  readonly losses: readonly number[];
  readonly learningRate?: number;
  readonly imagesPerSecond: number;
  readonly secondsLeft: number;
  /** Test accuracy of the last epoch, and the best. */
  readonly accuracy?: number;
  readonly best?: { readonly accuracy: number; readonly epoch: number };
  /** On the device. */
  readonly bytes?: number;
  /** While the test set is judged: how many images of how many. */
  readonly testing?: { readonly done: number; readonly images: number };
}

/** Columns beyond which bars and sparkline do not grow. */
const WIDEST = 120;
/** What a line without a terminal's width has. */
const USUAL = 80;

/** A bar of `width` characters, filled to eighths of one. */
export function bar(share: number, width: number): string {
  const eighths = Math.round(Math.min(Math.max(share, 0), 1) * width * 8);
  const full = Math.floor(eighths / 8), part = eighths % 8;
  const drawn = "█".repeat(full) + (part > 0 ? " ▏▎▍▌▋▊▉"[part] : "");
  return drawn + "░".repeat(width - full - (part > 0 ? 1 : 0));
}

/** Numbers as a line of blocks from the least to the largest; more numbers than `width` are averaged. */
export function sparkline(values: readonly number[], width: number): string {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0 || width < 1) return "";
  const count = Math.min(width, finite.length);
  const points = Array.from({ length: count }, (_, i) => {
    const some = finite.slice(Math.floor(i * finite.length / count), Math.floor((i + 1) * finite.length / count));
    return some.reduce((sum, value) => sum + value, 0) / some.length;
  });
  const low = Math.min(...points), range = Math.max(...points) - low;
  return points.map((value) => "▁▂▃▄▅▆▇█"[range > 0 ? Math.round((value - low) / range * 7) : 0]).join("");
}

/** The lines, each at most `columns - 1` characters: some terminals wrap when the last column is written. */
export function displayLines(state: DisplayState, columns: number): string[] {
  const width = Math.min(Math.max(columns - 1, 1), WIDEST);
  const { epoch, epochs, step, steps, testing, losses, learningRate, accuracy, best, bytes } = state;
  const digits = String(Math.max(epochs, steps, testing?.images ?? 0)).length;
  const counted = (name: string, at: number, of: number) =>
    `${name.padEnd(5)} ${String(at).padStart(digits)}/${String(of).padEnd(digits)}`;
  const within = testing ? testing.done / testing.images : step / steps;
  // The epoch's own share counts: a bar that jumps once an hour tells nothing.
  const done = (epoch - 1 + (testing ? 1 : step / steps)) / epochs;
  const rows: [string, number, string][] = [
    [counted("Epoch", epoch, epochs), done, `${formatDuration(state.secondsLeft)} left`],
    testing
      ? [counted("Test", testing.done, testing.images), within, "testing"]
      : [counted("Step", step, steps), within, formatRate(state.imagesPerSecond, "img")],
  ];
  const tail = Math.max(...rows.map(([, , text]) => text.length));
  const room = width - rows[0][0].length - tail - 4 - 6;
  const lines = rows.map(([head, share, text]) =>
    room >= 8
      ? `${head}  ${bar(share, room)} ${`${Math.floor(share * 100)} %`.padStart(5)}  ${text}`
      : `${head}  ${`${Math.floor(share * 100)} %`.padStart(5)}  ${text}`
  );
  const loss = losses.at(-1);
  const facts = [
    loss === undefined ? "" : `loss ${loss.toFixed(4)}`,
    learningRate === undefined ? "" : `lr ${rateText(learningRate)}`,
    accuracy === undefined ? "" : `acc ${accuracy.toFixed(4)}`,
    best === undefined ? "" : `best ${best.accuracy.toFixed(4)} in ${best.epoch}`,
    bytes === undefined ? "" : `GPU ${formatBytes(bytes)}`,
  ].filter(Boolean).join("  ");
  // The curve takes what the facts leave, or a line of its own where that is little.
  const left = width - facts.length - 2;
  const curve = sparkline(losses, left >= 16 ? left : width);
  lines.push(...(left >= 16 ? [`${facts}  ${curve}`] : [facts, curve]));
  return lines.map((line) => [...line].slice(0, width).join("").trimEnd()).filter(Boolean);
}

/** Such as `0.01` and `3.2e-5`: three digits. */
export function rateText(rate: number): string {
  return rate !== 0 && rate < 1e-4 ? rate.toExponential(1) : String(Number(rate.toPrecision(3)));
}

/** Milliseconds between two drawings: as fast as an eye follows. */
const INTERVAL = 100;

/** Where the display goes. */
export interface DisplayOutput {
  /** As `log-update` makes it. */
  readonly draw: { (text: string): void; clear(): void; done(): void };
  columns(): number;
}

/** The display. Call {@linkcode Display.clear} before anything else is printed, and at the end. */
export class Display {
  readonly #output: DisplayOutput;
  readonly #now: () => number;
  #drawnAt = -Infinity;

  constructor(output: DisplayOutput = stderrDisplay(), now: () => number = () => performance.now()) {
    this.#output = output;
    this.#now = now;
  }

  /** Shows the state, unless the last one was shown a moment ago. */
  update(state: DisplayState): void {
    const now = this.#now();
    if (now - this.#drawnAt < INTERVAL) return;
    this.#drawnAt = now;
    this.#output.draw(displayLines(state, this.#output.columns()).join("\n"));
  }

  /** Shows a line of text in its place. */
  message(text: string): void {
    this.#output.draw([...text].slice(0, this.#output.columns() - 1).join(""));
  }

  /** Takes the lines off; the next update shows at once. */
  clear(): void {
    this.#output.draw.clear();
    this.#drawnAt = -Infinity;
  }

  /** Leaves the lines as they are: something else was printed below them. */
  leave(): void {
    this.#output.draw.done();
  }

  /** The end. */
  close(): void {
    this.#output.draw.clear();
    this.#output.draw.done();
  }
}

/** Whether there is a terminal that redraws, and nobody asked for plain text. */
export function canDisplay(): boolean {
  return Deno.stderr.isTerminal() && !Deno.noColor && Deno.env.get("TERM") !== "dumb";
}

function stderrDisplay(): DisplayOutput {
  return {
    // Hiding the cursor would bring a listener for Ctrl-C along that ends the process before it has saved.
    draw: createLogUpdate(process.stderr, { showCursor: true }),
    columns: () => {
      try {
        return Deno.consoleSize().columns || USUAL;
      } catch {
        return USUAL;
      }
    },
  };
}
