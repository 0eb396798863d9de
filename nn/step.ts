/**
 * Steps: a network and a source of batches compiled into one plan each. `run` writes the batch, submits the plan and
 * returns at once; results stay in a ring on the device until `collect` reads them, all at one time.
 */

import { crossEntropy, metricsElements } from "../kernels/cross_entropy.ts";
import type { Device } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { gradNorm } from "../kernels/grad_norm.ts";
import { storedElements } from "../kernels/layout.ts";
import type { Placement } from "../kernels/program.ts";
import { sgd } from "../kernels/sgd.ts";
import { encodeStepSettings, stepSettingsOperand } from "../kernels/step_settings.ts";
import { allocate, checkBindings } from "./batch_size.ts";
import type { BatchSource } from "./batch_source.ts";
import { fuse, fuseForEvaluation } from "./fuse.ts";
import { trace } from "./graph.ts";
import { lower } from "./lowering.ts";
import type { Network } from "./network.ts";
import { watch } from "./anomaly.ts";
import { type Arena, Plan } from "./plan.ts";
import { Counter, Parameter } from "./state.ts";

export { BatchSizeError } from "./batch_size.ts";

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
}

/** How many steps' results the device holds: `collect` must come at least that often. */
export const RING_SLOTS = 256;

/** PyTorch's SGD. */
export interface SgdSettings {
  /** Default 0.9. */
  readonly momentum?: number;
  /** L2, added to the gradient. Default 0. */
  readonly weightDecay?: number;
  /** Whether batch norm's parameters and biases decay too, as PyTorch's do unless told otherwise. Default true. */
  readonly decayVectors?: boolean;
  /** Default false. */
  readonly nesterov?: boolean;
}

/** What both kinds of steps have. */
export abstract class Step<B> {
  /** What it runs. */
  readonly plan: Plan;
  readonly #device: Device;
  readonly #arena: Arena;
  readonly #source: BatchSource<B>;
  readonly #buffers: readonly GPUBuffer[];
  readonly #settings: GPUBuffer;
  readonly #metrics: GPUBuffer;
  readonly #more: MoreResults;
  #pending = 0;
  #next = 0;

  /** See `trainStep` and `evalStep`. */
  constructor(
    network: Network,
    source: BatchSource<B>,
    plan: Plan,
    own: { settings: GPUBuffer; metrics: GPUBuffer },
    more: readonly GPUBuffer[],
    results: MoreResults = {},
  ) {
    this.#more = results;
    this.#device = network.device;
    this.#arena = network.arena;
    this.#source = source;
    this.plan = plan;
    this.#settings = own.settings;
    this.#metrics = own.metrics;
    this.#buffers = [own.settings, own.metrics, ...more];
  }

  /** Rows of a whole batch. */
  get batchSize(): number {
    return this.#source.shape.n;
  }

  /** Steps run whose results have not been collected. */
  get pending(): number {
    return this.#pending;
  }

  /** Submits a step. `after` may encode copies of what it made, given the step's slot in the ring. */
  protected submit(batch: B, learningRate: number, after?: (encoder: GPUCommandEncoder, slot: number) => void): void {
    if (this.#pending === RING_SLOTS) throw new Error(`Collect the results at least every ${RING_SLOTS} steps`);
    this.#device.check();
    const validRows = this.#source.load(batch);
    this.checkRows(validRows);
    const slot = this.#next;
    this.#next = (slot + 1) % RING_SLOTS;
    this.#pending++;
    this.#device.write(this.#settings, 0, encodeStepSettings({ validRows, slot, learningRate }));
    const encoder = this.#device.gpu.createCommandEncoder();
    this.plan.encode(encoder);
    after?.(encoder, slot);
    this.#device.suspect(this.plan.program);
    this.#device.gpu.queue.submit([encoder.finish()]);
  }

  /** Whether a batch may have so many rows. */
  protected abstract checkRows(rows: number): void;

  /** Results of all steps since the last call, oldest first. Waits for them. */
  async collect(): Promise<StepResult[]> {
    const count = this.#pending, first = this.#next - count;
    if (count === 0) return [];
    const bytes = await this.#device.read(this.#metrics, 0, this.#metrics.size);
    const ring = new Float32Array(bytes);
    const { norms, found, describe } = this.#more;
    const findings = found && new Uint32Array(await this.#device.read(found, 0, found.size));
    // Steps may have been submitted meanwhile.
    this.#pending -= count;
    return Array.from({ length: count }, (_, i) => {
      const slot = (first + i + RING_SLOTS) % RING_SLOTS;
      const [lossSum, correct, top5, rows] = ring.subarray(slot * 4, slot * 4 + 4);
      const anomaly = findings && describe?.(findings[slot]);
      return {
        ...{ rows, lossSum, correct, top5 },
        ...(norms !== undefined && { gradientNorm: ring[norms / 4 + slot * 4] }),
        ...(anomaly !== undefined && { anomaly }),
      };
    });
  }

  /** Frees what the step owns on the device; the source is the caller's. */
  destroy(): void {
    this.#arena.remove(this.plan);
    this.plan.destroy();
    for (const buffer of this.#buffers) buffer.destroy();
  }
}

/** Rings beside the one of metrics. */
interface MoreResults {
  /** Bytes at which the one of norms begins, behind the metrics in the same buffer, as each reading costs time. */
  readonly norms?: number;
  /** Findings: in a buffer of its own, as kernels write it that read all others. */
  readonly found?: GPUBuffer;
  /** What an entry of `found` means. */
  readonly describe?: (found: number) => string | undefined;
}

/** Operands that a step owns: what the host writes and reads around the plan. */
async function stepBuffers(device: Device, label: string) {
  const settings = stepSettingsOperand(), metrics = operand("metrics", metricsElements(RING_SLOTS));
  const norms = operand("gradient norms", RING_SLOTS * 4);
  const buffers = {
    settings: await device.buffer(`${label} settings`, settings.byteLength),
    metrics: await device.buffer(`${label} metrics`, metrics.byteLength + norms.byteLength),
  };
  const places = new Map<Operand, Placement>([
    [settings, { buffer: buffers.settings, offset: 0 }],
    [metrics, { buffer: buffers.metrics, offset: 0 }],
    [norms, { buffer: buffers.metrics, offset: metrics.byteLength }],
  ]);
  return { settings, metrics, norms, buffers, places };
}

// ---------------------------------------------------------------------------------------------------------------------
// Training
// ---------------------------------------------------------------------------------------------------------------------

/** What {@linkcode trainStep} needs beside the network. */
export interface TrainStepOptions<B> {
  /** Where batches come from. */
  readonly source: BatchSource<B>;
  /** Default: momentum 0.9. */
  readonly optimizer?: SgdSettings;
  /** Default 0. */
  readonly labelSmoothing?: number;
  /**
   * Entries of the `state_dict` that stay as they are, running statistics among them: see `freezing.ts`. All must come
   * before what learns. Default none.
   */
  readonly frozen?: (name: string) => boolean;
  /** Scale the gradients down to this norm; see `grad_norm.ts`. */
  readonly clipGradNorm?: number;
  /** Look for the first value that is not finite, after each kernel. Default false. */
  readonly detectAnomaly?: boolean;
}

/** Forward, loss, backward and optimizer on batches of one size. */
export class TrainStep<B> extends Step<B> {
  readonly #network: Network;
  readonly #frozen: ((name: string) => boolean) | undefined;

  /** @internal Use {@linkcode trainStep}. */
  constructor(
    network: Network,
    source: BatchSource<B>,
    plan: Plan,
    buffers: { settings: GPUBuffer; metrics: GPUBuffer },
    results: MoreResults,
    frozen?: (name: string) => boolean,
  ) {
    super(network, source, plan, buffers, results.found ? [results.found] : [], results);
    this.#network = network;
    this.#frozen = frozen;
  }

  /**
   * Submits one step and returns at once.
   *
   * @throws {RangeError} when the batch has not exactly {@linkcode batchSize} rows: its statistics would be wrong.
   */
  run(batch: B, { learningRate }: { readonly learningRate: number }): void {
    this.submit(batch, learningRate);
    this.#network.weights.countStep(this.#frozen);
  }

  /** Refuses other than whole batches. */
  protected checkRows(rows: number): void {
    if (rows !== this.batchSize) {
      throw new RangeError(`Cannot train on ${rows} rows: this step is for ${this.batchSize}`);
    }
  }
}

/**
 * Compiles a training step: mean softmax cross-entropy, gradients, and PyTorch's SGD.
 *
 * @throws {UserError} when the batch does not fit the device's limits, with the batch size that would.
 */
export async function trainStep<B>(network: Network, options: TrainStepOptions<B>): Promise<TrainStep<B>> {
  const { device, module, weights } = network;
  const { source, optimizer = {}, labelSmoothing = 0, clipGradNorm, detectAnomaly } = options;
  const still = options.frozen && weights.parametersNamed(options.frozen);
  const frozen = still && ((parameter: Parameter) => still.has(parameter));
  const { momentum = 0.9, weightDecay = 0, decayVectors = true, nesterov = false } = optimizer;
  const caps = device.capabilities;
  const graph = fuse(trace(module, source.shape));
  const chunks = await weights.prepareTraining(frozen);
  const { settings, metrics, norms, buffers, places } = await stepBuffers(device, "train");
  let dispatches: readonly Dispatch[] = [...source.dispatches(caps)];
  const emit = (more: readonly Dispatch[]) => void (dispatches = [...dispatches, ...more]);
  const lowered = lower(graph, source.x, weights, { caps, training: true, emit, frozen });
  const { n: rows, c: classes } = graph.output.shape;
  const dlogits = operand("dlogits", storedElements(graph.output.shape));
  emit(crossEntropy(
    { logits: lowered.output, labels: source.labels, mixes: source.mixes, dlogits, metrics, settings },
    { rows, classes, labelSmoothing },
    caps,
  ));
  lowered.backward(dlogits);
  if (clipGradNorm !== undefined) {
    emit(gradNorm({ chunks, norms, settings }, { maxNorm: clipGradNorm }, caps));
  }
  for (const { elements, matrixElements, parameters, gradients, momentum: momentumBuffer } of chunks) {
    const decayed = decayVectors ? elements : matrixElements;
    emit(sgd(
      { parameters, gradients, momentumBuffer, settings },
      { elements, momentum, weightDecay, decayed, nesterov },
      caps,
    ));
  }
  let results: MoreResults = clipGradNorm === undefined ? {} : { norms: metrics.byteLength };
  if (detectAnomaly) {
    const found = operand("findings", RING_SLOTS), buffer = await device.buffer(found.label, found.byteLength);
    places.set(found, { buffer, offset: 0 });
    const watched = watch(dispatches, { found, settings, names: stateNames(network, frozen), caps });
    dispatches = watched.dispatches;
    results = { ...results, found: buffer, describe: watched.describe };
  }
  checkBindings(device, dispatches, rows);
  const plan = new Plan(device, dispatches, (o) => weights.place(o) ?? source.place(o) ?? places.get(o));
  await allocate(network, plan, source.shape, true);
  return new TrainStep(network, source, plan, buffers, results, options.frozen);
}

/** Names of parameters and statistics by where they lie, and of what learns by where its gradients do. */
function stateNames({ module, weights }: Network, frozen?: (parameter: Parameter) => boolean): Map<Operand, string> {
  const names = new Map<Operand, string>();
  for (const [name, entry] of module.stateEntries()) {
    if (entry instanceof Counter) continue;
    names.set(weights.state(entry), name);
    if (entry instanceof Parameter && !frozen?.(entry)) names.set(weights.gradient(entry), name);
  }
  return names;
}

// ---------------------------------------------------------------------------------------------------------------------
// Evaluation
// ---------------------------------------------------------------------------------------------------------------------

/** What {@linkcode evalStep} needs beside the network. */
export interface EvalStepOptions<B> {
  /** Where batches come from. */
  readonly source: BatchSource<B>;
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
    this.submit(batch, 0, (encoder, slot) => {
      const { last, ring } = this.#predictions;
      encoder.copyBufferToBuffer(last, 0, ring, slot * last.size, last.size);
      this.#slots.push(slot);
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
  const { source } = options;
  const caps = device.capabilities;
  const graph = fuseForEvaluation(fuse(trace(module, source.shape)), caps);
  const { settings, metrics, buffers, places } = await stepBuffers(device, "eval");
  const dispatches: Dispatch[] = [...source.dispatches(caps)];
  const emit = (more: readonly Dispatch[]) => void dispatches.push(...more);
  const { output: logits } = lower(graph, source.x, weights, { caps, training: false, emit });
  const { n: rows, c: classes } = graph.output.shape;
  const predictions = operand("predictions", rows);
  emit(crossEntropy(
    { logits, labels: source.labels, metrics, settings, predictions },
    { rows, classes, labelSmoothing: 0 },
    caps,
  ));
  checkBindings(device, dispatches, rows);
  const elements = storedElements(graph.output.shape);
  const logitsBuffer = await device.buffer("logits", logits.byteLength);
  const last = await device.buffer("predictions", predictions.byteLength);
  const ring = await device.buffer("predictions ring", last.size * RING_SLOTS);
  places.set(logits, { buffer: logitsBuffer, offset: 0 });
  places.set(predictions, { buffer: last, offset: 0 });
  const plan = new Plan(device, dispatches, (o) => weights.place(o) ?? source.place(o) ?? places.get(o));
  await allocate(network, plan, source.shape, false);
  const shape = { buffer: logitsBuffer, elements, classes, stride: elements / rows };
  return new EvalStep(network, source, plan, buffers, shape, { last, ring });
}
