/** `train --batch-size auto`: the largest batch that fits this device. */

import type { Device } from "../kernels/device.ts";
import { UserError } from "../kernels/user_error.ts";
import { type LargestBatch, largestBatch } from "../nn/run_memory.ts";
import { formatBytes } from "./progress.ts";
import type { TrainPlan } from "./train_plan.ts";

/** What was chosen, and why. */
export interface AutoBatch extends LargestBatch {
  /** Bytes that there are for the run; no more is asked for than the largest batch would take. */
  readonly room: number;
}

/** Of what a device gives, a part is left alone: drivers need some, and so do screens. */
const USED_SHARE = 0.9;
/** Of a computer's free memory, where the device is software: it is the memory of everything else too. */
const SOFTWARE_SHARE = 0.5;
/** Of a Mac's memory, which its GPU shares and gives without end, to swap it out. */
const MAC_SHARE = 0.65;
/** Bytes that a software adapter may take where the system does not tell what is free. */
const UNKNOWN_ROOM = 2 ** 31;

/** The plan with the batch size chosen. @throws {UserError} where not even one image fits. */
export async function withAutoBatch(plan: TrainPlan, device: Device): Promise<TrainPlan> {
  const { description, data } = plan, { capabilities } = device;
  const roomFor = async (most: number) => {
    const wanted = Math.min(most, computersShare(capabilities.software));
    return Math.min(wanted, await device.roomFor(Math.ceil(wanted / USED_SHARE)) * USED_SHARE);
  };
  const autoBatch = await largestBatch(data, description, capabilities, roomFor);
  const { rows: batch_size, memory, bound } = autoBatch;
  if (batch_size < 1) {
    const why = bound === "binding"
      ? `a piece takes ${formatBytes(memory.binding)} of at most ${formatBytes(capabilities.maxBindingBytes)}`
      : `the run takes ${formatBytes(memory.total)}`;
    throw new UserError(
      `Cannot train on ${device.name}: batches of a single image do not fit, ${why}; use a smaller image size`,
    );
  }
  return { ...plan, description: { ...description, settings: { ...description.settings, batch_size } }, autoBatch };
}

/** Bytes of the computer's memory that a device made of it may take; no limit where it has its own. */
function computersShare(software: boolean): number {
  try {
    if (software) return Deno.systemMemoryInfo().available * SOFTWARE_SHARE;
    return Deno.build.os === "darwin" ? Deno.systemMemoryInfo().total * MAC_SHARE : Infinity;
  } catch {
    return software ? UNKNOWN_ROOM : Infinity;
  }
}

/** In words, for the head of a run. */
export function autoBatchText({ rows, bound, memory, room }: AutoBatch): string {
  const takes = `the run takes about ${formatBytes(memory.total)}`;
  switch (bound) {
    case "memory":
      return `${rows}, the largest that fits: ${takes} of ${formatBytes(room)}`;
    case "binding":
      return `${rows}, the largest whose pieces the device binds; ${takes}`;
    case "limit":
      return `${rows}, the most that auto takes; ${takes}`;
    case "images":
      return `${rows}, as the training images fill no larger ones; ${takes}`;
  }
}
