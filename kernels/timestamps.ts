/** How long passes take, by the device's own clock. */

import type { Device } from "./device.ts";

/** Encodes one compute pass that writes these timestamps. */
export type TimedPass = (encoder: GPUCommandEncoder, timestampWrites: GPUComputePassTimestampWrites) => void;

/** Milliseconds beside the passes for which the host may wait: reading sleeps for 10 and more. */
const WAITING = 30;

/** A query set holds at most 4096 timestamps, two a pass. */
const PASSES_A_SET = 2048;

/**
 * Milliseconds of each pass, submitted together and in order; undefined where the device has no timestamps, or its clock
 * does not agree with the host's.
 */
export async function passTimes(device: Device, passes: readonly TimedPass[]): Promise<number[] | undefined> {
  if (!device.capabilities.timestamps) return undefined;
  if (passes.length === 0) return [];
  const count = Math.min(passes.length, PASSES_A_SET);
  const querySet = device.gpu.createQuerySet({ type: "timestamp", count: count * 2 });
  const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
  const resolved = await device.buffer("timestamps", count * 16, usage);
  try {
    const all: number[] = [];
    for (let first = 0; first < passes.length; first += count) {
      const some = passes.slice(first, first + count);
      const started = performance.now();
      const encoder = device.gpu.createCommandEncoder();
      some.forEach((pass, i) =>
        pass(encoder, { querySet, beginningOfPassWriteIndex: i * 2, endOfPassWriteIndex: i * 2 + 1 })
      );
      encoder.resolveQuerySet(querySet, 0, some.length * 2, resolved, 0);
      device.gpu.queue.submit([encoder.finish()]);
      const stamps = new BigUint64Array(await device.read(resolved, 0, some.length * 16));
      const ms = (from: number, to: number) => Number(stamps[to] - stamps[from]) / 1e6;
      if (!plausible(stamps, ms(0, some.length * 2 - 1), performance.now() - started)) return undefined;
      for (const i of some.keys()) all.push(ms(i * 2, i * 2 + 1));
    }
    return all;
  } finally {
    querySet.destroy();
    resolved.destroy();
  }
}

/** In order, and together neither longer than the host waited nor a small part of it. */
function plausible(stamps: BigUint64Array, deviceMs: number, hostMs: number): boolean {
  for (let i = 1; i < stamps.length; i += 2) if (stamps[i] < stamps[i - 1]) return false;
  return deviceMs < hostMs * 1.05 && (deviceMs > hostMs * 0.3 || hostMs - deviceMs < WAITING);
}
