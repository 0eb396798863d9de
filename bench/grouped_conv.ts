/**
 * Speed of the grouped convolution kernels: `deno run -A bench/grouped_conv.ts [FILTER] [--cpu]`.
 *
 * GFLOP/s of each pass, a multiply-add counting two, best of several runs; a run is one submission of many repetitions,
 * less the time of an empty one with its readback. With `--cpu`, time is this process's CPU time over the number of cores:
 * what a software adapter would take on a machine that does nothing else.
 */

import { convFilter, convFlops, type ConvGeometry, convOutput } from "../kernels/conv_geometry.ts";
import type { Device } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { groupedForward, groupedInputGradient, groupedWeightGradient } from "../kernels/grouped_conv.ts";
import { storedElements, storedFilterElements } from "../kernels/layout.ts";
import { Program } from "../kernels/program.ts";

import { cpuUsage } from "node:process";

const RUNS = 5;
const RUN_MS = 150;

const SHAPES: [size: number, width: number, groupWidth: number, stride: number][] = [
  [28, 128, 4, 1],
  [8, 64, 2, 1],
  [8, 128, 4, 2],
  [4, 128, 4, 1],
  [4, 256, 8, 2],
  [2, 256, 8, 1],
  [2, 512, 16, 2],
  [1, 512, 16, 1],
];

const cpu = Deno.args.includes("--cpu");
const filter = Deno.args.find((argument) => argument !== "--cpu");
const now = (): number => {
  if (!cpu) return performance.now();
  const { user, system } = cpuUsage();
  return (user + system) / 1000 / navigator.hardwareConcurrency;
};

const device = await openDevice();
const buffers = new Map<Operand, GPUBuffer>();
const overhead = await bestMs(await program(device, []), 1);
console.log(`${device.name}; an empty submission takes ${overhead.toFixed(1)} ms\n`);
console.log(
  "input              width  stride   forward        dx        dweight    GFLOP/s (ms, first call with compilation ms)",
);
for (const [size, width, groupWidth, stride] of SHAPES) {
  const name = `[16,${size},${size},${width}]`;
  if (filter && !name.includes(filter)) continue;
  const geometry: ConvGeometry = {
    input: { n: 16, h: size, w: size, c: width },
    outChannels: width,
    kernelHeight: 3,
    kernelWidth: 3,
    stride,
    padding: 1,
    groups: width / groupWidth,
  };
  const input = storedElements(geometry.input), output = storedElements(convOutput(geometry));
  const filterSize = storedFilterElements(convFilter(geometry));
  const x = operand("x", input), dx = operand("dx", input), y = operand("y", output), dy = operand("dy", output);
  const weight = operand("weight", filterSize), dweight = operand("dweight", filterSize);
  const bias = operand("bias", width), dbias = operand("dbias", width);
  const cells: string[] = [];
  for (
    const dispatches of [
      groupedForward({ x, weight, bias, y }, geometry, device.capabilities),
      groupedInputGradient({ dy, weight, dx }, geometry, device.capabilities),
      groupedWeightGradient({ x, dy, dweight, dbias }, geometry, device.capabilities),
    ]
  ) {
    const started = now();
    const ready = await program(device, dispatches);
    await bestMs(ready, 1, 1);
    const first = now() - started - overhead;
    const ms = await timed(ready);
    cells.push(`${(convFlops(geometry) / ms / 1e6).toFixed(2)} (${ms.toFixed(3)}, ${first.toFixed(0)})`.padEnd(24));
  }
  console.log(`${name.padEnd(20)} ${String(groupWidth).padEnd(7)} ${stride}  ${cells.join("  ")}`);
  for (const buffer of buffers.values()) buffer.destroy();
  buffers.clear();
}
device.close();

async function program(device: Device, dispatches: Dispatch[]): Promise<Program> {
  for (const dispatch of dispatches) {
    for (const { operand } of Object.values(dispatch.bindings)) {
      if (!buffers.has(operand)) buffers.set(operand, await device.buffer(operand.label, operand.byteLength));
    }
  }
  return await Program.create(device, dispatches, (operand) => ({ buffer: buffers.get(operand)!, offset: 0 }));
}

/** Milliseconds of one repetition. */
async function timed(ready: Program): Promise<number> {
  const few = 4;
  const estimate = Math.max(0.002, (await bestMs(ready, few, 2) - overhead) / few);
  const repetitions = Math.max(4, Math.ceil(RUN_MS / estimate));
  return (await bestMs(ready, repetitions) - overhead) / repetitions;
}

async function bestMs(ready: Program, repetitions: number, runs = RUNS): Promise<number> {
  const done = await device.buffer("done", 16);
  let best = Infinity;
  for (let run = 0; run < runs; run++) {
    const started = now();
    const encoder = device.gpu.createCommandEncoder();
    for (let i = 0; i < repetitions; i++) ready.encode(encoder);
    device.gpu.queue.submit([encoder.finish()]);
    await device.read(done, 0, 16);
    best = Math.min(best, now() - started);
  }
  done.destroy();
  return best;
}
