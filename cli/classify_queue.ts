/**
 * Pictures that wait to be named: decoded beside the device, put into batches as they come, tried once more where the
 * device is lost. A batch runs as soon as the device is free with whatever is there; one picture alone waits for nobody.
 */

import type { PicturePool, PictureResult } from "../data/pictures/pool.ts";
import type { PictureTransform } from "../data/pictures/transform.ts";
import type { OpenClassifier } from "./classifier.ts";

/** What a {@linkcode ClassifyQueue} needs of an {@linkcode OpenClassifier}. */
export type Batches = Pick<OpenClassifier, "batchSize" | "classify" | typeof Symbol.dispose> & {
  readonly device: { readonly name: string; readonly gpu: { readonly lost: Promise<unknown> } };
};

/** What became of a picture; `error` tells people what is wrong with it. */
export type Answer = { readonly logits: Float32Array } | { readonly error: string };

/** `reopening`: the device is lost. */
export type QueueState = "starting" | "ready" | "reopening" | "closed";

/** No answer now; another time there may be one. */
export class UnavailableError extends Error {
  /** Tells it from other errors in a log. */
  override name = "UnavailableError";
  /** @param retryAfter Seconds. */
  constructor(message: string, readonly retryAfter: number) {
    super(message);
  }
}

/** What a queue needs. */
export interface QueueOptions {
  /** Opens the device; `again` after it was lost. */
  readonly open: (again: boolean) => Promise<Batches>;
  /** Decodes; closed with the queue. */
  readonly pool: Pick<PicturePool, "depth" | "prepare" | "close">;
  readonly transform: PictureTransform;
  /** Pictures that may wait. */
  readonly most: number;
  /** Told of what the server's owner should know. */
  readonly warn: (message: string) => void;
  /** Seconds between attempts to open a device that does not come back. */
  readonly retryAfter?: number;
}

interface Waiting {
  /** Until it is decoded. */
  bytes: Uint8Array | undefined;
  pixels: Uint8Array | undefined;
  /** The device was lost with it once. */
  retried: boolean;
  readonly signal: AbortSignal;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/** See above. {@linkcode start} first. */
export class ClassifyQueue {
  readonly #options: QueueOptions;
  readonly #pool: QueueOptions["pool"];
  /** What the workers failed by last: every picture that they had at that time is told the same. */
  #failure: unknown;
  #batches: Batches | undefined;
  #state: QueueState = "starting";
  /** Not yet decoded. */
  readonly #received: Waiting[] = [];
  #decoding = 0;
  /** Decoded. */
  #ready: Waiting[] = [];
  /** On the device. */
  #running: readonly Waiting[] = [];
  #lost = false;
  /** Milliseconds that the last batch took. */
  #took = 0;
  #wake = Promise.withResolvers<void>();

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#pool = options.pool;
  }

  /** Whether it answers. */
  get state(): QueueState {
    return this.#state;
  }

  /** The device's name, while it is open. */
  get device(): string | undefined {
    return this.#batches?.device.name;
  }

  /** Pictures that wait or are on the device. */
  get length(): number {
    return this.#received.length + this.#decoding + this.#ready.length + this.#running.length;
  }

  /** Opens the device, then answers until {@linkcode close}. @throws {UserError} where there is no device. */
  async start(): Promise<void> {
    await this.#open(false);
    this.#work();
  }

  /**
   * Names pictures, each by the bytes of its file.
   *
   * @param signal Aborted when nobody wants the answer any more: what was not begun then is left out.
   * @throws {UnavailableError} where too many wait, and where the device is lost for long.
   */
  async ask(pictures: readonly Uint8Array[], signal: AbortSignal): Promise<Answer[]> {
    if (this.#state === "starting" || this.#state === "closed") {
      throw new UnavailableError(`the server is ${this.#state === "closed" ? "stopping" : "starting"}`, 1);
    }
    if (this.length + pictures.length > this.#options.most) {
      throw new UnavailableError(`${this.length} pictures are waiting already`, 1);
    }
    const answers = Promise.all(pictures.map((bytes) =>
      new Promise<Answer>((resolve, reject) => {
        this.#received.push({ bytes, pixels: undefined, retried: false, signal, resolve, reject });
      })
    ));
    this.#decode();
    return await answers;
  }

  /** Ends it: whoever waits is turned away. */
  close(): void {
    this.#state = "closed";
    this.#turnAway(stopping());
    this.#pool.close();
    this.#batches?.[Symbol.dispose]();
    this.#changed();
  }

  async #open(again: boolean): Promise<void> {
    const batches = await this.#options.open(again);
    if (this.#state === "closed") return batches[Symbol.dispose]();
    this.#batches = batches;
    this.#lost = false;
    batches.device.gpu.lost.then(() => {
      if (this.#batches !== batches || this.#state === "closed") return;
      this.#lost = true;
      this.#state = "reopening";
      this.#changed();
    });
    this.#state = "ready";
  }

  /** Hands pictures to the workers, as many as they take: what waits here can still be left out. */
  #decode(): void {
    const ahead = 2 * this.#batches!.batchSize;
    while (this.#decoding < this.#pool.depth && this.#decoding + this.#ready.length < ahead) {
      const next = this.#received.shift();
      if (!next) return;
      if (next.signal.aborted) next.reject(next.signal.reason);
      else this.#prepare(next);
    }
  }

  async #prepare(waiting: Waiting): Promise<void> {
    this.#decoding++;
    let result: PictureResult | undefined;
    try {
      result = await this.#pool.prepare(waiting.bytes!, this.#options.transform);
    } catch (error) {
      if (error !== this.#failure && this.#state !== "closed") this.#options.warn((error as Error).message);
      this.#failure = error;
      waiting.reject(this.#state === "closed" ? stopping() : error);
    }
    this.#decoding--;
    waiting.bytes = undefined;
    if (result && "error" in result) waiting.resolve({ error: result.error });
    if (result && "pixels" in result) {
      waiting.pixels = result.pixels;
      this.#ready.push(waiting);
    }
    if (this.#state !== "closed") this.#decode();
    this.#changed();
  }

  /** Batch after batch. */
  async #work(): Promise<void> {
    while (this.#state !== "closed") {
      if (this.#lost) await this.#reopen();
      else if (this.#ready.length === 0) await this.#change();
      else await this.#runBatch();
    }
    this.#turnAway(stopping());
  }

  async #runBatch(): Promise<void> {
    await this.#gather();
    this.#ready = this.#ready.filter((waiting) => {
      if (waiting.signal.aborted) waiting.reject(waiting.signal.reason);
      return !waiting.signal.aborted;
    });
    const batches = this.#batches!, batch = this.#ready.splice(0, batches.batchSize);
    if (batch.length === 0 || this.#lost || this.#state === "closed") {
      this.#ready.unshift(...batch);
      return;
    }
    this.#running = batch;
    this.#decode();
    const begun = performance.now();
    try {
      const logits = await batches.classify(batch.map(({ pixels }) => pixels!));
      for (const [i, { resolve }] of batch.entries()) resolve({ logits: logits[i] });
    } catch (error) {
      // A device that failed once fails at everything: a new one is needed, whatever it was.
      this.#lost = true;
      if (this.#state === "ready") this.#state = "reopening";
      this.#options.warn(error instanceof Error ? error.message : String(error));
      for (const waiting of batch) {
        if (waiting.retried) waiting.reject(new UnavailableError("the GPU was lost", 5));
      }
      this.#ready.unshift(...batch.filter(({ retried }) => !retried));
      for (const waiting of batch) waiting.retried = true;
    }
    this.#took = performance.now() - begun;
    this.#running = [];
  }

  /**
   * Waits for pictures that are being decoded, as a batch of two takes less than two batches; no longer than half of what
   * the last batch took. Reading the device has kept this thread from its sockets: first they have their turn.
   */
  async #gather(): Promise<void> {
    const until = performance.now() + this.#took / 2;
    await sleep(0).done;
    while (this.#decoding > 0 && this.#ready.length < this.#batches!.batchSize && !this.#lost) {
      const left = until - performance.now();
      if (left <= 0 || this.#state === "closed") return;
      const timer = sleep(left);
      await Promise.race([this.#change(), timer.done]);
      timer.cancel();
    }
  }

  /** Opens the device until there is one; each time that there is none, whoever waits is told. */
  async #reopen(): Promise<void> {
    this.#batches?.[Symbol.dispose]();
    const { warn, retryAfter = 5 } = this.#options;
    while (this.#state === "reopening") {
      try {
        await this.#open(true);
        if (!this.#lost) warn("The GPU is open again");
      } catch (error) {
        warn(`${(error as Error).message}; it is tried again in ${retryAfter} s`);
        this.#turnAway(new UnavailableError("the GPU was lost", retryAfter));
        await sleep(retryAfter * 1000).done;
      }
    }
  }

  #turnAway(error: UnavailableError): void {
    for (const { reject } of [...this.#received.splice(0), ...this.#ready.splice(0)]) reject(error);
  }

  #changed(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  #change(): Promise<void> {
    return this.#wake.promise;
  }
}

function stopping(): UnavailableError {
  return new UnavailableError("the server is stopping", 1);
}

function sleep(milliseconds: number): { readonly done: Promise<void>; cancel(): void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  return { done: promise, cancel: () => clearTimeout(timer) };
}
