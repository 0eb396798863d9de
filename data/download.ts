/**
 * A download that arrives whole or not at all: bytes gather in `FILE.part` and get the final name only when their
 * number and checksum are right. What is there of an earlier, broken download is gone on with where the server can
 * (RFC 9110, range requests) and where it is sure to be the same file: an entity tag or a date says so, or a checksum
 * will. `FILE.part.json` remembers which.
 */

import { dirname } from "@std/path";
import { UserError } from "../kernels/user_error.ts";
import { damage, type FileFacts, fileSize, removeFile, touching } from "./files.ts";
import { type Answer, request, RetryableError, wait } from "./http.ts";
import { withLock } from "./lock.ts";
import { Meter, type Progress } from "./meter.ts";

/** What to download, where to, and what is known of it. */
export interface DownloadOptions {
  /** An http or https address. */
  readonly url: string | URL;
  /** The file's path; its directory is made. */
  readonly to: string;
  /** The size and md5 it must have, as far as known. */
  readonly expected?: Partial<FileFacts>;
  /** Most bytes to take where the size is not known. Default 4 GiB. */
  readonly maxBytes?: number;
  /** How often in a row to try again without getting any further. Default 5. */
  readonly retries?: number;
  /** Milliseconds before the first new attempt; doubles with each, up to 30 s. Default 500. */
  readonly backoff?: number;
  /** Milliseconds without a byte after which a connection counts as broken. Default 30,000. */
  readonly stall?: number;
  /** What to tell the user to do where bytes are wrong or the address is. */
  readonly advice?: string;
  /** Called about ten times a second and at the end. */
  readonly onProgress?: (progress: Progress) => void;
  /** Called with a reason, such as `resuming at 5 MB`. */
  readonly onNotice?: (text: string) => void;
  /** Stops the download; what has arrived is kept for the next one. */
  readonly signal?: AbortSignal;
}

/**
 * Downloads a file, unless it is there already, whole. Downloads of the same file at the same time wait for each other.
 *
 * @throws {UserError} where the address, the bytes or the disk are wrong, or the server stays out of reach.
 */
export async function download(options: DownloadOptions): Promise<void> {
  const { to, expected = {}, onNotice } = options;
  await touching(`write ${to}`, () => Deno.mkdir(dirname(to), { recursive: true }));
  await withLock(`${to}.lock`, async () => {
    if (await touching(`read ${to}`, () => damage(to, expected)) === undefined) return;
    await new Transfer(options).run();
  }, { onWait: () => onNotice?.(`waiting for another download of ${to}`) });
}

/** What is known of the file that a `.part` is part of. */
interface Origin {
  readonly url: string;
  readonly etag?: string;
  readonly lastModified?: string;
  readonly total?: number;
}

/** One download, over as many connections as it takes. */
class Transfer {
  readonly #options: DownloadOptions;
  readonly #url: string;
  readonly #part: string;
  readonly #sidecar: string;
  readonly #expected: Partial<FileFacts>;
  readonly #meter: Meter;
  /** Whether the part holds bytes of more than one connection, which then need not fit together. */
  #patched = false;

  constructor(options: DownloadOptions) {
    this.#options = options;
    this.#url = String(options.url);
    this.#part = `${options.to}.part`;
    this.#sidecar = `${options.to}.part.json`;
    this.#expected = options.expected ?? {};
    this.#meter = new Meter(options.onProgress);
  }

  async run(): Promise<void> {
    const { retries = 5, backoff = 500, onNotice, signal } = this.#options;
    let furthest = 0;
    for (let failures = 0;;) {
      try {
        await this.#attempt();
        return await this.#finish();
      } catch (error) {
        if (!(error instanceof RetryableError)) throw error;
        const bytes = await this.#partSize();
        // A connection that brings the download on starts the count anew: a long file may break many times.
        if (bytes >= furthest + (1 << 20)) failures = 0;
        furthest = Math.max(furthest, bytes);
        if (++failures > retries) {
          throw this.#failure(`${error.message}, ${failures} times in a row`, "check the network, then try again");
        }
        const pause = error.retryAfter ?? Math.min(backoff * 2 ** (failures - 1), 30_000);
        if (pause > 120_000) {
          throw this.#failure(`${error.message}, to be tried in ${Math.ceil(pause / 1000)} s`, "try again then");
        }
        onNotice?.(`${error.message}; trying again in ${(pause / 1000).toFixed(1)} s`);
        await wait(pause, signal);
      }
    }
  }

  /** One connection: brings the part from what it is to the end, or throws. */
  async #attempt(): Promise<void> {
    const { stall = 30_000, signal, onNotice } = this.#options;
    const origin = await this.#readOrigin();
    const offset = await this.#resumableBytes(origin);
    if (offset > 0 && offset === (this.#expected.size ?? origin?.total)) return void (this.#patched = true);

    const headers: Record<string, string> = { "accept-encoding": "identity" };
    if (offset > 0) {
      headers.range = `bytes=${offset}-`;
      const validator = origin?.etag ?? origin?.lastModified;
      if (validator) headers["if-range"] = validator;
    }
    await using response = await request(this.#url, { headers, stall, signal });
    const range = response.contentRange;
    if (offset > 0 && response.status === 206 && range?.start === offset && this.#fits(range.total, origin)) {
      onNotice?.(`resuming at ${(offset / 1e6).toFixed(1)} MB`);
      this.#patched = true;
      return await this.#receive(response, offset, range.total ?? origin?.total);
    }
    if (offset > 0 && (response.status === 206 || response.status === 416)) {
      await this.#discard();
      throw new RetryableError(`${response.host} cannot go on with what is there`, { retryAfter: 0 });
    }
    if (response.status !== 200) {
      throw this.#failure(`${response.host} answers ${response.status} ${response.statusText}`.trim(), this.#advice);
    }
    const total = response.length;
    this.#checkLength(total);
    const { etag, lastModified } = response;
    await this.#startAnew({ url: this.#url, etag, lastModified, total });
    await this.#receive(response, 0, total);
  }

  /** Bytes of the part that a connection may go on from; 0 where they could be of another file. */
  async #resumableBytes(origin: Origin | undefined): Promise<number> {
    const bytes = await this.#partSize();
    const sameFile = this.#expected.md5 !== undefined ||
      (origin?.url === this.#url && (origin.etag ?? origin.lastModified) !== undefined);
    const total = this.#expected.size ?? origin?.total;
    return sameFile && !(total !== undefined && bytes > total) ? bytes : 0;
  }

  #fits(total: number | undefined, origin: Origin | undefined): boolean {
    const known = this.#expected.size ?? origin?.total;
    return total === undefined || known === undefined || total === known;
  }

  /** Appends the body to the part. */
  async #receive(response: Answer, offset: number, total: number | undefined): Promise<void> {
    const most = this.#expected.size ?? this.#limit;
    let bytes = offset;
    this.#meter.start(bytes, this.#expected.size ?? total);
    using file = await touching(`write ${this.#part}`, () => Deno.open(this.#part, { write: true, create: true }));
    await touching(`write ${this.#part}`, () => file.seek(offset, Deno.SeekMode.Start));
    for await (const chunk of response.chunks()) {
      bytes += chunk.length;
      if (bytes > most) {
        await this.#discard();
        throw this.#failure(`${response.host} sends more than ${most} bytes`, this.#advice);
      }
      await touching(`write ${this.#part}`, async () => {
        for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
      });
      this.#meter.update(bytes);
    }
    const whole = this.#expected.size ?? total;
    if (whole !== undefined && bytes < whole) {
      throw new RetryableError(`${response.host} sent only ${bytes} of ${whole} bytes`);
    }
    await touching(`write ${this.#part}`, () => file.sync());
    this.#meter.finish(bytes);
  }

  /** Checks the part and gives it its name. */
  async #finish(): Promise<void> {
    const { to } = this.#options;
    const wrong = await touching(`read ${this.#part}`, () => damage(this.#part, this.#expected));
    if (wrong !== undefined) {
      await this.#discard();
      // What was there before may be to blame: once more, in one piece.
      if (this.#patched) {
        this.#patched = false;
        throw new RetryableError(`What was put together ${wrong}`, { retryAfter: 0 });
      }
      throw this.#failure(`what arrived ${wrong}`, this.#advice);
    }
    await touching(`write ${to}`, async () => {
      await Deno.rename(this.#part, to);
      await removeFile(this.#sidecar);
    });
  }

  #checkLength(length: number | undefined): void {
    const { size } = this.#expected;
    if (length === undefined) return;
    if (size !== undefined && length !== size) {
      throw this.#failure(`the server offers ${length} bytes, the file has ${size}`, this.#advice);
    }
    if (length > this.#limit) {
      throw this.#failure(`the server offers ${length} bytes, at most ${this.#limit} are taken`, this.#advice);
    }
  }

  get #limit(): number {
    return this.#options.maxBytes ?? 2 ** 32;
  }

  get #advice(): string {
    return this.#options.advice ?? "check the address";
  }

  async #partSize(): Promise<number> {
    return await touching(`read ${this.#part}`, () => fileSize(this.#part)) ?? 0;
  }

  async #readOrigin(): Promise<Origin | undefined> {
    try {
      const { url, etag, lastModified, total } = JSON.parse(await Deno.readTextFile(this.#sidecar));
      const text = (value: unknown) => typeof value === "string" ? value : undefined;
      if (typeof url !== "string") return undefined;
      return {
        url,
        etag: text(etag),
        lastModified: text(lastModified),
        total: Number.isSafeInteger(total) ? total : undefined,
      };
    } catch {
      // Not there or damaged: then nothing vouches for the part.
      return undefined;
    }
  }

  /** An empty part of a file from `origin`. In this order, as no origin may ever vouch for another's bytes. */
  async #startAnew(origin: Origin): Promise<void> {
    await this.#discard();
    this.#patched = false;
    await touching(`write ${this.#sidecar}`, () => Deno.writeTextFile(this.#sidecar, JSON.stringify(origin)));
  }

  async #discard(): Promise<void> {
    await touching(`write ${this.#part}`, async () => {
      await removeFile(this.#part);
      await removeFile(this.#sidecar);
    });
  }

  #failure(state: string, advice: string): UserError {
    return new UserError(`Cannot download ${this.#url}: ${state}; ${advice}`);
  }
}
