/**
 * A module's state on a device. All parameters stand side by side in one buffer, all running statistics in another. What a
 * module holds under several names has one place, and all its names in the `state_dict`, as in PyTorch. Beside the state
 * stands what steps need and ask for: `training_memory.ts`, `half_weights.ts`, `loss_scale.ts`.
 */

import type { Device } from "../kernels/device.ts";
import { type Operand, operand } from "../kernels/dispatch.ts";
import { FIRST_LOSS_SCALE, type LossScaleState } from "../kernels/loss_scale.ts";
import type { Placement } from "../kernels/program.ts";
import { Random } from "../kernels/random.ts";
import { HalfWeights } from "./half_weights.ts";
import { Lifetime } from "./lifetime.ts";
import { LossScale } from "./loss_scale.ts";
import type { StatePlaces } from "./lowering.ts";
import type { Module } from "./module.ts";
import type { AdamWState } from "./optimizer_memory.ts";
import { float32Tensor, int64Scalar, scalarOf, type TensorData, toFloat32 } from "./safetensors.ts";
import { Counter, Parameter, type StateBuffer, type StateEntry } from "./state.ts";
import { checkNames } from "./state_check.ts";
import { type OptimizerChunk, type SummedAs, TrainingMemory, type TrainingOptions } from "./training_memory.ts";
import { Turns } from "./turns.ts";
import { ALIGNMENT, layOut, readParameters, type WeightLayout } from "./weight_layout.ts";

/** Tensors by name, as PyTorch's `state_dict()`. */
export type StateDict = ReadonlyMap<string, TensorData>;

/** A buffer that holds a part of the state. */
export interface WeightBuffer {
  /** What is in it. */
  readonly label: string;
  /** On the device. */
  readonly buffer: GPUBuffer;
}

/** What makes a {@linkcode Weights}. */
export interface WeightsOptions {
  /** Of the initialization: a whole number from 0 on. Default 0. */
  readonly seed?: number;
}

/**
 * A module's parameters, running statistics and counters on a device; with gradients, what optimizers keep, sums of gradients
 * and copies in half precision for the steps that need them.
 */
export class Weights implements StatePlaces {
  readonly #device: Device;
  readonly #entries: readonly { name: string; entry: Parameter | StateBuffer; offset: number; operand: Operand }[];
  /** All names with what they stand for, in the order of the `state_dict`. */
  readonly #names: readonly (readonly [name: string, entry: StateEntry])[];
  readonly #counts = new Map<Counter, number>();
  readonly #operands = new Map<Parameter | StateBuffer, Operand>();
  readonly #places = new Map<Operand, Placement>();
  readonly #parameters: GPUBuffer;
  readonly #statistics: GPUBuffer;
  readonly #layout: WeightLayout;
  readonly #preparing = new Turns();
  readonly #life: Lifetime;
  #training: TrainingMemory | undefined;
  #halves: HalfWeights | undefined;
  #lossScale: LossScale | undefined;

  private constructor(
    device: Device,
    module: Module,
    parameters: GPUBuffer,
    statistics: GPUBuffer,
    layout: WeightLayout,
  ) {
    this.#device = device;
    this.#layout = layout;
    this.#life = new Lifetime("the network", [device]);
    this.#parameters = parameters;
    this.#statistics = statistics;
    this.#entries = layout.entries.map(({ name, entry, offset }) => {
      const place = operand(name, entry.storedElements);
      this.#operands.set(entry, place);
      this.#places.set(place, { buffer: entry instanceof Parameter ? parameters : statistics, offset });
      return { name, entry, offset, operand: place };
    });
    this.#names = [...module.stateEntries()];
    this.#resetCounts();
  }

  /**
   * Places a module's state on a device, freshly initialized from a seed.
   *
   * @throws {RangeError} for a seed that is no whole number from 0 to below 2^53.
   * @throws {UserError} where the device has no room.
   */
  static async create(device: Device, module: Module, { seed = 0 }: WeightsOptions = {}): Promise<Weights> {
    // Halves lie at half the offsets.
    const layout = layOut(module, Math.max(ALIGNMENT, 2 * device.capabilities.storageAlignment));
    const [parameters, statistics] = await device.buffers([
      { label: "parameters", byteLength: layout.parameterBytes },
      { label: "statistics", byteLength: layout.statisticBytes },
    ]);
    try {
      const weights = new Weights(device, module, parameters, statistics, layout);
      weights.initialize(seed);
      return weights;
    } catch (error) {
      device.free(parameters, statistics);
      throw error;
    }
  }

  /**
   * Draws new parameters: each from its own stream of the seed. Counters and what optimizers keep start from zero, the loss
   * scale from its beginning.
   */
  initialize(seed: number): void {
    this.#life.check();
    for (const [index, { entry, operand }] of this.#entries.entries()) {
      this.#write(operand, entry.toStored(entry.initialValues(new Random(seed, index))));
    }
    this.#resetCounts();
    this.#lossScale?.write(FIRST_LOSS_SCALE);
    this.#training?.optimizers.clear();
  }

  #resetCounts(): void {
    for (const [, entry] of this.#names) if (entry instanceof Counter) this.#counts.set(entry, entry.initial);
  }

  #write(operand: Operand, values: Float32Array<ArrayBuffer>): void {
    const { buffer, offset } = this.#places.get(operand)!;
    this.#device.write(buffer, offset, values);
  }

  /** Refuses to be used once it is destroyed, or the device is closed or failed. @throws {Error} */
  check(): void {
    this.#life.check();
  }

  /** Where an entry lies. */
  state(entry: Parameter | StateBuffer): Operand {
    const found = this.#operands.get(entry);
    if (!found) {
      throw new Error(
        `A parameter of shape [${entry.shape}] is used that the module does not list: keep it in a field`,
      );
    }
    return found;
  }

  /** Where a parameter's gradient goes; {@linkcode prepareTraining} first. */
  gradient(parameter: Parameter): Operand {
    const found = this.#training?.gradient(parameter);
    if (!found) throw new Error("Cannot train: the gradients have no memory yet");
    return found;
  }

  /** Where the half precision copy of a weight lies; {@linkcode prepareHalves} first. */
  half(parameter: Parameter): Operand {
    const found = this.#halves?.operand(parameter);
    if (!found) throw new Error("Cannot use half precision: the weights have no copies yet");
    return found;
  }

  /** The place of an operand of this state. */
  place(operand: Operand): Placement | undefined {
    this.#life.check();
    return this.#places.get(operand);
  }

  /** The buffers of all floats of the state: for copies and averages of the whole. */
  get buffers(): readonly WeightBuffer[] {
    return [{ label: "parameters", buffer: this.#parameters }, { label: "statistics", buffer: this.#statistics }];
  }

  /** Bytes on the device. */
  get bytes(): number {
    const buffers = [this.#parameters, this.#statistics, ...this.#training?.buffers ?? [], this.#halves?.buffer];
    return buffers.reduce((sum, buffer) => sum + (buffer?.size ?? 0), 0);
  }

  /**
   * Makes room for gradients, what the optimizer keeps (zero) and the sums that are asked for, once; the stretches an
   * optimizer passes over, which are all but those of frozen parameters.
   */
  prepareTraining(options: TrainingOptions = {}): Promise<readonly OptimizerChunk[]> {
    return this.#withTraining((training) => training.chunks(options));
  }

  /** Makes room for gradients, once, and goes on with what belongs to them. */
  #withTraining<T>(work: (training: TrainingMemory) => Promise<T>): Promise<T> {
    return this.#prepare(async () =>
      await work(
        this.#training ??= await TrainingMemory.create(this.#device, this.#layout, this.#parameters, this.#places),
      )
    );
  }

  /** Makes room: what comes at the same time one after another, as the first makes it for all. */
  #prepare<T>(work: () => Promise<T>): Promise<T> {
    return this.#preparing.take(() => {
      this.#life.check();
      return work();
    });
  }

  /** @internal Makes room for copies in half precision, once. */
  prepareHalves(): Promise<HalfWeights> {
    const { matrixBytes: bytes, alignment } = this.#layout;
    const entries = this.#entries.flatMap(({ name, entry, offset }) =>
      entry instanceof Parameter && entry.shape.length > 1 ? [{ name, entry, offset }] : []
    );
    const matrices = { buffer: this.#parameters, bytes, alignment, entries };
    return this.#prepare(async () => this.#halves ??= await HalfWeights.create(this.#device, matrices, this.#places));
  }

  /**
   * @internal Who has put other values in the place of the weights for a while, and will put the weights back: whatever is
   * learned meanwhile would be lost then, its momenta and counts left behind.
   */
  readonly standIns: Set<object> = new Set<object>();

  /** @internal Refuses to learn while other values stand in for the weights. @throws {Error} */
  checkOwn(): void {
    if (this.standIns.size === 0) return;
    throw new Error("Cannot train: the network has the averaged weights; give it its own back first");
  }

  /** @internal Makes the loss scale, once. */
  prepareLossScale(): Promise<LossScale> {
    return this.#prepare(async () => {
      if (!this.#lossScale) {
        this.#lossScale = await LossScale.create(this.#device);
        this.#places.set(this.#lossScale.operand, { buffer: this.#lossScale.buffer, offset: 0 });
      }
      return this.#lossScale;
    });
  }

  /** The loss scale; undefined before training in half precision was prepared. Waits for the device. */
  async lossScale(): Promise<LossScaleState | undefined> {
    this.#life.check();
    return await this.#lossScale?.read();
  }

  /** @internal Encodes that sums of gradients begin anew. */
  clearSums(encoder: GPUCommandEncoder, as: SummedAs): void {
    this.#training?.clearSums(encoder, as);
  }

  /** @internal Refuses to add to the sums, or to follow them, otherwise than they were begun. @throws {RangeError} */
  checkSums(as: SummedAs): void {
    this.#training?.checkSums(as);
  }

  /**
   * Counts a batch trained on in every batch norm, but for those that `frozen` names: once, however often it is applied to
   * the batch. PyTorch counts each time.
   */
  countStep(frozen: (name: string) => boolean = () => false): void {
    const still = this.#named(Counter, frozen);
    for (const [counter, count] of this.#counts) if (!still.has(counter)) this.#counts.set(counter, count + 1);
  }

  /** The parameters of which `chosen` picks a name. */
  parametersNamed(chosen: (name: string) => boolean): ReadonlySet<Parameter> {
    return this.#named(Parameter, chosen);
  }

  #named<E extends StateEntry>(kind: abstract new (...args: never) => E, chosen: (name: string) => boolean): Set<E> {
    return new Set(this.#names.flatMap(([name, entry]) => entry instanceof kind && chosen(name) ? [entry] : []));
  }

  /**
   * All entries by name, in PyTorch's order and layouts, as they are when it is called, whatever runs meanwhile. Waits for
   * the device.
   *
   * @param from Buffers like {@linkcode buffers}, to read in their place.
   */
  async stateDict(
    from: readonly GPUBuffer[] = this.buffers.map(({ buffer }) => buffer),
  ): Promise<Map<string, TensorData>> {
    this.#life.check();
    const counts = new Map(this.#counts);
    const [parameters, statistics] = await Promise.all(from.map((buffer) => this.#device.read(buffer, 0, buffer.size)));
    const found = new Map<StateEntry, TensorData>();
    for (const { entry, offset } of this.#entries) {
      const source = entry instanceof Parameter ? parameters : statistics;
      const values = entry.fromStored(new Float32Array(source, offset, entry.storedElements));
      found.set(entry, float32Tensor(values, entry.shape));
    }
    for (const [counter, count] of counts) found.set(counter, int64Scalar(count));
    return new Map(this.#names.map(([name, entry]) => [name, found.get(entry)!]));
  }

  /**
   * The momenta by parameter name, the first of several, as they are when it is called: those of a `stateDict` asked for at
   * the same time, before either is waited for. Undefined before training by SGD was prepared.
   */
  async momenta(): Promise<Map<string, TensorData> | undefined> {
    this.#life.check();
    return await this.#training?.optimizers.momenta();
  }

  /** What AdamW keeps, as {@linkcode momenta} gives what SGD does. Undefined before training by AdamW was prepared. */
  async adamwState(): Promise<AdamWState | undefined> {
    this.#life.check();
    return await this.#training?.optimizers.adamwState();
  }

  /** The gradients of the last step by parameter name: for tests. */
  async gradients(): Promise<Map<string, TensorData> | undefined> {
    this.#life.check();
    return this.#training && await readParameters(this.#device, this.#layout, this.#training.gradients);
  }

  /**
   * Takes all entries from a `state_dict`. `num_batches_tracked` may be absent, as PyTorch allows; of several names of one
   * entry the last counts, as there.
   *
   * @param into Buffers like {@linkcode buffers}, to write in their place: the network and its counters stay as they are.
   * @throws {UserError} naming the first entry that is missing, too many, of another shape, or without the bytes that its
   * shape needs; nothing is changed then.
   */
  loadStateDict(state: StateDict, into?: readonly GPUBuffer[]): void {
    this.#life.check();
    checkNames(state, this.#names);
    const [parameters, statistics] = into ?? this.buffers.map(({ buffer }) => buffer);
    if (!into) this.#resetCounts();
    for (const [name, entry] of this.#names) {
      const tensor = state.get(name);
      if (!(entry instanceof Counter)) {
        const { offset } = this.#places.get(this.state(entry))!;
        const buffer = entry instanceof Parameter ? parameters : statistics;
        this.#device.write(buffer, offset, entry.toStored(toFloat32(tensor!, name)));
      } else if (tensor && !into) {
        this.#counts.set(entry, scalarOf(tensor));
      }
    }
  }

  /** Takes the momenta of every parameter, as {@linkcode momenta} gave them. @throws {UserError} as `loadStateDict`. */
  async loadMomenta(momenta: StateDict): Promise<void> {
    await this.#withTraining(({ optimizers }) => optimizers.loadMomenta(momenta));
  }

  /**
   * Takes what AdamW keeps of every parameter, as {@linkcode adamwState} gave it.
   *
   * @throws {UserError} as `loadStateDict`.
   * @throws {RangeError} for a step that is no whole number from 0 on.
   */
  async loadAdamwState(state: AdamWState): Promise<void> {
    await this.#withTraining(({ optimizers }) => optimizers.loadAdamwState(state));
  }

  /**
   * Takes the loss scale, as {@linkcode lossScale} gave it: training in half precision that goes on from saved weights and
   * momenta needs it for the same bits.
   *
   * @throws {RangeError} for a scale that is no power of two from 2^-100 to 2^100, or steps that are no whole number.
   */
  async loadLossScale(state: LossScaleState): Promise<void> {
    (await this.prepareLossScale()).write(state);
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#life.end();
    this.#training?.destroy();
    this.#device.free(this.#parameters, this.#statistics);
    this.#device.free(this.#halves?.buffer, this.#lossScale?.buffer);
  }
}
