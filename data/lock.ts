/** One process at a time: a lock that the system takes back when its holder dies. */

import { dirname } from "@std/path";
import { touching } from "./files.ts";

/**
 * Runs `task` while holding the lock file `path`, which exists only meanwhile. Where another run holds it, calls
 * `onWait` once and waits. The lock is the system's (flock, LockFileEx), so a killed holder leaves none behind.
 */
export async function withLock<T>(path: string, task: () => Promise<T>, onWait?: () => void): Promise<T> {
  using _lock = await touching(`lock ${path}`, () => acquire(path, onWait));
  try {
    return await task();
  } finally {
    // Removed while held; whoever waits for it finds that the path is gone and locks the next one.
    await Deno.remove(path).catch(() => {});
  }
}

async function acquire(path: string, onWait?: () => void): Promise<Deno.FsFile> {
  await Deno.mkdir(dirname(path), { recursive: true });
  for (let waited = false;;) {
    const file = await Deno.open(path, { create: true, write: true });
    try {
      if (!(await file.tryLock(true))) {
        if (!waited) onWait?.();
        waited = true;
        await file.lock(true);
      }
      if (await isStillAt(path, file)) return file;
    } catch (error) {
      file.close();
      throw error;
    }
    file.close();
  }
}

async function isStillAt(path: string, file: Deno.FsFile): Promise<boolean> {
  try {
    const [here, held] = [await Deno.stat(path), await file.stat()];
    return here.ino === held.ino && here.dev === held.dev;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
