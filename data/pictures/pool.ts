/** Workers that decode pictures, as many at a time as there are processors. */

import { UserError } from "../../kernels/user_error.ts";
import { PixelBudget } from "./budget.ts";
import type { PreparedPicture } from "./decode.ts";
import { checkTransform, type PictureTransform } from "./transform.ts";

/** What a worker is asked: a picture's path or its bytes. */
export interface PictureRequest {
  readonly id: number;
  readonly source: string | Uint8Array;
  readonly transform: PictureTransform;
  /** The memory of the {@linkcode PixelBudget} of all workers. */
  readonly budget: SharedArrayBuffer;
}

/** What became of a picture; `error` tells people what is wrong with it. */
export type PictureResult = PreparedPicture | {
  readonly error: string;
  /** Its bytes could not be read: another time they might. */
  readonly unread?: boolean;
};

/** What a worker answers. */
export type PictureAnswer = { readonly id: number } & PictureResult;

/** Pictures that a worker has at a time: one is decoded while the next is read and the last handed over. */
const DEPTH = 2;
/** Pixels that are decoded at a time; one takes up to a dozen bytes (progressive CMYK), all of them some 3 GB. */
const MOST_PIXELS = 2 ** 28;

/** A picture that is asked for. */
interface Job {
  readonly request: PictureRequest;
  readonly resolve: (answer: PictureResult) => void;
  readonly reject: (error: Error) => void;
}

/** A worker, and what it is at, by number. */
interface Slot {
  readonly worker: Worker;
  readonly jobs: Map<number, Job>;
}

/** Workers take a while to start: they are started when first needed, and live until {@linkcode close}. */
export class PicturePool {
  readonly #most: number;
  readonly #slots: Slot[] = [];
  readonly #waiting: Job[] = [];
  #budget = PixelBudget.of(MOST_PIXELS);
  #closed = false;
  #next = 0;

  /**
   * Starts nothing yet.
   *
   * @param workers How many at most; as many as processors by default.
   */
  constructor(workers: number = navigator.hardwareConcurrency) {
    if (!(Number.isInteger(workers) && workers >= 1)) {
      throw new RangeError(`Cannot decode pictures with ${workers} workers: must be a whole number of 1 or more`);
    }
    this.#most = workers;
  }

  /** How many pictures should be asked for at a time to keep every worker busy. */
  get depth(): number {
    return this.#most * DEPTH;
  }

  /**
   * Prepares a picture. Rejects only for a transform that is none, where a worker cannot run (all that was asked for then
   * is lost; what is asked for later gets new workers), and when the pool is closed.
   */
  async prepare(source: string | Uint8Array, transform: PictureTransform): Promise<PictureResult> {
    checkTransform(transform);
    if (this.#closed) throw closed();
    const { promise, resolve, reject } = Promise.withResolvers<PictureResult>();
    const request = { id: this.#next++, source, transform, budget: this.#budget.memory };
    this.#waiting.push({ request, resolve, reject });
    this.#assign();
    return await promise;
  }

  #assign(): void {
    while (this.#waiting.length > 0) {
      const free = this.#slots.toSorted((a, b) => a.jobs.size - b.jobs.size)[0];
      const slot = (!free || free.jobs.size > 0) && this.#slots.length < this.#most ? this.#start() : free;
      if (slot.jobs.size >= DEPTH) return;
      const job = this.#waiting.shift()!;
      slot.jobs.set(job.request.id, job);
      slot.worker.postMessage(job.request);
    }
  }

  #start(): Slot {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "pictures" });
    const slot: Slot = { worker, jobs: new Map() };
    worker.onmessage = ({ data }: MessageEvent<PictureAnswer | "ready">) => {
      if (data === "ready") return;
      const { id, ...answer } = data, job = slot.jobs.get(id);
      slot.jobs.delete(id);
      job?.resolve(answer);
      this.#assign();
    };
    worker.onerror = (event) => {
      event.preventDefault();
      // Nobody knows how much of the budget it had taken: all begin anew.
      if (this.#slots.includes(slot)) {
        this.#end(new UserError(`Cannot decode pictures: ${event.message.split("\n")[0]}`));
      }
    };
    this.#slots.push(slot);
    return slot;
  }

  /** Ends the workers; who waits is told. */
  #end(error: Error): void {
    const slots = this.#slots.splice(0);
    for (const { worker } of slots) worker.terminate();
    const jobs = [...slots.flatMap((slot) => [...slot.jobs.values()]), ...this.#waiting.splice(0)];
    for (const { jobs } of slots) jobs.clear();
    this.#budget = PixelBudget.of(MOST_PIXELS);
    for (const { reject } of jobs) reject(error);
  }

  /** Ends the workers: pictures not yet prepared reject, and so does what is asked for later. */
  close(): void {
    this.#closed = true;
    this.#end(closed());
  }

  /** As {@linkcode close}. */
  [Symbol.dispose](): void {
    this.close();
  }
}

function closed(): Error {
  return new Error("Cannot decode a picture: the PicturePool is closed; make another one");
}
