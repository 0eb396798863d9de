/**
 * Takes known files out of a `.tar.gz`. Nothing that the archive says decides where something is written, or how much:
 * a file comes out if its path is one that is expected and its bytes are those expected; links, devices and paths that
 * leave the archive make the whole of it refused.
 */

import { Buffer } from "node:buffer";
import { createHash, type Hash } from "node:crypto";
import { basename, join } from "@std/path";
import { Parser } from "tar/parse";
import type { ReadEntry } from "tar/read-entry";
import { UserError } from "../kernels/user_error.ts";
import { type FileFacts, touching } from "./files.ts";

/** The archive is not what it must be: another copy may be. */
export class ArchiveError extends UserError {
  /** Tells it from other errors in a log. */
  override name = "ArchiveError";
}

/** A file that an archive must hold. */
export interface ExpectedFile extends FileFacts {
  /** Its name within the archive's one folder. */
  readonly name: string;
}

/** What an archive must hold. */
export interface ExpectedArchive {
  /** The folder at the archive's top, which all files are in. */
  readonly folder: string;
  /** All of them must be there. */
  readonly files: readonly ExpectedFile[];
}

/** Entries that an archive may have beyond the expected files: folders, a readme. */
const SPARE_ENTRIES = 16;
/** Bytes that it may have beyond the expected ones: headers, padding, a readme. */
const SPARE_BYTES = 1 << 20;

/**
 * Extracts the expected files of the `.tar.gz` at `archive` into the folder `to`, which must exist and should be empty:
 * after an error it may hold some of them.
 *
 * @throws {ArchiveError} naming the archive and what is wrong with it.
 */
export async function extractTarGz(archive: string, to: string, expected: ExpectedArchive): Promise<void> {
  const extraction = new Extraction(archive, to, expected);
  const parser = new Parser({ strict: true, maxMetaEntrySize: 1 << 16 });
  parser.on("entry", (entry: ReadEntry) => extraction.guard(() => extraction.open(entry)));
  parser.on("error", (error: Error) => extraction.refuse(error.message));
  const file = await touching(`read ${archive}`, () => Deno.open(archive));
  try {
    for await (const chunk of decompressed(file, extraction)) {
      extraction.count(chunk);
      parser.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length));
      extraction.check();
    }
    parser.end();
    extraction.finish();
  } finally {
    extraction.close();
  }
}

/** The bytes inside; what breaks the compression is the archive's fault. */
async function* decompressed(file: Deno.FsFile, extraction: Extraction): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const reader = file.readable.pipeThrough(new DecompressionStream("gzip")).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        // A read error of the disk keeps its code; all else is the stream's verdict on its bytes.
        if (typeof error?.code === "string" && /^E[A-Z]+$/.test(error.code)) throw error;
        return extraction.fail("it is no whole gzip file");
      });
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** A file being written. */
interface Output {
  readonly path: string;
  readonly file: Deno.FsFile;
  readonly expected: ExpectedFile;
  readonly hash: Hash;
}

/** What has come out of an archive, and the rules of what may. */
class Extraction {
  readonly #archive: string;
  readonly #to: string;
  /** Files yet to come, by their paths in the archive. */
  readonly #missing: Map<string, ExpectedFile>;
  readonly #taken = new Set<string>();
  readonly #maxBytes: number;
  readonly #maxEntries: number;
  #bytes = 0;
  #entries = 0;
  #output?: Output;
  #error: unknown;

  constructor(archive: string, to: string, { folder, files }: ExpectedArchive) {
    this.#archive = archive;
    this.#to = to;
    this.#missing = new Map(files.map((file) => [`${folder}/${file.name}`, file]));
    this.#maxBytes = SPARE_BYTES + files.reduce((sum, { size }) => sum + size, 0);
    this.#maxEntries = SPARE_ENTRIES + files.length;
  }

  /** An entry begins: decides whether its bytes go to a file, nowhere, or make the archive refused. */
  open(entry: ReadEntry): void {
    const name = JSON.stringify(entry.path.slice(0, 100));
    if (++this.#entries > this.#maxEntries) this.fail(`it has more than ${this.#maxEntries} entries`);
    if (!/^(File|OldFile|ContiguousFile|Directory)$/.test(entry.type)) {
      this.fail(`${name} is of type ${entry.type}, only files and folders are allowed`);
    }
    const path = entry.path.replace(/^(\.\/)+/, "");
    if (/^[/\\]|^[A-Za-z]:|\\|\0/.test(path) || path.split("/").includes("..")) {
      this.fail(`the path ${name} leads outside`);
    }
    const expected = this.#missing.get(path);
    if (entry.type === "Directory" || !expected) {
      if (expected) this.fail(`${name} is a folder`);
      if (this.#taken.has(path)) this.fail(`${name} is there twice`);
      entry.resume();
      return;
    }
    if (entry.size !== expected.size) this.fail(`${name} has ${entry.size} bytes, must have ${expected.size}`);
    this.#missing.delete(path);
    // The name is ours, of the expected file, not the archive's.
    const output: Output = {
      path: join(this.#to, basename(expected.name)),
      file: Deno.openSync(join(this.#to, basename(expected.name)), { write: true, createNew: true }),
      expected,
      hash: createHash("md5"),
    };
    this.#output = output;
    this.#taken.add(path);
    entry.on("data", (chunk: Uint8Array) => this.guard(() => this.#write(output, chunk)));
    entry.on("end", () => this.guard(() => this.#end(output)));
  }

  #write({ file, hash }: Output, chunk: Uint8Array): void {
    hash.update(chunk);
    for (let at = 0; at < chunk.length;) at += file.writeSync(chunk.subarray(at));
  }

  #end({ file, hash, expected }: Output): void {
    if (hash.digest("hex") !== expected.md5) this.fail(`${expected.name} in it has other bytes than it must (md5)`);
    file.syncSync();
    file.close();
    this.#output = undefined;
  }

  /** Counts what comes out of the compression, before anything is done with it. */
  count(chunk: Uint8Array): void {
    // The parser would unpack an archive within the archive, past this count.
    if (this.#bytes === 0 && /^(1f8b|28b52ffd)/.test(chunk.subarray(0, 4).toHex())) this.fail("it is compressed twice");
    this.#bytes += chunk.length;
    if (this.#bytes > this.#maxBytes) this.fail(`it holds more than ${this.#maxBytes} bytes`);
  }

  /** Runs a step inside the parser's events, where nothing may be thrown: {@linkcode check} throws it after. */
  guard(step: () => void): void {
    if (this.#error !== undefined) return;
    try {
      step();
    } catch (error) {
      this.#error = error;
    }
  }

  /** Says that the archive is refused, from within an event. */
  refuse(reason: string): void {
    this.guard(() => this.fail(reason));
  }

  check(): void {
    if (this.#error !== undefined) throw this.#error;
  }

  finish(): void {
    this.check();
    if (this.#output) this.fail("it ends too early");
    const missing = [...this.#missing.keys()];
    if (missing.length > 0) this.fail(`${missing.join(", ")} ${missing.length === 1 ? "is" : "are"} not in it`);
  }

  close(): void {
    this.#output?.file.close();
    this.#output = undefined;
  }

  fail(reason: string): never {
    throw new ArchiveError(`Cannot unpack ${this.#archive}: ${reason}; download it anew, or from another address`);
  }
}
