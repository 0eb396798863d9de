/**
 * What training needs of a device beside a network's state: gradients, what its optimizer keeps and, where several
 * batches make a step, the sums of their gradients. Each is a buffer of the parameters' layout, so that an optimizer passes
 * over all of them at once.
 */

import type { Device } from "../kernels/device.ts";
import { type ElementType, type Operand, operand } from "../kernels/dispatch.ts";
import type { Placement } from "../kernels/program.ts";
import { OptimizerMemory } from "./optimizer_memory.ts";
import { type Moment, MOMENTS, type OptimizerKind } from "./optimizers.ts";
import { Parameter } from "./state.ts";
import { ALIGNMENT, type WeightLayout } from "./weight_layout.ts";

/** A stretch of parameters with their gradients and what an optimizer keeps of them: as much as one binding holds. */
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
  /** What the optimizer keeps. */
  readonly moments: Readonly<Partial<Record<Moment, Operand>>>;
  /** How many steps AdamW has done: of all stretches alike. */
  readonly steps?: Operand;
}

/** What room is made for. */
export interface TrainingOptions {
  /** Parameters that stay as they are. Default none. */
  readonly frozen?: (parameter: Parameter) => boolean;
  /** Whether gradients of several batches are summed. Default false. */
  readonly accumulate?: boolean;
  /** Which optimizer is to pass over it, if one is. Default `sgd`. */
  readonly optimizer?: OptimizerKind | "none";
}

/** @internal How gradients are summed: an update by the sums is for the same. */
export interface SummedAs {
  /** In `f16` the gradients of a scaled loss. */
  readonly precision: ElementType;
  /** What has no gradient. */
  readonly frozen: ReadonlySet<Parameter>;
}

/** Gradients, what optimizers keep of them, and their sums on a device. */
export class TrainingMemory {
  /** What optimizers keep. */
  readonly optimizers: OptimizerMemory;
  readonly #device: Device;
  readonly #layout: WeightLayout;
  readonly #places: Map<Operand, Placement>;
  readonly #parameters: GPUBuffer;
  readonly #operands = new Map<Parameter, Operand>();
  #sums: GPUBuffer | undefined;
  #summedAs: SummedAs | undefined;

  private constructor(
    device: Device,
    layout: WeightLayout,
    parameters: GPUBuffer,
    readonly gradients: GPUBuffer,
    places: Map<Operand, Placement>,
  ) {
    this.#device = device;
    this.#layout = layout;
    this.#parameters = parameters;
    this.#places = places;
    this.optimizers = new OptimizerMemory(device, layout, places);
    for (const { entry, offset } of layout.entries) {
      if (!(entry instanceof Parameter)) continue;
      const place = operand("gradient", entry.storedElements);
      this.#operands.set(entry, place);
      places.set(place, { buffer: gradients, offset });
    }
  }

  /**
   * Makes room for gradients.
   *
   * @param places Receives the places of all operands.
   * @throws {UserError} where the device has no room.
   */
  static async create(
    device: Device,
    layout: WeightLayout,
    parameters: GPUBuffer,
    places: Map<Operand, Placement>,
  ): Promise<TrainingMemory> {
    const gradients = await device.buffer("gradients", parameters.size);
    return new TrainingMemory(device, layout, parameters, gradients, places);
  }

  /** All of it that grows with the network. */
  get buffers(): readonly GPUBuffer[] {
    return [this.gradients, ...this.optimizers.buffers, ...(this.#sums ? [this.#sums] : [])];
  }

  /** Where a parameter's gradient goes. */
  gradient(parameter: Parameter): Operand | undefined {
    return this.#operands.get(parameter);
  }

  /** The stretches an optimizer passes over, which are all but those of frozen parameters; room for what it needs is made once. */
  async chunks(
    { frozen = () => false, accumulate = false, optimizer = "sgd" }: TrainingOptions,
  ): Promise<readonly OptimizerChunk[]> {
    if (optimizer !== "none") await this.optimizers.prepare(optimizer);
    const kept = optimizer === "none" ? [] : MOMENTS[optimizer], { steps } = this.optimizers;
    if (accumulate) this.#sums ??= await this.#device.buffer("gradient sums", this.#parameters.size);
    const sums = accumulate ? this.#sums : undefined, chunks: OptimizerChunk[] = [];
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
          matrixElements: Math.min(Math.max(this.#layout.matrixBytes - offset, 0) / 4, elements),
          parameters: piece("parameters", this.#parameters),
          gradients: piece("gradients", this.gradients),
          ...(sums && { sums: piece("gradient sums", sums) }),
          moments: Object.fromEntries(kept.map((moment) => [moment, piece(moment, this.optimizers.moment(moment))])),
          ...(optimizer === "adamw" && { steps }),
        });
      }
    }
    return chunks;
  }

  /** The bytes of the parameters that learn, neighbours as one stretch. */
  #stretches(frozen: (parameter: Parameter) => boolean): { start: number; end: number }[] {
    const parameters = this.#layout.entries.filter(({ entry }) => entry instanceof Parameter);
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

  /** Encodes that sums of gradients begin anew. */
  clearSums(encoder: GPUCommandEncoder, as: SummedAs): void {
    if (this.#sums) encoder.clearBuffer(this.#sums);
    this.#summedAs = as;
  }

  /** Refuses to add to the sums, or to follow them, otherwise than they were begun. @throws {RangeError} */
  checkSums(as: SummedAs): void {
    const sums = this.#summedAs ??= as, { precision, frozen } = as;
    if (sums.precision !== precision) {
      throw new RangeError(
        `Cannot go on in ${precision} from sums of gradients in ${sums.precision}: make all steps alike`,
      );
    }
    if (sums.frozen.size !== frozen.size || ![...frozen].every((parameter) => sums.frozen.has(parameter))) {
      throw new RangeError(
        `Cannot go on from sums of gradients with other parameters frozen, ${sums.frozen.size} instead of ${frozen.size}: ` +
          "make all steps alike",
      );
    }
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#device.free(this.gradients, this.#sums);
    this.optimizers.destroy();
  }
}
