/**
 * What a network is made of while it is traced.
 *
 * A **tensor** is symbolic: a size, and the node that produces it. A **node** applies an operation to tensors. An
 * **operation** knows its output's size, the dispatches that compute it and those of its gradients; there is one file for
 * each in `ops/`.
 */

import type { Capabilities } from "../kernels/device.ts";
import type { Dispatch, Operand } from "../kernels/dispatch.ts";
import type { Shape } from "../kernels/layout.ts";
import type { LoadNorm } from "../kernels/load_norm.ts";
import type { GradientSums, RowChunks } from "../kernels/row_sums.ts";
import type { Parameter, StateBuffer } from "./state.ts";

/** A value in a traced network: its size, and where it comes from. */
export class Tensor {
  /** An input has no node. */
  constructor(
    readonly shape: Shape,
    /** Absent for the network's input. */
    readonly node?: Node,
  ) {}
}

/** An operation applied to tensors. */
export interface Node {
  /** What is computed. */
  readonly operation: Operation;
  /** Of what. */
  readonly inputs: readonly Tensor[];
}

/** Emits what computes the gradients of an operation's inputs and parameters from its output's. */
export type Backward = (dy: Operand) => void;

/** One kind of computation, with its settings and parameters. */
export interface Operation {
  /** The field's name for it, such as `conv2d`. */
  readonly name: string;
  /** What it learns, in the order of the module's. */
  readonly parameters: readonly Parameter[];
  /**
   * Emits what computes `y` from the values of `inputs`. Returns the way back, which holds what it needs of the way forth.
   */
  forward(lowering: Lowering, inputs: readonly Tensor[], y: Operand): Backward;
  /** Whether in training it begins with the moments of its first input, by channel. */
  readonly needsMoments?: boolean;
  /** Floating-point operations of one forward pass, a multiply-add counting two. */
  flops(inputs: readonly Tensor[], output: Shape): number;
}

/** A value as an operation loads it. */
export interface Loaded {
  /** What lies in memory. */
  readonly operand: Operand;
  /** Present: the value is that, normalized. */
  readonly norm?: LoadNorm;
}

/** What an operation has at hand while a traced network becomes dispatches. */
export interface Lowering {
  /** What the device can do. */
  readonly caps: Capabilities;
  /** Batch statistics and gradients, or running statistics and neither. */
  readonly training: boolean;
  /** Appends dispatches. */
  emit(dispatches: readonly Dispatch[]): void;
  /** Where a tensor's value lies. */
  value(tensor: Tensor): Operand;
  /** The same for operations that can normalize what they load: see {@linkcode defer}. */
  load(tensor: Tensor): Loaded;
  /** Instead of writing an output `y`: says of what it can be made wherever it is loaded. All its uses must do so. */
  defer(y: Operand, loaded: Loaded): void;
  /** A new operand for an activation, or for the gradient of one, in the step's precision. */
  activation(label: string, shape: Shape): Operand;
  /** Where a parameter or running statistic lies, in float32. */
  state(entry: Parameter | StateBuffer): Operand;
  /** Where the weight of a convolution or a linear layer lies, in the step's precision. */
  weight(parameter: Parameter): Operand;
  /** Where a parameter's gradient goes. */
  parameterGradient(parameter: Parameter): Operand;
  /** Whether what uses `y` begins with its moments: for a producer that can sum while it computes. */
  wantsMoments(y: Operand): boolean;
  /** Says where the moments of an output are. */
  noteMoments(y: Operand, moments: RowChunks): void;
  /** The moments of a value, where its producer has summed. */
  moments(x: Operand): RowChunks | undefined;
  /** Says that the gradient of an output `y` may be masked and summed by whoever completes it, who then notes the sums. */
  offerSums(y: Operand, norm: GradientSums): void;
  /** Says that a gradient has been masked and summed for a norm. */
  noteSums(dy: Operand, norm: GradientSums, sums: RowChunks): void;
  /** The sums of a gradient for the norm of these statistics: one gradient may be that of several outputs. */
  sums(dy: Operand, statistics: Operand): RowChunks | undefined;
  /** Whether anything before the tensor learns. */
  needsGradient(tensor: Tensor): boolean;
  /**
   * Adds to a tensor's gradient. `produce` gets what has been added before, if anything, and returns an operand with the
   * sum: a kernel that can take an addend saves a pass. Where the sum is complete it also gets what was offered of the
   * tensor, to mask and sum by if it can. Does nothing where no gradient is needed.
   */
  addGradient(
    tensor: Tensor,
    produce: (addend: Operand | undefined, norm: GradientSums | undefined) => Operand,
  ): void;
}

/** Applies an operation: the tensor of its output. */
export function apply(operation: Operation, inputs: readonly Tensor[], shape: Shape): Tensor {
  return new Tensor(shape, { operation, inputs });
}
