/**
 * A module's state on a device. All parameters stand side by side in one buffer, all gradients and all momenta in two
 * more of the same layout, so that an optimizer passes over them at once. Sums of several batches' gradients are a fourth,
 * where they are wanted; copies in half precision are for steps in `f16`.
 */

import type { Device } from "../kernels/device.ts";
import { type Operand, operand } from "../kernels/dispatch.ts";
import type { LossScaleState } from "../kernels/loss_scale.ts";
import type { Placement } from "../kernels/program.ts";
import { Random } from "../kernels/random.ts";
import { UserError } from "../kernels/user_error.ts";
import { HalfWeights } from "./half_weights.ts";
import { LossScale } from "./loss_scale.ts";
import type { StatePlaces } from "./lowering.ts";
import type { Module } from "./module.ts";
import { float32Tensor, int64Scalar, type TensorData, toFloat32 } from "./safetensors.ts";
import { Counter, Parameter, type StateBuffer } from "./state.ts";

/** Tensors by name, as PyTorch's `state_dict()`. */
export type StateDict = ReadonlyMap<string, TensorData>;

/** A stretch of parameters with their gradients and momenta: as much as one binding holds. */
export interface OptimizerChunk {
  /** Floats of each of the operands. */
  readonly elements: number;
  /** The first so many belong to weights of convolutions and linear layers, the others to batch norm and biases. */
  readonly matrixElements: number;
  /** Of the network. */
  readonly parameters: Operand;
  /** Of the loss by the parameters. */
  readonly gradients: Operand;
  /** Of several batches' gradients, where {@linkcode TrainingOptions.accumulate} asks for them. */
  readonly sums?: Operand;
  /** SGD's. */
  readonly momentum: Operand;
}

/** What {@linkcode Weights.prepareTraining} makes room for. */
export interface TrainingOptions {
  /** Parameters that stay as they are. Default none. */
  readonly frozen?: (parameter: Parameter) => boolean;
  /** Whether gradients of several batches are summed. Default false. */
  readonly accumulate?: boolean;
}

/** A buffer that holds a part of the state. */
export interface WeightBuffer {
  /** What is in it. */
  readonly label: string;
  /** On the device. */
  readonly buffer: GPUBuffer;
}

/** What makes a {@linkcode Weights}. */
export interface WeightsOptions {
  /** Of the initialization. Default 0. */
  readonly seed?: number;
}

/** See the file's head. */
export class Weights implements StatePlaces {
  readonly #device: Device;
  readonly #entries: readonly { name: string; entry: Parameter | StateBuffer; offset: number; operand: Operand }[];
  readonly #counters: readonly { name: string; counter: Counter }[];
  readonly #order: readonly string[];
  readonly #operands = new Map<Parameter | StateBuffer, Operand>();
  readonly #gradients = new Map<Parameter, Operand>();
  readonly #places = new Map<Operand, Placement>();
  readonly #parameters: GPUBuffer;
  readonly #statistics: GPUBuffer;
  readonly #matrixBytes: number;
  readonly #alignment: number;
  #training: { gradients: GPUBuffer; momentum: GPUBuffer } | undefined;
  #sums: GPUBuffer | undefined;
  #halves: HalfWeights | undefined;
  #lossScale: LossScale | undefined;

  private constructor(device: Device, module: Module, parameters: GPUBuffer, statistics: GPUBuffer, layout: Layout) {
    this.#alignment = layout.alignment;
    this.#device = device;
    this.#parameters = parameters;
    this.#statistics = statistics;
    this.#matrixBytes = layout.matrixBytes;
    this.#entries = layout.entries.map(({ name, entry, offset }) => {
      const place = operand(name, entry.storedElements);
      this.#operands.set(entry, place);
      this.#places.set(place, { buffer: entry instanceof Parameter ? parameters : statistics, offset });
      return { name, entry, offset, operand: place };
    });
    const all = [...module.stateEntries()];
    this.#order = all.map(([name]) => name);
    this.#counters = all.flatMap(([name, entry]) => entry instanceof Counter ? [{ name, counter: entry }] : []);
  }

  /** Places a module's state on a device, freshly initialized from a seed. */
  static async create(device: Device, module: Module, { seed = 0 }: WeightsOptions = {}): Promise<Weights> {
    // Halves lie at half the offsets.
    const layout = layOut(module, Math.max(ALIGNMENT, 2 * device.capabilities.storageAlignment));
    const parameters = await device.buffer("parameters", layout.parameterBytes);
    const statistics = await device.buffer("statistics", layout.statisticBytes);
    const weights = new Weights(device, module, parameters, statistics, layout);
    weights.initialize(seed);
    return weights;
  }

  /** Draws new parameters: each from its own stream of the seed. Counters and momenta start from zero. */
  initialize(seed: number): void {
    for (const [index, { entry, operand }] of this.#entries.entries()) {
      this.#write(operand, entry.toStored(entry.initialValues(new Random(seed, index))));
    }
    for (const { counter } of this.#counters) counter.value = 0;
  }

  #write(operand: Operand, values: Float32Array<ArrayBuffer>): void {
    const { buffer, offset } = this.#places.get(operand)!;
    this.#device.write(buffer, offset, values);
  }

  /** Where an entry lies. */
  state(entry: Parameter | StateBuffer): Operand {
    const found = this.#operands.get(entry);
    if (!found) throw new Error("A parameter is used that the module does not list: keep it in a field");
    return found;
  }

  /** Where a parameter's gradient goes; {@linkcode prepareTraining} first. */
  gradient(parameter: Parameter): Operand {
    const found = this.#gradients.get(parameter);
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
    return this.#places.get(operand);
  }

  /** The buffers of all floats of the state: for copies and averages of the whole. */
  get buffers(): readonly WeightBuffer[] {
    return [{ label: "parameters", buffer: this.#parameters }, { label: "statistics", buffer: this.#statistics }];
  }

  /** Bytes on the device. */
  get bytes(): number {
    const { gradients, momentum } = this.#training ?? {};
    const buffers = [this.#parameters, this.#statistics, gradients, momentum, this.#sums, this.#halves?.buffer];
    return buffers.reduce((sum, buffer) => sum + (buffer?.size ?? 0), 0);
  }

  /**
   * Makes room for gradients, momenta (zero) and the sums that are asked for, once; the stretches an optimizer passes over,
   * which are all but those of frozen parameters.
   */
  async prepareTraining(
    { frozen = () => false, accumulate = false }: TrainingOptions = {},
  ): Promise<readonly OptimizerChunk[]> {
    const { gradients, momentum } = this.#training ??= await this.#makeRoom();
    const sums = accumulate
      ? this.#sums ??= await this.#device.buffer("gradient sums", this.#parameters.size)
      : undefined;
    const chunks: OptimizerChunk[] = [];
    const most = Math.floor(this.#device.capabilities.maxBindingBytes / ALIGNMENT) * ALIGNMENT;
    for (const { start, end } of this.#stretches(frozen)) {
      for (let offset = start; offset < end; offset += most) {
        const elements = Math.min(most, end - offset) / 4;
        const piece = (label: string, buffer: GPUBuffer) => {
          const place = operand(label, elements);
          this.#places.set(place, { buffer, offset });
          return place;
        };
        chunks.push({
          elements,
          matrixElements: Math.min(Math.max(this.#matrixBytes - offset, 0) / 4, elements),
          parameters: piece("parameters", this.#parameters),
          gradients: piece("gradients", gradients),
          ...(sums && { sums: piece("gradient sums", sums) }),
          momentum: piece("momentum", momentum),
        });
      }
    }
    return chunks;
  }

  /** @internal Makes room for copies in half precision, once. */
  async prepareHalves(): Promise<HalfWeights> {
    const entries = this.#entries.flatMap(({ name, entry, offset }) =>
      entry instanceof Parameter && entry.shape.length > 1 ? [{ name, entry, offset }] : []
    );
    const matrices = { buffer: this.#parameters, bytes: this.#matrixBytes, alignment: this.#alignment, entries };
    return this.#halves ??= await HalfWeights.create(this.#device, matrices, this.#places);
  }

  /** @internal Makes the loss scale, once. */
  async prepareLossScale(): Promise<LossScale> {
    if (!this.#lossScale) {
      this.#lossScale = await LossScale.create(this.#device);
      this.#places.set(this.#lossScale.operand, { buffer: this.#lossScale.buffer, offset: 0 });
    }
    return this.#lossScale;
  }

  /** The loss scale; undefined before training in half precision was prepared. Waits for the device. */
  async lossScale(): Promise<LossScaleState | undefined> {
    return await this.#lossScale?.read();
  }

  /** The bytes of the parameters that learn, neighbours as one stretch. */
  #stretches(frozen: (parameter: Parameter) => boolean): { start: number; end: number }[] {
    const parameters = this.#entries.filter(({ entry }) => entry instanceof Parameter);
    if (!parameters.some(({ entry }) => frozen(entry as Parameter))) return [{ start: 0, end: this.#parameters.size }];
    const stretches: { start: number; end: number }[] = [];
    parameters.sort((a, b) => a.offset - b.offset);
    for (const [index, { entry, offset }] of parameters.entries()) {
      if (frozen(entry as Parameter)) continue;
      const end = parameters[index + 1]?.offset ?? this.#parameters.size;
      const last = stretches.at(-1);
      if (last?.end === offset) last.end = end;
      else stretches.push({ start: offset, end });
    }
    return stretches;
  }

  async #makeRoom(): Promise<{ gradients: GPUBuffer; momentum: GPUBuffer }> {
    const { size } = this.#parameters;
    const gradients = await this.#device.buffer("gradients", size);
    const momentum = await this.#device.buffer("momentum", size);
    for (const { entry, offset } of this.#entries) {
      if (!(entry instanceof Parameter)) continue;
      const place = operand("gradient", entry.storedElements);
      this.#gradients.set(entry, place);
      this.#places.set(place, { buffer: gradients, offset });
    }
    return { gradients, momentum };
  }

  /** Encodes that sums of gradients begin anew. */
  clearSums(encoder: GPUCommandEncoder): void {
    if (this.#sums) encoder.clearBuffer(this.#sums);
  }

  /** Counts a batch trained on in every batch norm, but for those that `frozen` names. */
  countStep(frozen: (name: string) => boolean = () => false): void {
    for (const { name, counter } of this.#counters) if (!frozen(name)) counter.value++;
  }

  /** The parameters whose names `chosen` picks. */
  parametersNamed(chosen: (name: string) => boolean): ReadonlySet<Parameter> {
    return new Set(
      this.#entries.flatMap(({ name, entry }) => entry instanceof Parameter && chosen(name) ? [entry] : []),
    );
  }

  /** All entries by name, in PyTorch's order and layouts. Waits for the device. */
  async stateDict(): Promise<Map<string, TensorData>> {
    const parameters = await this.#device.read(this.#parameters, 0, this.#parameters.size);
    const statistics = await this.#device.read(this.#statistics, 0, this.#statistics.size);
    const found = new Map<string, TensorData>();
    for (const { name, entry, offset } of this.#entries) {
      const source = entry instanceof Parameter ? parameters : statistics;
      const values = entry.fromStored(new Float32Array(source, offset, entry.storedElements));
      found.set(name, float32Tensor(values, entry.shape));
    }
    for (const { name, counter } of this.#counters) found.set(name, int64Scalar(counter.value));
    return new Map(this.#order.map((name) => [name, found.get(name)!]));
  }

  /** The momenta by parameter name; undefined before training was prepared. */
  async momenta(): Promise<Map<string, TensorData> | undefined> {
    return this.#training && await this.#readLike(this.#training.momentum);
  }

  /** The gradients of the last step by parameter name: for tests. */
  async gradients(): Promise<Map<string, TensorData> | undefined> {
    return this.#training && await this.#readLike(this.#training.gradients);
  }

  async #readLike(buffer: GPUBuffer): Promise<Map<string, TensorData>> {
    const bytes = await this.#device.read(buffer, 0, buffer.size);
    const out = new Map<string, TensorData>();
    for (const { name, entry, offset } of this.#entries) {
      if (!(entry instanceof Parameter)) continue;
      out.set(
        name,
        float32Tensor(entry.fromStored(new Float32Array(bytes, offset, entry.storedElements)), entry.shape),
      );
    }
    return out;
  }

  /**
   * Takes all entries from a `state_dict`. `num_batches_tracked` may be absent, as PyTorch allows.
   *
   * @throws {UserError} naming the first entry that is missing, too many or of another shape; nothing is changed then.
   */
  loadStateDict(state: StateDict): void {
    checkNames(
      state,
      this.#entries.map(({ name, entry }) => [name, entry.shape]),
      this.#counters.map(({ name }) => name),
    );
    for (const { name, entry, operand } of this.#entries) {
      this.#write(operand, entry.toStored(toFloat32(state.get(name)!, name)));
    }
    for (const { name, counter } of this.#counters) {
      const tensor = state.get(name);
      counter.value = tensor ? Math.trunc(toFloat64Scalar(tensor, name)) : 0;
    }
  }

  /** Takes the momenta of every parameter, as {@linkcode momenta} gave them. @throws {UserError} as `loadStateDict`. */
  async loadMomenta(momenta: StateDict): Promise<void> {
    await this.prepareTraining();
    const parameters = this.#entries.filter(({ entry }) => entry instanceof Parameter);
    checkNames(momenta, parameters.map(({ name, entry }) => [name, entry.shape]), []);
    for (const { name, entry, offset } of parameters) {
      this.#device.write(this.#training!.momentum, offset, entry.toStored(toFloat32(momenta.get(name)!, name)));
    }
  }

  /** Frees the device's memory. */
  destroy(): void {
    for (const buffer of [this.#parameters, this.#statistics]) buffer.destroy();
    this.#training?.gradients.destroy();
    this.#training?.momentum.destroy();
    for (const buffer of [this.#sums, this.#halves?.buffer, this.#lossScale?.buffer]) buffer?.destroy();
  }
}

/** WebGPU's default alignment of bindings, which every device takes. */
const ALIGNMENT = 256;

interface Layout {
  readonly alignment: number;
  readonly entries: { name: string; entry: Parameter | StateBuffer; offset: number }[];
  /** Of the parameters that are more than a vector: they stand first, so that weight decay can end where they do. */
  readonly matrixBytes: number;
  readonly parameterBytes: number;
  readonly statisticBytes: number;
}

function layOut(module: Module, alignment: number): Layout {
  const ends = { matrices: 0, vectors: 0, statistics: 0 };
  const placed = [...module.stateEntries()].flatMap(([name, entry]) => {
    if (entry instanceof Counter) return [];
    const kind = entry instanceof Parameter ? (entry.shape.length > 1 ? "matrices" : "vectors") : "statistics";
    const offset = ends[kind];
    ends[kind] += Math.ceil(entry.storedElements * 4 / alignment) * alignment;
    return [{ name, entry, kind, offset }];
  });
  return {
    alignment,
    entries: placed.map(({ name, entry, kind, offset }) => ({
      name,
      entry,
      offset: kind === "vectors" ? ends.matrices + offset : offset,
    })),
    matrixBytes: ends.matrices,
    parameterBytes: Math.max(alignment, ends.matrices + ends.vectors),
    statisticBytes: Math.max(alignment, ends.statistics),
  };
}

export function checkNames(
  state: StateDict,
  wanted: readonly (readonly [string, readonly number[]])[],
  optional: readonly string[],
): void {
  for (const [name, shape] of wanted) {
    const tensor = state.get(name);
    if (!tensor) throw new UserError(`Cannot load the weights: "${name}" is missing; they are of another network`);
    if (tensor.dtype === "BOOL") throw new UserError(`Cannot load the weights: the values of "${name}" are no numbers`);
    if (String(tensor.shape) !== String(shape)) {
      throw new UserError(
        `Cannot load the weights: "${name}" has shape [${tensor.shape}], this network's is [${shape}]; they are of another network`,
      );
    }
  }
  const known = new Set([...wanted.map(([name]) => name), ...optional]);
  for (const name of state.keys()) {
    if (!known.has(name)) {
      throw new UserError(`Cannot load the weights: this network has no "${name}"; they are of another network`);
    }
  }
}

function toFloat64Scalar(tensor: TensorData, name: string): number {
  if (tensor.dtype === "I64" && tensor.bytes.length === 8) {
    return Number(new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset).getBigInt64(0, true));
  }
  return toFloat32(tensor, name)[0];
}
