/** Steps that train: forward, loss, backward and optimizer in one plan. */

import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { gradNorm } from "../kernels/grad_norm.ts";
import { sgd } from "../kernels/sgd.ts";
import { watch } from "./anomaly.ts";
import { allocate, checkBindings } from "./batch_size.ts";
import type { BatchSource } from "./batch_source.ts";
import type { Network } from "./network.ts";
import { Plan } from "./plan.ts";
import { Counter, Parameter } from "./state.ts";
import { type MoreResults, RING_SLOTS, Step, stepBuffers } from "./step.ts";
import { trainingDispatches } from "./step_dispatches.ts";

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
  const chunks = await weights.prepareTraining(frozen);
  const { settings, metrics, norms, buffers, places } = await stepBuffers(device, "train");
  const { x, labels, mixes } = source;
  const emitted: Dispatch[] = [
    ...source.dispatches(caps),
    ...trainingDispatches(module, source.shape, { x, labels, mixes, settings, metrics }, weights, {
      caps,
      labelSmoothing,
      frozen,
    }),
  ];
  const emit = (more: readonly Dispatch[]) => void emitted.push(...more);
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
  let dispatches: readonly Dispatch[] = emitted;
  let results: MoreResults = clipGradNorm === undefined ? {} : { norms: metrics.byteLength };
  if (detectAnomaly) {
    const found = operand("findings", RING_SLOTS), buffer = await device.buffer(found.label, found.byteLength);
    places.set(found, { buffer, offset: 0 });
    const watched = watch(dispatches, { found, settings, names: stateNames(network, frozen), caps });
    dispatches = watched.dispatches;
    results = { ...results, found: buffer, describe: watched.describe };
  }
  checkBindings(device, dispatches, source.shape.n);
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
