/** Dispatches made ready: pipelines compiled, bind groups built once, submitted as often as wanted. */

import type { Device, Suspect } from "./device.ts";
import { type Dispatch, type Operand, uniformBytes } from "./dispatch.ts";

/** Where an operand lies. */
export interface Placement {
  /** In which buffer. */
  readonly buffer: GPUBuffer;
  /** From which byte on. */
  readonly offset: number;
}

interface Ready {
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly workgroups: readonly [number, number, number];
}

/** What may be encoded around a program's dispatches. */
export interface Around {
  /** What has to be done first. */
  readonly before?: (encoder: GPUCommandEncoder) => void;
  /** What takes what they made. */
  readonly after?: (encoder: GPUCommandEncoder) => void;
}

/** A list of dispatches ready to be encoded. Encoding allocates nothing on the device. */
export class Program implements Suspect {
  /** In the order in which they run. */
  readonly dispatches: readonly Dispatch[];
  readonly #pipelines: readonly GPUComputePipeline[];
  readonly #uniforms: Uniforms | undefined;
  #ready: readonly Ready[] = [];
  #submissions: readonly (readonly Ready[])[] = [];

  private constructor(
    dispatches: readonly Dispatch[],
    pipelines: readonly GPUComputePipeline[],
    uniforms: Uniforms | undefined,
  ) {
    this.dispatches = dispatches;
    this.#pipelines = pipelines;
    this.#uniforms = uniforms;
  }

  /** Compiles what is not compiled yet and binds every operand to its place. */
  static async create(
    device: Device,
    dispatches: readonly Dispatch[],
    place: (operand: Operand) => Placement,
  ): Promise<Program> {
    const pipelines = await Promise.all(dispatches.map((dispatch) => device.pipeline(dispatch)));
    const uniforms = await uniformBuffer(device, dispatches);
    const program = new Program(dispatches, pipelines, uniforms);
    try {
      device.gpu.pushErrorScope("validation");
      program.bind(device, place);
      const error = await device.scopeError();
      if (error) throw new Error(`Cannot bind a kernel's operands: ${error.message}`);
      const refusal = await refused(device, (encoder) => program.encode(encoder));
      if (refusal) throw new Error(`WebGPU refuses kernel "${await program.culprit(device)}": ${refusal.message}`);
      return program;
    } catch (error) {
      program.destroy();
      throw error;
    }
  }

  /** Binds every operand to its place: anew where places have changed. What is submitted keeps those that it had. */
  bind(device: Device, place: (operand: Operand) => Placement): void {
    const { dispatches } = this, uniforms = this.#uniforms;
    const ready = dispatches.map((dispatch, index): Ready => {
      const entries: GPUBindGroupEntry[] = Object.values(dispatch.bindings).map(({ operand }, binding) => {
        const { buffer, offset } = place(operand);
        return { binding, resource: { buffer, offset, size: operand.byteLength } };
      });
      const range = uniforms?.ranges.get(dispatch);
      if (range) entries.push({ binding: entries.length, resource: { buffer: uniforms!.buffer, ...range } });
      const pipeline = this.#pipelines[index];
      const bindGroup = device.gpu.createBindGroup({
        label: dispatch.label,
        layout: pipeline.getBindGroupLayout(0),
        entries,
      });
      return { pipeline, bindGroup, workgroups: dispatch.workgroups };
    });
    const ends = [...dispatches.keys()].filter((index) => dispatches[index].endsSubmission).map((index) => index + 1);
    const cuts = [...new Set([0, ...ends, ready.length])];
    this.#submissions = cuts.slice(1).map((end, i) => ready.slice(cuts[i], end));
    this.#ready = ready;
  }

  /** The label of the first dispatch that the device refuses to encode or, where it takes them all, to submit. */
  async culprit(device: Device): Promise<string | undefined> {
    for (const submitted of [false, true]) {
      for (const [index, { label }] of this.dispatches.entries()) {
        if (await refused(device, (encoder) => this.encodeOne(encoder, index, 1), submitted)) return label;
      }
    }
    return undefined;
  }

  /** Encodes one dispatch `times` over in a pass of its own: for measuring. */
  encodeOne(
    encoder: GPUCommandEncoder,
    index: number,
    times: number,
    timestampWrites?: GPUComputePassTimestampWrites,
  ): void {
    const { pipeline, bindGroup, workgroups } = this.#ready[index];
    const pass = encoder.beginComputePass({ timestampWrites });
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup);
    for (let i = 0; i < times; i++) pass.dispatchWorkgroups(...workgroups);
    pass.end();
  }

  /** Encodes all dispatches, in order, into one compute pass; for measuring `times` over. */
  encode(encoder: GPUCommandEncoder, times = 1, timestampWrites?: GPUComputePassTimestampWrites): void {
    const pass = encoder.beginComputePass({ timestampWrites });
    for (let i = 0; i < times; i++) {
      for (const each of this.#ready) dispatch(pass, each);
    }
    pass.end();
  }

  /** Submits all dispatches, in order, once; `before` and `after` are encoded around them. */
  submit(device: Device, { before, after }: Around = {}): void {
    device.suspect(this);
    for (const [index, part] of this.#submissions.entries()) {
      const encoder = device.gpu.createCommandEncoder();
      if (index === 0) before?.(encoder);
      const pass = encoder.beginComputePass();
      for (const each of part) dispatch(pass, each);
      pass.end();
      if (index === this.#submissions.length - 1) after?.(encoder);
      device.submit(encoder);
    }
  }

  /** Frees what the program itself holds on the device; not the operands. */
  destroy(): void {
    this.#uniforms?.buffer.destroy();
  }
}

function dispatch(pass: GPUComputePassEncoder, { pipeline, bindGroup, workgroups }: Ready): void {
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindGroup);
  pass.dispatchWorkgroups(...workgroups);
}

/** What the device has against commands, which it runs only if it has nothing and `submitted` is set. */
async function refused(
  device: Device,
  encode: (encoder: GPUCommandEncoder) => void,
  submitted = false,
): Promise<GPUError | null> {
  device.gpu.pushErrorScope("validation");
  const encoder = device.gpu.createCommandEncoder();
  encode(encoder);
  const commands = encoder.finish();
  if (submitted) device.gpu.queue.submit([commands]);
  return await device.scopeError();
}

/** One buffer with the uniforms of all dispatches, equal ones once. */
interface Uniforms {
  readonly buffer: GPUBuffer;
  readonly ranges: ReadonlyMap<Dispatch, { readonly offset: number; readonly size: number }>;
}

async function uniformBuffer(device: Device, dispatches: readonly Dispatch[]): Promise<Uniforms | undefined> {
  const alignment = device.gpu.limits.minUniformBufferOffsetAlignment;
  const ranges = new Map<Dispatch, { offset: number; size: number }>();
  const known = new Map<string, { offset: number; size: number }>();
  const pieces: { offset: number; bytes: Uint32Array<ArrayBuffer> }[] = [];
  let end = 0;
  for (const dispatch of dispatches) {
    const bytes = uniformBytes(dispatch);
    if (!bytes) continue;
    const key = bytes.join();
    let range = known.get(key);
    if (!range) {
      known.set(key, range = { offset: end, size: bytes.byteLength });
      pieces.push({ offset: end, bytes });
      end += Math.ceil(bytes.byteLength / alignment) * alignment;
    }
    ranges.set(dispatch, range);
  }
  if (end === 0) return undefined;
  const all = new Uint8Array(end);
  for (const { offset, bytes } of pieces) all.set(new Uint8Array(bytes.buffer), offset);
  const buffer = await device.buffer("uniforms", end, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
  device.write(buffer, 0, all);
  return { buffer, ranges };
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
  let program: Program | undefined;
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
    program = await Program.create(
      device,
      dispatches,
      (operand) => ({ buffer: buffers.get(operand)!, offset: 0 }),
    );
    program.submit(device);
    const results: ArrayBuffer[] = [];
    for (const output of outputs) results.push(await device.read(buffers.get(output)!, 0, output.byteLength));
    return results;
  } finally {
    program?.destroy();
    for (const buffer of buffers.values()) buffer.destroy();
  }
}
