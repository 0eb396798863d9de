/** How much device memory a network's steps take, found without a device: by planning them. */

import { crossEntropy, metricsElements } from "../kernels/cross_entropy.ts";
import type { Capabilities } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { type Shape, storedElements } from "../kernels/layout.ts";
import { stepSettingsOperand } from "../kernels/step_settings.ts";
import { fuse, fuseForEvaluation } from "./fuse.ts";
import { trace } from "./graph.ts";
import { lower } from "./lowering.ts";
import type { Module } from "./module.ts";
import { assign } from "./plan.ts";
import { Counter, Parameter, type StateBuffer } from "./state.ts";

/** Bytes that a step takes on the device. */
export interface StepMemory {
  /** Parameters and running statistics; in training gradients and momenta too. */
  readonly stateBytes: number;
  /** The batch and all that lives within a step, as the plan places it. */
  readonly activationBytes: number;
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
  { training, caps = TYPICAL_GPU }: { readonly training: boolean; readonly caps?: Capabilities },
): StepMemory {
  const places = new Map<Parameter | StateBuffer, Operand>(), gradients = new Map<Parameter, Operand>();
  let stateBytes = 0;
  for (const [name, entry] of module.stateEntries()) {
    if (entry instanceof Counter) continue;
    const place = operand(name, entry.storedElements);
    places.set(entry, place);
    stateBytes += place.byteLength;
    if (!training || !(entry instanceof Parameter)) continue;
    gradients.set(entry, operand(`${name}.gradient`, entry.storedElements));
    stateBytes += 2 * place.byteLength;
  }
  const fused = fuse(trace(module, input)), graph = training ? fused : fuseForEvaluation(fused, caps);
  const { n: rows, c: classes } = graph.output.shape;
  const x = operand("x", storedElements(input)), labels = operand("labels", rows);
  const settings = stepSettingsOperand(), metrics = operand("metrics", metricsElements(1));
  const dispatches: Dispatch[] = [];
  const emit = (more: readonly Dispatch[]) => void dispatches.push(...more);
  const lowered = lower(graph, x, {
    state: (entry) => places.get(entry)!,
    gradient: (parameter) => gradients.get(parameter)!,
  }, { caps, training, emit });
  const dlogits = training ? operand("dlogits", storedElements(graph.output.shape)) : undefined;
  const loss = { logits: lowered.output, labels, dlogits, metrics, settings };
  emit(crossEntropy(loss, { rows, classes, labelSmoothing: 0 }, caps));
  if (dlogits) lowered.backward(dlogits);
  const placed = new Set<Operand>([x, labels, settings, metrics, ...places.values(), ...gradients.values()]);
  const { slabBytes } = assign(dispatches, (each) => placed.has(each), {
    alignment: Math.max(256, caps.storageAlignment),
    maxSlabBytes: caps.maxBufferBytes,
  });
  return { stateBytes, activationBytes: x.byteLength + slabBytes.reduce((sum, bytes) => sum + bytes, 0) };
}
