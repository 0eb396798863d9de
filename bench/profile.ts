/**
 * Where a plan's time goes, dispatch by dispatch. Two ways: the device's timestamps around each dispatch of whole runs; or,
 * where it has none that mean anything, each distinct dispatch repeated many times between two waits of the host.
 */

import type { Device } from "../kernels/device.ts";
import { type Dispatch, shaderText } from "../kernels/dispatch.ts";
import { passTimes, type TimedPass } from "../kernels/timestamps.ts";
import { owners } from "../nn/owners.ts";
import type { Plan } from "../nn/plan.ts";
import { type Limits, repeated } from "./limits.ts";
import { spread } from "./measure.ts";

/** How times were taken. */
export type ProfileMethod = "timestamps" | "repetition";

/** Dispatches of one kind, taken together. */
export interface ProfileRow {
  /** The operation, such as `conv2d.forward`. */
  readonly label: string;
  /** Sizes, as the kernel's constants tell them, or the layer; empty when rows of all sizes are taken together. */
  readonly shape: string;
  /** How many dispatches of a run. */
  readonly count: number;
  /** Of all of them. */
  readonly ms: number;
  /** Of the plan's time. */
  readonly share: number;
  readonly flopsPerSecond: number;
  readonly bytesPerSecond: number;
  /** What bounds it: arithmetic or memory. */
  readonly bound: "arithmetic" | "memory";
  /** The part of that limit which is reached. */
  readonly ofLimit: number;
  /** Milliseconds that would be saved at the limit. */
  readonly gapMs: number;
}

/** A plan's time, divided in three ways; rows with the largest gap to their limit first. */
export interface Profile {
  readonly method: ProfileMethod;
  /** Of all dispatches. */
  readonly totalMs: number;
  readonly operations: readonly ProfileRow[];
  readonly layers: readonly ProfileRow[];
  readonly shapes: readonly ProfileRow[];
}

const RUNS = 7;

/** Profiles a plan that is bound to memory, its settings and inputs written by a run before. */
export async function profilePlan(device: Device, plan: Plan, limits: Limits): Promise<Profile> {
  const indices = workOf(plan), dispatches = indices.map((index) => plan.dispatches[index]);
  const stamped = await timestamps(device, plan, indices, 1);
  const ms = stamped ?? await repetitions(device, plan, indices, limits);
  return {
    method: stamped ? "timestamps" : "repetition",
    totalMs: ms.reduce((sum, time) => sum + time, 0),
    operations: byOperation(dispatches, ms, limits),
    layers: byLayer(dispatches, ms, limits),
    shapes: byShape(dispatches, ms, limits),
  };
}

/** A plan's dispatches but for those that count submissions: run outside of a step they would count as a step's. */
export function workOf({ dispatches }: Plan): number[] {
  return [...dispatches.keys()].filter((index) => !dispatches[index].endsSubmission);
}

/**
 * Profiles each distinct dispatch of a plan by itself, repeated: its operands lie in the caches that hold them. Rows are in
 * the plan's order.
 */
export async function profileOperations(device: Device, plan: Plan, limits: Limits): Promise<ProfileRow[]> {
  const indices = workOf(plan), dispatches = indices.map((index) => plan.dispatches[index]);
  const firsts = new Map<string, number>();
  for (const index of indices) {
    const key = kind(plan.dispatches[index]);
    if (!firsts.has(key)) firsts.set(key, index);
  }
  const stamped = await timestamps(device, plan, [...firsts.values()], REPETITIONS);
  const byKind = new Map([...firsts.keys()].map((key, i) => [key, stamped?.[i]]));
  const ms = stamped
    ? dispatches.map((dispatch) => byKind.get(kind(dispatch))!)
    : await repetitions(device, plan, indices, limits);
  return grouped(dispatches, ms, limits, shapeGroup);
}

/** Of one operation in a pass. */
const REPETITIONS = 10;

/** Medians over runs of `times` each; undefined when the device's clock does not agree with the host's. */
async function timestamps(
  device: Device,
  plan: Plan,
  indices: readonly number[],
  times: number,
): Promise<number[] | undefined> {
  const samples: number[][] = indices.map(() => []);
  // The first run warms caches up.
  for (let run = 0; run < RUNS + 1; run++) {
    const ms = await dispatchTimes(device, plan, indices, times);
    if (!ms) return undefined;
    if (run > 0) { for (const [i, each] of ms.entries()) samples[i].push(each); }
  }
  return samples.map((each) => spread(each).median);
}

/**
 * Milliseconds of some of a plan's dispatches in one run of them, each in a pass of its own, `times` over; undefined when
 * the device's clock does not agree with the host's.
 */
export async function dispatchTimes(
  device: Device,
  { program }: Plan,
  indices: readonly number[],
  times = 1,
): Promise<number[] | undefined> {
  const passes = indices.map((index): TimedPass => (encoder, stamps) =>
    program.encodeOne(encoder, index, times, stamps)
  );
  return (await passTimes(device, passes))?.map((ms) => ms / times);
}

async function repetitions(
  device: Device,
  plan: Plan,
  indices: readonly number[],
  limits: Limits,
): Promise<number[]> {
  const known = new Map<string, number>(), ms: number[] = [];
  for (const index of indices) {
    const key = kind(plan.dispatches[index]);
    let time = known.get(key);
    if (time === undefined) {
      const encode = (encoder: GPUCommandEncoder, times: number) => plan.program.encodeOne(encoder, index, times);
      time = await repeated(device, encode, { targetMs: 60, latencyMs: limits.latencyMs });
      known.set(key, time);
    }
    ms.push(time);
  }
  return ms;
}

/** Dispatches of the same kind do the same work. */
function kind(dispatch: Dispatch): string {
  const sizes = Object.values(dispatch.bindings).map(({ operand }) => operand.byteLength);
  return `${shaderText(dispatch)}\n${Object.values(dispatch.uniforms ?? {})}\n${dispatch.workgroups} ${sizes}`;
}

/** Constants that say how a kernel works, not how large its job is. */
const TUNING = /TILE|CHUNK|LANE|BLOCK|_EACH|MAGIC|SHIFT|ROWS_OF/;

/** The sizes of a dispatch, such as `M=1024 N4=16 K=64`. */
export function shapeOf({ constants, uniforms }: Dispatch): string {
  return Object.entries({ ...uniforms, ...constants })
    .filter(([name, value]) => typeof value === "number" && !TUNING.test(name))
    .map(([name, value]) => `${name}=${value}`).join(" ");
}

/** Rows by operation, the largest gap to the limit first. */
export function byOperation(dispatches: readonly Dispatch[], ms: readonly number[], limits: Limits): ProfileRow[] {
  return rows(dispatches, ms, limits, ({ label }) => [label, ""]);
}

/** Rows by operation and sizes, the largest gap to the limit first. */
export function byShape(dispatches: readonly Dispatch[], ms: readonly number[], limits: Limits): ProfileRow[] {
  return rows(dispatches, ms, limits, shapeGroup);
}

/**
 * Rows by layer, as the names of the parameters that an operation's dispatches bind tell it; an operation that has none
 * belongs to the layer of the one before.
 */
export function byLayer(dispatches: readonly Dispatch[], ms: readonly number[], limits: Limits): ProfileRow[] {
  const owner = owners(dispatches, ({ label }) => label.match(LAYER)?.[0]);
  const layers = new Map(dispatches.map((dispatch, i) => [dispatch, owner[i] ?? "input"]));
  return rows(dispatches, ms, limits, (dispatch) => {
    const { label } = dispatch;
    return [label === "sgd" ? "optimizer" : label === "batch.make" ? "input" : layers.get(dispatch)!, ""];
  });
}

const LAYER = /^(layer\d+\.\d+|conv1|bn1|fc)(?=\.)/;

type Group = (dispatch: Dispatch) => readonly [label: string, shape: string, key?: string];

const shapeGroup: Group = (dispatch) => [dispatch.label, shapeOf(dispatch), kind(dispatch)];

function rows(
  dispatches: readonly Dispatch[],
  ms: readonly number[],
  limits: Limits,
  group: Group,
): ProfileRow[] {
  return grouped(dispatches, ms, limits, group).sort((a, b) => b.gapMs - a.gapMs);
}

/** Rows in the order of their first dispatch. */
function grouped(
  dispatches: readonly Dispatch[],
  ms: readonly number[],
  limits: Limits,
  group: Group,
): ProfileRow[] {
  const total = ms.reduce((sum, time) => sum + time, 0);
  const groups = new Map<string, { label: string; shape: string; indices: number[] }>();
  for (const [index, dispatch] of dispatches.entries()) {
    const [label, shape, key = `${label}\n${shape}`] = group(dispatch);
    const found = groups.get(key);
    if (found) found.indices.push(index);
    else groups.set(key, { label, shape, indices: [index] });
  }
  const sum = (indices: number[], value: (index: number) => number) => indices.reduce((all, i) => all + value(i), 0);
  return [...groups.values()].map(({ label, shape, indices }): ProfileRow => {
    const arithmetic = (i: number) => dispatches[i].flops * 1000 / limits.flopsPerSecond;
    const memory = (i: number) => dispatches[i].bytes * 1000 / limits.bytesPerSecond;
    const time = sum(indices, (i) => ms[i]);
    const least = sum(indices, (i) => Math.max(arithmetic(i), memory(i)));
    return {
      label,
      shape,
      count: indices.length,
      ms: time,
      share: time / total,
      flopsPerSecond: sum(indices, (i) => dispatches[i].flops) * 1000 / time,
      bytesPerSecond: sum(indices, (i) => dispatches[i].bytes) * 1000 / time,
      bound: sum(indices, arithmetic) > sum(indices, memory) ? "arithmetic" : "memory",
      ofLimit: least / time,
      gapMs: time - least,
    };
  });
}
