/**
 * The folder of a run: `last.safetensors` to go on from, `best.safetensors` to use, and while it is trained into a lock.
 * No other run's checkpoint is overwritten, nor one that is further than what is gone on from.
 */

import { dirname, join, resolve } from "@std/path";
import { checkReadable, touching } from "../data/files.ts";
import { HeldLock } from "../data/lock.ts";
import { exists, readCheckpoint, sameFile } from "./files.ts";
import { type Checkpoint, encodeCheckpoint, type RunProgress } from "../nn/checkpoint.ts";
import { removeUnfinished, saveFile } from "../nn/checkpoint_file.ts";
import { UserError } from "../kernels/user_error.ts";

/** The lock's name in the folder. */
const LOCK = ".lock";

/** A run's folder, open for its checkpoints, and locked: one process at a time trains into it. */
export class RunFolder implements AsyncDisposable {
  #lock: HeldLock | undefined;
  /** The best checkpoint so far of a run that moves here. */
  #bestElsewhere: string | undefined;

  private constructor(readonly path: string) {}

  /** The checkpoint to go on from. */
  get last(): string {
    return join(this.path, "last.safetensors");
  }

  /** The checkpoint of the epoch with the highest test accuracy. */
  get best(): string {
    return join(this.path, "best.safetensors");
  }

  /** A new folder under `runs`, named after the time and what is trained. */
  static async create(arch: string, dataset: string): Promise<RunFolder> {
    const now = new Date();
    const two = (value: number) => String(value).padStart(2, "0");
    const date = [now.getFullYear(), two(now.getMonth() + 1), two(now.getDate())].join("-");
    const time = [now.getHours(), now.getMinutes(), now.getSeconds()].map(two).join("");
    const name = `${date}-${time}-${arch}-${dataset}`;
    await touching('make the folder "runs"', () => Deno.mkdir("runs", { recursive: true }));
    for (let attempt = 1;; attempt++) {
      const path = join("runs", attempt === 1 ? name : `${name}-${attempt}`);
      try {
        await Deno.mkdir(path);
        const folder = new RunFolder(path);
        await folder.#take();
        return folder;
      } catch (error) {
        if (!(error instanceof Deno.errors.AlreadyExists)) {
          await touching(`make the folder "${path}"`, () => Promise.reject(error));
        }
      }
    }
  }

  /**
   * The folder that the user named, made where there is none.
   *
   * @param resumed The checkpoint that the run goes on from: the only run that may be overwritten.
   * @throws {UserError} when it holds another run, or this one further on.
   */
  static async open(path: string, resumed?: string): Promise<RunFolder> {
    const folder = new RunFolder(path);
    await touching(`make the folder "${path}"`, async () => {
      try {
        await Deno.mkdir(path, { recursive: true });
      } catch (error) {
        // Told apart from a file of that name.
        if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
        throw new UserError(`Cannot make the folder "${path}": it is a file; choose another --out`, { exitCode: 2 });
      }
    });
    await folder.#take();
    try {
      await folder.#prepare(resumed);
    } catch (error) {
      await folder[Symbol.asyncDispose]();
      throw error;
    }
    return folder;
  }

  async #prepare(resumed: string | undefined): Promise<void> {
    const own = resumed !== undefined && (await sameFile(resumed, this.last) || await sameFile(resumed, this.best));
    const refuse = (holds: string, file: string): never => {
      throw new UserError(
        `Cannot train into "${this.path}": it holds ${holds}; go on with it by --resume ${file}, or choose another --out`,
        { exitCode: 2 },
      );
    };
    if (own) {
      if (await this.#lastIsFurther(resumed)) refuse("a checkpoint further on than that", this.last);
    } else {
      for (const file of [this.last, this.best]) if (await exists(file)) refuse("a run already", file);
    }
    await touching(`clear "${this.path}"`, () => removeUnfinished(this.path));
    const best = resumed !== undefined ? join(dirname(resumed), "best.safetensors") : undefined;
    if (!best || await exists(this.best) || !await exists(best)) return;
    // What cannot be copied later is told now.
    await touching(`copy "${best}"`, async () => {
      await checkReadable(best);
      (await Deno.open(best)).close();
    });
    this.#bestElsewhere = best;
  }

  /** Whether `last` is whole and of a later step than a checkpoint of the same run. */
  async #lastIsFurther(resumed: string): Promise<boolean> {
    if (await sameFile(resumed, this.last) || !await exists(this.last)) return false;
    const [last, other] = await Promise.all([progressOf(this.last).catch(() => undefined), progressOf(resumed)]);
    return last !== undefined && (!other || isFurther(last, other));
  }

  /** The last checkpoint. @throws {UserError} where it cannot be read. */
  async readLast(): Promise<Checkpoint> {
    return await readCheckpoint(this.last);
  }

  /** Saves `last`, and `best` where it is. @throws {UserError} when the disk refuses; what was there before stays. */
  async save(checkpoint: Checkpoint, best: boolean): Promise<void> {
    const { description, average } = checkpoint;
    const bytes = await encodeCheckpoint(checkpoint);
    const brought = !best && await this.#bringBest();
    try {
      await touching(`save "${this.last}"`, () => saveFile(this.last, bytes));
    } catch (error) {
      if (brought) await Deno.remove(this.best).catch(() => {});
      throw error;
    }
    this.#bestElsewhere = undefined;
    if (!best) return;
    // What was tested is what is to be used: of a run with a moving average that, and not a state to go on from.
    const tested = average ? await encodeCheckpoint({ description, state: average }) : bytes;
    await touching(`save "${this.best}"`, () => saveFile(this.best, tested));
  }

  /**
   * Copies the best checkpoint of a run that moves here; tells whether there was one. With the first checkpoint, as a folder
   * of a run that did not come to one is left empty; and before it, as whoever goes on from that looks for no other.
   */
  async #bringBest(): Promise<boolean> {
    const elsewhere = this.#bestElsewhere;
    if (elsewhere === undefined) return false;
    await touching(`copy "${elsewhere}"`, async () => saveFile(this.best, await Deno.readFile(elsewhere)));
    return true;
  }

  /** Locks the folder. @throws {UserError} naming who trains into it. */
  async #take(): Promise<void> {
    const taken = await touching(`train into "${this.path}"`, () => HeldLock.take(join(this.path, LOCK)));
    if ("lock" in taken) return void (this.#lock = taken.lock);
    const { process, host, since } = taken.holder ?? {};
    const who = process === undefined
      ? "another process"
      : `process ${process}${host === undefined ? "" : ` on ${JSON.stringify(host)}`}`;
    throw new UserError(
      `Cannot train into "${this.path}": ${who} has been training into it${
        since === undefined ? "" : ` since ${since}`
      }; ` +
        "wait for its end, or choose another --out",
    );
  }

  /** Gives the folder back. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lock?.[Symbol.asyncDispose]();
    this.#lock = undefined;
  }

  /**
   * The checkpoint in `path` that is furthest of those that are whole: `last`, unless the disk has damaged it. Undefined
   * where there is none; `damaged` tells what is wrong with those that were passed over, a line each.
   */
  static async newestCheckpoint(path: string): Promise<{ newest: string | undefined; damaged: string[] }> {
    const folder = new RunFolder(path), damaged: string[] = [];
    let newest: { file: string; progress: RunProgress } | undefined;
    for (const file of [folder.last, folder.best]) {
      if (!await exists(file)) continue;
      try {
        const progress = await progressOf(file);
        if (progress && (!newest || isFurther(progress, newest.progress))) newest = { file, progress };
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        damaged.push(error.message);
      }
    }
    return { newest: newest?.file, damaged };
  }

  /** Gives the folder back, and removes it if nothing is in it; a link to a folder stays. */
  async removeIfEmpty(): Promise<void> {
    await this[Symbol.asyncDispose]();
    // Without a slash at its end, which would look through a link.
    const path = resolve(this.path), { isSymlink } = await Deno.lstat(path).catch(() => ({ isSymlink: true }));
    if (!isSymlink) await Deno.remove(path).catch(() => {});
  }
}

/** How far the run of a checkpoint has got; undefined where it holds none to go on with. @throws {UserError} */
async function progressOf(file: string): Promise<RunProgress | undefined> {
  const { description: { progress }, momenta, adamw } = await readCheckpoint(file);
  return momenta || adamw ? progress : undefined;
}

function isFurther(a: RunProgress, b: RunProgress): boolean {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.step > b.step);
}
