/** What every reader and writer of files here needs: failures told to people, and checksums. */

import { createHash } from "node:crypto";
import { statfs } from "node:fs/promises";
import { dirname, join, resolve } from "@std/path";
import { UserError } from "../kernels/user_error.ts";

/** What is known of a file's content. */
export interface FileFacts {
  /** In bytes. */
  readonly size: number;
  /** 32 lower case hexadecimal digits. */
  readonly md5: string;
}

/** What the system's refusals mean and what to do. */
const REFUSALS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full; make room or choose another directory",
  EDQUOT: "the disk quota is used up; make room or choose another directory",
  EROFS: "the file system is read-only; choose another directory",
  EACCES: "permission denied; change the permissions or choose another directory",
  EPERM: "permission denied; change the permissions or choose another directory",
  ENOENT: "no such file or directory",
  ENOTDIR: "a part of the path is not a directory; choose another directory",
  EISDIR: "it is a directory; move it away or choose another directory",
  ELOOP: "its links lead in a circle; name another path",
  ENAMETOOLONG: "the name is too long; choose a shorter one",
  EEXIST: "something else is in its place; move it away or choose another directory",
  EIO: "the disk failed to read or write; check it",
};

/** Runs what touches files; a failure of the system's becomes `Cannot <action>: <state>; <what to do>`. */
export async function touching<T>(action: string, run: () => T | Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof UserError) throw error;
    if (error instanceof Deno.errors.NotCapable) {
      const what = error.message.split("\n")[0].replace(/, run again.*$/, "");
      throw new UserError(`Cannot ${action}: ${what}; run Deno with that permission`, { cause: error });
    }
    const code = (error as { code?: string } | null)?.code;
    if (typeof code !== "string") throw error;
    const state = REFUSALS[code] ?? (error as Error).message.split("\n")[0];
    throw new UserError(`Cannot ${action}: ${state}`, { cause: error });
  }
}

/** Why a path is no file to read, in words; undefined where it is one. */
export function whyNoFile({ isFile, isDirectory }: Pick<Deno.FileInfo, "isFile" | "isDirectory">): string | undefined {
  if (isFile) return undefined;
  return isDirectory ? "it is a folder; name the file in it" : "it is no file; name one";
}

/**
 * Looks at what a path is before it is opened: to open a pipe waits for whoever writes to it, and a device may never end.
 *
 * @throws {UserError} where it is no regular file.
 */
export async function checkReadable(path: string): Promise<void> {
  const why = whyNoFile(await Deno.stat(path));
  if (why) throw new UserError(`Cannot read "${path}": ${why}`);
}

/** The first bytes of the regular file at `path`, at most `most`; `undefined` where there is none. */
export async function readStart(path: string, most: number): Promise<Uint8Array | undefined> {
  if (await fileSize(path) === undefined) return undefined;
  using file = await Deno.open(path);
  const bytes = new Uint8Array(most);
  return bytes.subarray(0, await file.read(bytes) ?? 0);
}

/** What this process was given open, as `<(...)` of a shell: somebody writes to it. */
const GIVEN = /^\/(dev\/stdin|(dev|proc\/self)\/fd\/\d+)$/;

/**
 * The bytes of a file, or of a pipe that the process was given, such as `/dev/stdin`.
 *
 * @throws {UserError} where it is something else, or more than `most` bytes.
 */
export async function readWithin(path: string, most: number): Promise<Uint8Array<ArrayBuffer>> {
  const found = await Deno.stat(path);
  if (!(found.isFifo && GIVEN.test(path))) await checkReadable(path);
  const bytes = await readAtMost((await Deno.open(path)).readable, most);
  if (!bytes) throw new UserError(`Cannot read "${path}": it is larger than ${most} bytes`);
  return bytes;
}

/** All that a stream gives; undefined where that is more than `most` bytes. */
export async function readAtMost(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  most: number,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const piece of stream) {
    size += piece.length;
    if (size > most) return undefined;
    pieces.push(piece);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** The size of the regular file at `path`; `undefined` where there is none. */
export async function fileSize(path: string): Promise<number | undefined> {
  try {
    const { isFile, size } = await Deno.stat(path);
    return isFile ? size : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
}

/** Free room on the disk that a path is on, or its nearest folder that exists; undefined where that is not told. */
export async function freeBytes(path: string): Promise<number | undefined> {
  for (let at = path;; at = dirname(at)) {
    try {
      const { bavail, bsize } = await statfs(at);
      return Number(bavail) * Number(bsize);
    } catch {
      if (dirname(at) === at) return undefined;
    }
  }
}

/** Tries to write into a folder, made where there is none; leaves nothing behind. Throws as the system refuses. */
export async function tryWriting(folder: string): Promise<void> {
  let there = resolve(folder);
  const made: string[] = [];
  for (; !await isThere(there); there = dirname(there)) made.push(there);
  await Deno.mkdir(folder, { recursive: true });
  try {
    const trial = join(folder, `.trial-${crypto.randomUUID()}`);
    await Deno.writeTextFile(trial, "");
    await Deno.remove(trial);
  } finally {
    // What another process has put something into stays.
    for (const path of made) await Deno.remove(path).catch(() => {});
  }
}

/** Whether anything is there, be it a link to nowhere. Throws as the system refuses. */
export async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Removes a file if it is there. */
export async function removeFile(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** The md5 of a file's content, read in pieces. */
export async function md5File(path: string): Promise<string> {
  const hash = createHash("md5");
  using file = await Deno.open(path);
  const buffer = new Uint8Array(1 << 20);
  for (let n = await file.read(buffer); n !== null; n = await file.read(buffer)) hash.update(buffer.subarray(0, n));
  return hash.digest("hex");
}

/** In what the file at `path` differs from the facts, for people; `undefined` where it does not. */
export async function damage(path: string, { size, md5 }: Partial<FileFacts>): Promise<string | undefined> {
  const actual = await fileSize(path);
  if (actual === undefined) return "is missing";
  if (size !== undefined && actual !== size) return `has ${actual} bytes, must have ${size}`;
  if (md5 !== undefined && await md5File(path) !== md5) return "has other bytes than it must (md5)";
  return undefined;
}
