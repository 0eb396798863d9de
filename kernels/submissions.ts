/**
 * A step's way to the device, in submissions of bounded work that are counted where they end. Systems end work that keeps the
 * screen waiting, and an implementation of WebGPU may say nothing and go on with the next (gfx-rs/wgpu#9545, on macOS): what
 * is read then is what an earlier step left, or half of this one.
 */

import { type Dispatch, type Operand, write } from "./dispatch.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";

/**
 * What a submission comes to at most. Windows ends work after two seconds; a GPU without memory of its own makes 100 GFLOP/s
 * and moves 10 GB/s at least, so takes a second for either. A fast one loses microseconds by each submission, and has twelve
 * of them in a step of ResNeXt-50 on 64 images of 224x224.
 */
const MOST = { flops: 100e9, bytes: 10e9 };

/** Cuts dispatches into submissions, each of which ends with `last`; a dispatch that is more than one by itself stays one. */
export function inSubmissions(dispatches: readonly Dispatch[], last: Dispatch): Dispatch[] {
  const out: Dispatch[] = [];
  let share = 0;
  for (const dispatch of dispatches) {
    const more = Math.max(dispatch.flops / MOST.flops, dispatch.bytes / MOST.bytes);
    if (share > 0 && share + more > 1) {
      out.push(last);
      share = 0;
    }
    out.push(dispatch);
    share += more;
  }
  return [...out, last];
}

/** The end of a submission: `counts[slot] += 1`, by the step's settings; `counts` holds u32s. */
export function countSubmission(
  { counts, settings }: { readonly counts: Operand; readonly settings: Operand },
): Dispatch {
  return {
    label: "submission.count",
    bindings: { settings: readStepSettings(settings), counts: write(counts, "array<u32>") },
    source: /* wgsl */ `
${STEP_SETTINGS}
@compute @workgroup_size(1)
fn main() {
  counts[settings.slot]++;
}`,
    workgroups: [1, 1, 1],
    flops: 0,
    bytes: 12,
    endsSubmission: true,
  };
}
