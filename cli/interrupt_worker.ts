/**
 * Watches for Ctrl-C and the request to end while the main thread waits for the GPU, which it does deaf: says at once
 * that the first one was heard, and on the second ends the process where the main thread cannot.
 */

/** Milliseconds that the main thread has to end by itself, with the exit code that tells why. */
const GRACE = 300;

let seen = 0;
addEventListener("message", (event) => {
  const { names, notice } = (event as MessageEvent<Watch>).data;
  for (const name of names) {
    Deno.addSignalListener(name, () => {
      seen++;
      if (seen === 1 && notice) {
        const erase = Deno.stderr.isTerminal() ? "\r\x1b[2K" : "";
        try {
          Deno.stderr.writeSync(new TextEncoder().encode(`${erase}${notice}\n`));
        } catch {
          // Nobody reads it; the work is ended in order all the same.
        }
      }
      if (seen === 2) setTimeout(() => Deno.kill(Deno.pid, "SIGKILL"), GRACE);
    });
  }
});

/** What to watch for. */
export interface Watch {
  readonly names: readonly Deno.Signal[];
  /** Said on stderr when the first one came. */
  readonly notice?: string;
}
