/** What guards a run: options of `train`, checkpoints that the disk may refuse, a device that may be lost. */

import { type Device, DeviceLostError } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import { UserError } from "../kernels/user_error.ts";
import type { Checkpoint } from "../nn/checkpoint.ts";
import { DivergedError } from "../nn/train_events.ts";
import type { Trainer } from "../nn/trainer.ts";
import type { OptionSpecs, OptionValues } from "./command.ts";
import { usageError } from "./command.ts";
import { commandLine, dataDirWords } from "./invocation.ts";
import { RunFolder } from "./run_folder.ts";
import type { TrainReport } from "./train_report.ts";

/** The options. */
export const safetyOptions = {
  checkpointEvery: {
    type: "integer",
    min: 1,
    otherwise: "each epoch, and every ten minutes",
    doc: "Steps between two checkpoints",
  },
  keepGoing: { type: "boolean", doc: "Train on where a checkpoint cannot be saved, and try again" },
  clipGradNorm: {
    type: "number",
    above: 0,
    max: 1e30,
    otherwise: "they stay as they are",
    doc: "Norm that all gradients together are scaled down to",
  },
  detectAnomaly: { type: "boolean", doc: "Name the first layer whose values are not finite; takes longer" },
  onDeviceLost: {
    type: "choice",
    choices: ["resume", "stop"],
    default: "resume",
    doc: "When the GPU is lost: open it again and go on from the last checkpoint, or stop",
  },
} as const satisfies OptionSpecs;

/** Values of {@linkcode safetyOptions}; the data directory, where the user named one. */
export type Safety = OptionValues<typeof safetyOptions> & { readonly dataDir?: string };

/** What `--resume auto` stands for: the newest whole checkpoint of `out`; undefined where the run is to start anew. */
export async function newestOf(out: string | undefined, report: TrainReport): Promise<string | undefined> {
  if (out === undefined) {
    throw usageError(
      "Option --resume auto needs --out: the folder whose newest checkpoint is gone on from",
      "resnext train",
    );
  }
  const { newest, damaged } = await RunFolder.newestCheckpoint(out);
  for (const message of damaged) report.warning(message);
  if (newest === undefined && damaged.length > 0) {
    throw new UserError(`Cannot go on in "${out}": none of its checkpoints is whole; move them away to start anew`);
  }
  return newest;
}

/** Seconds from one checkpoint, saved or refused, to the next within an epoch. */
const SAVE_EVERY = 600;
/** How often a last checkpoint is tried again, a second apart. */
const LAST_TRIES = 5;

/** Saves a run's checkpoints. */
export class Saver {
  readonly #folder: RunFolder;
  readonly #report: TrainReport;
  readonly #keepGoing: boolean;
  #triedAt = performance.now();
  #saved = 0;
  #unsaved: { readonly checkpoint: Checkpoint; readonly best: boolean; readonly refusal: UserError } | undefined;

  constructor(folder: RunFolder, report: TrainReport, { keepGoing }: Safety) {
    this.#folder = folder;
    this.#report = report;
    this.#keepGoing = keepGoing;
  }

  /** Checkpoints saved so far. */
  get count(): number {
    return this.#saved;
  }

  /** Whether it is time for one within an epoch. */
  get due(): boolean {
    return performance.now() - this.#triedAt > SAVE_EVERY * 1000;
  }

  /** Saves the run's state. @throws {UserError} where the disk refuses. */
  async save(trainer: Trainer, best = false): Promise<void> {
    await this.#write(await trainer.checkpoint(), best);
  }

  /** Saves the run's state; where the disk refuses and the run is to keep going, keeps it for later. */
  async trySave(trainer: Trainer, best = false): Promise<void> {
    const checkpoint = await trainer.checkpoint();
    try {
      await this.#write(checkpoint, best || this.#unsaved?.best === true);
    } catch (error) {
      if (!(error instanceof UserError) || !this.#keepGoing) throw error;
      // The best one that was not saved is lost to a better or a later one.
      this.#unsaved = { checkpoint, best: best || this.#unsaved?.best === true, refusal: error };
      this.#report.unsaved(error.message);
    }
  }

  async #write(checkpoint: Checkpoint, best: boolean): Promise<void> {
    this.#triedAt = performance.now();
    // The folder may have been removed meanwhile.
    if (this.#keepGoing) await Deno.mkdir(this.#folder.path, { recursive: true }).catch(() => {});
    await this.#folder.save(checkpoint, best);
    this.#saved++;
    this.#unsaved = undefined;
    this.#report.saved(this.#folder.last, false);
    if (best) this.#report.saved(this.#folder.best, true);
  }

  /** Saves what could not be saved before, if anything: what the host holds is all that is left after a loss. */
  async flush(): Promise<void> {
    for (let attempt = 1; this.#unsaved; attempt++) {
      const { checkpoint, best, refusal } = this.#unsaved;
      if (attempt > 1) await new Promise((resolve) => setTimeout(resolve, 1000));
      try {
        await this.#write(checkpoint, best);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        if (attempt === LAST_TRIES) throw refusal;
      }
    }
  }

  /** The newest state outside of the device, saved or not. */
  async newest(): Promise<Checkpoint | undefined> {
    if (this.#unsaved) return this.#unsaved.checkpoint;
    return this.#saved === 0 ? undefined : await this.#folder.readLast();
  }
}

/** The loss of the device behind an error, if it is that: a lost device makes everything fail in its own way. */
export async function lossBehind(error: unknown, device: Device): Promise<DeviceLostError | undefined> {
  if (error instanceof DeviceLostError) return error;
  if (error instanceof UserError) return undefined;
  const explained = await device.explain(error);
  return explained instanceof DeviceLostError ? explained : undefined;
}

/** Losses in a row, without a checkpoint between, after which it is no use. */
const MOST_LOSSES = 3;
/** Seconds between attempts to open the device again. */
const REOPEN_AFTER = [0, 1, 2, 4, 8];

/** Decides on what follows the loss of a device. */
export class LossPolicy {
  #losses = 0;
  #savedThen = -1;

  constructor(
    private readonly saver: Saver,
    private readonly folder: RunFolder,
    private readonly report: TrainReport,
    private readonly safety: Safety,
  ) {}

  /**
   * Saves what the host holds, and gives the state to go on from: undefined for the beginning.
   *
   * @throws {UserError} where the run shall stop, or is lost again and again.
   */
  async recover(loss: DeviceLostError): Promise<Checkpoint | undefined> {
    this.#losses = this.saver.count > this.#savedThen ? 1 : this.#losses + 1;
    this.#savedThen = this.saver.count;
    const newest = await this.saver.newest();
    const resume = newest
      ? `; go on from the last checkpoint with: ${
        commandLine("train", "--resume", this.folder.last, ...dataDirWords(this.safety.dataDir))
      }`
      : "";
    if (this.safety.onDeviceLost === "stop" || this.#losses > MOST_LOSSES) {
      await this.saver.flush();
      throw new UserError(`${loss.message}${resume}`, { cause: loss });
    }
    const { epoch, step } = newest?.description.progress ?? { epoch: 0, step: 0 };
    this.report.warning(`${loss.message}; it is opened again, and training goes on after epoch ${epoch}, step ${step}`);
    return newest;
  }
}

/** Opens the device after a loss: drivers take a moment. */
export async function reopenDevice(signal: AbortSignal): Promise<Device> {
  for (const [attempt, seconds] of REOPEN_AFTER.entries()) {
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    try {
      return await openDevice();
    } catch (error) {
      if (!(error instanceof UserError) || signal.aborted || attempt === REOPEN_AFTER.length - 1) throw error;
    }
  }
  throw new Error("unreachable");
}

/** A divergence, with what tells more of it, and where to go on from. */
export function diverged(error: DivergedError, folder: RunFolder, { detectAnomaly }: Safety): DivergedError {
  const more = detectAnomaly ? "" : "; --detect-anomaly looks for the layer";
  return new DivergedError(`${error.message}${more}; the last good checkpoint is ${folder.last}`, { cause: error });
}
