/**
 * What changes from step to step, for kernels to read at run time: a plan is compiled once, so that these cannot be its
 * constants. One small operand, written by the host before each step.
 */

import { type Binding, type Operand, operand, read } from "./dispatch.ts";

/** The values of one step. */
export interface StepSettings {
  /** Rows of the batch that are in use; later ones pad a last, smaller batch and count for nothing. */
  readonly validRows: number;
  /** Where in the ring of metrics this step's result goes. */
  readonly slot: number;
  /** Of the optimizer. */
  readonly learningRate: number;
  /** What the loss's gradient is multiplied by: a batch's share of the group whose gradients are summed; else 1. */
  readonly gradientScale: number;
}

/** WGSL of the operand's type, in the order that {@linkcode encodeStepSettings} writes. */
export const STEP_SETTINGS = /* wgsl */ `
struct StepSettings {
  valid_rows: u32,
  slot: u32,
  learning_rate: f32,
  gradient_scale: f32,
}`;

/** A new operand of the right size. */
export function stepSettingsOperand(): Operand {
  return operand("step settings", 4);
}

/** Binds step settings; the kernel's source includes {@linkcode STEP_SETTINGS}. */
export function readStepSettings(settings: Operand): Binding {
  return read(settings, "StepSettings");
}

/** The operand's bytes. Missing values are 0, a missing scale is 1. */
export function encodeStepSettings(settings: Partial<StepSettings>): Uint8Array<ArrayBuffer> {
  const { validRows = 0, slot = 0, learningRate = 0, gradientScale = 1 } = settings;
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, validRows, true);
  view.setUint32(4, slot, true);
  view.setFloat32(8, learningRate, true);
  view.setFloat32(12, gradientScale, true);
  return new Uint8Array(view.buffer);
}
