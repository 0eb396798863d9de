/**
 * Where a step's batch comes from. A source owns what the host writes before a step (indices, pixels), and says which
 * dispatches make the network's input of it; those run as the first part of the step's plan.
 */

import type { Capabilities, Device } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { type Shape, storedElements, toNhwc } from "../kernels/layout.ts";
import type { Placement } from "../kernels/program.ts";
import { quoted } from "./json.ts";
import { checkSettings, SIZE } from "./number_check.ts";
import { Lifetime } from "./lifetime.ts";

/** A source of batches of one size, each described by a `B`. */
export interface BatchSource<B> {
  /** Of the network's input. */
  readonly shape: Shape;
  /** The network's input: placed by the source, or transient and written by {@linkcode dispatches}. */
  readonly x: Operand;
  /** A `u32` a row. */
  readonly labels: Operand;
  /** Where images are mixed of two: `vec4f(weight, the other's label, 0, 0)` a row, as `crossEntropy` takes it. */
  readonly mixes?: Operand;
  /** Bytes that {@linkcode load} writes, where they are not few: the queue keeps them until the step runs. */
  readonly batchBytes?: number;
  /** The place of what the source owns. */
  place(operand: Operand): Placement | undefined;
  /** What makes the input. */
  dispatches(caps: Capabilities): readonly Dispatch[];
  /**
   * Writes what describes a batch; returns how many rows it has, at most `shape.n`.
   *
   * @param classes Of the network: all labels of the batch must be below, or it is refused.
   */
  load(batch: B, classes?: number): number;
  /** Frees the device's memory. */
  destroy(): void;
}

/** A batch of floats: images NCHW, `[n, c, h, w]` flattened, and a label each. */
export interface FloatBatch {
  /** NCHW, flattened. */
  readonly images: Float32Array;
  /** A class each. */
  readonly labels: ArrayLike<number>;
}

/** @internal What a source owns: buffers made together, with the operands that stand for them. */
export class Buffers {
  readonly #places = new Map<Operand, Placement>();
  readonly #life: Lifetime;

  constructor(private readonly device: Device, needs: { check(): void } = device) {
    this.#life = new Lifetime("the source of batches", [needs]);
  }

  check(): void {
    this.#life.check();
  }

  async add(label: string, elements: number): Promise<Operand> {
    const place = operand(label, elements);
    this.#places.set(place, { buffer: await this.device.buffer(label, place.byteLength), offset: 0 });
    return place;
  }

  place(operand: Operand): Placement | undefined {
    this.#life.check();
    return this.#places.get(operand);
  }

  write(operand: Operand, data: ArrayBufferView<ArrayBuffer>): void {
    this.device.write(this.#places.get(operand)!.buffer, 0, data);
  }

  destroy(): void {
    this.#life.end();
    for (const { buffer } of this.#places.values()) buffer.destroy();
  }
}

/** Batches given as floats: for tests, small inputs, and data that is no image. */
export class FloatSource implements BatchSource<FloatBatch> {
  private constructor(
    readonly shape: Shape,
    readonly x: Operand,
    readonly labels: Operand,
    private readonly buffers: Buffers,
  ) {}

  /**
   * A source of batches of one shape.
   *
   * @param shape Of a whole batch.
   * @throws {RangeError} for sizes that are no positive whole numbers.
   */
  static async create(device: Device, shape: Shape): Promise<FloatSource> {
    const { n, c, h, w } = shape;
    checkSettings("make batches", { n, c, h, w }, SIZE);
    const buffers = new Buffers(device);
    const x = await buffers.add("input", storedElements(shape));
    return new FloatSource(shape, x, await buffers.add("labels", shape.n), buffers);
  }

  get batchBytes(): number {
    return this.x.byteLength;
  }

  place(operand: Operand): Placement | undefined {
    return this.buffers.place(operand);
  }

  dispatches(): readonly Dispatch[] {
    return [];
  }

  /**
   * Writes a batch.
   *
   * @throws {TypeError} when the batch has no images or no labels.
   * @throws {RangeError} when it has another size, or a label is none of the classes.
   */
  load({ images, labels }: FloatBatch, classes = Infinity): number {
    this.buffers.check();
    if (!images || !labels) throw new TypeError("Cannot load a batch without images or without labels: give both");
    const rows = labels.length, wanted = rows * this.shape.c * this.shape.h * this.shape.w;
    if (rows < 1 || rows > this.shape.n || images.length !== wanted) {
      throw new RangeError(
        `Cannot load a batch of ${rows} labels and ${images.length} values: up to ${this.shape.n} rows, ${wanted} values`,
      );
    }
    // By its place, as a label may be undefined: one that was looked up in vain.
    const wrong = Array.from(labels).findIndex((label) => !(Number.isInteger(label) && label >= 0 && label < classes));
    if (wrong >= 0) {
      throw new RangeError(
        `Cannot load a batch with label ${quoted(labels[wrong])}: the classes are 0 to ${classes - 1}`,
      );
    }
    this.buffers.write(this.x, toNhwc(images, { ...this.shape, n: rows }));
    this.buffers.write(this.labels, Uint32Array.from(labels));
    return rows;
  }

  destroy(): void {
    this.buffers.destroy();
  }
}
