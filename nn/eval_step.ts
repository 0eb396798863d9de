/** Steps that evaluate: forward and loss by running statistics, and which class each row was taken for. */

import { type ElementType, operand } from "../kernels/dispatch.ts";
import { padded } from "../kernels/layout.ts";
import { inSubmissions } from "../kernels/submissions.ts";
import { allocate, checkBindings } from "./batch_size.ts";
import type { BatchSource } from "./batch_source.ts";
import type { Network } from "./network.ts";
import { Plan } from "./plan.ts";
import { checkSource } from "./source_check.ts";
import { RING_SLOTS, Step, StepBuffers, type StepResult } from "./step.ts";
import { evaluationDispatches } from "./step_dispatches.ts";

/** What {@linkcode evalStep} needs beside the network. */
export interface EvalStepOptions<B> {
  /** Where batches come from. */
  readonly source: BatchSource<B>;
  /** `f16`: activations and weights are stored as halves, all arithmetic is float32. Default `f32`. */
  readonly precision?: ElementType;
}

/** What evaluated batches came to. */
export interface Evaluation {
  /** A step each, in order. */
  readonly results: readonly StepResult[];
  /** The class of the largest logit, `NO_CLASS` where they have no softmax; a row each, over all collected steps. */
  readonly predictions: Uint32Array;
}

/** Forward pass and loss with running statistics; a batch may have fewer rows than the step's. */
export class EvalStep<B> extends Step<B> {
  readonly #logits: GPUBuffer;
  readonly #predictions: { last: GPUBuffer; ring: GPUBuffer };

  /** @internal Use {@linkcode evalStep}. */
  constructor(
    network: Network,
    source: BatchSource<B>,
    classes: number,
    plan: Plan,
    own: StepBuffers,
    logits: GPUBuffer,
    predictions: { last: GPUBuffer; ring: GPUBuffer },
  ) {
    super(network, source, classes, plan, own);
    this.#logits = logits;
    this.#predictions = predictions;
  }

  /**
   * Submits one step and returns at once.
   *
   * @throws {RangeError} where the source refuses the batch: for too many rows, say, or a label that is none of the classes.
   * @throws {Error} when {@linkcode RING_SLOTS} results wait to be collected.
   * @throws {DeviceLostError} when the device was lost.
   */
  run(batch: B): void {
    const { last, ring } = this.#predictions;
    this.submit(batch, {}, {
      after: (encoder, slot) => encoder.copyBufferToBuffer(last, 0, ring, slot * last.size, last.size),
    });
  }

  /** Takes any number of rows. */
  protected checkRows(): void {}

  /**
   * Logits of the step that ran last, `[batchSize, classes]`. Waits for it. Of a batch of fewer rows the first ones count;
   * those behind are of what the source held before: cut them off, as `logits.subarray(0, rows * classes)`.
   *
   * @throws {DeviceLostError} where it did not run to its end.
   * @throws {Error} where none has run.
   */
  async logits(): Promise<Float32Array> {
    const { batchSize, classes } = this, stride = padded(classes);
    const [bytes] = await this.readLast([{ buffer: this.#logits, offset: 0, byteLength: batchSize * stride * 4 }]);
    const stored = new Float32Array(bytes);
    const out = new Float32Array(batchSize * classes);
    for (let row = 0; row < batchSize; row++) {
      out.set(stored.subarray(row * stride, row * stride + classes), row * classes);
    }
    return out;
  }

  /** Results and predictions of all steps since the last call. Waits for them. */
  async evaluations(): Promise<Evaluation> {
    const { last, ring } = this.#predictions;
    const { results, slots, bytes } = await this.collectWith([{ buffer: ring, offset: 0, byteLength: ring.size }]);
    const all = new Uint32Array(bytes[0]);
    const predictions = new Uint32Array(results.reduce((sum, { rows }) => sum + rows, 0));
    let at = 0;
    for (const [i, { rows }] of results.entries()) {
      const from = slots[i] * last.size / 4;
      predictions.set(all.subarray(from, from + rows), at);
      at += rows;
    }
    return { results, predictions };
  }
}

/**
 * Compiles an evaluation step. Where the source mixes images, the loss is by both labels, as in training; what is correct
 * is told by the first.
 *
 * @throws {UserError} when the batch does not fit the device's limits, with the batch size that would.
 * @throws {Error} when the source lies on another device.
 * @throws {RangeError} when the network's output is no row of logits an image, or its layers do not fit the images; for an
 * unknown precision.
 */
export function evalStep<B>(network: Network, options: EvalStepOptions<B>): Promise<EvalStep<B>> {
  return StepBuffers.use(network, "eval", (own) => evalStepWith(own, network, options));
}

async function evalStepWith<B>(
  own: StepBuffers,
  network: Network,
  { source, precision = "f32" }: EvalStepOptions<B>,
): Promise<EvalStep<B>> {
  const { device, module, weights } = network, caps = device.capabilities;
  const { settings, metrics } = own;
  checkSource(network, source);
  const { x, labels, mixes, shape: { n: rows } } = source;
  const predictions = operand("predictions", rows);
  const halves = precision === "f16" ? (await weights.prepareHalves()).dispatches(caps) : [];
  const { dispatches: forward, logits, classes } = evaluationDispatches(
    module,
    source.shape,
    { x, labels, mixes, metrics, settings, predictions },
    weights,
    { caps, precision },
  );
  const dispatches = inSubmissions([...source.dispatches(caps), ...halves, ...forward], own.counted);
  checkBindings(network, dispatches, rows);
  const kept = await own.add("logits", logits);
  const last = await own.add("predictions", predictions);
  const ring = await own.add("predictions ring", operand("predictions ring", last.size / 4 * RING_SLOTS));
  const plan = new Plan(device, dispatches, (o) => weights.place(o) ?? source.place(o) ?? own.place(o));
  await allocate(network, plan, source.shape, { training: false, precision });
  return new EvalStep(network, source, classes, plan, own, kept, { last, ring });
}
