/** The bodies of requests, read within limits: whatever they say of their own length. */

/** An answer that is no picture's names: a status, and a sentence for whoever asked. */
export class HttpError extends Error {
  /** Tells it from other errors in a log. */
  override name = "HttpError";
  /** @param message Goes into the answer: it tells nothing of this machine. */
  constructor(readonly status: number, message: string, readonly headers: Readonly<Record<string, string>> = {}) {
    super(message);
  }
}

/** What {@linkcode Bodies} keep to. */
export interface BodyLimits {
  /** Bytes of a body. */
  readonly maxBytes: number;
  /** Bytes of all bodies that are held at a time. */
  readonly totalBytes: number;
  /** Seconds that a body may stand still. */
  readonly idleSeconds: number;
}

/** A body that was read; it counts as held until it is disposed of. */
export interface Body extends Disposable {
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Reads bodies. */
export class Bodies {
  readonly #limits: BodyLimits;
  readonly #arriving = new Set<PromiseWithResolvers<never>>();
  #held = 0;
  #stopping = false;
  readonly #none = Promise.withResolvers<void>();

  constructor(limits: BodyLimits) {
    this.#limits = limits;
  }

  /**
   * Reads a request's body.
   *
   * @throws {HttpError} 413 where it is too long, 408 where it does not come, 400 where it breaks off, 503 where there is
   * no room or {@linkcode stop} was called.
   */
  async read(request: Request): Promise<Body> {
    if (this.#stopping) throw stopping();
    const { maxBytes } = this.#limits;
    if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLong(maxBytes);
    const end = Promise.withResolvers<never>();
    end.promise.catch(() => {});
    this.#arriving.add(end);
    const reader = request.body?.getReader();
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    let length = 0;
    try {
      while (reader) {
        const { done, value } = await this.#next(reader, end);
        if (done) break;
        if (length + value.length > maxBytes) throw tooLong(maxBytes);
        if (this.#held + value.length > this.#limits.totalBytes) throw full();
        this.#held += value.length;
        length += value.length;
        pieces.push(value);
      }
    } catch (error) {
      this.#held -= length;
      reader?.cancel().catch(() => {});
      throw error;
    } finally {
      this.#arriving.delete(end);
      if (this.#arriving.size === 0 && this.#stopping) this.#none.resolve();
    }
    return { bytes: await new Blob(pieces).bytes(), [Symbol.dispose]: () => this.#held -= length };
  }

  async #next(reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>, end: PromiseWithResolvers<never>) {
    const { idleSeconds } = this.#limits;
    const late = () => end.reject(new HttpError(408, `Cannot wait for the picture: nothing came for ${idleSeconds} s`));
    const timer = setTimeout(late, idleSeconds * 1000);
    const piece = reader.read().catch(() => {
      throw new HttpError(400, "Cannot read the picture: the request breaks off");
    });
    try {
      return await Promise.race([piece, end.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Refuses bodies from now on, and waits for those that have begun to arrive: so many seconds at most. */
  async stop(seconds: number): Promise<void> {
    this.#stopping = true;
    if (this.#arriving.size === 0) return;
    const timer = setTimeout(() => this.#arriving.forEach(({ reject }) => reject(stopping())), seconds * 1000);
    await this.#none.promise;
    clearTimeout(timer);
  }
}

function tooLong(maxBytes: number): HttpError {
  return new HttpError(413, `Cannot take the picture: a request may have at most ${maxBytes} bytes`);
}

function full(): HttpError {
  const message = "Cannot take more now: the pictures that wait fill the memory for them; try again";
  return new HttpError(503, message, { "retry-after": "1" });
}

function stopping(): HttpError {
  return new HttpError(503, "Cannot take the picture: the server is stopping", { connection: "close" });
}
