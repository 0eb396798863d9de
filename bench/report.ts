/** What was measured, as tables for people. */

import { columns } from "../cli/columns.ts";
import type { Idle } from "./idle.ts";
import type { Limits } from "./limits.ts";
import { digits } from "./measure.ts";
import { type PeerResult, taskFlops } from "./peers.ts";
import type { Profile, ProfileRow } from "./profile.ts";
import type { Mode, Throughput } from "./throughput.ts";

const table = (rows: readonly (readonly string[])[], left?: readonly number[]) => columns(rows, { left }).join("\n");

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

const RATES = ["GFLOP/s", "GB/s", "reached"];

function rates({ flopsPerSecond, bytesPerSecond, ofLimit, bound }: ProfileRow): string[] {
  const reached = `${(ofLimit * 100).toFixed(0)} % of ${bound}`;
  return [digits(flopsPerSecond / 1e9), digits(bytesPerSecond / 1e9), reached];
}

/** Single operations, microseconds each, in the order of the step. */
export function operationsTable(rows: readonly ProfileRow[]): string {
  return table([
    ["operation", "sizes", "in a step", "us each", ...RATES],
    ...rows.map((row) => [row.label, row.shape, String(row.count), digits(row.ms / row.count * 1000), ...rates(row)]),
  ], [0, 1]);
}

/** Peers beside ours: what they reach, and how many times as fast ours is. */
export function peersTable(results: readonly PeerResult[], batchSize: number): string {
  const ours = new Map(results.filter(({ peer }) => peer === "ours").map(({ task, ms }) => [task, ms?.median]));
  const row = ({ peer, task, ms, cannot, peakBytes }: PeerResult) => {
    if (!ms) return [task, peer, "", "", "", "", cannot ?? ""];
    const flops = taskFlops(task.split(" ")[0]), own = ours.get(task);
    return [
      task,
      peer,
      digits(ms.median),
      `${digits(ms.min)}..${digits(ms.max)}`,
      flops ? `${digits(flops / ms.median / 1e6)} GFLOP/s` : `${digits(batchSize * 1000 / ms.median)} img/s`,
      own && peer !== "ours" ? `${digits(ms.median / own)}x` : "",
      peakBytes ? `${(peakBytes / 2 ** 20).toFixed(0)} MiB` : "",
    ];
  };
  return table([["", "", "ms", "min..max", "rate", "ours is", ""], ...results.map(row)], [0, 1, 6]);
}

/** Where a plan's time goes, as tables: by operation, by layer, and the rows by shape that lose most. */
export function profileText(mode: Mode, { method, totalMs, operations, layers, shapes }: Profile, top = 20): string {
  const how = method === "timestamps"
    ? "the device's timestamps around each dispatch, medians of runs"
    : "each distinct dispatch repeated between two waits";
  const head = (first: string) => [first, "", "count", "ms", "share", ...RATES, "ms lost"];
  const row = (row: ProfileRow) => [
    row.label,
    row.shape,
    String(row.count),
    digits(row.ms),
    `${(row.share * 100).toFixed(1)} %`,
    ...rates(row),
    digits(row.gapMs),
  ];
  return [
    `${mode === "train" ? "training" : "inference"}: ${digits(totalMs)} ms in dispatches (${how})`,
    table([head("operation"), ...operations.map(row)], [0, 1]),
    table([head("layer"), ...layers.map(row)], [0, 1]),
    table([head(`operation and sizes (top ${top})`), ...shapes.slice(0, top).map(row)], [0, 1]),
  ].join("\n\n");
}

/** What of a step's time nothing runs. */
export function idleText(idle: Idle): string {
  const { clock, stepMs, dispatchesMs, share, betweenSteps, submitMs, submitShare } = idle;
  const percent = (part: number) => `${(part * 100).toFixed(1)} %`;
  const rows = table([
    [`idle, by the ${clock}'s clock`, "ms", "share", ""],
    ["step, queued among others", digits(stepMs), "", ""],
    ["dispatches of it", digits(dispatchesMs), percent(1 - share), "of the step"],
    ["idle between dispatches", digits(stepMs * share), percent(share), "of the step"],
    ["of that between steps", digits(stepMs * betweenSteps), percent(betweenSteps), "of the step"],
    ["host, to submit it", digits(submitMs), percent(submitShare), "of the step"],
    ["idle while results are read", digits(idle.readMs), percent(idle.readShare), `every ${idle.stepsPerRead} steps`],
  ], [0, 3]);
  return share < 0
    ? `${rows}\nless than nothing: dispatches measured one by one took longer than within the step`
    : rows;
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
