/** Dispatches made ready: pipelines compiled, bind groups built once, encoded in one pass as often as wanted. */

import type { Device } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";

/** Where an operand lies. */
export interface Placement {
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

interface Ready {
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly workgroups: readonly [number, number, number];
}

/** A list of dispatches ready to be encoded. Encoding allocates nothing on the device. */
export class Program {
  readonly dispatches: readonly Dispatch[];
  readonly #ready: readonly Ready[];

  private constructor(dispatches: readonly Dispatch[], ready: readonly Ready[]) {
    this.dispatches = dispatches;
    this.#ready = ready;
  }

  /** Compiles what is not compiled yet and binds every operand to its place. */
  static async create(
    device: Device,
    dispatches: readonly Dispatch[],
    place: (operand: Operand) => Placement,
  ): Promise<Program> {
    const pipelines = await Promise.all(dispatches.map((dispatch) => device.pipeline(dispatch)));
    device.gpu.pushErrorScope("validation");
    const ready = dispatches.map((dispatch, index): Ready => {
      const entries = Object.values(dispatch.bindings).map(({ operand }, binding) => {
        const { buffer, offset } = place(operand);
        return { binding, resource: { buffer, offset, size: operand.byteLength } };
      });
      const pipeline = pipelines[index];
      const bindGroup = device.gpu.createBindGroup({
        label: dispatch.label,
        layout: pipeline.getBindGroupLayout(0),
        entries,
      });
      return { pipeline, bindGroup, workgroups: dispatch.workgroups };
    });
    const error = await device.gpu.popErrorScope();
    if (error) throw new Error(`Cannot bind a kernel's operands: ${error.message}`);
    return new Program(dispatches, ready);
  }

  /** Encodes all dispatches, in order, into one compute pass. */
  encode(encoder: GPUCommandEncoder): void {
    const pass = encoder.beginComputePass();
    for (const { pipeline, bindGroup, workgroups } of this.#ready) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(...workgroups);
    }
    pass.end();
  }
}

/**
 * Runs dispatches once with every operand in a buffer of its own, and returns the bytes of `outputs`, in order.
 * For tests and one-off work; a network runs through a plan.
 */
export async function runOnce(
  device: Device,
  dispatches: readonly Dispatch[],
  inputs: ReadonlyMap<Operand, ArrayBufferView<ArrayBuffer>>,
  outputs: readonly Operand[],
): Promise<ArrayBuffer[]> {
  const buffers = new Map<Operand, GPUBuffer>();
  try {
    for (const dispatch of dispatches) {
      for (const { operand } of Object.values(dispatch.bindings)) {
        if (!buffers.has(operand)) buffers.set(operand, await device.buffer(operand.label, operand.byteLength));
      }
    }
    for (const [operand, data] of inputs) {
      const buffer = buffers.get(operand);
      if (buffer) device.write(buffer, 0, data);
    }
    const program = await Program.create(
      device,
      dispatches,
      (operand) => ({ buffer: buffers.get(operand)!, offset: 0 }),
    );
    const encoder = device.gpu.createCommandEncoder();
    program.encode(encoder);
    device.gpu.queue.submit([encoder.finish()]);
    const results: ArrayBuffer[] = [];
    for (const output of outputs) results.push(await device.read(buffers.get(output)!, 0, output.byteLength));
    return results;
  } finally {
    for (const buffer of buffers.values()) buffer.destroy();
  }
}
