/**
 * How long the device waits while a network trains: between the dispatches of a step, for the host between steps, and
 * while results are read. Whole steps run as training queues them, between two timestamps; what dispatches take by
 * themselves (`profile.ts`) is taken off.
 */

import type { Device } from "../kernels/device.ts";
import { tickNanoseconds, TimestampSet } from "../kernels/timestamps.ts";
import { RING_SLOTS } from "../nn/step.ts";
import { spread, timed } from "./measure.ts";
import { dispatchTimes, workOf } from "./profile.ts";
import type { Workload } from "./throughput.ts";

/** See the file's head. Milliseconds; shares are of `stepMs`, but for that of reading. Medians of rounds. */
export interface Idle {
  /** Whose clock told: without timestamps that mean anything it is the host's. */
  readonly clock: "device" | "host";
  /** Of a step among others, from the beginning of the first to the end of the last. */
  readonly stepMs: number;
  /** Of a step's dispatches, each by itself. */
  readonly dispatchesMs: number;
  /** `1 - dispatchesMs / stepMs`. Below 0 where dispatches cost more each in a pass of its own. */
  readonly share: number;
  /** Of a step whose commands all lie ready: what `stepMs` has more than that was spent waiting for the host. */
  readonly readyMs: number;
  /** Between steps: `1 - readyMs / stepMs`. */
  readonly betweenSteps: number;
  /** Of the host, to submit a step to an empty queue, its batch included. */
  readonly submitMs: number;
  /** `submitMs / stepMs`: near 1 the host is what bounds. */
  readonly submitShare: number;
  /** From the end of the last queued step to the beginning of the first that is queued while its results are read. */
  readonly readMs: number;
  /** Steps between two readings. */
  readonly stepsPerRead: number;
  /** Of the time of those steps and the reading. */
  readonly readShare: number;
}

/** Milliseconds of steps between two readings, as in training. */
const READ_EVERY = 500;
const ROUNDS = 7;

/**
 * Measures a workload. A round takes the dispatches one by one, a step that lies ready, and twice the steps that training
 * queues: in turns, so that a busy machine is busy for all.
 *
 * @param known Of all dispatches, as the profile gives it: for devices without timestamps.
 * @param latencyMs Of waiting for nothing.
 */
export async function measureIdle(
  device: Device,
  workload: Workload,
  known: { readonly dispatchesMs: number; readonly latencyMs: number },
): Promise<Idle> {
  const { plan } = workload;
  const all = workOf(plan);
  // One step and two such rows of them wait for their results at most.
  const steps = Math.max(4, Math.min(RING_SLOTS / 2 - 1, Math.round(READ_EVERY / Math.max(known.dispatchesMs, 0.01))));
  let stamps = device.capabilities.timestamps ? await Stamps.create(device, 6) : undefined;
  const samples: { dispatches: number; ready: number; step: number; submit: number; read: number }[] = [];
  try {
    await workload.run(1);
    while (samples.length < ROUNDS) {
      const each = stamps ? await dispatchTimes(device, plan, all) : undefined;
      const times = each && await round(device, workload, steps, stamps);
      if (times) {
        samples.push({ ...times, dispatches: each.reduce((sum, ms) => sum + ms, 0) });
      } else if (stamps) {
        stamps.destroy();
        stamps = undefined;
        samples.length = 0;
      } else {
        samples.push({ ...await hostRound(device, workload, steps, known.latencyMs), dispatches: known.dispatchesMs });
      }
    }
  } finally {
    stamps?.destroy();
  }
  const median = (value: (sample: typeof samples[number]) => number) => spread(samples.map(value)).median;
  return {
    clock: stamps ? "device" : "host",
    stepMs: median(({ step }) => step),
    dispatchesMs: median(({ dispatches }) => dispatches),
    // Shares are taken round by round.
    share: median(({ dispatches, step }) => 1 - dispatches / step),
    readyMs: median(({ ready }) => ready),
    betweenSteps: median(({ ready, step }) => 1 - ready / step),
    submitMs: median(({ submit }) => submit),
    submitShare: median(({ submit, step }) => submit / step),
    readMs: median(({ read }) => read),
    stepsPerRead: steps,
    readShare: median(({ read, step }) => read / (step * steps + read)),
  };
}

/** One round by the device's clock; undefined when that does not agree with the host's. */
async function round(device: Device, workload: Workload, steps: number, stamps: Stamps | undefined) {
  if (!stamps) return undefined;
  const started = performance.now();
  stamps.mark(workload, 0, "end");
  workload.submit(1);
  stamps.mark(workload, 1, "beginning");
  await device.gpu.queue.onSubmittedWorkDone();
  let submitMs = Infinity, reading: Promise<void> | undefined;
  for (const at of [2, 4]) {
    stamps.mark(workload, at, "end");
    // With nothing queued before it a submission does not wait for room.
    submitMs = Math.min(submitMs, workload.submit(1));
    workload.submit(steps - 1);
    stamps.mark(workload, at + 1, "beginning");
    // As in training: the next steps are queued before what the last ones gave is waited for.
    await reading;
    reading = workload.collect();
  }
  await reading;
  const ms = await stamps.read(performance.now() - started);
  if (!ms) return undefined;
  return {
    ready: ms[1] - ms[0],
    step: (ms[3] - ms[2] + ms[5] - ms[4]) / 2 / steps,
    submit: submitMs,
    read: ms[4] - ms[3],
  };
}

/** The same by the host's clock, which does not see how long reading keeps the device waiting. */
async function hostRound(device: Device, workload: Workload, steps: number, latencyMs: number) {
  const ready = await timed(async () => {
    workload.submit(1);
    await device.gpu.queue.onSubmittedWorkDone();
  });
  let submitMs = 0;
  const queued = await timed(async () => {
    submitMs = workload.submit(1);
    workload.submit(steps - 1);
    await workload.collect();
  });
  return {
    ready: Math.max(0, ready - latencyMs),
    step: Math.max(0.001, queued - latencyMs) / steps,
    submit: submitMs,
    read: latencyMs,
  };
}

/** Timestamps between steps. */
class Stamps {
  private constructor(private readonly device: Device, private readonly set: TimestampSet) {}

  static async create(device: Device, count: number): Promise<Stamps> {
    return new Stamps(device, await TimestampSet.create(device, count));
  }

  /**
   * Stamps a place in the queue. Only passes have timestamps, so a step's first dispatch, which makes the batch, runs once
   * more, outside of what is measured.
   */
  mark({ plan }: Workload, index: number, at: "beginning" | "end"): void {
    const place = at === "end" ? { endOfPassWriteIndex: index } : { beginningOfPassWriteIndex: index };
    const encoder = this.device.gpu.createCommandEncoder();
    plan.program.encodeOne(encoder, 0, 1, { querySet: this.set.querySet, ...place });
    this.device.gpu.queue.submit([encoder.finish()]);
  }

  /** Milliseconds from the first on; undefined where they are out of order, or not a good part of what the host waited. */
  async read(hostMs: number): Promise<number[] | undefined> {
    const stamps = await this.set.submit(this.device.gpu.createCommandEncoder());
    const tick = await tickNanoseconds(this.device);
    const ms = Array.from(stamps, (stamp) => Number(stamp - stamps[0]) * tick / 1e6), whole = ms.at(-1)!;
    const inOrder = ms.every((each, i) => i === 0 || each >= ms[i - 1]);
    return inOrder && whole < hostMs * 1.05 && whole > hostMs * 0.3 ? ms : undefined;
  }

  destroy(): void {
    this.set.destroy();
  }
}
