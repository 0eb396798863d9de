/**
 * Checkpoints reach the disk: the one file of `nn/` that touches the system. Failures are the system's own errors; who
 * calls turns them into words.
 */

import { basename, dirname, join } from "@std/path";

/**
 * Writes a file so that a crash, at whatever moment, leaves the old one or the new one and never a broken one: written
 * beside, flushed, renamed, and the folder flushed too. What was written beside is removed when that fails.
 */
export async function saveFile(path: string, bytes: Uint8Array): Promise<void> {
  const beside = join(dirname(path), `.${basename(path)}.${Deno.pid}.part`);
  try {
    {
      using file = await Deno.open(beside, { write: true, create: true, truncate: true });
      for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at, at + PIECE));
      await file.sync();
    }
    await Deno.rename(beside, path);
  } catch (error) {
    await Deno.remove(beside).catch(() => {});
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Bytes written at once. */
const PIECE = 8 * 2 ** 20;

/** Makes a rename last; where folders cannot be opened (Windows), the system sees to it. */
async function syncFolder(path: string): Promise<void> {
  try {
    using folder = await Deno.open(path);
    await folder.sync();
  } catch {
    // Not every system and file system allows it.
  }
}

/** Removes what processes that were killed in {@linkcode saveFile} left in a folder. */
export async function removeUnfinished(folder: string): Promise<void> {
  for await (const { name, isFile } of Deno.readDir(folder)) {
    if (isFile && /^\..+\.\d+\.part$/.test(name)) await Deno.remove(join(folder, name)).catch(() => {});
  }
}
