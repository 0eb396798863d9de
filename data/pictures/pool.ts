/** Workers that decode pictures, as many at a time as there are processors. */

import { UserError } from "../../kernels/user_error.ts";
import { PixelBudget } from "./budget.ts";
import type { PreparedPicture } from "./decode.ts";
import type { PictureTransform } from "./transform.ts";

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

/** Workers take a while to start: they are started when first needed, and live until {@linkcode close}. */
export class PicturePool {
  readonly #most: number;
  readonly #workers: { worker: Worker; busy: number }[] = [];
  readonly #waiting: Job[] = [];
  /** What workers are at, by number. */
  readonly #open = new Map<number, Job & { done: () => void }>();
  readonly #budget = PixelBudget.of(MOST_PIXELS);
  #failed: Error | undefined;
  #next = 0;

  /**
   * Starts nothing yet.
   *
   * @param workers How many at most; as many as processors by default.
   */
  constructor(workers: number = navigator.hardwareConcurrency) {
    this.#most = Math.max(1, workers);
  }

  /** How many pictures should be asked for at a time to keep every worker busy. */
  get depth(): number {
    return this.#most * DEPTH;
  }

  /** Prepares a picture. Rejects only when the workers themselves cannot run. */
  prepare(source: string | Uint8Array, transform: PictureTransform): Promise<PictureResult> {
    if (this.#failed) return Promise.reject(this.#failed);
    const request = { id: this.#next++, source, transform, budget: this.#budget.memory };
    const answer = new Promise<PictureResult>((resolve, reject) => this.#waiting.push({ request, resolve, reject }));
    this.#assign();
    return answer;
  }

  #assign(): void {
    while (this.#waiting.length > 0) {
      const free = this.#workers.toSorted((a, b) => a.busy - b.busy)[0];
      const slot = (!free || free.busy > 0) && this.#workers.length < this.#most ? this.#start() : free;
      if (slot.busy >= DEPTH) return;
      const job = this.#waiting.shift()!;
      slot.busy++;
      this.#open.set(job.request.id, { ...job, done: () => slot.busy-- });
      slot.worker.postMessage(job.request);
    }
  }

  #start() {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "pictures" });
    worker.onmessage = ({ data }: MessageEvent<PictureAnswer | "ready">) => {
      if (data === "ready") return;
      const { id, ...answer } = data;
      const job = this.#open.get(id)!;
      this.#open.delete(id);
      job.done();
      job.resolve(answer);
      this.#assign();
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const failed = this.#failed ??= new UserError(`Cannot decode pictures: ${event.message.split("\n")[0]}`);
      for (const { reject } of [...this.#open.values(), ...this.#waiting.splice(0)]) reject(failed);
      this.#open.clear();
    };
    const slot = { worker, busy: 0 };
    this.#workers.push(slot);
    return slot;
  }

  /** Ends the workers. */
  close(): void {
    for (const { worker } of this.#workers) worker.terminate();
    this.#workers.length = 0;
  }

  /** Ends the workers. */
  [Symbol.dispose](): void {
    this.close();
  }
}
