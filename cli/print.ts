/** Output that notices when nobody reads it any more, which `console.log` does not. */

/** Prints a line to stdout. @throws {Deno.errors.BrokenPipe} when its reader has gone: what goes on and on ends then. */
export function printLine(line: string): void {
  for (let bytes = new TextEncoder().encode(`${line}\n`); bytes.length > 0;) {
    bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
  }
}
