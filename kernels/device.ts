/**
 * The GPU: an open device, its limits and memory, its pipelines kept, its errors carrying names.
 */

import type { Dispatch, HalfRounding } from "./dispatch.ts";
import { shaderText } from "./dispatch.ts";
import { Readings, STAGED_BYTES, type Stretch } from "./readings.ts";
import type { Tuning } from "./tuning.ts";
import { UserError } from "./user_error.ts";

/** What kernels may rely on. */
export interface Capabilities {
  /** The adapter runs on the CPU: barriers and shared memory are slow there, each scalar load is a loop over lanes. */
  readonly software: boolean;
  /** Invocations of a subgroup, when granted and fixed; else 0. */
  readonly subgroupSize: number;
  /** The largest part of a buffer that a dispatch may bind. */
  readonly maxBindingBytes: number;
  /** The largest buffer. */
  readonly maxBufferBytes: number;
  /** Memory that the invocations of a workgroup may share. */
  readonly maxWorkgroupStorageBytes: number;
  /** The largest workgroup. */
  readonly maxInvocationsPerWorkgroup: number;
  /** The most workgroups of a dispatch in each of its three dimensions. */
  readonly maxWorkgroupsPerDimension: number;
  /** Bytes that the offset of a binding is a multiple of. */
  readonly storageAlignment: number;
  /** Buffers a dispatch may bind. */
  readonly maxStorageBuffers: number;
  /** Dispatches can be timed on the device. */
  readonly timestamps: boolean;
  /** What measuring on this adapter has found; rules choose where it is absent. */
  readonly tuning?: Tuning;
}

/** The device is gone: its driver failed, it was unplugged, or the system took it away. What was on it is lost. */
export class DeviceLostError extends Error {
  /** Tells it from other errors in a log. */
  override name = "DeviceLostError";
}

/** The device has no room. */
export class OutOfMemoryError extends UserError {
  /** Tells it from other errors in a log. */
  override name = "OutOfMemoryError";
  /**
   * Says what did not fit.
   *
   * @param byteLength What was asked for.
   */
  constructor(message: string, readonly byteLength: number) {
    super(message);
  }
}

/** What an adapter calls itself. */
export function adapterName({ description, vendor, architecture, device }: GPUAdapterInfo): string {
  return description || [vendor, architecture, device].filter(Boolean).join(" ") || "GPU";
}

/** What was submitted last, asked for the kernel at fault when the device complains. */
export interface Suspect {
  /** The label of the first kernel that the device refuses. */
  culprit(device: Device): Promise<string | undefined>;
}

/** An open device. Made by `openDevice`; {@linkcode Device.close} frees it and all of its buffers. */
export class Device {
  /** The adapter's name, such as `NVIDIA H100`. */
  readonly name: string;
  #capabilities: Capabilities;
  #rounding: HalfRounding = "driver";
  #written = 0;
  /** The WebGPU device itself. */
  readonly gpu: GPUDevice;
  readonly #pipelines = new Map<string, Promise<GPUComputePipeline>>();
  readonly #readings: Readings;
  #failure: Error | undefined;
  #suspect: Suspect | undefined;
  #investigated: Promise<void> = Promise.resolve();
  #closed = false;

  /** `openDevice` makes one; a device opened elsewhere, with its adapter's info, will do too. */
  constructor(info: GPUAdapterInfo, gpu: GPUDevice) {
    this.gpu = gpu;
    this.#readings = new Readings(gpu);
    this.name = adapterName(info);
    const { subgroupMinSize: min = 0, subgroupMaxSize: max = 0, isFallbackAdapter } = info;
    const granted = gpu.features.has("subgroups" as GPUFeatureName) && min === max;
    this.#capabilities = Object.freeze({
      software: Boolean(isFallbackAdapter) || /llvmpipe|lavapipe|swiftshader|basic render/i.test(this.name),
      subgroupSize: granted ? max : 0,
      maxBindingBytes: gpu.limits.maxStorageBufferBindingSize,
      maxBufferBytes: gpu.limits.maxBufferSize,
      maxWorkgroupStorageBytes: gpu.limits.maxComputeWorkgroupStorageSize,
      maxInvocationsPerWorkgroup: gpu.limits.maxComputeInvocationsPerWorkgroup,
      maxWorkgroupsPerDimension: gpu.limits.maxComputeWorkgroupsPerDimension,
      storageAlignment: gpu.limits.minStorageBufferOffsetAlignment,
      maxStorageBuffers: gpu.limits.maxStorageBuffersPerShaderStage,
      timestamps: gpu.features.has("timestamp-query"),
    });
    gpu.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      if (this.#failure) return;
      const { error } = event as GPUUncapturedErrorEvent, { message } = error;
      if (error instanceof GPUOutOfMemoryError) {
        this.#failure = new OutOfMemoryError(`${this.name} is out of memory; use a smaller batch or image size`, 0);
        return;
      }
      const failure = this.#failure = new Error(`WebGPU: ${message}`);
      this.#investigated = this.#investigate(failure, message);
    });
    gpu.lost.then(({ message, reason }) => {
      // Complaints that came before are its consequences.
      if (!this.#closed) this.#failure = new DeviceLostError(`The GPU device was lost: ${message || reason}`);
    });
  }

  /** WebGPU's message does not say which kernel it speaks of. */
  async #investigate(failure: Error, message: string): Promise<void> {
    const label = await this.#suspect?.culprit(this).catch(() => undefined);
    if (label !== undefined) failure.message = `WebGPU refuses kernel "${label}": ${message}`;
  }

  /** Who is to be asked when the device complains: what is submitted next. */
  suspect(suspect: Suspect): void {
    this.#suspect = suspect;
  }

  /**
   * The error to throw where WebGPU threw `error`: the loss of the device, which makes everything fail, is told by
   * itself, a moment later.
   */
  async explain(error: unknown): Promise<unknown> {
    await Promise.race([this.gpu.lost, new Promise((resolve) => setTimeout(resolve, 100))]);
    await this.#investigated;
    return this.#failure ?? error;
  }

  /** What the error scope opened last has found; a browser whose GPU process is gone refuses to say. */
  async scopeError(): Promise<GPUError | null> {
    try {
      return await this.gpu.popErrorScope();
    } catch (error) {
      throw await this.explain(error);
    }
  }

  /** What kernels may rely on. */
  get capabilities(): Capabilities {
    return this.#capabilities;
  }

  /** From now on kernels are chosen by a tuning where it knows one; steps compiled before stay as they are. */
  useTuning(tuning: Tuning | undefined): void {
    this.#capabilities = Object.freeze({ ...this.#capabilities, tuning });
  }

  /** From now on kernels round to halves themselves, not by the driver's conversion. */
  roundHalvesByBits(): void {
    this.#rounding = "bits";
  }

  /**
   * Throws what the device reported since it was opened, if anything: a wrong number must never pass for a result. Throws
   * when it was closed, too.
   */
  check(): void {
    if (this.#failure) throw this.#failure;
  }

  #checkOpen(): void {
    if (this.#closed) this.check();
  }

  /**
   * Lowers the limit of buffers to what the device gives. Deno 2.9 refuses a buffer that one of a GPU's memories could not
   * hold, and where the host sees a part of it only (no Resizable BAR), one of them has 256 MiB (denoland/deno#35195).
   */
  async findLargestBuffer(): Promise<void> {
    const { maxBufferBytes, maxBindingBytes } = this.#capabilities;
    let given = 0, refused = Math.min(maxBufferBytes, TRIED_BYTES);
    if (await this.#gives(refused)) return;
    while (refused - given > PROBE_BYTES) {
      const middle = Math.floor((given + refused) / 8) * 4;
      if (await this.#gives(middle)) given = middle;
      else refused = middle;
    }
    // What is written passes through the same memory.
    const bytes = given - STAGED_BYTES;
    if (bytes < STAGED_BYTES) return;
    const limits = { maxBufferBytes: bytes, maxBindingBytes: Math.min(maxBindingBytes, bytes) };
    this.#capabilities = Object.freeze({ ...this.#capabilities, ...limits });
  }

  async #gives(bytes: number): Promise<boolean> {
    const buffer = await this.#probe(bytes);
    buffer?.destroy();
    return buffer !== undefined;
  }

  /** A buffer, if there is room for it. */
  async #probe(bytes: number): Promise<GPUBuffer | undefined> {
    try {
      return await this.buffer("probe", bytes);
    } catch (error) {
      if (!(error instanceof OutOfMemoryError)) throw error;
    }
  }

  /** The compiled pipeline of a dispatch; equal shaders are compiled once. */
  pipeline(dispatch: Dispatch): Promise<GPUComputePipeline> {
    const code = shaderText(dispatch, this.#rounding);
    let pipeline = this.#pipelines.get(code);
    if (!pipeline) {
      pipeline = this.#compile(dispatch.label, code);
      this.#pipelines.set(code, pipeline);
    }
    return pipeline;
  }

  async #compile(label: string, code: string): Promise<GPUComputePipeline> {
    this.gpu.pushErrorScope("validation");
    const module = this.gpu.createShaderModule({ label, code: directives(code, "Deno" in globalThis) + code });
    const invalid = this.scopeError();
    const pipeline = this.gpu.createComputePipelineAsync({
      label,
      layout: "auto",
      compute: { module, entryPoint: "main" },
    });
    const [error, result] = await Promise.all([invalid, pipeline.catch((cause) => cause as Error)]);
    if (error || result instanceof Error) {
      const explained = await this.explain(undefined);
      if (explained instanceof DeviceLostError) throw explained;
      throw new Error(`Cannot compile kernel "${label}": ${(error ?? result as Error).message}\n${code}`);
    }
    return result;
  }

  /** Several as by {@linkcode buffer}; none stays where there is no room for all. @throws {UserError} */
  async buffers(wanted: readonly { readonly label: string; readonly byteLength: number }[]): Promise<GPUBuffer[]> {
    const made: GPUBuffer[] = [];
    try {
      for (const { label, byteLength } of wanted) made.push(await this.buffer(label, byteLength));
      return made;
    } catch (error) {
      this.free(...made);
      throw error;
    }
  }

  /** A zeroed storage buffer. @throws {UserError} where the device has no room. */
  async buffer(label: string, byteLength: number, usage?: number): Promise<GPUBuffer> {
    this.#checkOpen();
    const { maxBufferBytes } = this.capabilities;
    if (byteLength > maxBufferBytes) {
      throw new UserError(
        `Cannot allocate ${mib(byteLength)} for ${label}: a buffer of ${this.name} holds at most ${
          mib(maxBufferBytes)
        }; ` +
          "use a smaller batch or image size",
      );
    }
    usage ??= GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.gpu.pushErrorScope("out-of-memory");
    const buffer = this.gpu.createBuffer({ label, size: byteLength, usage });
    if (await this.scopeError()) {
      throw new OutOfMemoryError(
        `Cannot allocate ${
          mib(byteLength)
        } for ${label}: ${this.name} is out of memory; use a smaller batch or image size`,
        byteLength,
      );
    }
    makers.set(buffer, this);
    return buffer;
  }

  /** Whether another device has made a buffer. Of what none has made by {@linkcode buffer} that is not known. */
  isForeign(buffer: GPUBuffer): boolean {
    return (makers.get(buffer) ?? this) !== this;
  }

  /**
   * Bytes that the device gives beside what it has given, up to `most`: tried, by taking them and giving them back, as
   * WebGPU has no other way to know. Exact to {@linkcode PROBE_BYTES}.
   */
  async roomFor(most: number): Promise<number> {
    const taken: GPUBuffer[] = [];
    try {
      let room = 0, piece = Math.min(this.capabilities.maxBufferBytes, TRIED_BYTES);
      while (room < most) {
        const bytes = Math.ceil(Math.min(piece, most - room) / 4) * 4, buffer = await this.#probe(bytes);
        if (buffer) {
          taken.push(buffer);
          room += bytes;
        } else if (piece <= PROBE_BYTES) {
          break;
        } else {
          piece = Math.max(PROBE_BYTES, Math.floor(piece / 2));
        }
      }
      return room;
    } finally {
      for (const buffer of taken) buffer.destroy();
    }
  }

  /** Copies to the GPU, in order with the work submitted before and after. */
  write(
    buffer: GPUBuffer,
    offset: number,
    { buffer: data, byteOffset, byteLength }: ArrayBufferView<ArrayBuffer>,
  ): void {
    this.#checkOpen();
    this.#readings.copyAll();
    for (let at = 0; at < byteLength; at += STAGED_BYTES) {
      const bytes = Math.min(STAGED_BYTES, byteLength - at);
      this.gpu.queue.writeBuffer(buffer, offset + at, data, byteOffset + at, bytes);
      this.#written += bytes;
      // The queue holds a copy of what was written until something is submitted.
      if (this.#written < STAGED_BYTES) continue;
      this.gpu.queue.submit([]);
      this.#written = 0;
    }
  }

  /** Submits commands. What may change a buffer must go this way, as what is being read is as it was before. */
  submit(encoder: GPUCommandEncoder): void {
    this.#checkOpen();
    this.#readings.copyAll();
    this.gpu.queue.submit([encoder.finish()]);
  }

  /**
   * Copies `byteLength` bytes back, as they are after all work submitted before, whatever is submitted meanwhile. Waits for
   * that work: not for a training loop's inside.
   */
  async read(buffer: GPUBuffer, offset: number, byteLength: number): Promise<ArrayBuffer> {
    return (await this.readAll([{ buffer, offset, byteLength }]))[0];
  }

  /** @internal Several stretches, of one moment. Each reading costs time, however short it is. */
  async readAll(stretches: readonly Stretch[]): Promise<ArrayBuffer[]> {
    this.#checkOpen();
    return await this.#readings.read(stretches, async (mapping) => {
      await mapping.catch(async (error) => {
        throw await this.explain(error);
      });
      await this.#investigated;
      this.check();
    });
  }

  /** Frees buffers; what is being read of them is copied before. */
  free(...buffers: readonly (GPUBuffer | undefined)[]): void {
    this.#readings.copyAll();
    for (const buffer of buffers) buffer?.destroy();
  }

  /** Frees the device and everything on it. */
  close(): void {
    this.#closed = true;
    this.#failure ??= new Error("Cannot use the device: it was closed; open it again");
    this.gpu.destroy();
  }
}

/** What stands before a shader that uses subgroups: browsers demand it, Deno takes it for a mistake. */
export function directives(code: string, inDeno: boolean): string {
  return !inDeno && /\bsubgroup[A-Z]/.test(code) ? "enable subgroups;\n" : "";
}

/** Which device has made a buffer: WebGPU does not tell. */
const makers = new WeakMap<GPUBuffer, Device>();

/** The largest buffer that is tried for: what most GPUs bind at most. */
const TRIED_BYTES = 2 ** 31;
/** The least that {@linkcode Device.roomFor} tells apart. */
const PROBE_BYTES = 2 ** 24;

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
