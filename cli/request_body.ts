/** The body of a request, read within limits: whatever it says of its own length. */

/** An answer that is no picture's names: a status, and a sentence for whoever asked. */
export class HttpError extends Error {
  /** Tells it from other errors in a log. */
  override name = "HttpError";
  /** @param message Goes into the answer: it tells nothing of this machine. */
  constructor(readonly status: number, message: string, readonly headers: Readonly<Record<string, string>> = {}) {
    super(message);
  }
}

/** Bytes that the bodies of all requests may take together. */
export class Budget {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  /** Takes some. @throws {HttpError} where there are not as many. */
  take(bytes: number): void {
    if (bytes > this.#left) {
      throw new HttpError(503, "Cannot take more now: the pictures that wait fill the memory for them", {
        "retry-after": "1",
      });
    }
    this.#left -= bytes;
  }

  /** Gives back what was taken. */
  give(bytes: number): void {
    this.#left += bytes;
  }
}

/** What {@linkcode readBody} keeps to. */
export interface BodyLimits {
  /** Bytes of a body. */
  readonly maxBytes: number;
  /** For all bodies; what a body takes is given back by {@linkcode Body}'s disposal. */
  readonly budget: Budget;
  /** Seconds that a body may stand still. */
  readonly idleSeconds: number;
  /** Aborted when bodies that are not there yet are waited for no longer. */
  readonly cut: AbortSignal;
}

/** A body that was read. */
export interface Body extends Disposable {
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Reads a body. @throws {HttpError} 413 where it is too long, 408 where it does not come, 503 where there is no room. */
export async function readBody(request: Request, { maxBytes, budget, idleSeconds, cut }: BodyLimits): Promise<Body> {
  const tooLong = () => new HttpError(413, `Cannot take the picture: a request may have at most ${maxBytes} bytes`);
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLong();
  const pieces: Uint8Array[] = [];
  let length = 0, timer: ReturnType<typeof setTimeout> | undefined;
  const late = Promise.withResolvers<never>();
  late.promise.catch(() => {});
  const stop = () => late.reject(new HttpError(503, "Cannot wait for the picture: the server is stopping"));
  cut.addEventListener("abort", stop);
  if (cut.aborted) stop();
  const reader = request.body?.getReader();
  try {
    while (reader) {
      clearTimeout(timer);
      timer = setTimeout(
        () => late.reject(new HttpError(408, `Cannot wait for the picture: nothing came for ${idleSeconds} s`)),
        idleSeconds * 1000,
      );
      const { done, value } = await Promise.race([reader.read(), late.promise]);
      if (done) break;
      if (length + value.length > maxBytes) throw tooLong();
      budget.take(value.length);
      length += value.length;
      pieces.push(value);
    }
  } catch (error) {
    budget.give(length);
    reader?.cancel().catch(() => {});
    throw error;
  } finally {
    clearTimeout(timer);
    cut.removeEventListener("abort", stop);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return { bytes, [Symbol.dispose]: () => budget.give(length) };
}
