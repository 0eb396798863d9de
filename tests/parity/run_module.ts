/** A module run once, forward and backward, the way a network runs it: traced, fused, lowered, planned. */

import type { Capabilities, Device } from "../../kernels/device.ts";
import { type Dispatch, type ElementType, type Operand, operand } from "../../kernels/dispatch.ts";
import { fromNhwc, type Shape, storedElements, toNhwc } from "../../kernels/layout.ts";
import type { Placement } from "../../kernels/program.ts";
import { deferNorms, fuse, fuseForEvaluation } from "../../nn/fuse.ts";
import { type Graph, trace } from "../../nn/graph.ts";
import { lower } from "../../nn/lowering.ts";
import type { Module } from "../../nn/module.ts";
import { Arena, Plan } from "../../nn/plan.ts";
import type { TensorData } from "../../nn/safetensors.ts";
import { type StateDict, Weights } from "../../nn/weights.ts";

/** What a module is run on; activations are NCHW, flattened. */
export interface ModuleInput {
  readonly state: StateDict;
  readonly shape: Shape;
  readonly x: Float32Array;
  /** The output's gradient; without it there is no way back. */
  readonly dy?: Float32Array;
  /** Default true. */
  readonly training?: boolean;
  /** What becomes of the traced graph. Default: what steps make of it. */
  readonly rewrite?: (graph: Graph) => Graph;
  /** Default `f32`. */
  readonly precision?: ElementType;
  /** Whose kernels. Default: the device's. */
  readonly caps?: Capabilities;
}

/** What came out, in PyTorch's layouts. */
export interface ModuleOutput {
  readonly y: Float32Array;
  readonly shape: Shape;
  readonly dx?: Float32Array;
  readonly gradients: ReadonlyMap<string, TensorData>;
  readonly state: ReadonlyMap<string, TensorData>;
}

/** Runs a module; see the file's head. */
export async function runModule(device: Device, module: Module, input: ModuleInput): Promise<ModuleOutput> {
  const { state, shape, training = true, precision = "f32", caps = device.capabilities } = input;
  const { rewrite = (graph) => training ? deferNorms(fuse(graph)) : fuseForEvaluation(fuse(graph), caps) } = input;
  const weights = await Weights.create(device, module);
  const arena = new Arena(device);
  const buffers: GPUBuffer[] = [];
  try {
    weights.loadStateDict(state);
    await weights.prepareTraining();
    const graph = rewrite(trace(module, shape));
    const dispatches: Dispatch[] = [];
    const emit = (more: readonly Dispatch[]) => void dispatches.push(...more);
    if (precision === "f16") emit((await weights.prepareHalves()).dispatches(caps));
    const x = operand("x", storedElements(shape)), dy = operand("dy", storedElements(graph.output.shape));
    const lowered = lower(graph, x, weights, { caps, training, inputGradient: true, precision, emit });
    const y = lowered.output, dx = input.dy && lowered.backward(dy);
    const places = new Map<Operand, Placement>();
    for (const each of [x, y, dy, dx]) {
      if (!each || places.has(each)) continue;
      const buffer = await device.buffer(each.label, each.byteLength);
      buffers.push(buffer);
      places.set(each, { buffer, offset: 0 });
    }
    const plan = new Plan(device, dispatches, (each) => weights.place(each) ?? places.get(each));
    await arena.add(plan);
    device.write(places.get(x)!.buffer, 0, toNhwc(input.x, shape));
    if (input.dy) device.write(places.get(dy)!.buffer, 0, toNhwc(input.dy, graph.output.shape));
    plan.program.submit(device);
    const read = async (each: Operand, of: Shape) => {
      const bytes = await device.read(places.get(each)!.buffer, 0, each.byteLength);
      const values = each.type === "f16" ? Float32Array.from(new Float16Array(bytes)) : new Float32Array(bytes);
      return fromNhwc(values, of);
    };
    return {
      y: await read(y, graph.output.shape),
      shape: graph.output.shape,
      dx: dx && await read(dx, shape),
      gradients: (await weights.gradients())!,
      state: await weights.stateDict(),
    };
  } finally {
    for (const buffer of buffers) buffer.destroy();
    arena.destroy();
    weights.destroy();
  }
}
