/** What a module keeps: parameters, running statistics, counters. Their values on the host are PyTorch's layouts. */

import { type FilterShape, fromHwio, padded, storedFilterElements, toHwio, toPaddedVector } from "../kernels/layout.ts";
import type { Random } from "../kernels/random.ts";

/** Fills a new entry. `fan_in` draws Kaiming normal deviates (He et al. 2015, eq. 10): std = sqrt(2 / fan_in). */
export type Initial = { readonly constant: number } | { readonly kaimingNormal: { readonly fan_in: number } };

/** A named array of a module that lives on the device while the network runs. */
export abstract class Entry {
  /** As PyTorch tells it. */
  readonly shape: readonly number[];
  /** How its first values are drawn. */
  readonly initial: Initial;
  /** Of the convolution that a weight is for: it lies on the device by them. */
  readonly groups: number;
  readonly #filter: FilterShape | undefined;

  /**
   * A 4-d shape is a convolution's weight, OIHW, of `groups` groups; a 2-d one a linear layer's, OI; a 1-d one a vector.
   *
   * @throws {RangeError} for sizes that are no positive whole numbers, and groups that do not divide the first.
   */
  constructor(shape: readonly number[], initial: Initial, groups = 1) {
    if (![...shape, groups].every((size) => Number.isInteger(size) && size > 0)) {
      throw new RangeError(`Cannot keep [${shape}] in ${groups} groups: all must be positive whole numbers`);
    }
    if (groups > 1 && shape[0] % groups !== 0) {
      throw new RangeError(`Cannot split the ${shape[0]} outputs of a weight into ${groups} groups`);
    }
    this.shape = shape;
    this.initial = initial;
    this.groups = groups;
    if (shape.length > 1) {
      const [o, i, h = 1, w = 1] = shape;
      this.#filter = { o, i, h, w, groups };
    }
  }

  /** Elements, as PyTorch counts them. */
  get elements(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }

  /** Elements in GPU memory, padding included. */
  get storedElements(): number {
    return this.#filter ? storedFilterElements(this.#filter) : padded(this.elements);
  }

  /** From PyTorch's layout to the device's. */
  toStored(values: Float32Array): Float32Array<ArrayBuffer> {
    return this.#filter ? toHwio(values, this.#filter) : toPaddedVector(values);
  }

  /** From the device's layout to PyTorch's. */
  fromStored(stored: Float32Array): Float32Array<ArrayBuffer> {
    return this.#filter ? fromHwio(stored, this.#filter) : stored.slice(0, this.elements) as Float32Array<ArrayBuffer>;
  }

  /** Values to start from. */
  initialValues(random: Random): Float32Array<ArrayBuffer> {
    const values = new Float32Array(this.elements);
    if ("constant" in this.initial) return values.fill(this.initial.constant);
    const std = Math.sqrt(2 / this.initial.kaimingNormal.fan_in);
    for (let i = 0; i < values.length; i++) values[i] = std * random.normal();
    return values;
  }
}

/** What an optimizer changes. */
export class Parameter extends Entry {}

/** What a forward pass changes: a running statistic. */
export class StateBuffer extends Entry {}

/** A count of training steps, PyTorch's `num_batches_tracked`; a network on a device keeps the number. */
export class Counter {
  /** Where it begins. */
  readonly initial = 0;
}

/** Anything a `state_dict` has an entry for. */
export type StateEntry = Parameter | StateBuffer | Counter;
