/** A file read piece by piece. */

import { type FileHandle, open } from "node:fs/promises";
import { UserError } from "../kernels/user_error.ts";
import { checkReadable, touching } from "./files.ts";

/** Largest number of bytes that the system reads at once. */
const PIECE = 1 << 30;

/** An open file of which any stretch can be read, in whatever order. */
export class FileSource implements AsyncDisposable {
  readonly #handle: FileHandle;
  readonly #path: string;
  /** In bytes, when it was opened. */
  readonly size: number;

  private constructor(handle: FileHandle, path: string, size: number) {
    this.#handle = handle;
    this.#path = path;
    this.size = size;
  }

  /** @throws {UserError} where there is no file, or it cannot be read. */
  static async open(path: string): Promise<FileSource> {
    return await touching(`read "${path}"`, async () => {
      await checkReadable(path);
      const handle = await open(path);
      return new FileSource(handle, path, (await handle.stat()).size);
    });
  }

  /** Exactly `length` bytes from `offset`. @throws {UserError} where the file has become shorter. */
  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    await touching(`read "${this.#path}"`, async () => {
      for (let at = 0; at < length;) {
        const { bytesRead } = await this.#handle.read(bytes, at, Math.min(PIECE, length - at), offset + at);
        if (bytesRead === 0) throw new UserError(`Cannot read "${this.#path}": it has become shorter meanwhile`);
        at += bytesRead;
      }
    });
    return bytes;
  }

  /** Closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}
