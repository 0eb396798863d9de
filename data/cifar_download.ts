/** Brings CIFAR-10 and CIFAR-100 into the data directory: download, unpack, check, put in place. */

import { fromFileUrl, join, resolve } from "@std/path";
import { UserError } from "../kernels/user_error.ts";
import { ArchiveError, type ExpectedArchive, extractTarGz } from "./archive.ts";
import { cifarFiles } from "./cifar.ts";
import { cifar10Files } from "./cifar10.ts";
import { cifar100 } from "./cifar100.ts";
import { download, type DownloadOptions } from "./download.ts";
import { damage, type FileFacts, fileSize, removeFile, touching } from "./files.ts";
import { withLock } from "./lock.ts";

/** A data set as one archive on the web. */
export interface Publication {
  /** The official address. */
  readonly url: string;
  /** The archive as it lies there; a mirror's may be compressed otherwise, its content is the same. */
  readonly archive: FileFacts & { readonly name: string };
  /** What is in the archive. */
  readonly content: ExpectedArchive;
}

/** CIFAR-10's binary version on its author's page. */
export const cifar10Publication: Publication = {
  url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
  archive: { name: "cifar-10-binary.tar.gz", size: 170_052_171, md5: "c32a1d4ab5d03f1284b67883e8d87530" },
  content: cifar10Files,
};

/** CIFAR-100's binary version on its author's page. */
export const cifar100Publication: Publication = {
  url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
  archive: { name: "cifar-100-binary.tar.gz", size: 168_513_733, md5: "03b5dce01913d631647c71ecec9e9cb8" },
  content: cifarFiles(cifar100),
};

/** Where from, where to, and how patiently. */
export interface FetchOptions extends Pick<DownloadOptions, "retries" | "backoff" | "stall" | "signal" | "onProgress"> {
  /** The data directory; it is made. */
  readonly dataDirectory: string;
  /** A mirror's address (http, https, file) or a path, of the archive; by default the official address. */
  readonly url?: string;
  /** Called with what is being done, such as `unpacking`. */
  readonly onNotice?: (text: string) => void;
}

/** What was found or done. */
export interface FetchResult {
  /** The folder with the files. */
  readonly directory: string;
  /** Whether every file was there already, with the right bytes. */
  readonly present: boolean;
  /** What was wrong with the files that were there or missing, a line each. */
  readonly mended: readonly string[];
}

/**
 * Makes sure that every file of the publication is in the data directory, with the right bytes. What is there is
 * checked; the archive is fetched if anything is missing or damaged, and removed when its files are in place.
 *
 * @throws {UserError} where that cannot be done; then no file is in place that has other bytes than it must, unless
 * it was there before.
 */
export async function fetchPublication(
  options: FetchOptions,
  publication: Publication,
): Promise<FetchResult> {
  const { dataDirectory, onNotice } = options;
  const { folder } = publication.content;
  const directory = join(dataDirectory, folder);
  await touching(`write ${dataDirectory}`, () => Deno.mkdir(dataDirectory, { recursive: true }));
  return await withLock(join(dataDirectory, `${folder}.lock`), async () => {
    if (await touching(`read ${directory}`, () => hasEntries(directory))) onNotice?.(`checking ${directory}`);
    const mended = await findDamage(directory, publication.content);
    if (mended.length === 0) {
      // Left by a call that was killed after unpacking; an address may be that of the user's own file.
      const left = join(dataDirectory, publication.archive.name);
      if (options.url === undefined) await touching(`remove ${left}`, () => removeFile(left));
      return { directory, present: true, mended };
    }
    const archive = await obtainArchive(options, publication);
    onNotice?.("unpacking and checking");
    await unpack(archive, directory, publication.content);
    if (archive.temporary) await touching(`remove ${archive.path}`, () => removeFile(archive.path));
    return { directory, present: false, mended };
  }, { onWait: () => onNotice?.("waiting for another download of the same data") });
}

async function hasEntries(directory: string): Promise<boolean> {
  try {
    for await (const _ of Deno.readDir(directory)) return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return false;
}

async function findDamage(directory: string, { files }: ExpectedArchive): Promise<string[]> {
  const found: string[] = [];
  for (const { name, size, md5 } of files) {
    const path = join(directory, name);
    const wrong = await touching(`read ${path}`, () => damage(path, { size, md5 }));
    if (wrong) found.push(`${name} ${wrong}`);
  }
  return found;
}

interface Archive {
  readonly path: string;
  /** Ours to remove. */
  readonly temporary: boolean;
}

async function obtainArchive(options: FetchOptions, { url, archive }: Publication): Promise<Archive> {
  const local = options.url === undefined ? undefined : localPath(options.url);
  if (local !== undefined) {
    if (await touching(`read ${local}`, () => fileSize(local)) === undefined) {
      throw new UserError(`Cannot read ${local}: no such file; name the archive ${archive.name} with --url`);
    }
    return { path: local, temporary: false };
  }
  const { retries, backoff, stall, signal, onProgress, onNotice } = options;
  const path = join(options.dataDirectory, archive.name);
  const mirror = options.url !== undefined && options.url !== url;
  // Of an archive that is here without its checksum being known, nobody can say where it is from.
  if (mirror) await touching(`remove ${path}`, () => removeFile(path));
  await download({
    url: options.url ?? url,
    to: path,
    expected: mirror ? {} : archive,
    maxBytes: 2 * archive.size + (1 << 20),
    advice: mirror ? "check the address" : "try again later, or another address with --url",
    ...{ retries, backoff, stall, signal, onProgress, onNotice },
  });
  return { path, temporary: true };
}

/** The path that a file URL or a path names; `undefined` for other URLs. */
export function localPath(url: string): string | undefined {
  if (/^file:/i.test(url)) {
    try {
      return fromFileUrl(url);
    } catch (cause) {
      throw new UserError(`Cannot read ${url}: it is no file address; write file:///PATH`, { cause });
    }
  }
  // One letter before the colon is a drive of Windows.
  return /^[a-z][a-z0-9+.-]+:/i.test(url) ? undefined : resolve(url);
}

/** Unpacks beside the place, and moves there only when every file has been checked. */
async function unpack(archive: Archive, directory: string, content: ExpectedArchive): Promise<void> {
  const parts = `${directory}.unpacking`;
  await touching(`write ${parts}`, async () => {
    // Left by a run that was killed: the lock is ours, so nobody else is at it.
    await removeTree(parts);
    await Deno.mkdir(parts);
  });
  try {
    await touching(`write ${parts}`, () => extractTarGz(archive.path, parts, content));
    await touching(`write ${directory}`, async () => {
      await Deno.mkdir(directory, { recursive: true });
      for (const { name } of content.files) await Deno.rename(join(parts, name), join(directory, name));
    });
  } catch (error) {
    // It will not get better by itself; the next call shall fetch it anew.
    if (archive.temporary && error instanceof ArchiveError) await removeFile(archive.path).catch(() => {});
    throw error;
  } finally {
    await removeTree(parts).catch(() => {});
  }
}

async function removeTree(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
