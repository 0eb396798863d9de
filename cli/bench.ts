/** `resnext bench`: how fast this machine runs the networks, and what bounds it. */

import { digits, interleave, table, timed } from "../bench/measure.ts";
import { type Limits, measureLimits } from "../bench/limits.ts";
import { type Profile, profilePlan, type ProfileRow } from "../bench/profile.ts";
import { type Mode, openWorkload, stepsFor, type Throughput, throughput, type Workload } from "../bench/throughput.ts";
import { openDevice } from "../kernels/device.ts";
import { UserError } from "../kernels/user_error.ts";
import { type Architecture, ARCHITECTURES, resnext, type ResNeXtOptions } from "../nn/resnext.ts";
import { defineCommand } from "./command.ts";

const REPEAT_MS = 1000;

/** The command. */
export const benchCommand = defineCommand({
  name: "bench",
  summary: "Measure throughput, memory and what bounds them",
  details: "Training steps and inference on images resident on the device, with random weights. Each repeat submits " +
    "several steps and waits once; repeats of training and inference take turns.",
  options: {
    arch: {
      type: "choice",
      doc: "The network",
      choices: Object.keys(ARCHITECTURES) as Architecture[],
      default: "resnext50",
    },
    layers: {
      type: "string",
      doc: "Another depth: blocks of each stage, such as 1,1",
      placeholder: "N,N,...",
      otherwise: "the network's own",
    },
    channels: {
      type: "string",
      doc: "Other widths of the stages, such as 32,64",
      placeholder: "N,N,...",
      otherwise: "256, doubling",
    },
    cardinality: { type: "integer", doc: "Groups of the 3x3 convolutions", min: 1, otherwise: "the network's own" },
    imageSize: { type: "integer", doc: "Height and width of the input", min: 1, default: 32 },
    batchSize: { type: "integer", doc: "Images of a step", min: 1, default: 16 },
    mode: { type: "choice", doc: "What to measure", choices: ["train", "infer", "both"], default: "both" },
    repeats: { type: "integer", doc: "Repeats of each measurement", min: 1, default: 5 },
    steps: { type: "integer", doc: "Steps of a repeat", min: 1, otherwise: "as many as take a second" },
    profile: { type: "boolean", doc: "Also tell where the time goes, by operation, layer and shape" },
    json: { type: "boolean", doc: "One JSON object a line instead of tables" },
  },
  examples: ["bench", "bench --image-size 224 --batch-size 64 --mode train"],
  run: async ({ options }) => {
    const { arch, imageSize, batchSize, repeats, json } = options;
    const overrides: ResNeXtOptions = {
      ...(options.layers && { layers: numbers("layers", options.layers) }),
      ...(options.channels && { channels: numbers("channels", options.channels) }),
      ...(options.cardinality && { cardinality: options.cardinality }),
    };
    const modes: Mode[] = options.mode === "both" ? ["train", "infer"] : [options.mode];
    const emit = (kind: string, value: object) => void (json && console.log(JSON.stringify({ kind, ...value })));
    const say = (text: string) => void (json || console.log(text));

    const device = await openDevice();
    try {
      emit("device", { name: device.name, capabilities: device.capabilities, deno: Deno.version.deno });
      say(`${device.name}, Deno ${Deno.version.deno}; ${arch}, ${imageSize}x${imageSize}, batch ${batchSize}`);
      const workloads: Workload[] = [];
      for (const mode of modes) {
        workloads.push(await openWorkload(device, network(arch, overrides), { mode, imageSize, batchSize }));
      }
      const steps: number[] = [];
      for (const workload of workloads) steps.push(options.steps ?? await stepsFor(workload, REPEAT_MS));
      const runs = await interleave(
        workloads.map((workload, i) => () => timed(() => workload.run(steps[i]))),
        repeats,
      );
      const measured = workloads.map((workload, i) => throughput(workload, runs[i], steps[i]));
      for (const each of measured) emit("throughput", { arch, imageSize, batchSize, ...each });
      say(`\n${throughputTable(measured)}\n\n${memoryTable(measured)}`);
      const limits = await measureLimits(device);
      emit("limits", limits);
      say(`\n${limitsText(limits)}`);
      if (options.profile) {
        for (const workload of workloads) {
          const profile = await profilePlan(device, workload.plan, limits);
          emit("profile", { mode: workload.mode, ...profile });
          say(`\n${profileText(workload.mode, profile)}`);
        }
      }
      for (const workload of workloads) workload.destroy();
    } finally {
      device.close();
    }
  },
});

function network(arch: Architecture, overrides: ResNeXtOptions) {
  try {
    return resnext(arch, overrides);
  } catch (error) {
    if (error instanceof RangeError) throw new UserError(error.message, { exitCode: 2 });
    throw error;
  }
}

function numbers(name: string, text: string): number[] {
  const values = text.split(",").map((part) => part.trim() === "" ? NaN : Number(part));
  if (values.every((value) => Number.isSafeInteger(value) && value >= 1)) return values;
  throw new UserError(`Option --${name} must be whole numbers with commas between, not ${JSON.stringify(text)}`, {
    exitCode: 2,
  });
}

/** Rows by mode: images a second and what goes with it. */
export function throughputTable(measured: readonly Throughput[]): string {
  return table([
    ["", "img/s", "min", "max", "ms/step", "GFLOP/s", "dispatches", "submit ms", "first step ms"],
    ...measured.map(({ mode, imagesPerSecond, msPerStep, flopsPerSecond, dispatches, submitMs, firstStepMs }) => [
      mode === "train" ? "training" : "inference",
      digits(imagesPerSecond.median),
      digits(imagesPerSecond.min),
      digits(imagesPerSecond.max),
      digits(msPerStep.median),
      digits(flopsPerSecond / 1e9),
      String(dispatches),
      digits(submitMs),
      firstStepMs.toFixed(0),
    ]),
  ]);
}

/** One line an upper limit. */
export function limitsText(limits: Limits): string {
  const { flopsPerSecond, bytesPerSecond, copyBytesPerSecond, latencyMs, dispatchMs } = limits;
  return [
    `limits: ${digits(flopsPerSecond / 1e9)} GFLOP/s of multiply-adds, ${
      digits(bytesPerSecond / 1e9)
    } GB/s of a copying ` +
    `kernel (${digits(copyBytesPerSecond / 1e9)} of a buffer copy)`,
    `        ${digits(dispatchMs * 1000)} us a dispatch, ${digits(latencyMs)} ms to wait for nothing`,
  ].join("\n");
}

/** Where a plan's time goes, as tables: by operation, by layer, and the rows by shape that lose most. */
export function profileText(mode: Mode, { method, totalMs, operations, layers, shapes }: Profile, top = 20): string {
  const how = method === "timestamps"
    ? "the device's timestamps around each dispatch, medians of runs"
    : "each distinct dispatch repeated between two waits";
  const row = (row: ProfileRow) => [
    row.label,
    row.shape,
    String(row.count),
    digits(row.ms),
    `${(row.share * 100).toFixed(1)} %`,
    digits(row.flopsPerSecond / 1e9),
    digits(row.bytesPerSecond / 1e9),
    `${(row.ofLimit * 100).toFixed(0)} % of ${row.bound}`,
    digits(row.gapMs),
  ];
  const head = (first: string) => [first, "", "count", "ms", "share", "GFLOP/s", "GB/s", "reached", "ms lost"];
  return [
    `${mode === "train" ? "training" : "inference"}: ${digits(totalMs)} ms in dispatches (${how})`,
    table([head("operation"), ...operations.map(row)], [0, 1]),
    table([head("layer"), ...layers.map(row)], [0, 1]),
    table([head(`operation and sizes (top ${top})`), ...shapes.slice(0, top).map(row)], [0, 1]),
  ].join("\n\n");
}

/** Rows by mode: MiB on the device. */
export function memoryTable(measured: readonly Throughput[]): string {
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  return table([
    ["memory, MiB", "weights", "gradients", "momenta", "activations", "(alive at once)", "total"],
    ...measured.map(({ mode, memory: { weights, gradients, momenta, activations, activationsPeak } }) => [
      mode === "train" ? "training" : "inference",
      mib(weights),
      mib(gradients),
      mib(momenta),
      mib(activations),
      mib(activationsPeak),
      mib(weights + gradients + momenta + activations),
    ]),
  ]);
}
