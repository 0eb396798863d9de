/** Output that arrives whole, whatever takes it, and notices when nobody does: `console.log` does neither. */

import { format } from "node:util";

/** Milliseconds until a full pipe is tried again. */
const PAUSE = 10;
const never = new Int32Array(new SharedArrayBuffer(4));

/** Where text goes. */
type Sink = Pick<typeof Deno.stdout, "writeSync">;

/**
 * Writes all of a text. A pipe that somebody made non-blocking (node and ssh do) refuses what it has no room for: that
 * is waited for, as any other pipe makes one wait.
 *
 * Stdout keeps lines (Rust's `LineWriter`, 1 KiB) and then refuses what it has kept already. It keeps what is short and
 * has no end of line, and never an end of line alone: so these are written apart, and what is kept is not written twice.
 */
export function writeWhole(sink: Sink, text: string, keeps = sink === Deno.stdout): void {
  const pieces = keeps ? text.match(/\n|[^\n]{1,200}/g) ?? [] : [text];
  for (const piece of pieces) {
    for (let bytes = new TextEncoder().encode(piece); bytes.length > 0;) {
      try {
        bytes = bytes.subarray(sink.writeSync(bytes));
      } catch (error) {
        if (!(error instanceof Deno.errors.WouldBlock)) throw error;
        Atomics.wait(never, 0, 0, PAUSE);
        if (keeps && piece !== "\n") bytes = finish(sink);
      }
    }
  }
}

/** Has a sink write what it kept. */
function finish(sink: Sink): Uint8Array<ArrayBuffer> {
  const nothing = new Uint8Array();
  for (;;) {
    try {
      sink.writeSync(nothing);
      return nothing;
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      Atomics.wait(never, 0, 0, PAUSE);
    }
  }
}

/** Prints a line to stdout. @throws {Deno.errors.BrokenPipe} when its reader has gone: what goes on and on ends then. */
export function printLine(line: string): void {
  writeWhole(Deno.stdout, `${line}\n`);
}

/**
 * Shows on stderr how work goes. That is of use and not of need: a full disk does not end the work.
 *
 * @throws {Deno.errors.BrokenPipe} as {@linkcode printLine}.
 */
export function show(text: string, sink: Sink = Deno.stderr): void {
  try {
    writeWhole(sink, text);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) throw error;
  }
}

/** Makes `console` write whole; as before, it does not mind that nobody reads, and no more that stderr cannot be written. */
export function mendConsole(): void {
  const saying = (write: (text: string) => void) => (...values: unknown[]) => {
    try {
      write(`${format(...values)}\n`);
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    }
  };
  console.log = console.info = console.debug = saying((text) => writeWhole(Deno.stdout, text));
  console.error = console.warn = saying(show);
}
