/** What the tests of archives and downloads share: small tar archives, made here, and the facts of their files. */

import { createHash } from "node:crypto";
import type { ExpectedArchive } from "../../data/archive.ts";

/** An entry of a tar archive. */
export interface TarEntry {
  readonly path: string;
  readonly data?: Uint8Array;
  /** The type flag: "0" file, "1" link, "2" symbolic link, "3" device, "5" folder. Default "0". */
  readonly type?: string;
  readonly link?: string;
  /** The size that the header says; by default the data's. */
  readonly size?: number;
}

/** A ustar archive (POSIX.1-1988). */
export function tar(entries: readonly TarEntry[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const { path, data = new Uint8Array(0), type = "0", link = "", size = data.length } of entries) {
    const header = new Uint8Array(512);
    const put = (at: number, text: string) => header.set(new TextEncoder().encode(text), at);
    const octal = (value: number, digits: number) => value.toString(8).padStart(digits, "0") + "\0";
    put(0, path);
    put(100, octal(0o644, 7) + octal(0, 7) + octal(0, 7) + octal(size, 11) + octal(0, 11) + " ".repeat(8) + type);
    put(157, link);
    put(257, "ustar\0" + "00");
    put(148, octal(header.reduce((sum, byte) => sum + byte, 0), 6) + " ");
    parts.push(header, data, new Uint8Array((512 - data.length % 512) % 512));
  }
  return concatenate([...parts, new Uint8Array(1024)]);
}

/** Joins pieces. */
export function concatenate(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Compresses with gzip. */
export async function gzip(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return await new Response(new Blob([data]).stream().pipeThrough(new CompressionStream("gzip"))).bytes();
}

/** In hexadecimal digits. */
export function md5(data: Uint8Array): string {
  return createHash("md5").update(data).digest("hex");
}

/** Bytes that no compression makes smaller, the same for the same seed. */
export function noise(length: number, seed: number): Uint8Array<ArrayBuffer> {
  let state = seed * 2654435761 + 12345 >>> 0;
  return Uint8Array.from({ length }, () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return state >>> 24;
  });
}

/** Two files as a data set has them, and what is expected of them. */
export const smallFiles: readonly { readonly name: string; readonly data: Uint8Array<ArrayBuffer> }[] = [
  { name: "one.bin", data: noise(70_000, 1) },
  { name: "two.bin", data: noise(3000, 2) },
];

/** What an archive of {@linkcode smallFiles} must hold. */
export const smallArchive: ExpectedArchive = {
  folder: "set",
  files: smallFiles.map(({ name, data }) => ({ name, size: data.length, md5: md5(data) })),
};

/** The entries of a good archive of {@linkcode smallFiles}. */
export const goodEntries: readonly TarEntry[] = [
  { path: "set/", type: "5" },
  ...smallFiles.map(({ name, data }) => ({ path: `set/${name}`, data })),
];

/** The names in a folder, sorted. */
export function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}
