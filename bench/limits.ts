/**
 * What the device can do at most, as far as WGSL reaches it: the rate of multiply-adds on registers, and the rate of a
 * copy between buffers that no cache holds. Each is the best of a few plain kernels.
 *
 * Multiply-adds are measured in two forms, as registers decide their rate. Chains of scalars share the two of factor and
 * addend; chains of vec4s have others in each component. A core of NVIDIA's Hopper reads two registers of its own a cycle
 * and so reaches two thirds of its rate with vec4s, all but 2 % with 32 chains of scalars. A software adapter on
 * AVX2 has 16 registers, which hold 12 chains and what they share. Vec4s were best on neither; they stay for devices not
 * tried.
 */

import type { Device } from "../kernels/device.ts";
import { type Dispatch, operand, read, write } from "../kernels/dispatch.ts";
import { Program } from "../kernels/program.ts";
import { unroll } from "../kernels/wgsl.ts";
import { timed } from "./measure.ts";

/** See the file's head. */
export interface Limits {
  /** Floating-point operations a second, a multiply-add counting two. */
  readonly flopsPerSecond: number;
  /** Bytes a second that a kernel reads and writes. */
  readonly bytesPerSecond: number;
  /** Bytes a second, read and written, of `copyBufferToBuffer`. */
  readonly copyBytesPerSecond: number;
  /** Milliseconds from a submission to its end seen by the host, when there is nothing to do. */
  readonly latencyMs: number;
  /** Milliseconds of a dispatch that does almost nothing, in a row of many that depend on each other. */
  readonly dispatchMs: number;
}

/** Milliseconds of one repetition of what `encode` encodes: as many as take about `targetMs`, the best of three. */
export async function repeated(
  device: Device,
  encode: (encoder: GPUCommandEncoder, times: number) => void,
  { targetMs, latencyMs }: { readonly targetMs: number; readonly latencyMs: number },
): Promise<number> {
  const run = (times: number) => timed(() => submit(device, (encoder) => encode(encoder, times)));
  await run(1);
  const few = 3, most = 20_000;
  const estimate = Math.max(1e-3, (await run(few) - latencyMs) / few);
  const times = Math.max(1, Math.min(most, Math.ceil(targetMs / 3 / estimate)));
  let best = Infinity;
  for (let i = 0; i < 3; i++) best = Math.min(best, await run(times));
  return Math.max(best - latencyMs, 0) / times;
}

/** Submits and waits until it is done. */
export async function submit(device: Device, encode: (encoder: GPUCommandEncoder) => void): Promise<void> {
  const encoder = device.gpu.createCommandEncoder();
  encode(encoder);
  device.gpu.queue.submit([encoder.finish()]);
  await device.gpu.queue.onSubmittedWorkDone();
  device.check();
}

/** Measures the limits, each kernel for about `targetMs` or half of it: some seconds in all. */
export async function measureLimits(device: Device, targetMs = 400): Promise<Limits> {
  const waits: number[] = [];
  for (let i = 0; i < 5; i++) waits.push(await timed(() => submit(device, () => {})));
  const latencyMs = Math.min(...waits);
  const bytes = device.capabilities.software ? 2 ** 25 : 2 ** 27;
  const source = await device.buffer("copy source", bytes), target = await device.buffer("copy target", bytes);
  try {
    const time = async (dispatch: Dispatch, ms = targetMs) => {
      const program = await Program.create(
        device,
        [dispatch],
        ({ label }) => ({ buffer: label === "source" ? source : target, offset: 0 }),
      );
      const encode = (encoder: GPUCommandEncoder, times: number) => program.encodeOne(encoder, 0, times);
      return await repeated(device, encode, { targetMs: ms, latencyMs });
    };
    let flopsPerSecond = 0, bytesPerSecond = 0;
    // The likely best on a GPU come last: by then its clock has risen.
    for (const fused of [false, true]) {
      for (const [width, chains] of [[4, 4], [4, 8], [1, 12], [1, 32]] as const) {
        const dispatch = multiplyAdds(device, fused, width, chains);
        flopsPerSecond = Math.max(flopsPerSecond, dispatch.flops * 1000 / await time(dispatch, targetMs / 2));
      }
    }
    for (const each of [1, 4, 8]) {
      const dispatch = copy(device, bytes, each);
      bytesPerSecond = Math.max(bytesPerSecond, dispatch.bytes * 1000 / await time(dispatch));
    }
    const copyMs = await repeated(device, (encoder, times) => {
      for (let i = 0; i < times; i++) encoder.copyBufferToBuffer(source, 0, target, 0, bytes);
    }, { targetMs, latencyMs });
    const dispatchMs = await time(copy(device, 16 * 64, 1));
    return { flopsPerSecond, bytesPerSecond, copyBytesPerSecond: 2 * bytes * 1000 / copyMs, latencyMs, dispatchMs };
  } finally {
    source.destroy();
    target.destroy();
  }
}

/**
 * Chains of dependent multiply-adds in registers, of scalars (`width` 1) or vec4s, as many whatever the form. Each sum
 * nears `addend / (1 - factor)`, so none overflows or vanishes.
 */
function multiplyAdds(device: Device, fused: boolean, width: 1 | 4, chains: number): Dispatch {
  const { software } = device.capabilities;
  const size = software ? 64 : 256, groups = software ? 32 : 8192, steps = 16;
  const rounds = 3072 / (chains * width), part = width === 1 ? ".x" : "";
  const each = (text: (chain: number) => string) => unroll(chains, text);
  return {
    label: "limits.multiply_add",
    bindings: { result: write(operand("target", size * groups * 4)) },
    constants: { ROUNDS: rounds },
    source: `
@compute @workgroup_size(${size})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = (vec4f(0.5, 0.25, 0.75, 0.125) + f32(id.x & 7u) * 0.001)${part};
  let addend = (vec4f(1.0, 2.0, 3.0, 4.0) + f32(id.x))${part};
${each((c) => `  var sum${c} = addend * ${c + 1}.0;`)}
  for (var round = 0u; round < ROUNDS; round++) {
${
      unroll(steps, () =>
        each((c) => fused ? `sum${c} = fma(sum${c}, factor, addend);` : `sum${c} = sum${c} * factor + addend;`))
    }
  }
  result[id.x] = vec4f(${Array.from({ length: chains }, (_, c) => `sum${c}`).join(" + ")});
}`,
    workgroups: [groups, 1, 1],
    flops: size * groups * rounds * steps * chains * width * 2,
    bytes: size * groups * 16,
  };
}

/** A copy, `each` vec4s an invocation. */
function copy(device: Device, bytes: number, each: number): Dispatch {
  const vectors = bytes / 16;
  const size = Math.min(device.capabilities.software ? 64 : 256, vectors / each);
  const groups = vectors / each / size, columns = Math.min(groups, 32768);
  return {
    label: "limits.copy",
    bindings: { source: read(operand("source", bytes / 4)), result: write(operand("target", bytes / 4)) },
    constants: { COLUMNS: columns },
    source: `
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * COLUMNS + group.x) * ${size * each}u + lane;
${unroll(each, (i) => `  result[first + ${i * size}u] = source[first + ${i * size}u];`)}
}`,
    workgroups: [columns, Math.ceil(groups / columns), 1],
    flops: 0,
    bytes: 2 * bytes,
  };
}
