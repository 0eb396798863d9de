/**
 * Pictures made ready, kept in a file: each is decoded once, whatever the number of epochs and runs. The pixels lie in
 * `NAME.pixels`, records of one size, and what they are of in `NAME.json`, which is written after them: an entry stands
 * for pixels that are there. A picture counts as the same while its path, size and time of change are.
 */

import { dirname, join } from "@std/path";
import { UserError } from "../../kernels/user_error.ts";
import { fileSize, freeBytes, removeFile, touching, tryWriting } from "../files.ts";
import { isStillAt, withLock } from "../lock.ts";
import type { PicturePool } from "./pool.ts";
import type { PictureTransform } from "./transform.ts";

/** A picture's file. */
export interface PictureFile {
  /** Within the set's folder, with slashes. */
  readonly path: string;
  readonly size: number;
  /** Time of the last change, in milliseconds. */
  readonly changed: number;
}

/** A picture that is in the cache, or what is wrong with it. */
type Entry = PictureFile & ({ readonly slot: number; readonly width: number; readonly height: number } | Broken);

/** Why a picture cannot be used. */
export interface Broken {
  /** In words. */
  readonly error: string;
  /** It could not be read; it may be another time. */
  readonly unread?: boolean;
}

/** A picture that cannot be used, and why. */
export interface SkippedPicture extends Broken {
  /** Its file. */
  readonly path: string;
}

/** What is to be made ready. */
export interface CacheRequest {
  /** The folder that the pictures' paths start from. */
  readonly folder: string;
  readonly files: readonly PictureFile[];
  /** The paths of all pictures in the folder, also of those not wanted this time. */
  readonly present: ReadonlySet<string>;
  readonly transform: PictureTransform;
  /** Where the cache lies: a path without an ending. */
  readonly cache: string;
  /** Stop at the first picture that cannot be used. */
  readonly strict?: boolean;
  /** Told now and then how many of the pictures that were not there are done. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly onNotice?: (text: string) => void;
  /** Ends the wait for another run; what decodes is ended by closing the pool. */
  readonly signal?: AbortSignal;
}

/** The pictures that can be used, in the order of the files. */
export interface CachedPictures {
  /** Of each usable picture: its place among the files, and its own size. */
  readonly pictures: readonly { readonly file: number; readonly width: number; readonly height: number }[];
  readonly skipped: readonly SkippedPicture[];
  /** How many had to be decoded. */
  readonly decoded: number;
  /** Bytes of a picture. */
  readonly imageBytes: number;
  /** Copies the pixels of the `index`-th usable picture. */
  read(index: number, into: Uint8Array<ArrayBuffer>): void;
  /** Closes the file. */
  close(): void;
}

/** Of the index file. Another one is of another version: everything is decoded anew. */
const FORMAT = 2;
/** Milliseconds between writings of the index, so that little is lost when a run is stopped. */
const SAVE_EVERY = 20_000;

/**
 * Makes pictures ready, decoding only those that are not in the cache.
 *
 * @throws {UserError} where the cache lacks pictures and cannot be written, and with `strict` at the first picture that
 * cannot be used.
 */
export async function cachePictures(request: CacheRequest, pool: PicturePool): Promise<CachedPictures> {
  const { cache, files, transform, onNotice, signal } = request;
  if (files.length === 0) return noPictures(transform);
  const ready = await touching(`read ${cache}.pixels`, () => readReady(request));
  if (ready) return ready;
  const folder = dirname(cache);
  await touching(`keep decoded pictures in the data directory, "${folder}"`, async () => {
    // To stay: another run may be about to use it.
    await Deno.mkdir(folder, { recursive: true });
    await tryWriting(folder);
  });
  return await withLock(`${cache}.lock`, () => touching(`write ${cache}.pixels`, () => fill(request, pool)), {
    onWait: () => onNotice?.("waiting for another run that decodes the same pictures"),
    signal,
  });
}

/**
 * A cache that has all that is wanted; undefined where it lacks something. It is read as it lies, without its lock: it may
 * be where nothing can be written, and another process may be adding to it.
 */
async function readReady(request: CacheRequest): Promise<CachedPictures | undefined> {
  const { cache, files, transform } = request, pixels = `${cache}.pixels`;
  if (await fileSize(pixels) === undefined) return undefined;
  const file = await Deno.open(pixels);
  try {
    const { entries } = await readIndex(cache, transform, bytesOf(transform));
    // Whoever begins the cache anew removes the index first: one that was read while the file was in its place is of it.
    if (files.every((each) => known(entries, each)) && await isStillAt(pixels, file)) {
      return cachedPictures(request, entries, file, 0);
    }
  } catch (error) {
    file.close();
    throw error;
  }
  file.close();
  return undefined;
}

/** No pictures: the cache stays as it is. */
function noPictures(transform: PictureTransform): CachedPictures {
  return { pictures: [], skipped: [], decoded: 0, imageBytes: bytesOf(transform), read() {}, close() {} };
}

function bytesOf({ size }: PictureTransform): number {
  return size ** 2 * 3;
}

/** What is known of a picture as it is now. */
function known(entries: ReadonlyMap<string, Entry>, { path, size, changed }: PictureFile): Entry | undefined {
  const entry = entries.get(path);
  return entry?.size === size && entry.changed === changed ? entry : undefined;
}

/** The wanted pictures, all of which are known; the file is theirs from now on. */
function cachedPictures(
  { folder, files, transform, cache, strict }: CacheRequest,
  entries: ReadonlyMap<string, Entry>,
  file: Deno.FsFile,
  decoded: number,
): CachedPictures {
  const imageBytes = bytesOf(transform);
  const usable: { file: number; width: number; height: number; slot: number }[] = [];
  const skipped: SkippedPicture[] = [];
  for (const [index, each] of files.entries()) {
    const entry = known(entries, each)!;
    if ("error" in entry) skipped.push({ path: each.path, error: entry.error });
    else usable.push({ file: index, width: entry.width, height: entry.height, slot: entry.slot });
  }
  if (strict && skipped.length > 0) refuse(folder, skipped[0]);
  return {
    pictures: usable,
    skipped,
    decoded,
    imageBytes,
    read(index, into) {
      readRecord(file, usable[index].slot * imageBytes, into.subarray(0, imageBytes), cache);
    },
    close: () => file.close(),
  };
}

function refuse(folder: string, { path, error }: SkippedPicture): never {
  throw new UserError(`Cannot use ${join(folder, path)}: ${error}; remove it, or leave out --strict`);
}

async function fill(request: CacheRequest, pool: PicturePool): Promise<CachedPictures> {
  const { folder, files, present, transform, cache, strict, onProgress } = request;
  const imageBytes = bytesOf(transform);
  let { entries, slots } = await readIndex(cache, transform, imageBytes);
  for (const path of entries.keys()) if (!present.has(path)) entries.delete(path);
  // What has been changed or removed since lies between the rest; when that is most of the file, begin anew.
  const used = Math.max(entries.size, files.filter((file) => known(entries, file)).length);
  if (used === 0 || (slots > 64 && slots > 4 * used)) {
    // The index first: it must not stand for other pixels, whenever the process is killed.
    for (const ending of ["json", "pixels"]) await removeFile(`${cache}.${ending}`);
    entries = new Map();
    slots = 0;
  }
  const missing = files.filter((file) => !known(entries, file));
  await checkRoom(dirname(cache), missing.length, imageBytes);
  const file = await Deno.open(`${cache}.pixels`, { read: true, write: true, create: true });
  try {
    await decodeInto(file);
    return cachedPictures(request, entries, file, missing.length);
  } catch (error) {
    file.close();
    throw error;
  }

  async function decodeInto(file: Deno.FsFile): Promise<void> {
    let next = 0, done = 0, saved = performance.now();
    // Writes are queued one after the other: a file has one position.
    let writing: Promise<void> = Promise.resolve();
    const work = async () => {
      while (next < missing.length) {
        const picture = missing[next++];
        const result = await pool.prepare(join(folder, picture.path), transform);
        if ("error" in result) {
          if (strict) refuse(folder, { path: picture.path, error: result.error });
          entries.set(picture.path, { ...picture, ...result });
        } else {
          const { pixels, width, height } = result, slot = slots++;
          await (writing = writing.then(() => writeRecord(file, slot * imageBytes, pixels)));
          entries.set(picture.path, { ...picture, slot, width, height });
        }
        done++;
        onProgress?.(done, missing.length);
        if (performance.now() - saved < SAVE_EVERY) continue;
        saved = performance.now();
        await (writing = writing.then(() => writeIndex(cache, file, transform, entries, slots)));
      }
    };
    try {
      // Twice what the workers take: while one picture is written another waits for its worker.
      await Promise.all(Array.from({ length: Math.min(2 * pool.depth, missing.length) }, work));
    } finally {
      next = missing.length;
      await writing.catch(() => {});
      if (done > 0) await writeIndex(cache, file, transform, entries, slots);
    }
  }
}

/** @throws {UserError} where so many records have no room: better now than after hours. */
async function checkRoom(directory: string, records: number, imageBytes: number): Promise<void> {
  const needed = records * imageBytes, free = await freeBytes(directory) ?? Infinity;
  if (needed <= free) return;
  const [needs, has] = [needed, free].map((bytes) => `${(bytes / 1e9).toFixed(1)} GB`);
  throw new UserError(
    `Cannot prepare ${records} pictures: they take ${needs} in ${directory}, which has ${has} free; make room, choose ` +
      "another directory or take fewer pictures",
  );
}

async function writeRecord(file: Deno.FsFile, at: number, bytes: Uint8Array): Promise<void> {
  await file.seek(at, Deno.SeekMode.Start);
  for (let from = 0; from < bytes.length;) from += await file.write(bytes.subarray(from));
}

function readRecord(file: Deno.FsFile, at: number, into: Uint8Array, cache: string): void {
  file.seekSync(at, Deno.SeekMode.Start);
  for (let from = 0; from < into.length;) {
    const n = file.readSync(into.subarray(from));
    if (n === null) throw new UserError(`Cannot read ${cache}.pixels: it has become shorter; remove it and start anew`);
    from += n;
  }
}

interface Index {
  readonly entries: Map<string, Entry>;
  /** Records in use, or once in use. */
  readonly slots: number;
}

/** What is known; nothing where there is no index, or none that can be read. */
async function readIndex(cache: string, transform: PictureTransform, imageBytes: number): Promise<Index> {
  const records = Math.floor((await fileSize(`${cache}.pixels`) ?? 0) / imageBytes);
  const nothing = { entries: new Map<string, Entry>(), slots: 0 };
  try {
    const index = JSON.parse(await Deno.readTextFile(`${cache}.json`));
    const { kind, size, side } = index.transform;
    const same = kind === transform.kind && size === transform.size && side === transform.side;
    if (index.format !== FORMAT || !same) return nothing;
    const whole = (index.entries as Entry[]).filter((entry) => "error" in entry || entry.slot < records);
    return { entries: new Map(whole.map((entry) => [entry.path, entry])), slots: Math.min(index.slots, records) };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError || error instanceof TypeError) {
      return nothing;
    }
    throw error;
  }
}

async function writeIndex(
  cache: string,
  file: Deno.FsFile,
  transform: PictureTransform,
  entries: ReadonlyMap<string, Entry>,
  slots: number,
): Promise<void> {
  await file.syncData();
  const index = {
    format: FORMAT,
    transform,
    slots,
    entries: [...entries.values()].filter((entry) => !("unread" in entry && entry.unread)),
  };
  await Deno.writeTextFile(`${cache}.json.part`, JSON.stringify(index));
  await Deno.rename(`${cache}.json.part`, `${cache}.json`);
}
