/** A module on a device: its weights, and the memory that its steps share. */

import type { Device } from "../kernels/device.ts";
import type { TensorData } from "./safetensors.ts";
import { Arena } from "./plan.ts";
import type { Module } from "./module.ts";
import { type StateDict, Weights, type WeightsOptions } from "./weights.ts";

/**
 * A module placed on a device. Steps (`trainStep`, `evalStep`) are compiled for it and share its weights.
 *
 * @example
 * ```ts
 * import { Network, openDevice, resnext50 } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }), { seed: 1 });
 * const state = await network.stateDict();
 * if (!state.has("conv1.weight")) throw new Error("PyTorch's names");
 * network.loadStateDict(state);
 * device.close();
 * ```
 */
export class Network {
  /** Where it lies. */
  readonly device: Device;
  /** What it computes. */
  readonly module: Module;
  /** Its state. */
  readonly weights: Weights;
  /** What the steps' intermediate values live in. */
  readonly arena: Arena;

  private constructor(device: Device, module: Module, weights: Weights) {
    this.device = device;
    this.module = module;
    this.weights = weights;
    this.arena = new Arena(device);
  }

  /**
   * Places a module, its parameters drawn from a seed.
   *
   * @throws {UserError} where the device has no room.
   * @throws {RangeError} for a seed that is no whole number from 0 to below 2^53.
   */
  static async create(device: Device, module: Module, options: WeightsOptions = {}): Promise<Network> {
    return new Network(device, module, await Weights.create(device, module, options));
  }

  /**
   * All weights and statistics by PyTorch's names and layouts, as they are when it is called: steps may run while it is
   * waited for.
   */
  stateDict(): Promise<Map<string, TensorData>> {
    return this.weights.stateDict();
  }

  /** Takes weights and statistics by PyTorch's names and layouts. @throws {UserError} where they do not fit. */
  loadStateDict(state: StateDict): void {
    this.weights.loadStateDict(state);
  }

  /** Frees the device's memory: the network, and the steps compiled for it, cannot be used any more. */
  destroy(): void {
    this.weights.destroy();
    this.arena.destroy();
  }
}
