/** How long passes take, by the device's own clock. */

import type { Device } from "./device.ts";

/** Encodes one compute pass that writes these timestamps. */
export type TimedPass = (encoder: GPUCommandEncoder, timestampWrites: GPUComputePassTimestampWrites) => void;

/** Milliseconds beside the passes for which the host may wait: reading sleeps for 10 and more. */
const WAITING = 30;

/** A query set holds 4096 timestamps, two a pass; but Metal takes no more passes than this in one piece. */
const PASSES_A_SET = 1024;

/** Timestamps, and the memory that they are read from. */
export class TimestampSet {
  private constructor(
    private readonly device: Device,
    /** For passes to write to. */
    readonly querySet: GPUQuerySet,
    private readonly resolved: GPUBuffer,
  ) {}

  /** Of `count` timestamps. */
  static async create(device: Device, count: number): Promise<TimestampSet> {
    const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
    return new TimestampSet(
      device,
      device.gpu.createQuerySet({ type: "timestamp", count }),
      await device.buffer("timestamps", count * 8, usage),
    );
  }

  /** Submits commands and reads the first `count` timestamps after them, in ticks. Waits. */
  async submit(encoder: GPUCommandEncoder, count = this.querySet.count): Promise<BigUint64Array> {
    encoder.resolveQuerySet(this.querySet, 0, count, this.resolved, 0);
    this.device.submit(encoder);
    return new BigUint64Array(await this.device.read(this.resolved, 0, count * 8));
  }

  /** Frees its memory. */
  destroy(): void {
    this.querySet.destroy();
    this.resolved.destroy();
  }
}

/** Host milliseconds by which a clock is measured. */
const MEASURED = 200;

const ticks = new WeakMap<GPUDevice, Promise<number>>();

/**
 * Nanoseconds of a tick of the device's clock, measured once a device. WebGPU's timestamps are nanoseconds, but Deno 2.9
 * gives the device's own ticks (gfx-rs/wgpu#6719): 10 ns on AMD's GPUs, 26 to 83 on Intel's.
 */
export function tickNanoseconds(device: Device): Promise<number> {
  let found = ticks.get(device.gpu);
  if (!found) ticks.set(device.gpu, found = measureTick(device));
  return found;
}

/** From two stamps of a device that has nothing else to do: its clock runs on meanwhile. */
async function measureTick(device: Device): Promise<number> {
  const stamps = await TimestampSet.create(device, 2), { querySet } = stamps;
  const mark = (endOfPassWriteIndex: number) => {
    const encoder = device.gpu.createCommandEncoder();
    encoder.beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex } }).end();
    return encoder;
  };
  try {
    await device.gpu.queue.onSubmittedWorkDone();
    const started = performance.now();
    device.gpu.queue.submit([mark(0).finish()]);
    await new Promise((resolve) => setTimeout(resolve, MEASURED));
    await device.gpu.queue.onSubmittedWorkDone();
    const encoder = mark(1), hostMs = performance.now() - started;
    const [from, to] = await stamps.submit(encoder);
    const nanoseconds = hostMs * 1e6 / Number(to - from);
    // No device has ticks of 2 ns. A clock that stands still or runs backwards is not made better by this.
    return nanoseconds > 2 && Number.isFinite(nanoseconds) ? nanoseconds : 1;
  } finally {
    stamps.destroy();
  }
}

/**
 * Milliseconds of each pass, in order, each submitted by itself (systems end long submissions); undefined where the device
 * has no timestamps, or its clock does not agree with the host's.
 */
export async function passTimes(device: Device, passes: readonly TimedPass[]): Promise<number[] | undefined> {
  if (!device.capabilities.timestamps) return undefined;
  if (passes.length === 0) return [];
  const tick = await tickNanoseconds(device);
  const count = Math.min(passes.length, PASSES_A_SET);
  const set = await TimestampSet.create(device, count * 2), { querySet } = set;
  try {
    const all: number[] = [];
    for (let first = 0; first < passes.length; first += count) {
      const some = passes.slice(first, first + count);
      const started = performance.now();
      for (const [i, pass] of some.entries()) {
        const encoder = device.gpu.createCommandEncoder();
        pass(encoder, { querySet, beginningOfPassWriteIndex: i * 2, endOfPassWriteIndex: i * 2 + 1 });
        device.submit(encoder);
      }
      const stamps = await set.submit(device.gpu.createCommandEncoder(), some.length * 2);
      const ms = (from: number, to: number) => Number(stamps[to] - stamps[from]) * tick / 1e6;
      if (!plausible(stamps, ms(0, some.length * 2 - 1), performance.now() - started)) return undefined;
      for (const i of some.keys()) all.push(ms(i * 2, i * 2 + 1));
    }
    return all;
  } finally {
    set.destroy();
  }
}

/** In order, and together neither longer than the host waited nor a small part of it. */
function plausible(stamps: BigUint64Array, deviceMs: number, hostMs: number): boolean {
  for (let i = 1; i < stamps.length; i += 2) if (stamps[i] < stamps[i - 1]) return false;
  return deviceMs < hostMs * 1.05 && (deviceMs > hostMs * 0.3 || hostMs - deviceMs < WAITING);
}
