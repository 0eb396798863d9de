/**
 * What a step computes, as dispatches: of a network, an input's size and where things lie, without a device. Steps run them
 * (`train_step.ts`, `eval_step.ts`); `memory.ts` only counts what they would take.
 */

import { crossEntropy } from "../kernels/cross_entropy.ts";
import type { Capabilities } from "../kernels/device.ts";
import { type Dispatch, type ElementType, type Operand, operand } from "../kernels/dispatch.ts";
import { type Shape, storedElements } from "../kernels/layout.ts";
import { deferNorms, fuse, fuseForEvaluation } from "./fuse.ts";
import { type Graph, trace } from "./graph.ts";
import { lower, type StatePlaces } from "./lowering.ts";
import type { Module } from "./module.ts";
import { describe } from "./ops/sum.ts";
import type { Parameter } from "./state.ts";

/** What a step is given and what it is asked for. */
export interface StepOperands {
  /** The batch's images. */
  readonly x: Operand;
  /** Its labels. */
  readonly labels: Operand;
  /** Second labels and their weights, where images are mixed. */
  readonly mixes?: Operand;
  /** See `kernels/step_settings.ts`. */
  readonly settings: Operand;
  /** The ring that takes loss and counts. */
  readonly metrics: Operand;
  /** What gradients are multiplied by; see `kernels/loss_scale.ts`. Default: nothing. */
  readonly lossScale?: Operand;
}

/**
 * What is trained. Refuses what cannot be, before memory is made for it.
 *
 * @throws {RangeError} when the module does not fit its input, gives no logits, or for settings out of bounds.
 */
export function trainingGraph(
  module: Module,
  input: Shape,
  { precision, labelSmoothing = 0 }: { readonly precision?: ElementType; readonly labelSmoothing?: number } = {},
): Graph {
  checkPrecision(precision);
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) {
    throw new RangeError(`Cannot smooth labels by ${labelSmoothing}: from 0 to 1`);
  }
  const graph = deferNorms(fuse(trace(module, input)));
  logitsOf(graph);
  return graph;
}

/**
 * Forward pass, loss and backward pass: the parameters' gradients. What updates them is the caller's.
 *
 * @param graph Of {@linkcode trainingGraph}.
 */
export function trainingDispatches(
  graph: Graph,
  { x, ...rest }: StepOperands,
  places: StatePlaces,
  { caps, precision, labelSmoothing = 0, frozen }: {
    readonly caps: Capabilities;
    /** See `lowering.ts`. */
    readonly precision?: ElementType;
    readonly labelSmoothing?: number;
    /** Parameters that stay as they are; see `lowering.ts`. */
    readonly frozen?: (parameter: Parameter) => boolean;
  },
): { readonly dispatches: Dispatch[]; readonly classes: number } {
  const { rows, classes } = logitsOf(graph);
  const dispatches: Dispatch[] = [];
  const emit = (more: readonly Dispatch[]) => void dispatches.push(...more);
  const lowered = lower(graph, x, places, { caps, training: true, precision, emit, frozen });
  const dlogits = operand("dlogits", storedElements(graph.output.shape));
  emit(crossEntropy({ logits: lowered.output, dlogits, ...rest }, { rows, classes, labelSmoothing }, caps));
  lowered.backward(dlogits);
  return { dispatches, classes };
}

/** Forward pass and loss by running statistics. */
export function evaluationDispatches(
  module: Module,
  input: Shape,
  { x, ...rest }: StepOperands & { readonly predictions?: Operand },
  places: StatePlaces,
  { caps, precision }: { readonly caps: Capabilities; readonly precision?: ElementType },
): { readonly dispatches: Dispatch[]; readonly logits: Operand; readonly classes: number } {
  checkPrecision(precision);
  const graph = fuseForEvaluation(fuse(trace(module, input)), caps);
  const { rows, classes } = logitsOf(graph);
  const dispatches: Dispatch[] = [];
  const emit = (more: readonly Dispatch[]) => void dispatches.push(...more);
  const { output: logits } = lower(graph, x, places, { caps, training: false, precision, emit });
  emit(crossEntropy({ logits, ...rest }, { rows, classes, labelSmoothing: 0 }, caps));
  return { dispatches, logits, classes };
}

/** The loss takes a row of logits an image. */
function logitsOf({ output }: Graph): { readonly rows: number; readonly classes: number } {
  const { n: rows, h, w, c: classes } = output.shape;
  if (h !== 1 || w !== 1) {
    throw new RangeError(`Cannot take ${describe(output.shape)} for logits: pool the output to 1x1 pixels`);
  }
  return { rows, classes };
}

/** Callers without types would get float32 for any other word, and not learn it. */
function checkPrecision(precision: ElementType = "f32"): void {
  if (precision !== "f32" && precision !== "f16") {
    throw new RangeError(`Cannot compute in precision "${precision}": it is "f32" or "f16"`);
  }
}
