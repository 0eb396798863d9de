/**
 * Checkpoints reach the disk: the one file of `nn/` that touches the system. Failures of the system's are its own errors;
 * who calls turns them into words.
 */

import { basename, dirname, join } from "@std/path";
import { UserError } from "../kernels/user_error.ts";

/**
 * Writes a file so that a crash, at whatever moment, leaves the old one or the new one and never a broken one: written
 * beside, flushed, renamed, and the folder flushed too. What was written beside is removed when that fails.
 *
 * A link is followed: whoever keeps files on another disk wants to keep the link.
 *
 * @throws {UserError} where a device, a pipe or a socket would be replaced, or the link leads nowhere.
 */
export async function saveFile(target: string, bytes: Uint8Array): Promise<void> {
  const path = await replaceable(target);
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

/**
 * Where the file is that may be written anew, where `path` may be a link to it. A folder is left to the system, which refuses
 * it.
 *
 * @throws {UserError} for a link to nothing, a device or a pipe.
 */
export async function replaceable(path: string): Promise<string> {
  let found: Deno.FileInfo;
  try {
    found = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return path;
    throw error;
  }
  if (found.isSymlink) {
    try {
      return await replaceable(await Deno.realPath(path));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      throw new UserError(`Cannot write "${path}": it is a link to nothing; remove it or name another file`);
    }
  }
  if (found.isFile || found.isDirectory) return path;
  throw new UserError(`Cannot write "${path}": it is a device or a pipe; name a file`);
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
