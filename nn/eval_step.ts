/** Steps that evaluate: forward and loss by running statistics, and which class each row was taken for. */

import type { Device } from "../kernels/device.ts";
import { type ElementType, operand } from "../kernels/dispatch.ts";
import { storedElements } from "../kernels/layout.ts";
import { inSubmissions } from "../kernels/submissions.ts";
import { allocate, checkBindings } from "./batch_size.ts";
import type { BatchSource } from "./batch_source.ts";
import type { Network } from "./network.ts";
import { Plan } from "./plan.ts";
import { RING_SLOTS, Step, stepBuffers, type StepResult } from "./step.ts";
import { evaluationDispatches } from "./step_dispatches.ts";

/** What {@linkcode evalStep} needs beside the network. */
export interface EvalStepOptions<B> {
  /** Where batches come from. */
  readonly source: BatchSource<B>;
  /** `f16`: activations and weights are stored as halves, all arithmetic is float32. Default `f32`. */
  readonly precision?: ElementType;
}

/** What one evaluated row turned out to be. */
export interface Evaluation {
  /** A step each, in order. */
  readonly results: readonly StepResult[];
  /** The class of the largest logit, a row each, over all collected steps. */
  readonly predictions: Uint32Array;
}

/** Forward pass and loss with running statistics; a batch may have fewer rows than the step's. */
export class EvalStep<B> extends Step<B> {
  readonly #device: Device;
  readonly #logits: { buffer: GPUBuffer; elements: number; classes: number; stride: number };
  readonly #predictions: { last: GPUBuffer; ring: GPUBuffer };
  #rows: number[] = [];
  #slots: number[] = [];

  /** @internal Use {@linkcode evalStep}. */
  constructor(
    network: Network,
    source: BatchSource<B>,
    plan: Plan,
    buffers: { settings: GPUBuffer; metrics: GPUBuffer },
    logits: { buffer: GPUBuffer; elements: number; classes: number; stride: number },
    predictions: { last: GPUBuffer; ring: GPUBuffer },
  ) {
    super(network, source, plan, buffers, [logits.buffer, predictions.last, predictions.ring]);
    this.#device = network.device;
    this.#logits = logits;
    this.#predictions = predictions;
  }

  /** Classes of the network. */
  get classes(): number {
    return this.#logits.classes;
  }

  /** Submits one step and returns at once. */
  run(batch: B): void {
    this.submit(batch, {}, {
      after: (encoder, slot) => {
        const { last, ring } = this.#predictions;
        encoder.copyBufferToBuffer(last, 0, ring, slot * last.size, last.size);
        this.#slots.push(slot);
      },
    });
  }

  /** Takes any number of rows. */
  protected checkRows(rows: number): void {
    this.#rows.push(rows);
  }

  /** Logits of the step that ran last, `[batchSize, classes]`. Waits for it. */
  async logits(): Promise<Float32Array> {
    const { buffer, elements, classes, stride } = this.#logits;
    const stored = new Float32Array(await this.#device.read(buffer, 0, elements * 4));
    const out = new Float32Array(elements / stride * classes);
    for (let row = 0; row < elements / stride; row++) {
      out.set(stored.subarray(row * stride, row * stride + classes), row * classes);
    }
    return out;
  }

  /** As every step's; their predictions are let go. */
  override collect(): Promise<StepResult[]> {
    this.#rows = [];
    this.#slots = [];
    return super.collect();
  }

  /** Results and predictions of all steps since the last call. Waits for them. */
  async evaluations(): Promise<Evaluation> {
    const { last, ring } = this.#predictions;
    const rows = this.#rows, slots = this.#slots;
    // Both at once: where one fails, so does the other, and neither may fail unheard.
    const [results, bytes] = await Promise.all([this.collect(), this.#device.read(ring, 0, ring.size)]);
    const all = new Uint32Array(bytes);
    const predictions = new Uint32Array(rows.reduce((sum, count) => sum + count, 0));
    let at = 0;
    for (const [i, slot] of slots.entries()) {
      const from = slot * last.size / 4;
      predictions.set(all.subarray(from, from + rows[i]), at);
      at += rows[i];
    }
    return { results, predictions };
  }
}

/**
 * Compiles an evaluation step.
 *
 * @throws {UserError} when the batch does not fit the device's limits, with the batch size that would.
 */
export async function evalStep<B>(network: Network, options: EvalStepOptions<B>): Promise<EvalStep<B>> {
  const { device, module, weights } = network;
  const { source, precision = "f32" } = options;
  const caps = device.capabilities;
  const { settings, metrics, buffers, places, counted } = await stepBuffers(device, "eval");
  const { x, labels, shape: { n: rows } } = source;
  const predictions = operand("predictions", rows);
  const halves = precision === "f16" ? (await weights.prepareHalves()).dispatches(caps) : [];
  const { dispatches: forward, logits, output } = evaluationDispatches(
    module,
    source.shape,
    { x, labels, metrics, settings, predictions },
    weights,
    { caps, precision },
  );
  const dispatches = inSubmissions([...source.dispatches(caps), ...halves, ...forward], counted);
  checkBindings(device, dispatches, rows);
  const classes = output.c, elements = storedElements(output);
  const logitsBuffer = await device.buffer("logits", logits.byteLength);
  const last = await device.buffer("predictions", predictions.byteLength);
  const ring = await device.buffer("predictions ring", last.size * RING_SLOTS);
  places.set(logits, { buffer: logitsBuffer, offset: 0 });
  places.set(predictions, { buffer: last, offset: 0 });
  const plan = new Plan(device, dispatches, (o) => weights.place(o) ?? source.place(o) ?? places.get(o));
  await allocate(network, plan, source.shape, { training: false, precision });
  const shape = { buffer: logitsBuffer, elements, classes, stride: elements / rows };
  return new EvalStep(network, source, plan, buffers, shape, { last, ring });
}
