/**
 * Weights of convolutions and linear layers in half precision: a copy of the float32 ones, which stay what is learned,
 * saved and averaged. Each step begins by making it anew.
 */

import { cast, prepareHalves } from "../kernels/cast.ts";
import type { Capabilities, Device } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import type { Placement } from "../kernels/program.ts";
import type { Parameter } from "./state.ts";

/** Where matrices lie: side by side from the beginning of a buffer. */
export interface Matrices {
  /** Of all float32 parameters. */
  readonly buffer: GPUBuffer;
  /** Bytes that they take. */
  readonly bytes: number;
  /** Of where each begins: twice what the device asks for, as halves begin at half the offset. */
  readonly alignment: number;
  /** Each by name, and the byte that it begins at. */
  readonly entries: readonly { readonly name: string; readonly entry: Parameter; readonly offset: number }[];
}

/** Copies in half precision of the weights that convolutions and linear layers load, made anew at each step's beginning. */
export class HalfWeights {
  readonly #operands = new Map<Parameter, Operand>();
  readonly #pieces: { readonly x: Operand; readonly y: Operand; readonly elements: number }[] = [];

  private constructor(readonly buffer: GPUBuffer) {}

  /**
   * Makes room for them.
   *
   * @param places Receives the places of all operands.
   * @throws {UserError} on an adapter that cannot make IEEE's halves.
   */
  static async create(device: Device, matrices: Matrices, places: Map<Operand, Placement>): Promise<HalfWeights> {
    await prepareHalves(device);
    const { buffer: source, bytes, alignment, entries } = matrices;
    const buffer = await device.buffer("half precision weights", Math.max(alignment, bytes) / 2);
    const halves = new HalfWeights(buffer);
    const place = (label: string, elements: number, offset: number) => {
      const at = operand(label, elements, "f16");
      places.set(at, { buffer, offset: offset / 2 });
      return at;
    };
    for (const { name, entry, offset } of entries) {
      halves.#operands.set(entry, place(name, entry.storedElements, offset));
    }
    const most = Math.floor(device.capabilities.maxBindingBytes / alignment) * alignment;
    for (let offset = 0; offset < bytes; offset += most) {
      const elements = Math.min(most, bytes - offset) / 4;
      const x = operand("weights", elements), y = place("half precision weights", elements, offset);
      places.set(x, { buffer: source, offset });
      halves.#pieces.push({ x, y, elements });
    }
    return halves;
  }

  /** Where a weight's copy lies. */
  operand(parameter: Parameter): Operand | undefined {
    return this.#operands.get(parameter);
  }

  /** What makes the copies: at the beginning of a step. */
  dispatches(caps: Capabilities): Dispatch[] {
    return this.#pieces.flatMap(({ x, y, elements }) => cast({ x, y }, elements, caps));
  }
}
