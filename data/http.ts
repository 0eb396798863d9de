/** One HTTP request that never hangs and says why it failed. */

import { UserError } from "../kernels/user_error.ts";
import { touching } from "./files.ts";

/** What another attempt may mend. */
export class RetryableError extends Error {
  override name = "RetryableError";
  /** Milliseconds after which to try again, where known. */
  readonly retryAfter?: number;

  constructor(message: string, options: { retryAfter?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.retryAfter = options.retryAfter;
  }
}

/** Redirects to follow; browsers and curl take more, no mirror needs more. */
const MAX_REDIRECTS = 10;

/** Statuses that may be over soon, other than 5xx: timeout, too early, too many requests. */
const PASSING = [408, 425, 429];

/** How to ask. */
export interface RequestOptions {
  readonly headers?: Record<string, string>;
  /** Milliseconds without a sign of life after which the connection is given up. */
  readonly stall: number;
  readonly signal?: AbortSignal;
}

/**
 * Asks for a URL and follows redirects, never from https to http nor to another scheme.
 *
 * @throws {RetryableError} for a failure of the connection, a stall, a status of 5xx, 408, 425 or 429.
 * @throws {UserError} for an address that cannot be followed.
 */
export async function request(url: string, { headers, stall, signal }: RequestOptions): Promise<Answer> {
  let address = checked(url, url);
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const watch = new Watch(stall, address.host, signal);
    const response = await watch.over(() => fetch(address, { headers, redirect: "manual", signal: watch.signal }));
    const answer = new Answer(response, address.host, watch);
    const location = response.headers.get("location");
    if (response.status >= 300 && response.status < 400 && response.status !== 304 && location !== null) {
      await answer[Symbol.asyncDispose]();
      address = checked(location, url, address);
      continue;
    }
    if (response.status >= 500 || PASSING.includes(response.status)) {
      const retryAfter = readRetryAfter(response.headers.get("retry-after"));
      await answer[Symbol.asyncDispose]();
      throw new RetryableError(`${address.host} answers ${response.status} ${response.statusText}`.trim(), {
        retryAfter,
      });
    }
    return answer;
  }
  throw new UserError(`Cannot download ${url}: it redirects more than ${MAX_REDIRECTS} times; check the address`);
}

function checked(location: string, url: string, from?: URL): URL {
  if (!URL.canParse(location, from)) {
    throw new UserError(`Cannot download ${url}: ${JSON.stringify(location)} is no address; check the address`);
  }
  const to = new URL(location, from);
  if (to.protocol !== "https:" && to.protocol !== "http:") {
    throw new UserError(`Cannot download ${url}: ${to.protocol}// is neither http nor https; check the address`);
  }
  if (from?.protocol === "https:" && to.protocol === "http:") {
    throw new UserError(
      `Cannot download ${url}: it redirects to ${to.host} without encryption; choose another address`,
    );
  }
  return to;
}

/** Milliseconds of a Retry-After header: seconds or a date (RFC 9110, 10.2.3). */
function readRetryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const milliseconds = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(milliseconds) ? Math.max(milliseconds, 0) : undefined;
}

/** The answer to a request. To be disposed of, as its connection stays open until then. */
export class Answer {
  readonly status: number;
  readonly statusText: string;
  /** Who answered, for messages. */
  readonly host: string;
  readonly #response: Response;
  readonly #watch: Watch;

  constructor(response: Response, host: string, watch: Watch) {
    this.status = response.status;
    this.statusText = response.statusText;
    this.host = host;
    this.#response = response;
    this.#watch = watch;
  }

  /** Bytes of the body as announced. */
  get length(): number | undefined {
    const text = this.#response.headers.get("content-length");
    return text !== null && /^\d+$/.test(text) ? Number(text) : undefined;
  }

  /** The strong entity tag; a weak one does not vouch for bytes. */
  get etag(): string | undefined {
    const tag = this.#response.headers.get("etag");
    return tag?.startsWith('"') ? tag : undefined;
  }

  get lastModified(): string | undefined {
    return this.#response.headers.get("last-modified") ?? undefined;
  }

  /** Which bytes a 206 holds. */
  get contentRange(): { start: number; total?: number } | undefined {
    const match = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(this.#response.headers.get("content-range") ?? "");
    if (!match) return undefined;
    return { start: Number(match[1]), total: match[2] === "*" ? undefined : Number(match[2]) };
  }

  /** The body as it arrives. */
  async *chunks(): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const reader = this.#response.body?.getReader();
    while (reader) {
      const { done, value } = await this.#watch.over(() => reader.read());
      if (done) return;
      yield value;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watch.abort();
    try {
      await this.#response.body?.cancel();
    } catch {
      // Locked by a reader: the abort has closed it.
    }
  }
}

/** Gives a connection up that shows no sign of life. */
class Watch {
  readonly #controller = new AbortController();
  readonly #stall: number;
  readonly #host: string;
  readonly #outer?: AbortSignal;
  readonly signal: AbortSignal;

  constructor(stall: number, host: string, outer?: AbortSignal) {
    this.#stall = stall;
    this.#host = host;
    this.#outer = outer;
    this.signal = outer ? AbortSignal.any([this.#controller.signal, outer]) : this.#controller.signal;
  }

  abort(): void {
    this.#controller.abort();
  }

  /** Waits for the next sign of life. */
  async over<T>(step: () => Promise<T>): Promise<T> {
    const timer = setTimeout(() => this.#controller.abort(), this.#stall);
    try {
      return await step();
    } catch (error) {
      if (this.#outer?.aborted) throw this.#outer.reason;
      if (error instanceof Deno.errors.NotCapable) {
        return await touching(`reach ${this.#host}`, () => Promise.reject(error));
      }
      const seconds = this.#stall / 1000;
      const reason = this.#controller.signal.aborted
        ? `${this.#host} has sent nothing for ${seconds} s`
        : `The connection to ${this.#host} failed (${cause(error)})`;
      throw new RetryableError(reason, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The innermost reason of a failed fetch: the outer ones repeat the address. */
function cause(error: unknown): string {
  let text = error instanceof Error ? error.message : String(error);
  for (let inner = error; inner instanceof Error; inner = inner.cause) text = inner.message;
  return text.split(": ").slice(-2).join(": ").split("\n")[0];
}

/** Waits `milliseconds`, or until the signal comes, which throws its reason. */
export async function wait(milliseconds: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  const stop = () => reject(signal!.reason);
  signal?.addEventListener("abort", stop, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}
