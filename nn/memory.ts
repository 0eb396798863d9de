/** How much device memory a network's steps take, found without a device: by planning them. */

import { metricsElements } from "../kernels/cross_entropy.ts";
import type { Capabilities } from "../kernels/device.ts";
import { type ElementType, type Operand, operand } from "../kernels/dispatch.ts";
import { type Shape, storedElements } from "../kernels/layout.ts";
import { stepSettingsOperand } from "../kernels/step_settings.ts";
import type { Module } from "./module.ts";
import { MOMENTS, type OptimizerKind } from "./optimizers.ts";
import { assign } from "./plan.ts";
import { Counter, Parameter, type StateBuffer } from "./state.ts";
import { evaluationDispatches, trainingDispatches, trainingGraph } from "./step_dispatches.ts";

/** Bytes that a step takes on the device. */
export interface StepMemory {
  /**
   * Parameters and running statistics; in training gradients and what the optimizer keeps too, and sums where they are asked
   * for; the weights' halves.
   */
  readonly stateBytes: number;
  /** The batch and all that lives within a step, as the plan places it. */
  readonly activationBytes: number;
  /** Of those, what plans that never run at the same time share: the slabs of `plan.ts`. */
  readonly slabBytes: readonly number[];
  /** The largest piece that a kernel binds. */
  readonly bindingBytes: number;
}

/** A usual GPU, for plans that no device will run. */
export const TYPICAL_GPU: Capabilities = {
  software: false,
  subgroupSize: 32,
  maxBindingBytes: 2 ** 31 - 4,
  maxBufferBytes: 2 ** 40,
  maxWorkgroupStorageBytes: 32768,
  maxInvocationsPerWorkgroup: 1024,
  maxWorkgroupsPerDimension: 65535,
  storageAlignment: 32,
  maxStorageBuffers: 16,
  timestamps: false,
};

/**
 * Plans a step on float images of size `input`, as `trainStep` and `evalStep` do, and adds up its memory. Nothing is
 * allocated.
 *
 * @throws {RangeError} when the network cannot take the input.
 */
export function stepMemory(
  module: Module,
  input: Shape,
  { training, accumulate = false, optimizer = "sgd", precision = "f32", caps = TYPICAL_GPU }: {
    readonly training: boolean;
    /** Gradients of several batches are summed. Default false. */
    readonly accumulate?: boolean;
    /** Default `sgd`. */
    readonly optimizer?: OptimizerKind;
    /** As of `trainStep` and `evalStep`. Default `f32`. */
    readonly precision?: ElementType;
    readonly caps?: Capabilities;
  },
): StepMemory {
  const places = new Map<Parameter | StateBuffer, Operand>(), gradients = new Map<Parameter, Operand>();
  const halves = new Map<Parameter, Operand>(), kept = MOMENTS[optimizer].length;
  let stateBytes = 0;
  for (const [name, entry] of module.stateEntries()) {
    if (entry instanceof Counter || places.has(entry)) continue;
    const place = operand(name, entry.storedElements);
    places.set(entry, place);
    stateBytes += place.byteLength;
    if (!(entry instanceof Parameter)) continue;
    if (precision === "f16" && entry.shape.length > 1) {
      const half = operand(`${name}.half`, entry.storedElements, "f16");
      halves.set(entry, half);
      stateBytes += half.byteLength;
    }
    if (!training) continue;
    gradients.set(entry, operand(`${name}.gradient`, entry.storedElements));
    stateBytes += (1 + kept + (accumulate ? 1 : 0)) * place.byteLength;
  }
  const x = operand("x", storedElements(input)), labels = operand("labels", input.n);
  const settings = stepSettingsOperand(), metrics = operand("metrics", metricsElements(1));
  const operands = { x, labels, settings, metrics };
  const state = {
    state: (entry: Parameter | StateBuffer) => places.get(entry)!,
    gradient: (parameter: Parameter) => gradients.get(parameter)!,
    half: (parameter: Parameter) => halves.get(parameter)!,
  };
  const dispatches = training
    ? trainingDispatches(trainingGraph(module, input, { precision }), operands, state, { caps, precision }).dispatches
    : evaluationDispatches(module, input, operands, state, { caps, precision }).dispatches;
  const lasting = [...places.values(), ...gradients.values(), ...halves.values()];
  const placed = new Set<Operand>([x, labels, settings, metrics, ...lasting]);
  const { slabBytes } = assign(dispatches, (each) => placed.has(each), {
    alignment: Math.max(256, caps.storageAlignment),
    maxSlabBytes: caps.maxBufferBytes,
  });
  const bound = dispatches.flatMap(({ bindings }) => Object.values(bindings).map(({ operand }) => operand.byteLength));
  return {
    stateBytes,
    activationBytes: x.byteLength + slabBytes.reduce((sum, bytes) => sum + bytes, 0),
    slabBytes,
    bindingBytes: bound.reduce((most, bytes) => Math.max(most, bytes), 0),
  };
}
