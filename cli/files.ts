/** Files that a user names: read and written with failures told in words. */

import { dirname, resolve } from "@std/path";
import { checkReadable, isThere, touching, tryWriting } from "../data/files.ts";
import { UserError } from "../kernels/user_error.ts";
import { type Checkpoint, decodeCheckpoint } from "../nn/checkpoint.ts";
import { replaceable, saveFile } from "../nn/checkpoint_file.ts";
import { isCheckpoint } from "./weights_input.ts";

/** Whether anything is there, be it a link to nowhere. @throws {UserError} where that cannot be told. */
export async function exists(path: string): Promise<boolean> {
  return await touching(`look at "${path}"`, () => isThere(path));
}

/** A file's bytes. @throws {UserError} where it cannot be read. */
export async function readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
  return await touching(`read "${path}"`, async () => {
    await checkReadable(path);
    return await Deno.readFile(path);
  });
}

/** A checkpoint. @throws {UserError} where it cannot be read, is another file or damaged. */
export async function readCheckpoint(path: string): Promise<Checkpoint> {
  if (await isCheckpoint(path)) return await decodeCheckpoint(await readFile(path), path);
  throw new UserError(
    `Cannot read "${path}" as a checkpoint: it holds weights without a description; ` +
      "`checkpoint import` makes a checkpoint of them",
  );
}

/**
 * Looks whether a file may be written, before the work whose result it is to hold.
 *
 * @throws {UserError} where one is there, unless `force` is set, where something else is, and where the folder, of a link the
 * one that it leads to, takes none.
 */
export async function checkNewFile(path: string, options: { readonly force: boolean }): Promise<void> {
  const file = await newFile(path, options);
  await touching(`write "${path}"`, () => tryWriting(dirname(file)));
}

/** Where a new file is to be, `path` or what it leads to. @throws {UserError} where something is in its place. */
async function newFile(path: string, { force }: { readonly force: boolean }): Promise<string> {
  await touching(`write "${path}"`, () => Deno.stat(dirname(path)));
  if (!force && await exists(path)) {
    throw new UserError(`Cannot write "${path}": it exists; choose another file or add --force`);
  }
  return await touching(`write "${path}"`, async () => {
    const file = await replaceable(path);
    if (!(await Deno.stat(file).catch(() => undefined))?.isDirectory) return file;
    throw new UserError(`Cannot write "${path}": it is a folder; name a file`);
  });
}

/** @throws {UserError} where what is to be written would take the place of what it is made of, by whatever name. */
export async function checkOtherFile(path: string, from: string): Promise<void> {
  // What is not there is told where it is read.
  const there = await Deno.stat(path).then(() => true, () => false);
  if (!there || !await sameFile(path, from)) return;
  throw new UserError(`Cannot write "${path}": it is the file that is read; choose another file`);
}

/** Whether two paths lead to one file, or would. */
export async function sameFile(a: string, b: string): Promise<boolean> {
  const real = (path: string) => Deno.realPath(path).catch(() => resolve(path));
  return await real(a) === await real(b);
}

/** Where a file lies that a path leads to by a link; any other path is given back as it is. */
export async function behind(path: string): Promise<string> {
  const { isSymlink } = await Deno.lstat(path).catch(() => ({ isSymlink: false }));
  // What cannot be followed is told where it is read.
  return isSymlink ? await Deno.realPath(path).catch(() => path) : path;
}

/** Writes a new file; over an old one only when `force` is set. @throws {UserError} */
export async function writeNewFile(
  path: string,
  bytes: Uint8Array,
  options: { readonly force: boolean },
): Promise<void> {
  const file = await newFile(path, options);
  await touching(`write "${path}"`, () => saveFile(file, bytes));
}
