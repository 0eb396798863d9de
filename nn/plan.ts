/**
 * A plan: dispatches in order, and a place in memory for everything they pass to one another.
 *
 * What outlives a run (weights, inputs, results) has a place of its own and is told to the plan. All else is
 * **transient**: it lives from the dispatch that first writes it to the one that last reads it, and shares a few **slabs**
 * with others whose lives do not meet. An operand may be read and another written by one dispatch only if they lie in
 * different buffers (WebGPU's rule), so a slab never holds both.
 */

import { type Device, OutOfMemoryError } from "../kernels/device.ts";
import type { Dispatch, Operand } from "../kernels/dispatch.ts";
import { type Placement, Program } from "../kernels/program.ts";
import { Lifetime } from "./lifetime.ts";
import { Turns } from "./turns.ts";

/** Where a transient operand lies. */
export interface SlabPlace {
  /** Number of the slab. */
  readonly slab: number;
  /** From which byte on. */
  readonly offset: number;
}

/** Places of all transient operands of a list of dispatches. */
export interface Assignment {
  /** By operand. */
  readonly places: ReadonlyMap<Operand, SlabPlace>;
  /** Bytes of each slab. */
  readonly slabBytes: readonly number[];
  /** Bytes of transient operands alive at once, at most: no assignment can do with less. */
  readonly peakBytes: number;
}

interface Life {
  readonly operand: Operand;
  readonly bytes: number;
  readonly first: number;
  last: number;
  /** Others in one dispatch with this, one of the two being written: not in the same slab. */
  readonly apart: Set<Operand>;
}

/**
 * Assigns places by liveness: larger operands first, each at the lowest free offset of the slab that grows least.
 *
 * @param isPlaced Tells operands that have a place of their own.
 * @throws {Error} when a transient operand is read before it is written: a fault of the dispatches.
 */
export function assign(
  dispatches: readonly Dispatch[],
  isPlaced: (operand: Operand) => boolean,
  { alignment, maxSlabBytes }: { readonly alignment: number; readonly maxSlabBytes: number },
): Assignment {
  const lives = liveness(dispatches, isPlaced, alignment);
  const slabs: { bytes: number; lives: (Life & { offset: number })[] }[] = [];
  const places = new Map<Operand, SlabPlace>();
  const ordered = [...lives.values()].sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  for (const life of ordered) {
    let best: { slab: number; offset: number; growth: number } | undefined;
    for (const [index, slab] of slabs.entries()) {
      if ([...life.apart].some((other) => places.get(other)?.slab === index)) continue;
      const meeting = slab.lives.filter((other) => other.first <= life.last && life.first <= other.last);
      const offset = lowestGap(meeting, life.bytes);
      if (offset + life.bytes > maxSlabBytes) continue;
      const growth = Math.max(0, offset + life.bytes - slab.bytes);
      if (!best || growth < best.growth) best = { slab: index, offset, growth };
    }
    if (!best || (best.growth === life.bytes && slabs.length < FEW_SLABS)) {
      best = { slab: slabs.length, offset: 0, growth: life.bytes };
      slabs.push({ bytes: 0, lives: [] });
    }
    const slab = slabs[best.slab];
    slab.bytes = Math.max(slab.bytes, best.offset + life.bytes);
    slab.lives.push(Object.assign(life, { offset: best.offset }));
    places.set(life.operand, { slab: best.slab, offset: best.offset });
  }
  return {
    places,
    slabBytes: slabs.map(({ bytes }) => bytes),
    peakBytes: peak([...lives.values()], dispatches.length),
  };
}

/** Up to here a new slab is as good as growing another: more freedom to keep readers and writers apart. */
const FEW_SLABS = 4;

function liveness(
  dispatches: readonly Dispatch[],
  isPlaced: (operand: Operand) => boolean,
  alignment: number,
): Map<Operand, Life> {
  const lives = new Map<Operand, Life>();
  for (const [index, { label, bindings }] of dispatches.entries()) {
    const transient = Object.values(bindings).filter(({ operand }) => !isPlaced(operand));
    for (const { operand, access } of transient) {
      const life = lives.get(operand);
      if (life) life.last = index;
      else if (access === "read") throw new Error(`"${label}" reads "${operand.label}" before anything writes it`);
      else {
        const bytes = Math.ceil(operand.byteLength / alignment) * alignment;
        lives.set(operand, { operand, bytes, first: index, last: index, apart: new Set() });
      }
    }
    for (const a of transient) {
      for (const b of transient) {
        if (a.operand !== b.operand && a.access !== b.access) lives.get(a.operand)!.apart.add(b.operand);
      }
    }
  }
  return lives;
}

function lowestGap(meeting: { offset: number; bytes: number }[], bytes: number): number {
  let offset = 0;
  for (const other of meeting.sort((a, b) => a.offset - b.offset)) {
    if (offset + bytes <= other.offset) break;
    offset = Math.max(offset, other.offset + other.bytes);
  }
  return offset;
}

function peak(lives: readonly Life[], steps: number): number {
  const change = new Float64Array(steps + 1);
  for (const { first, last, bytes } of lives) {
    change[first] += bytes;
    change[last + 1] -= bytes;
  }
  let now = 0, most = 0;
  for (const delta of change) most = Math.max(most, now += delta);
  return most;
}

/**
 * The slabs of a device, shared by plans that never run at the same time: a training step and an evaluation step, say.
 * When a later plan needs more, the slabs grow and the earlier plans are bound anew; what slabs hold never outlives a run.
 */
export class Arena {
  readonly #device: Device;
  readonly #life: Lifetime;
  readonly #plans: Plan[] = [];
  readonly #changing = new Turns();
  #buffers: GPUBuffer[] = [];

  /** An empty arena. */
  constructor(device: Device) {
    this.#device = device;
    this.#life = new Lifetime("the memory of a network's steps", [device]);
  }

  /** Bytes allocated. */
  get bytes(): number {
    return this.#buffers.reduce((sum, { size }) => sum + size, 0);
  }

  /** The slab's buffer. */
  slab(index: number): GPUBuffer {
    this.#life.check();
    return this.#buffers[index];
  }

  /**
   * Makes room for a plan and binds it: plans that come at the same time, one after another. The earlier ones may run
   * meanwhile, except where the device has no room for a slab beside the smaller one that it replaces.
   */
  add(plan: Plan): Promise<void> {
    return this.#changing.take(async () => {
      for (const [index, bytes] of plan.assignment.slabBytes.entries()) {
        if (!(this.#buffers[index]?.size >= bytes)) await this.#grow(index, bytes);
      }
      await plan.bind(this.#device, this);
      this.#plans.push(plan);
    });
  }

  /** Replaces a slab by a larger one. Between the two nothing is waited for, so that no plan runs on a freed one. */
  async #grow(index: number, bytes: number): Promise<void> {
    const label = `slab ${index}`;
    let slab: GPUBuffer;
    try {
      slab = await this.#device.buffer(label, bytes);
    } catch (error) {
      if (!(error instanceof OutOfMemoryError) || !this.#buffers[index]) throw error;
      const why = new Error("Cannot run a step while a larger one takes its memory: wait until that is compiled");
      for (const each of this.#plans) each.unbind(why);
      this.#buffers[index].destroy();
      slab = await this.#device.buffer(label, bytes).catch((error) => {
        this.#free();
        throw error;
      });
    }
    if (this.#life.over) slab.destroy();
    this.#life.check();
    const smaller = this.#buffers[index];
    this.#buffers[index] = slab;
    for (const each of this.#plans) each.rebind(this.#device, this);
    // The device does so when all is done that was submitted before.
    smaller?.destroy();
  }

  /** Forgets a plan that will not run any more: growing slabs must not bind what it has freed. */
  remove(plan: Plan): void {
    const index = this.#plans.indexOf(plan);
    if (index >= 0) this.#plans.splice(index, 1);
  }

  /** Frees the slabs, once no plan is being added; the plans cannot run any more, others may be added. */
  clear(): Promise<void> {
    return this.#changing.take(() => Promise.resolve(this.#free()));
  }

  #free(): void {
    const why = new Error("Cannot run a step whose memory was freed, as another one did not fit: make it anew");
    for (const each of this.#plans.splice(0)) each.unbind(why);
    for (const buffer of this.#buffers) buffer.destroy();
    this.#buffers = [];
  }

  /** Frees the slabs for good; the plans cannot run any more. */
  destroy(): void {
    this.#life.end();
    this.#free();
  }
}

/** Dispatches with their places: ready to be encoded, step after step, once {@linkcode Arena.add} has bound them. */
export class Plan {
  /** Where operands lie. */
  readonly assignment: Assignment;
  /** In order. */
  readonly dispatches: readonly Dispatch[];
  readonly #placed: (operand: Operand) => Placement | undefined;
  #program: Program | undefined;
  #unbound: unknown;

  /**
   * `placed` tells where what lives longer than the plan lies.
   *
   * @param placed The places of what outlives a run; undefined for the transient.
   */
  constructor(device: Device, dispatches: readonly Dispatch[], placed: (operand: Operand) => Placement | undefined) {
    this.dispatches = dispatches;
    this.#placed = placed;
    const { storageAlignment, maxBufferBytes } = device.capabilities;
    this.assignment = assign(dispatches, (operand) => placed(operand) !== undefined, {
      alignment: Math.max(256, storageAlignment),
      maxSlabBytes: maxBufferBytes,
    });
  }

  /** Called by the arena when it has room. */
  async bind(device: Device, arena: Arena): Promise<void> {
    this.#program = await Program.create(device, this.dispatches, (operand) => this.#place(operand, arena));
  }

  /** Called by the arena when slabs have changed. */
  rebind(device: Device, arena: Arena): void {
    try {
      this.#program!.bind(device, (operand) => this.#place(operand, arena));
      this.#unbound = undefined;
    } catch (error) {
      // What it used was destroyed: whoever runs it is told of that, not whoever adds another plan.
      this.unbind(error);
    }
  }

  /** Called by the arena when slabs are gone. @param why Thrown where the plan is used all the same. */
  unbind(why: unknown): void {
    this.#unbound = why;
  }

  #place(operand: Operand, arena: Arena): Placement {
    const placed = this.#placed(operand);
    if (placed) return placed;
    const { slab, offset } = this.assignment.places.get(operand)!;
    return { buffer: arena.slab(slab), offset };
  }

  /** The dispatches, bound to their places. @throws {Error} while they are not. */
  get program(): Program {
    if (this.#unbound) throw this.#unbound;
    if (!this.#program) throw new Error("The plan has no memory: add it to an arena first");
    return this.#program;
  }

  /** Frees what the plan holds beside the arena's slabs. */
  destroy(): void {
    this.#program?.destroy();
    this.#program = undefined;
  }

  /** Floating-point operations of a run, a multiply-add counting two. */
  get flops(): number {
    return this.dispatches.reduce((sum, { flops }) => sum + flops, 0);
  }

  /** Bytes that a run moves at least. */
  get bytes(): number {
    return this.dispatches.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** One line a dispatch, for people: number, label, workgroups, Mflop, MiB. */
  describe(): string {
    return this.dispatches.map(({ label, workgroups, flops, bytes }, index) =>
      [
        String(index).padStart(4),
        label.padEnd(36),
        workgroups.join("x").padEnd(14),
        (flops / 1e6).toFixed(2).padStart(10),
        (bytes / 2 ** 20).toFixed(2).padStart(10),
      ].join(" ")
    ).join("\n");
  }
}
