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

/**
 * Emits what computes the gradients of an operation's inputs and parameters from its output's: calls
 * {@linkcode Lowering.addGradient} once for each input, and writes what {@linkcode Lowering.parameterGradient} returns for
 * each parameter. An input that does not need a gradient may be left out; through one that shall get none go zeros.
 */
export type Backward = (dy: Operand) => void;

/**
 * One kind of computation, with its settings and parameters.
 *
 * Activations are NHWC, the channels padded to a multiple of four, and kernels count on zeros in the padding: a weight
 * that meets other numbers there gets a gradient where it has no weight. What an operation is given is zero there. What it
 * writes is made so after it, unless it {@linkcode Operation.keepsPadding}. The gradient of a parameter is its own affair: what lies
 * beyond the parameter's elements must be written as zeros, which it mostly is by itself, as `dy` is zero there.
 *
 * What an operation forgets is an error when a step is compiled: a result, an input's or a parameter's gradient, a parameter
 * or an input that it does not list.
 *
 * @example A sigmoid
 * ```ts
 * import * as nn from "@cardinal/resnext";
 *
 * class SigmoidOperation implements nn.Operation {
 *   readonly name = "sigmoid";
 *   readonly parameters = [];
 *
 *   forward(lowering: nn.Lowering, [input]: readonly nn.Tensor[], y: nn.Operand): nn.Backward {
 *     const elements = nn.storedElements(input.shape), { caps } = lowering, flops = 4 * elements;
 *     lowering.emit([nn.each("sigmoid.forward", { x: nn.read(lowering.value(input)), y: nn.write(y) }, {
 *       load: (k) => `let x${k} = get_x(at${k});`,
 *       use: (k) => `set_y(at${k}, 1.0 / (1.0 + exp(-x${k})));`,
 *     }, { elements, flops, caps })]);
 *     return (dy) => {
 *       if (!lowering.needsGradient(input)) return;
 *       const dx = lowering.activation("sigmoid.dx", input.shape);
 *       lowering.emit([nn.each("sigmoid.backward", { y: nn.read(y), dy: nn.read(dy), dx: nn.write(dx) }, {
 *         load: (k) => `let y${k} = get_y(at${k}); let dy${k} = get_dy(at${k});`,
 *         use: (k) => `set_dx(at${k}, dy${k} * y${k} * (1.0 - y${k}));`,
 *       }, { elements, flops, caps })]);
 *       nn.addToGradient(lowering, input, dx);
 *     };
 *   }
 *
 *   flops(_: readonly nn.Tensor[], output: nn.Shape): number {
 *     return 4 * nn.storedElements(output);
 *   }
 * }
 *
 * class Sigmoid extends nn.Module {
 *   forward(x: nn.Tensor): nn.Tensor {
 *     return nn.apply(new SigmoidOperation(), [x], x.shape);
 *   }
 * }
 *
 * const net = new nn.Sequential(new nn.Conv2d(3, 5, 3), new Sigmoid(), new nn.GlobalAvgPool2d());
 * if (nn.summarize(net, { n: 1, c: 3, h: 8, w: 8 }).total.output.c !== 5) throw new Error("five channels");
 * ```
 */
export interface Operation {
  /** The field's name for it, such as `conv2d`. */
  readonly name: string;
  /** All that it learns, in the order of the module's; it may use no others. */
  readonly parameters: readonly Parameter[];
  /**
   * Emits what computes `y` from the values of `inputs`. Returns the way back, which holds what it needs of the way forth.
   *
   * @param y To be written, in the layout of an activation: see above.
   */
  forward(lowering: Lowering, inputs: readonly Tensor[], y: Operand): Backward;
  /**
   * Whether all activations and gradients that it writes are zero in the padding of their channels as long as what it loads
   * is. Default false: zeros are then written there, which takes a small pass over what has padding and nothing else.
   */
  readonly keepsPadding?: boolean;
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
  /** Where the value of an input lies. */
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
  /** Where a parameter's gradient goes: to be written whole, padding included, in the way back. */
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
   * Adds to the gradient of an input: once in the way back for each time that it is one. `produce` gets what has been added before, if anything, and returns an operand with the
   * sum: a kernel that can take an addend saves a pass. Where the sum is complete it also gets what was offered of the
   * tensor, to mask and sum by if it can. Does nothing where no gradient is needed.
   */
  addGradient(
    tensor: Tensor,
    produce: (addend: Operand | undefined, norm: GradientSums | undefined) => Operand,
  ): void;
}

/** Applies an operation: the tensor of its output. How a module's `forward` uses one of your own. */
export function apply(operation: Operation, inputs: readonly Tensor[], shape: Shape): Tensor {
  return new Tensor(shape, { operation, inputs });
}
