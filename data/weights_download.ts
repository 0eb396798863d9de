/** Brings a file of weights into the data directory: downloaded or copied, and checked against what is known of it. */

import { createHash } from "node:crypto";
import { basename, join } from "@std/path";
import { UserError } from "../kernels/user_error.ts";
import { localPath } from "./cifar_download.ts";
import { download, type DownloadOptions } from "./download.ts";
import { fileSize, removeFile, touching } from "./files.ts";
import { withLock } from "./lock.ts";

/** Where weights are published. */
export interface WeightsPublication {
  /** The file's name in the data directory. */
  readonly file: string;
  readonly url: string;
  /** The first digits of its SHA-256, as far as they are published. */
  readonly sha256?: string;
}

/** Where to, how patiently, and perhaps another address. */
export interface WeightsOptions
  extends Pick<DownloadOptions, "retries" | "backoff" | "stall" | "signal" | "onProgress"> {
  /** The data directory; it is made. */
  readonly dataDirectory: string;
  /** A mirror's address (http, https, file) or a path; by default the publication's. */
  readonly url?: string;
  readonly onNotice?: (text: string) => void;
  /** Looks into a file before it gets its name: throws a `UserError` for one that is not what it must be. */
  readonly check?: (path: string) => Promise<void>;
}

/** What was found or done. */
export interface FetchedWeights {
  readonly path: string;
  /** Whether the file was there already. */
  readonly present: boolean;
  /** Of the file, in hexadecimal. */
  readonly sha256: string;
}

/** Folder of weights in the data directory. */
export const WEIGHTS_FOLDER = "weights";

/** torchvision's rule: a name ends in the first 8 digits of the file's SHA-256. */
export function digestInName(name: string): string | undefined {
  return /-([0-9a-f]{8,64})\.\w+$/.exec(name)?.[1];
}

/**
 * Makes sure that a file of weights is in the data directory. A file that is there is checked again; one that is not what
 * its checksum says is fetched anew.
 *
 * @throws {UserError} where that cannot be done; then no file with a wrong checksum is there.
 */
export async function fetchWeights(publication: WeightsPublication, options: WeightsOptions): Promise<FetchedWeights> {
  const { dataDirectory, onNotice } = options;
  const folder = join(dataDirectory, WEIGHTS_FOLDER);
  // Another file than the published one may be meant: its own name then tells its checksum.
  const own = options.url === undefined ? undefined : digestInName(lastPart(options.url));
  const replaced = own !== undefined && own !== publication.sha256;
  const wanted = replaced ? own : publication.sha256;
  const path = join(folder, replaced ? lastPart(options.url!) : publication.file);
  await touching(`write ${folder}`, () => Deno.mkdir(folder, { recursive: true }));
  return await withLock(`${path}.lock`, async () => {
    if (await touching(`read ${path}`, () => fileSize(path)) !== undefined) {
      onNotice?.(`checking ${path}`);
      const sha256 = await touching(`read ${path}`, () => sha256File(path));
      if (wanted === undefined ? options.url === undefined && await passes(path, options) : sha256.startsWith(wanted)) {
        return { path, present: true, sha256 };
      }
      // A mirror's file without a checksum replaces the one that is there, once it is whole.
      if (wanted !== undefined || options.url === undefined) {
        onNotice?.(`${path} is damaged: fetching it anew`);
        await touching(`remove ${path}`, () => removeFile(path));
      }
    }
    const arrived = `${path}.unchecked`;
    await obtain(publication, options, arrived);
    const sha256 = await touching(`read ${arrived}`, () => sha256File(arrived));
    if (wanted !== undefined && !sha256.startsWith(wanted)) {
      await touching(`remove ${arrived}`, () => removeFile(arrived));
      throw new UserError(
        `Cannot use ${options.url ?? publication.url}: its SHA-256 is ${
          sha256.slice(0, 8)
        }..., must be ${wanted}...; ` +
          "try again, or another address with --url",
      );
    }
    try {
      await options.check?.(arrived);
    } catch (error) {
      await touching(`remove ${arrived}`, () => removeFile(arrived));
      throw error;
    }
    await touching(`write ${path}`, () => Deno.rename(arrived, path));
    return { path, present: false, sha256 };
  }, { onWait: () => onNotice?.("waiting for another download of the same weights") });
}

async function passes(path: string, { check }: WeightsOptions): Promise<boolean> {
  try {
    await check?.(path);
    return true;
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

async function obtain({ url }: WeightsPublication, options: WeightsOptions, to: string): Promise<void> {
  const local = options.url === undefined ? undefined : localPath(options.url);
  if (local !== undefined) {
    if (await touching(`read ${local}`, () => fileSize(local)) === undefined) {
      throw new UserError(`Cannot read ${local}: no such file; name a file of weights with --url`);
    }
    return await touching(`write ${to}`, () => Deno.copyFile(local, to));
  }
  // What lies there under the name has not been checked: it may be of another address.
  await touching(`remove ${to}`, () => removeFile(to));
  const { retries, backoff, stall, signal, onProgress, onNotice } = options;
  await download({
    url: options.url ?? url,
    to,
    advice: options.url === undefined ? "try again later, or another address with --url" : "check the address",
    ...{ retries, backoff, stall, signal, onProgress, onNotice },
  });
}

/** The last part of a URL's or file's path. */
function lastPart(url: string): string {
  return basename(url.replace(/[?#].*$/s, ""));
}

/** SHA-256 of a file, read in pieces, in hexadecimal. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path);
  const buffer = new Uint8Array(1 << 20);
  for (let n = await file.read(buffer); n !== null; n = await file.read(buffer)) hash.update(buffer.subarray(0, n));
  return hash.digest("hex");
}
