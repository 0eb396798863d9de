/** One process at a time: locks that the system takes back when their holder dies (flock, LockFileEx). */

import { dirname } from "@std/path";
import { touching } from "./files.ts";

/** How a lock that another run holds is waited for. */
export interface WaitOptions {
  /** Called once, before the wait. */
  readonly onWait?: () => void;
  /** Ends the wait: its reason is thrown. */
  readonly signal?: AbortSignal;
}

/** Milliseconds between two looks at a lock that another run holds: the system's own wait could not be ended. */
const LOOK_EVERY = 50;

/**
 * Runs `task` while holding the lock file `path`, which exists only meanwhile. Where another run holds it, waits. The lock is
 * the system's (flock, LockFileEx), so a killed holder leaves none behind.
 */
export async function withLock<T>(path: string, task: () => Promise<T>, options: WaitOptions = {}): Promise<T> {
  using _lock = await touching(`lock ${path}`, () => acquire(path, options));
  try {
    return await task();
  } finally {
    // Removed while held; whoever waits for it finds that the path is gone and locks the next one.
    await Deno.remove(path).catch(() => {});
  }
}

/** A lock that is held until it is disposed of, or its process dies. */
export class HeldLock implements AsyncDisposable {
  readonly #path: string;
  #file: Deno.FsFile | undefined;

  private constructor(path: string, file: Deno.FsFile) {
    this.#path = path;
    this.#file = file;
  }

  /**
   * Takes the lock file `path` and writes into it who has it, or tells who has: undefined where that cannot be read.
   * The folder must exist. What a dead process left is taken over, as the system has taken its lock back.
   */
  static async take(path: string): Promise<{ readonly lock: HeldLock } | { readonly holder: Holder | undefined }> {
    for (;;) {
      const file = await Deno.open(path, { create: true, read: true, write: true });
      try {
        if (!(await file.tryLock(true))) {
          file.close();
          return { holder: await readHolder(path) };
        }
        if (await isStillAt(path, file)) {
          await file.truncate();
          await file.write(new TextEncoder().encode(JSON.stringify(ourselves())));
          return { lock: new HeldLock(path, file) };
        }
      } catch (error) {
        try {
          file.close();
        } catch {
          // It was closed above.
        }
        throw error;
      }
      file.close();
    }
  }

  /** Gives the lock back; the file goes. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#file) return;
    await Deno.remove(this.#path).catch(() => {});
    this.#file.close();
    this.#file = undefined;
  }
}

/** Who holds a lock. */
export interface Holder {
  readonly process: number;
  /** The machine's name, where it may be known. */
  readonly host?: string;
  /** ISO 8601. */
  readonly since: string;
}

function ourselves(): Holder {
  let host: string | undefined;
  try {
    host = Deno.hostname();
  } catch {
    // Without permission for it the name stays unsaid.
  }
  return { process: Deno.pid, host, since: new Date().toISOString() };
}

async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    const { process, host, since } = JSON.parse(await Deno.readTextFile(path));
    if (!Number.isSafeInteger(process) || !/^[\dTZ:.+-]{10,40}$/.test(since)) return undefined;
    return { process, since, ...(typeof host === "string" && { host }) };
  } catch {
    // Not written yet, or Windows, where a locked file cannot be read.
    return undefined;
  }
}

async function acquire(path: string, { onWait, signal }: WaitOptions): Promise<Deno.FsFile> {
  await Deno.mkdir(dirname(path), { recursive: true });
  for (let waited = false;;) {
    const file = await Deno.open(path, { create: true, write: true });
    try {
      while (!(await file.tryLock(true))) {
        if (!waited) onWait?.();
        waited = true;
        signal?.throwIfAborted();
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
      }
      if (await isStillAt(path, file)) return file;
    } catch (error) {
      file.close();
      throw error;
    }
    file.close();
  }
}

/** Whether a file that was opened at a path is still the one there. */
export async function isStillAt(path: string, file: Deno.FsFile): Promise<boolean> {
  try {
    const [here, held] = [await Deno.stat(path), await file.stat()];
    return here.ino === held.ino && here.dev === held.dev;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
