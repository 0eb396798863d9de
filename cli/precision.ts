/** `--precision`, as all commands that run networks have it. */

import type { ElementType } from "../kernels/dispatch.ts";
import type { OptionSpecs } from "./command.ts";

const precision = {
  type: "choice",
  choices: ["f32", "f16"] as readonly ElementType[],
  doc: "How activations and what convolutions load are stored; all arithmetic is float32",
} as const;

/** Of commands that have nothing to go by. */
export const precisionOption = { ...precision, default: "f32" } as const satisfies OptionSpecs[string];

/** Of training, where gradients are stored so too. */
export const trainPrecisionOption = {
  ...precisionOption,
  doc: "How activations, their gradients and what convolutions load are stored; f16 scales the loss",
} as const satisfies OptionSpecs[string];

/** Of commands that take a run's checkpoint. */
export const runPrecisionOption = { ...precision, otherwise: "the run's" } as const satisfies OptionSpecs[string];
