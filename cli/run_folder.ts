/** The folder of a run: `last.safetensors` to go on from, `best.safetensors` to use. Nothing of another run is touched. */

import { dirname, join, resolve } from "@std/path";
import { touching } from "../data/files.ts";
import { exists } from "./files.ts";
import { type Checkpoint, encodeCheckpoint } from "../nn/checkpoint.ts";
import { removeUnfinished, saveFile } from "../nn/checkpoint_file.ts";
import { UserError } from "../kernels/user_error.ts";

/** A run's folder, open for its checkpoints. */
export class RunFolder {
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
        return new RunFolder(path);
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
   * @param resumed The checkpoint that the run goes on from: the only one that may be overwritten.
   * @throws {UserError} when it holds another run.
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
    const own = resumed !== undefined && await sameFile(resumed, folder.last);
    if (!own && await exists(folder.last)) {
      throw new UserError(
        `Cannot train into "${path}": it holds a run already; go on with it by --resume ${folder.last}, or choose another --out`,
        { exitCode: 2 },
      );
    }
    await touching(`clear "${path}"`, () => removeUnfinished(path));
    // The best so far goes along with a run that moves.
    const best = resumed !== undefined ? join(dirname(resumed), "best.safetensors") : undefined;
    if (best && !await exists(folder.best) && await exists(best)) {
      await touching(`copy "${best}"`, async () => saveFile(folder.best, await Deno.readFile(best)));
    }
    return folder;
  }

  /** Saves `last`, and `best` where it is. @throws {UserError} when the disk refuses; what was there before stays. */
  async save(checkpoint: Checkpoint, best: boolean): Promise<void> {
    const bytes = await encodeCheckpoint(checkpoint);
    for (const path of best ? [this.last, this.best] : [this.last]) {
      await touching(`save "${path}"`, () => saveFile(path, bytes));
    }
  }

  /** Removes the folder if nothing is in it. */
  async removeIfEmpty(): Promise<void> {
    await Deno.remove(this.path).catch(() => {});
  }
}

async function sameFile(a: string, b: string): Promise<boolean> {
  const real = (path: string) => Deno.realPath(path).catch(() => resolve(path));
  return await real(a) === await real(b);
}
