/** Ctrl-C and the system's request to end: the first one ends the work in order, the second one at once. */

import type { Watch } from "./interrupt_worker.ts";

/** What came, and the exit code that says so. */
export interface Interruption {
  readonly name: "SIGINT" | "SIGTERM";
  /** 128 and the signal's number, as shells count. */
  readonly exitCode: 130 | 143;
}

const INTERRUPTIONS: readonly Interruption[] = [
  { name: "SIGINT", exitCode: 130 },
  { name: "SIGTERM", exitCode: 143 },
];

/** Listens until disposed. */
export class Interruptible implements Disposable {
  readonly #controller = new AbortController();
  readonly #listeners: (readonly [Interruption["name"], () => void])[] = [];
  readonly #watcher: Worker;
  #came: Interruption | undefined;

  /** @param notice Said on stderr when the first one comes, even while the program waits for the GPU. */
  constructor({ notice, onFirst }: { readonly notice?: string; readonly onFirst?: () => void } = {}) {
    for (const interruption of INTERRUPTIONS) {
      // Windows has no request to end.
      if (interruption.name === "SIGTERM" && Deno.build.os === "windows") continue;
      const listener = () => {
        if (this.#came) Deno.exit(interruption.exitCode);
        this.#came = interruption;
        this.#controller.abort();
        onFirst?.();
      };
      Deno.addSignalListener(interruption.name, listener);
      this.#listeners.push([interruption.name, listener]);
    }
    this.#watcher = new Worker(new URL("./interrupt_worker.ts", import.meta.url), { type: "module" });
    this.#watcher.postMessage({ names: this.#listeners.map(([name]) => name), notice } satisfies Watch);
  }

  /** Aborted by the first one. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The first one, once it came. */
  get came(): Interruption | undefined {
    return this.#came;
  }

  [Symbol.dispose](): void {
    for (const [name, listener] of this.#listeners) Deno.removeSignalListener(name, listener);
    this.#watcher.terminate();
  }
}
