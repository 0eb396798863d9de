/**
 * What optimizers keep of a network's training from step to step, on its device: SGD its momenta; AdamW two averages and how
 * many steps it has done. Averages and momenta are buffers of the parameters' layout, made when a step first needs them.
 */

import type { Device } from "../kernels/device.ts";
import type { Operand } from "../kernels/dispatch.ts";
import type { Placement } from "../kernels/program.ts";
import { type Moment, MOMENTS, type OptimizerKind } from "./optimizers.ts";
import { int64Scalar, scalarOf, type TensorData, toFloat32 } from "./safetensors.ts";
import { Parameter } from "./state.ts";
import { checkNames } from "./state_check.ts";
import { StepCount, STEPS } from "./step_count.ts";
import { readParameters, type WeightLayout } from "./weight_layout.ts";
import type { StateDict } from "./weights.ts";

/** What AdamW keeps of a network's training, as PyTorch's `state_dict()` of it has. */
export interface AdamWState {
  /** Steps done; those left out in half precision do not count. */
  readonly step: number;
  /** The gradients' moving average, by parameter name. */
  readonly expAvg: StateDict;
  /** As `expAvg`, of their squares. */
  readonly expAvgSq: StateDict;
}

/** See the file's head. */
export class OptimizerMemory {
  readonly #device: Device;
  readonly #layout: WeightLayout;
  readonly #places: Map<Operand, Placement>;
  readonly #moments = new Map<Moment, GPUBuffer>();
  #steps: StepCount | undefined;

  /** @param places Receives the places of operands. */
  constructor(device: Device, layout: WeightLayout, places: Map<Operand, Placement>) {
    this.#device = device;
    this.#layout = layout;
    this.#places = places;
  }

  /** Makes room for what an optimizer keeps, zero at first, once. @throws {UserError} where the device has none. */
  async prepare(optimizer: OptimizerKind): Promise<void> {
    const missing = MOMENTS[optimizer].filter((moment) => !this.#moments.has(moment));
    const byteLength = this.#layout.parameterBytes;
    const made = await this.#device.buffers(missing.map((label) => ({ label, byteLength })));
    for (const [i, moment] of missing.entries()) this.#moments.set(moment, made[i]);
    if (optimizer !== "adamw" || this.#steps) return;
    this.#steps = await StepCount.create(this.#device);
    this.#places.set(this.#steps.operand, { buffer: this.#steps.buffer, offset: 0 });
  }

  /** All that grows with the network. */
  get buffers(): readonly GPUBuffer[] {
    return [...this.#moments.values()];
  }

  /** What is kept of all parameters, side by side; {@linkcode prepare} first. */
  moment(moment: Moment): GPUBuffer {
    const found = this.#moments.get(moment);
    if (!found) throw new Error(`Cannot train: "${moment}" has no memory yet`);
    return found;
  }

  /** AdamW's count of steps; {@linkcode prepare} first. */
  get steps(): Operand | undefined {
    return this.#steps?.operand;
  }

  /** Forgets all of it. */
  clear(): void {
    const encoder = this.#device.gpu.createCommandEncoder();
    for (const buffer of this.#moments.values()) encoder.clearBuffer(buffer);
    this.#device.submit(encoder);
    this.#steps?.write(0);
  }

  /** SGD's momenta by parameter name; undefined where there is no room for them. */
  async momenta(): Promise<Map<string, TensorData> | undefined> {
    return await this.#read("momentum");
  }

  /** What AdamW keeps; undefined where there is no room for it. */
  async adamwState(): Promise<AdamWState | undefined> {
    // Together: a device that is lost fails all three, and each must have someone who hears of it.
    const [expAvg, expAvgSq, step] = await Promise.all([
      this.#read("exp_avg"),
      this.#read("exp_avg_sq"),
      this.#steps?.read(),
    ]);
    return expAvg && expAvgSq && step !== undefined ? { step, expAvg, expAvgSq } : undefined;
  }

  async #read(moment: Moment): Promise<Map<string, TensorData> | undefined> {
    const buffer = this.#moments.get(moment);
    return buffer && await readParameters(this.#device, this.#layout, buffer);
  }

  /** Takes momenta of all parameters. @throws {UserError} naming what does not fit; nothing is changed then. */
  async loadMomenta(momenta: StateDict): Promise<void> {
    this.#check(momenta);
    await this.prepare("sgd");
    this.#write("momentum", momenta);
  }

  /** Takes what AdamW kept. @throws As {@linkcode loadMomenta}; {RangeError} for a count that is none. */
  async loadAdamwState({ step, expAvg, expAvgSq }: AdamWState): Promise<void> {
    for (const state of [expAvg, expAvgSq]) this.#check(state);
    await this.prepare("adamw");
    this.#steps!.write(step);
    this.#write("exp_avg", expAvg);
    this.#write("exp_avg_sq", expAvgSq);
  }

  /** Makes sure that a state is of the network's parameters. */
  #check(state: StateDict): void {
    checkNames(state, this.#parameters().map(({ name, entry }) => [name, entry]));
  }

  #write(moment: Moment, state: StateDict): void {
    const buffer = this.moment(moment);
    for (const { name, entry, offset } of this.#parameters()) {
      this.#device.write(buffer, offset, entry.toStored(toFloat32(state.get(name)!, name)));
    }
  }

  #parameters() {
    return this.#layout.entries.filter(({ entry }) => entry instanceof Parameter);
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#device.free(...this.buffers, this.#steps?.buffer);
  }
}

const EXP_AVG = "exp_avg.", EXP_AVG_SQ = "exp_avg_sq.";

/** As tensors of a checkpoint: `step`, `exp_avg.NAME`, `exp_avg_sq.NAME`. */
export function adamwTensors({ step, expAvg, expAvgSq }: AdamWState): Map<string, TensorData> {
  const tensors = new Map([["step", int64Scalar(step)]]);
  for (const [name, tensor] of expAvg) tensors.set(EXP_AVG + name, tensor);
  for (const [name, tensor] of expAvgSq) tensors.set(EXP_AVG_SQ + name, tensor);
  return tensors;
}

/** Reads {@linkcode adamwTensors}. @param refuse Called with what is wrong where something else is there. */
export function adamwOf(tensors: StateDict, refuse: (why: string) => never): AdamWState {
  const expAvg = new Map<string, TensorData>(), expAvgSq = new Map<string, TensorData>();
  let step = NaN;
  for (const [key, tensor] of tensors) {
    if (key === "step") step = scalarOf(tensor);
    else if (key.startsWith(EXP_AVG)) expAvg.set(key.slice(EXP_AVG.length), tensor);
    else if (key.startsWith(EXP_AVG_SQ)) expAvgSq.set(key.slice(EXP_AVG_SQ.length), tensor);
    else refuse(`AdamW keeps no "${key}"`);
  }
  return STEPS.check(step) ? { step, expAvg, expAvgSq } : refuse(`AdamW's step is not ${STEPS.words}`);
}
