/** The optimizer steps of a run: each on one batch, or on several whose gradients are summed. */

import type { BatchSource } from "./batch_source.ts";
import type { Network } from "./network.ts";
import { QUEUED_BYTES, RING_SLOTS, type StepResult } from "./step.ts";
import {
  type GradientStep,
  gradientStep,
  type TrainStep,
  trainStep,
  type TrainStepOptions,
  type UpdateStep,
  updateStep,
} from "./train_step.ts";

/** A batch, and how many rows it has. */
export interface RunBatch<B> {
  readonly rows: number;
  readonly batch: B;
}

/** What steps gave. */
export interface CollectedSteps {
  /** A step each, in order. */
  readonly results: readonly StepResult[];
  /** Whether one of them ran for the first time, when drivers compile. */
  readonly cold: boolean;
}

/** What {@linkcode RunSteps} are compiled with. */
export interface RunStepsOptions extends Omit<TrainStepOptions<unknown>, "source"> {
  /** Batches of a step, at most {@linkcode RING_SLOTS}, as each has a place of its own in the ring. Default 1. */
  readonly accumulate?: number;
}

/** Steps for batches of all sizes that a run has. */
export class RunSteps<B> {
  readonly #accumulate: number;
  readonly #steps: ReadonlyMap<number, TrainStep<B> | GradientStep<B>>;
  readonly #update: UpdateStep | undefined;
  readonly #warm = new Set<TrainStep<B> | GradientStep<B>>();
  /** Of each step queued, what ran its batches. */
  #queued: (TrainStep<B> | GradientStep<B>)[][] = [];
  #batches = 0;
  #bytes = 0;

  private constructor(
    accumulate: number,
    steps: ReadonlyMap<number, TrainStep<B> | GradientStep<B>>,
    update: UpdateStep | undefined,
  ) {
    this.#accumulate = accumulate;
    this.#steps = steps;
    this.#update = update;
  }

  /**
   * Compiles them.
   *
   * @param sources One a size.
   * @throws {UserError} when a batch does not fit the device.
   */
  static async create<B>(
    network: Network,
    sources: readonly BatchSource<B>[],
    { accumulate = 1, ...options }: RunStepsOptions,
  ): Promise<RunSteps<B>> {
    const steps = new Map<number, TrainStep<B> | GradientStep<B>>();
    const compile = accumulate === 1 ? trainStep<B> : gradientStep<B>;
    try {
      for (const source of sources) steps.set(source.shape.n, await compile(network, { ...options, source }));
      return new RunSteps(accumulate, steps, accumulate === 1 ? undefined : await updateStep(network, options));
    } catch (error) {
      for (const step of steps.values()) step.destroy();
      throw error;
    }
  }

  /** Steps run since results were last collected. */
  get pending(): number {
    return this.#queued.length;
  }

  /** Whether results must be collected before the next step. */
  get full(): boolean {
    return this.#batches + this.#accumulate > RING_SLOTS || this.#bytes >= QUEUED_BYTES;
  }

  /** Submits one step on its batches, at most as many as are accumulated, and returns at once. */
  run(batches: readonly RunBatch<B>[], { learningRate }: { readonly learningRate: number }): void {
    const all = batches.reduce((sum, { rows }) => sum + rows, 0);
    for (const [index, { rows, batch }] of batches.entries()) {
      const step = this.#steps.get(rows)!;
      step.run(batch, { learningRate, share: rows / all, first: index === 0 });
      this.#bytes += step.batchBytes;
    }
    this.#update?.run({ learningRate });
    this.#queued.push(batches.map(({ rows }) => this.#steps.get(rows)!));
    this.#batches += batches.length;
  }

  /** Results of all steps since the last call. Others may be run meanwhile. */
  async collect(): Promise<CollectedSteps> {
    const queued = this.#queued;
    this.#queued = [];
    this.#batches = this.#bytes = 0;
    // All at once: what is run from now on belongs to the next call.
    const ran = [...new Set(queued.flat())];
    const [more, ...each] = await Promise.all([this.#update?.collect() ?? [], ...ran.map((step) => step.collect())]);
    const updates = more.values(), found = new Map(ran.map((step, i) => [step, each[i].values()]));
    const results = queued.map((steps) =>
      merged(steps.map((step) => found.get(step)!.next().value!), updates.next().value)
    );
    const cold = ran.some((step) => !this.#warm.has(step));
    for (const step of ran) this.#warm.add(step);
    return { results, cold };
  }

  /** Frees what the steps own on the device. */
  destroy(): void {
    for (const step of this.#steps.values()) step.destroy();
    this.#update?.destroy();
  }
}

/** What a step's batches came to together, and what its update tells beside. */
function merged(batches: readonly StepResult[], update: StepResult | undefined): StepResult {
  if (batches.length === 1 && !update) return batches[0];
  const sum = (what: "rows" | "lossSum" | "correct" | "top5") => batches.reduce((sum, each) => sum + each[what], 0);
  const anomaly = [...batches, update].find((each) => each?.anomaly !== undefined)?.anomaly;
  return {
    ...{ rows: sum("rows"), lossSum: sum("lossSum"), correct: sum("correct"), top5: sum("top5") },
    ...(update?.gradientNorm !== undefined && { gradientNorm: update.gradientNorm }),
    ...(update?.skipped !== undefined && { lossScale: update.lossScale, skipped: update.skipped }),
    ...(anomaly !== undefined && { anomaly }),
  };
}
