/**
 * Steps that train: forward, loss, backward and optimizer in one plan; or the gradients of several batches summed by one
 * plan, and the optimizer in another.
 */

import { accumulate } from "../kernels/accumulate.ts";
import { type Dispatch, type ElementType, type Operand, operand } from "../kernels/dispatch.ts";
import { clear } from "../kernels/elementwise.ts";
import { inSubmissions } from "../kernels/submissions.ts";
import { UserError } from "../kernels/user_error.ts";
import { watch } from "./anomaly.ts";
import { allocate, checkBindings } from "./batch_size.ts";
import type { BatchSource } from "./batch_source.ts";
import type { Graph } from "./graph.ts";
import { quoted } from "./json.ts";
import type { Network } from "./network.ts";
import { AMOUNT, checkSettings } from "./number_check.ts";
import { Plan } from "./plan.ts";
import { Counter, Parameter } from "./state.ts";
import { type Around, type MoreResults, RING_SLOTS, RingStep, Step, StepBuffers } from "./step.ts";
import { checkSource } from "./source_check.ts";
import { trainingDispatches, trainingGraph } from "./step_dispatches.ts";
import { updateDispatches, updateOf, type UpdateSettings } from "./update.ts";
import type { SummedAs } from "./training_memory.ts";
import type { Weights } from "./weights.ts";

/** What steps that train are compiled with. */
export interface TrainingStepOptions {
  /**
   * Entries of the `state_dict` that stay as they are, running statistics among them: see `freezing.ts`. All must come
   * before what learns, and be all of their layers'. Both parts of a step in two parts must have the same. Default none.
   */
  readonly frozen?: (name: string) => boolean;
  /** Look for the first value that is not finite, after each kernel. Default false. */
  readonly detectAnomaly?: boolean;
  /**
   * `f16`: activations, their gradients and the weights that convolutions load are stored as halves, and the loss is scaled
   * as PyTorch's `GradScaler` does it, the scale being the network's; parameters, what they are updated by and all arithmetic
   * stay float32. Both parts of a step in two parts must have the same. Default `f32`.
   */
  readonly precision?: ElementType;
}

/** What {@linkcode gradientStep} needs beside the network. */
export interface GradientStepOptions<B> extends TrainingStepOptions {
  /** Where batches come from. */
  readonly source: BatchSource<B>;
  /** From 0 to 1. Default 0. */
  readonly labelSmoothing?: number;
}

/** What {@linkcode updateStep} needs beside the network. */
export interface UpdateStepOptions extends TrainingStepOptions, UpdateSettings {}

/** What {@linkcode trainStep} needs beside the network. */
export interface TrainStepOptions<B> extends GradientStepOptions<B>, UpdateStepOptions {}

/** A step that learns from batches of one size. */
export abstract class LearningStep<B> extends Step<B> {
  readonly #network: Network;
  readonly #frozen: ((name: string) => boolean) | undefined;

  /** @internal Use {@linkcode trainStep} or {@linkcode gradientStep}. */
  constructor(
    network: Network,
    { source, frozen }: GradientStepOptions<B>,
    { classes, plan, own, results }: Compiled,
  ) {
    super(network, source, classes!, plan, own, results);
    this.#network = network;
    this.#frozen = frozen;
  }

  /** Submits a step, and counts the batch. */
  protected learn(batch: B, settings: Parameters<Step<B>["submit"]>[1], around?: Around): void {
    this.#network.weights.checkOwn();
    this.submit(batch, settings, around);
    this.#network.weights.countStep(this.#frozen);
  }

  /** Refuses other than whole batches. */
  protected checkRows(rows: number): void {
    if (rows !== this.batchSize) {
      throw new RangeError(`Cannot train on ${rows} rows: this step is for ${this.batchSize}`);
    }
  }
}

/** Forward, loss, backward and optimizer on batches of one size. */
export class TrainStep<B> extends LearningStep<B> {
  /**
   * Submits one step and returns at once.
   *
   * @throws {RangeError} when the batch has not exactly {@linkcode batchSize} rows, as its statistics would be wrong; where
   * the source refuses it, as for a label that is none of the classes; for a rate that is missing, or not 0 or more and finite.
   * @throws {Error} when {@linkcode RING_SLOTS} results wait to be collected; while the network has the weights of a
   * `MovingAverage`.
   * @throws {DeviceLostError} when the device was lost.
   */
  run(batch: B, { learningRate }: { readonly learningRate: number }): void {
    checkSettings("learn", { learningRate }, AMOUNT);
    this.learn(batch, { learningRate });
  }
}

/** Forward, loss and backward on batches of one size; the gradients are added to sums that an {@linkcode UpdateStep} follows. */
export class GradientStep<B> extends LearningStep<B> {
  readonly #weights: Weights;
  readonly #summedAs: SummedAs;

  /** @internal Use {@linkcode gradientStep}. */
  constructor(network: Network, options: GradientStepOptions<B>, compiled: Compiled) {
    super(network, options, compiled);
    this.#weights = network.weights;
    this.#summedAs = compiled.summedAs;
  }

  /**
   * Submits one step and returns at once.
   *
   * @param share The batch's share of the images whose gradients are summed: the loss is the mean over all of them.
   * @param first Whether the sums begin with this batch.
   * @throws {RangeError} when the batch has not exactly {@linkcode batchSize} rows, as its statistics would be wrong; where
   * the source refuses it, as for a label that is none of the classes; for a share that is not 0 or more and finite; when
   * the sums are of steps in another precision, or with other parameters frozen.
   * @throws {Error} as {@linkcode TrainStep.run}.
   */
  run(batch: B, { share, first }: { readonly share: number; readonly first: boolean }): void {
    checkSettings("learn", { share }, AMOUNT);
    if (!first) this.#weights.checkSums(this.#summedAs);
    const before = (encoder: GPUCommandEncoder) => this.#weights.clearSums(encoder, this.#summedAs);
    this.learn(batch, { gradientScale: share }, first ? { before } : {});
  }
}

/**
 * The optimizer on sums of gradients. It has no batch, so that its results have no rows: they tell the gradients' norm, the
 * loss scale and anomalies. Without any of those `collect` has nothing to give, and need not be called.
 */
export class UpdateStep extends RingStep {
  readonly #weights: Weights;
  readonly #summedAs: SummedAs;

  /** @internal Use {@linkcode updateStep}. */
  constructor(network: Network, { plan, own, results, summedAs }: Compiled) {
    super(network, plan, own, results);
    this.#weights = network.weights;
    this.#summedAs = summedAs;
  }

  /**
   * Submits one update by the sums as they are, and returns at once.
   *
   * @throws {RangeError} when the sums are of steps in another precision, or with other parameters frozen; for a rate that is
   * missing, or not 0 or more and finite.
   * @throws {Error} as {@linkcode TrainStep.run}; results wait where there are any to collect.
   */
  run({ learningRate }: { readonly learningRate: number }): void {
    checkSettings("learn", { learningRate }, AMOUNT);
    this.checkRunnable();
    this.#weights.checkOwn();
    this.#weights.checkSums(this.#summedAs);
    this.send({ learningRate });
  }
}

/**
 * Compiles a training step: mean softmax cross-entropy, gradients, and PyTorch's SGD or AdamW.
 *
 * @throws {UserError} when the batch does not fit the device's limits, with the batch size that would; when there are no
 * parameters, or all are frozen.
 * @throws {Error} when the source lies on another device, or an operation of one's own forgets something, as a gradient.
 * @throws {TypeError} when `frozen` is no function, or the optimizer has no such setting.
 * @throws {RangeError} when the network's output is no row of logits an image, or its layers do not fit the images; for an
 * unknown precision or optimizer, label smoothing that is not from 0 to 1, and a momentum, weight decay or `clipGradNorm`
 * that is not 0 or more and finite, betas that are not from 0 to below 1, and an `eps` of less than 1e-30.
 */
export async function trainStep<B>(network: Network, options: TrainStepOptions<B>): Promise<TrainStep<B>> {
  return new TrainStep(network, options, await compile(network, { gradients: options, update: options }, options));
}

/**
 * Compiles the first part of a training step over several batches, as `loss.backward()` is called for each of them in
 * PyTorch: gradients, added to sums. Batch norm takes each batch by itself. {@linkcode updateStep} makes the rest.
 *
 * @throws {UserError} as {@linkcode trainStep} does.
 * @throws {RangeError} as {@linkcode trainStep} does.
 *
 * @example Three batches of four images as one of twelve
 * ```ts
 * import { FloatSource, gradientStep, Network, openDevice, resnext50, updateStep } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }));
 * const source = await FloatSource.create(device, { n: 4, c: 3, h: 32, w: 32 });
 * const gradients = await gradientStep(network, { source });
 * const update = await updateStep(network, { optimizer: { momentum: 0.9 } });
 *
 * const batch = { images: new Float32Array(4 * 3 * 32 * 32).fill(1), labels: [0, 1, 2, 3] };
 * for (let i = 0; i < 3; i++) gradients.run(batch, { share: 1 / 3, first: i === 0 });
 * update.run({ learningRate: 0.01 });
 * if ((await gradients.collect()).length !== 3) throw new Error("a result each");
 * device.close();
 * ```
 */
export async function gradientStep<B>(network: Network, options: GradientStepOptions<B>): Promise<GradientStep<B>> {
  return new GradientStep(network, options, await compile(network, { gradients: options }, options));
}

/**
 * Compiles the second part: PyTorch's SGD or AdamW by the sums that {@linkcode gradientStep} made.
 *
 * @throws {UserError} when all parameters are frozen, or the device has no room.
 * @throws {RangeError} for an unknown optimizer, and settings out of bounds, as {@linkcode trainStep}.
 * @throws {TypeError} for settings that the optimizer does not have.
 */
export async function updateStep(network: Network, options: UpdateStepOptions = {}): Promise<UpdateStep> {
  return new UpdateStep(network, await compile(network, { update: options }, options));
}

/** A plan with its memory, what the host writes and reads around it, and what that means. */
interface Compiled {
  readonly plan: Plan;
  readonly own: StepBuffers;
  readonly results: MoreResults;
  /** Of the network; absent where it does not run. */
  readonly classes?: number;
  readonly summedAs: SummedAs;
}

/** The parts of a step. */
interface Parts<B> {
  readonly gradients?: GradientStepOptions<B>;
  readonly update?: UpdateSettings;
}

/** Compiles one of the two parts of a step, or both into one plan; alone they pass on sums. */
function compile<B>(network: Network, parts: Parts<B>, options: TrainingStepOptions): Promise<Compiled> {
  const label = parts.gradients ? "train" : "update";
  return StepBuffers.use(network, label, (own) => compileWith(own, network, parts, options));
}

async function compileWith<B>(
  own: StepBuffers,
  network: Network,
  { gradients, update: asked }: Parts<B>,
  { frozen: isFrozen, detectAnomaly, precision = "f32" }: TrainingStepOptions,
): Promise<Compiled> {
  const { device, module, weights } = network, caps = device.capabilities;
  const { settings, metrics, norms } = own;
  // First what may be refused, as memory for training, once made, stays the network's.
  const still = frozenParameters(network, isFrozen);
  const frozen = (parameter: Parameter) => still.has(parameter);
  const update = asked && updateOf(asked);
  if (gradients) checkSource(network, gradients.source);
  const graph = gradients && trainingGraph(module, gradients.source.shape, { ...gradients, precision });
  const optimizer = update?.optimizer.kind ?? "none";
  const chunks = await weights.prepareTraining({ frozen, accumulate: !gradients || !update, optimizer });
  const half = precision === "f16";
  const lossScale = half ? (await weights.prepareLossScale()).operand : undefined;
  let classes: number | undefined;
  const emitted: Dispatch[] = [];
  const emit = (more: readonly Dispatch[]) => void emitted.push(...more);
  if (gradients && graph) {
    const { source, labelSmoothing } = gradients, { x, labels, mixes } = source;
    emit(source.dispatches(caps));
    emit(
      unusedParameters(network, graph, frozen).map((parameter) =>
        clear("clear_gradient", weights.gradient(parameter), parameter.storedElements, caps)
      ),
    );
    if (half) emit((await weights.prepareHalves()).dispatches(caps));
    const operands = { x, labels, mixes, settings, metrics, lossScale };
    const learning = { caps, precision, labelSmoothing, frozen };
    const trained = trainingDispatches(graph, operands, weights, learning);
    emit(trained.dispatches);
    classes = trained.classes;
    if (!update) emit(chunks.flatMap((chunk) => accumulate({ ...chunk, sums: chunk.sums! }, chunk.elements, caps)));
  }
  if (update) emit(updateDispatches(chunks, { norms, settings, lossScale }, update, caps));
  let dispatches: readonly Dispatch[] = emitted;
  const clips = update?.clipGradNorm !== undefined, scales = half && update !== undefined;
  // An update has no metrics.
  let results: MoreResults = { clips, scales, silent: !gradients && !clips && !scales && !detectAnomaly };
  if (detectAnomaly) {
    const found = operand("findings", RING_SLOTS), buffer = await own.add(found.label, found);
    const names = stateNames(network, { frozen, halves: half && gradients !== undefined });
    const watched = watch(dispatches, { found, settings, names, caps, pass: gradients ? "forward" : "backward" });
    dispatches = watched.dispatches;
    results = { ...results, found: buffer, describe: watched.describe };
  }
  if (gradients) checkBindings(network, dispatches, gradients.source.shape.n);
  const plan = new Plan(
    device,
    inSubmissions(dispatches, own.counted),
    (o) => weights.place(o) ?? gradients?.source.place(o) ?? own.place(o),
  );
  if (gradients) await allocate(network, plan, gradients.source.shape, { training: true, precision });
  else await network.arena.add(plan);
  return { plan, own, results, classes, summedAs: { precision, frozen: still } };
}

/** What stays as it is. Something must learn. */
function frozenParameters(
  { weights }: Network,
  frozen: TrainingStepOptions["frozen"] = () => false,
): ReadonlySet<Parameter> {
  if (typeof frozen !== "function") {
    throw new TypeError(
      `Cannot freeze ${quoted(frozen)}: give a function that tells by its name whether an entry is frozen, such as ` +
        '(name) => name.startsWith("layer1.")',
    );
  }
  const all = weights.parametersNamed(() => true), still = weights.parametersNamed(frozen);
  if (all.size === 0) throw new UserError("Cannot train: the network has no parameters");
  if (still.size === all.size) throw new UserError("Cannot train: all parameters are frozen");
  return still;
}

/**
 * What learns and is not in the graph, as where `forward` goes another way for images of another size: no operation writes
 * its gradient, which may be another step's.
 */
function unusedParameters(
  { weights }: Network,
  { nodes }: Graph,
  frozen: (parameter: Parameter) => boolean,
): Parameter[] {
  const used = new Set(nodes.flatMap(({ operation }) => operation.parameters));
  return [...weights.parametersNamed(() => true)].filter((parameter) => !used.has(parameter) && !frozen(parameter));
}

/** Names of parameters and statistics by where they lie, their halves too, and of what learns by where its gradients do. */
function stateNames(
  { module, weights }: Network,
  { frozen, halves }: { readonly frozen: (parameter: Parameter) => boolean; readonly halves: boolean },
): Map<Operand, string> {
  const names = new Map<Operand, string>();
  for (const [name, entry] of module.stateEntries()) {
    if (entry instanceof Counter) continue;
    names.set(weights.state(entry), name);
    if (halves && entry instanceof Parameter && entry.shape.length > 1) names.set(weights.half(entry), name);
    if (entry instanceof Parameter && !frozen(entry)) names.set(weights.gradient(entry), name);
  }
  return names;
}
