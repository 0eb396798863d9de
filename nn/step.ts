/**
 * Steps: a network and a source of batches compiled into one plan each. `run` writes the batch, submits the plan and
 * returns at once; results stay in a ring on the device until `collect` reads them, all at one time. Here is what all
 * kinds have: those that train (`train_step.ts`) and those that evaluate (`eval_step.ts`).
 */

import { metricsElements } from "../kernels/cross_entropy.ts";
import { type Device, DeviceLostError } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import type { Placement } from "../kernels/program.ts";
import { encodeStepSettings, type StepSettings, stepSettingsOperand } from "../kernels/step_settings.ts";
import { countSubmission } from "../kernels/submissions.ts";
import type { Stretch } from "../kernels/readings.ts";
import type { BatchSource } from "./batch_source.ts";
import { Lifetime } from "./lifetime.ts";
import type { Network } from "./network.ts";
import type { Arena, Plan } from "./plan.ts";

/**
 * Bytes that the batches of steps may hold which are queued between two readings; while results are read, those before are
 * in the queue, too. What the host writes before a step lies in memory of the queue until the step runs: little where images
 * are resident, whole images where they are streamed.
 */
export const QUEUED_BYTES = 2 ** 27;

/** What a step found. */
export interface StepResult {
  /** Rows of the batch. */
  readonly rows: number;
  /** Cross-entropy summed over the rows. */
  readonly lossSum: number;
  /** Rows whose largest logit is the label's. */
  readonly correct: number;
  /** Rows whose label is among the five largest. */
  readonly top5: number;
  /** The norm of all gradients before they were clipped, where they are. */
  readonly gradientNorm?: number;
  /** Where the first value that is not finite appeared, where that is looked for and there is one. */
  readonly anomaly?: string;
  /** What the loss was multiplied by, in half precision; see `kernels/loss_scale.ts`. */
  readonly lossScale?: number;
  /** Whether gradients overflowed, in half precision: the step left all parameters as they were. */
  readonly skipped?: boolean;
}

/** How many steps' results the device holds: `collect` must come at least that often. */
export const RING_SLOTS = 256;

/** What may be encoded around a step's plan. */
export interface Around {
  /** What has to be done first. */
  readonly before?: (encoder: GPUCommandEncoder) => void;
  /** Copies of what the step made, given its slot in the ring. */
  readonly after?: (encoder: GPUCommandEncoder, slot: number) => void;
}

/** A plan that is submitted again and again, and the ring that keeps what each time comes to. */
export abstract class RingStep {
  /** What it runs. */
  readonly plan: Plan;
  readonly #device: Device;
  readonly #arena: Arena;
  readonly #life: Lifetime;
  readonly #own: StepBuffers;
  readonly #settings: GPUBuffer;
  readonly #metrics: GPUBuffer;
  readonly #more: MoreResults;
  readonly #submissions: number;
  #pending = 0;
  #runs = 0;

  /** @internal Use the functions that compile steps. */
  constructor({ device, arena, weights }: Network, plan: Plan, own: StepBuffers, results: MoreResults = {}) {
    this.#more = results;
    this.#device = device;
    this.#arena = arena;
    this.#life = new Lifetime("the step", [weights]);
    this.plan = plan;
    this.#submissions = plan.dispatches.filter(({ endsSubmission }) => endsSubmission).length;
    this.#own = own;
    this.#settings = own.place(own.settings)!.buffer;
    this.#metrics = own.place(own.metrics)!.buffer;
  }

  /** Steps run whose results have not been asked for. */
  get pending(): number {
    return this.#pending;
  }

  /** Refuses what cannot be run or has no place in the ring, before anything is written. */
  protected checkRunnable(): void {
    if (this.#pending === RING_SLOTS) throw new Error(`Collect the results at least every ${RING_SLOTS} steps`);
    this.#life.check();
    // Asked for, as it throws where there is none.
    void this.plan.program;
  }

  /** Submits the plan. */
  protected send(settings: Omit<Partial<StepSettings>, "slot">, { before, after }: Around = {}): void {
    const slot = this.#runs++ % RING_SLOTS;
    if (!this.#more.silent) this.#pending++;
    this.#device.write(this.#settings, 0, encodeStepSettings({ ...settings, slot }));
    this.plan.program.submit(this.#device, {
      before: (encoder) => {
        // What was found when the slot was used before: where steps overflow, that is no end.
        if (this.#more.found) encoder.clearBuffer(this.#more.found, slot * 4, 4);
        before?.(encoder);
      },
      after: (encoder) => after?.(encoder, slot),
    });
  }

  /**
   * Results of all steps since the last call, oldest first. Waits for them; other steps may be run, and collected, meanwhile.
   *
   * @throws {DeviceLostError} where a step did not run to its end.
   */
  async collect(): Promise<StepResult[]> {
    return (await this.collectWith([])).results;
  }

  /** @internal Beside the results the slots they were in, and what stretches hold now, where there are any. */
  protected async collectWith(stretches: readonly Stretch[]): Promise<
    { readonly results: StepResult[]; readonly slots: readonly number[]; readonly bytes: readonly ArrayBuffer[] }
  > {
    this.#life.check();
    // Before anything is waited for, so that each result is for one caller alone.
    const count = this.#pending, first = this.#runs - count;
    this.#pending = 0;
    if (count === 0) return { results: [], slots: [], bytes: [] };
    const { clips, scales, found, describe } = this.#more;
    const { ring, findings, bytes } = await this.#readRan(first, found, stretches);
    const norms = ring.subarray(metricsElements(RING_SLOTS));
    const slots = Array.from({ length: count }, (_, i) => (first + i) % RING_SLOTS);
    const results = slots.map((slot): StepResult => {
      const [lossSum, correct, top5, rows] = ring.subarray(slot * 4, slot * 4 + 4);
      const [gradientNorm, , lossScale, left] = norms.subarray(slot * 4, slot * 4 + 4);
      const anomaly = findings && describe?.(findings[slot]), skipped = left !== 0;
      return {
        ...{ rows, lossSum, correct, top5 },
        ...(clips && !(scales && skipped) && { gradientNorm }),
        ...(scales && { lossScale, skipped }),
        ...(anomaly !== undefined && { anomaly }),
      };
    });
    return { results, slots, bytes };
  }

  /** @internal What stretches hold that the step run last has written. */
  protected async readLast(stretches: readonly Stretch[]): Promise<readonly ArrayBuffer[]> {
    this.#life.check();
    if (this.#runs === 0) throw new Error("Cannot read what a step made before it has run: run it first");
    return (await this.#readRan(this.#runs - 1, undefined, stretches)).bytes;
  }

  /** Reads the ring and more, and makes sure that the steps from number `first` on ran to their ends. */
  async #readRan(first: number, found: GPUBuffer | undefined, stretches: readonly Stretch[]) {
    const end = this.#runs, wanted = [this.#metrics, ...(found ? [found] : [])];
    const read = await this.#device.readAll([
      ...wanted.map((buffer) => ({ buffer, offset: 0, byteLength: buffer.size })),
      ...stretches,
    ]);
    const [metrics, more] = read, counts = new Uint32Array(metrics, metrics.byteLength - RING_SLOTS * 4);
    for (let run = first; run < end; run++) {
      const times = Math.floor(run / RING_SLOTS) + 1;
      if (counts[run % RING_SLOTS] === times * this.#submissions) continue;
      throw new DeviceLostError(
        "The GPU device was lost: it left out work of a step, as systems end what takes too long",
      );
    }
    return {
      ring: new Float32Array(metrics),
      findings: found && new Uint32Array(more),
      bytes: read.slice(wanted.length),
    };
  }

  /** Frees what the step owns on the device; the source is the caller's. */
  destroy(): void {
    this.#life.end();
    this.#arena.remove(this.plan);
    this.plan.destroy();
    this.#own.destroy();
  }
}

/** A step on batches: what those that train and those that evaluate have. */
export abstract class Step<B> extends RingStep {
  readonly #source: BatchSource<B>;
  /** Of the network. */
  readonly classes: number;

  /** @internal See `trainStep` and `evalStep`. */
  constructor(
    network: Network,
    source: BatchSource<B>,
    classes: number,
    plan: Plan,
    own: StepBuffers,
    results: MoreResults = {},
  ) {
    super(network, plan, own, results);
    this.#source = source;
    this.classes = classes;
  }

  /** Rows of a whole batch. */
  get batchSize(): number {
    return this.#source.shape.n;
  }

  /** Bytes that a batch takes in the queue until the step runs, where it is not resident. */
  get batchBytes(): number {
    return this.#source.batchBytes ?? 0;
  }

  /** Submits a step on a batch; returns how many rows it has. */
  protected submit(
    batch: B,
    settings: Pick<Partial<StepSettings>, "learningRate" | "gradientScale">,
    around?: Around,
  ): number {
    this.checkRunnable();
    const validRows = this.#source.load(batch, this.classes);
    this.checkRows(validRows);
    this.send({ ...settings, validRows }, around);
    return validRows;
  }

  /** Whether a batch may have so many rows. */
  protected abstract checkRows(rows: number): void;
}

/** @internal What is told beside the metrics. */
export interface MoreResults {
  /** Nothing is told: there is nothing to collect. */
  readonly silent?: boolean;
  /** Whether gradients' norms are told. */
  readonly clips?: boolean;
  /** Whether loss scales are told. */
  readonly scales?: boolean;
  /** Findings: in a buffer of its own, as kernels write it that read all others. */
  readonly found?: GPUBuffer;
  /** What an entry of `found` means. */
  readonly describe?: (found: number) => string | undefined;
}

/** @internal What a step owns on the device: what the host writes and reads around the plan. */
export class StepBuffers {
  /** Written before each run. */
  readonly settings: Operand = stepSettingsOperand();
  /** The ring of losses and counts. */
  readonly metrics: Operand = operand("metrics", metricsElements(RING_SLOTS));
  /** The ring of gradients' norms. Behind the metrics in the same buffer, as each reading costs time. */
  readonly norms: Operand = operand("gradient norms", RING_SLOTS * 4);
  /** The ring of submissions run, behind the norms. */
  readonly #counts = operand("submissions", RING_SLOTS);
  readonly #device: Device;
  readonly #places = new Map<Operand, Placement>();

  private constructor(device: Device) {
    this.#device = device;
  }

  /** Makes a step that has such buffers; where that fails, they are freed. */
  static async use<T>(
    { device, weights }: Network,
    label: string,
    make: (own: StepBuffers) => Promise<T>,
  ): Promise<T> {
    weights.check();
    const own = new StepBuffers(device);
    try {
      await own.add(`${label} settings`, own.settings);
      await own.add(`${label} metrics`, own.metrics, own.norms, own.#counts);
      return await make(own);
    } catch (error) {
      own.destroy();
      throw error;
    }
  }

  /** Gives operands their places, one behind the other in a buffer of their own. */
  async add(label: string, ...operands: readonly Operand[]): Promise<GPUBuffer> {
    const buffer = await this.#device.buffer(label, operands.reduce((sum, { byteLength }) => sum + byteLength, 0));
    let offset = 0;
    for (const each of operands) {
      this.#places.set(each, { buffer, offset });
      offset += each.byteLength;
    }
    return buffer;
  }

  /** Where an operand lies. */
  place(operand: Operand): Placement | undefined {
    return this.#places.get(operand);
  }

  /** The dispatch that counts a submission: see `submissions.ts`. */
  get counted(): Dispatch {
    return countSubmission({ counts: this.#counts, settings: this.settings });
  }

  /** Frees them. */
  destroy(): void {
    this.#device.free(...[...this.#places.values()].map(({ buffer }) => buffer));
  }
}
