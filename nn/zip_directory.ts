/**
 * The directory of a zip archive, and its stored (uncompressed) entries, read by range. That is all that PyTorch's files
 * need: it stores its records as they are, so that they can be mapped into memory.
 *
 * Format: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3.
 */

import type { ByteSource } from "./byte_source.ts";
import { quoted } from "./json.ts";

/** A file in an archive. */
export interface ZipEntry {
  readonly name: string;
  readonly size: number;
  readonly crc32: number;
  /** Of its local header. */
  readonly offset: number;
  /** Such an entry is not read. */
  readonly compressed: boolean;
}

/** Why an archive is not read. The message continues `Cannot read FILE: `. */
export class ZipError extends Error {
  override name = "ZipError";
}

function damaged(what: string): ZipError {
  return new ZipError(`it is cut short or damaged: ${what}; copy or download it again`);
}

const END = 0x06054b50, END64 = 0x06064b50, END64_LOCATOR = 0x07064b50, CENTRAL = 0x02014b50, LOCAL = 0x04034b50;
const MAX_COMMENT = 65535, MAX_DIRECTORY_BYTES = 64 * 2 ** 20;

/** The entries by name. @throws {ZipError} for what is no archive, damaged or encrypted. */
export async function readZipDirectory(source: ByteSource): Promise<Map<string, ZipEntry>> {
  const { offset, size, count } = await findDirectory(source);
  if (size > MAX_DIRECTORY_BYTES) throw damaged(`its directory claims ${size} bytes`);
  const bytes = await read(source, offset, size), view = viewOf(bytes);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > size || view.getUint32(at, true) !== CENTRAL) throw damaged("its directory is not whole");
    const flags = view.getUint16(at + 8, true), method = view.getUint16(at + 10, true);
    const nameLength = view.getUint16(at + 28, true), extraLength = view.getUint16(at + 30, true);
    const commentLength = view.getUint16(at + 32, true);
    const end = at + 46 + nameLength + extraLength + commentLength;
    if (end > size) throw damaged("its directory is not whole");
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const extra = bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength);
    const [entrySize, stored, local] = wide(extra, [
      view.getUint32(at + 24, true),
      view.getUint32(at + 20, true),
      view.getUint32(at + 42, true),
    ]);
    if (flags & 1) {
      throw new ZipError(
        `its entry ${quoted(name)} is encrypted, which torch.save's are not; unpack it and name the file in it`,
      );
    }
    if (entries.has(name)) throw damaged(`it has two entries ${quoted(name)}`);
    const compressed = method !== 0 || stored !== entrySize;
    entries.set(name, { name, size: entrySize, crc32: view.getUint32(at + 16, true), offset: local, compressed });
    at = end;
  }
  return entries;
}

/** An entry's bytes, checked. @throws {ZipError} where they are compressed, or not what the directory says. */
export async function readZipEntry(source: ByteSource, entry: ZipEntry): Promise<Uint8Array<ArrayBuffer>> {
  if (entry.compressed) {
    throw new ZipError(
      `its entry ${quoted(entry.name)} is compressed, which torch.save's are not; unpack it, or save it again`,
    );
  }
  const header = viewOf(await read(source, entry.offset, 30));
  if (header.getUint32(0, true) !== LOCAL) {
    throw damaged(`its entry ${quoted(entry.name)} is not where it should be`);
  }
  const start = entry.offset + 30 + header.getUint16(26, true) + header.getUint16(28, true);
  const bytes = await read(source, start, entry.size);
  if (crc32(bytes) !== entry.crc32) throw damaged(`its entry ${quoted(entry.name)} does not match its checksum`);
  return bytes;
}

async function findDirectory(source: ByteSource): Promise<{ offset: number; size: number; count: number }> {
  const tailSize = Math.min(source.size, MAX_COMMENT + 22);
  const tail = await source.read(source.size - tailSize, tailSize), view = viewOf(tail);
  for (let at = tailSize - 22; at >= 0; at--) {
    if (view.getUint32(at, true) !== END || at + 22 + view.getUint16(at + 20, true) !== tailSize) continue;
    const found = {
      count: view.getUint16(at + 10, true),
      size: view.getUint32(at + 12, true),
      offset: view.getUint32(at + 16, true),
    };
    const isWide = at >= 20 && view.getUint32(at - 20, true) === END64_LOCATOR;
    return isWide ? await wideDirectory(source, number64(view, at - 12)) : found;
  }
  throw new ZipError("it is cut short: a zip archive's end is missing; copy or download it again");
}

async function wideDirectory(source: ByteSource, at: number): Promise<{ offset: number; size: number; count: number }> {
  const view = viewOf(await read(source, at, 56));
  if (view.getUint32(0, true) !== END64) throw damaged("its directory is not whole");
  return { count: number64(view, 32), size: number64(view, 40), offset: number64(view, 48) };
}

/** Replaces each value of all ones by the extra field's 64-bit one. */
function wide(extra: Uint8Array, values: readonly number[]): number[] {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== 1) continue;
    let next = at + 4;
    return values.map((value) => {
      if (value !== 0xffffffff) return value;
      if (next + 8 > extra.length) throw damaged("its directory is not whole");
      next += 8;
      return number64(view, next - 8);
    });
  }
  return [...values];
}

function number64(view: DataView, at: number): number {
  const value = view.getBigUint64(at, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged("its directory is not whole");
  return Number(value);
}

async function read(source: ByteSource, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  if (offset + length > source.size) {
    throw damaged(`its directory names byte ${offset + length} of ${source.size}`);
  }
  return await source.read(offset, length);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Tables for eight bytes at a time: one byte's remainder, shifted on by as many bytes as the table's number. */
const TABLES = Array.from({ length: 8 }, () => new Uint32Array(256));
for (let i = 0; i < 256; i++) {
  let remainder = i;
  for (let bit = 0; bit < 8; bit++) remainder = remainder & 1 ? 0xedb88320 ^ (remainder >>> 1) : remainder >>> 1;
  TABLES[0][i] = remainder;
}
for (let i = 0; i < 256; i++) {
  for (let t = 1; t < 8; t++) TABLES[t][i] = TABLES[0][TABLES[t - 1][i] & 255] ^ (TABLES[t - 1][i] >>> 8);
}

/** The checksum of zip (ISO 3309). */
export function crc32(bytes: Uint8Array): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
  let crc = 0xffffffff, at = 0;
  for (; at + 8 <= bytes.length; at += 8) {
    crc = t7[(crc ^ bytes[at]) & 255] ^ t6[((crc >>> 8) ^ bytes[at + 1]) & 255] ^
      t5[((crc >>> 16) ^ bytes[at + 2]) & 255] ^ t4[(crc >>> 24) ^ bytes[at + 3]] ^
      t3[bytes[at + 4]] ^ t2[bytes[at + 5]] ^ t1[bytes[at + 6]] ^ t0[bytes[at + 7]];
  }
  for (; at < bytes.length; at++) crc = t0[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
