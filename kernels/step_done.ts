/**
 * That a step has run to its end. Where a system ends a program's work early, an implementation of WebGPU may say nothing and
 * go on with the next (gfx-rs/wgpu#9545: macOS does it to work that keeps the screen waiting); what is read then is what an
 * earlier step left. So a step's last dispatch leaves the number of its run.
 */

import { type Dispatch, type Operand, write } from "./dispatch.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";

/** `done[slot] = run`, by the step's settings; `done` holds u32s. */
export function stepDone({ done, settings }: { readonly done: Operand; readonly settings: Operand }): Dispatch {
  return {
    label: "step.done",
    bindings: { settings: readStepSettings(settings), done: write(done, "array<u32>") },
    source: /* wgsl */ `
${STEP_SETTINGS}
@compute @workgroup_size(1)
fn main() {
  done[settings.slot] = settings.run;
}`,
    workgroups: [1, 1, 1],
    flops: 0,
    bytes: 8,
  };
}
