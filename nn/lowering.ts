/** From a graph to dispatches: forward, and backward in the opposite order. */

import { accumulate } from "../kernels/accumulate.ts";
import type { Capabilities } from "../kernels/device.ts";
import { type Dispatch, type ElementType, type Operand, operand } from "../kernels/dispatch.ts";
import { clearPadding } from "../kernels/elementwise.ts";
import { padded, type Shape, storedElements } from "../kernels/layout.ts";
import { UserError } from "../kernels/user_error.ts";
import type { GradientSums, RowChunks } from "../kernels/row_sums.ts";
import { type Graph, useCounts } from "./graph.ts";
import { OperationCheck } from "./operation_check.ts";
import { Parameter, type StateBuffer } from "./state.ts";
import type { Backward, Loaded, Lowering, Node, Operation, Tensor } from "./tensor.ts";

/** Where a network's state lies; see `weights.ts`. */
export interface StatePlaces {
  /** Where a parameter or running statistic lies. */
  state(entry: Parameter | StateBuffer): Operand;
  /** Where a parameter's gradient goes. */
  gradient(parameter: Parameter): Operand;
  /** Where the half precision copy of a weight lies; for steps in `f16` alone. */
  half?(parameter: Parameter): Operand;
}

/** A graph's dispatches so far, and the way back. */
export interface Lowered {
  readonly output: Operand;
  /** Appends the gradients' dispatches, given the output's gradient. Returns the input's gradient where it was asked for. */
  backward(outputGradient: Operand): Operand | undefined;
}

/** Options of {@linkcode lower}. */
export interface LowerOptions {
  readonly caps: Capabilities;
  readonly training: boolean;
  /** Also compute the gradient of the graph's input: for tests. Default false. */
  readonly inputGradient?: boolean;
  /**
   * Parameters that stay as they are: their operations run as in evaluation, with running statistics, and nothing before
   * them learns either. They must come before all that learns, and be all of their operations' parameters.
   */
  readonly frozen?: (parameter: Parameter) => boolean;
  /**
   * How activations, their gradients and weights are stored. Default `f32`. What is added up over many values (statistics,
   * the parameters' gradients), the network's input and its output are float32 always.
   */
  readonly precision?: ElementType;
  /** Receives the dispatches, in order. */
  readonly emit: (dispatches: readonly Dispatch[]) => void;
}

/** Emits the forward pass of a graph whose input lies at `input`. */
export function lower(graph: Graph, input: Operand, places: StatePlaces, options: LowerOptions): Lowered {
  const values = new Map<Tensor, Operand>([[graph.input, input]]);
  const deferred = new Map<Operand, Loaded>();
  const wanted = new Set<Operand>(), moments = new Map<Operand, RowChunks>();
  const offers = new Map<Operand, GradientSums>();
  const sums = new Map<Operand, { readonly norm: GradientSums; readonly chunks: RowChunks }>();
  /** How many parts of a tensor's gradient are still to come: one for each use. */
  const missing = useCounts(graph);
  const normalized = new Set(
    graph.nodes.filter((node) => node.operation.needsMoments && !isFrozen(node, options)).map(({ inputs }) =>
      inputs[0]
    ),
  );
  const gradients = new Map<Tensor, Operand>();
  /** Parameters that have a gradient, and parts of it by operations that use them too. */
  const learned = new Set<Parameter>(), parts: { sums: Operand; gradients: Operand; elements: number }[] = [];
  const { precision = "f32" } = options;
  const learns = new Set<Tensor>(options.inputGradient ? [graph.input] : []);
  const lowering: Lowering = {
    caps: options.caps,
    training: options.training,
    emit(dispatches) {
      check.emits(dispatches);
      options.emit(dispatches.map((dispatch) => ({ ...dispatch, group })));
    },
    value(tensor) {
      check.uses(tensor);
      return known(values, tensor);
    },
    load(tensor) {
      const value = lowering.value(tensor);
      return deferred.get(value) ?? { operand: value };
    },
    defer: (y, loaded) => void deferred.set(y, loaded),
    activation: (label, shape) => operand(label, storedElements(shape), precision),
    state(entry) {
      if (entry instanceof Parameter) check.usesParameter(entry);
      return places.state(entry);
    },
    weight(parameter) {
      check.usesParameter(parameter);
      return precision === "f16" ? places.half!(parameter) : places.state(parameter);
    },
    parameterGradient(parameter) {
      const sums = places.gradient(parameter), elements = parameter.storedElements;
      const gradients = learned.has(parameter) ? operand("gradient.part", elements) : sums;
      check.asksForGradient(parameter, gradients);
      if (gradients !== sums) parts.push({ sums, gradients, elements });
      learned.add(parameter);
      return gradients;
    },
    needsGradient: (tensor) => learns.has(tensor),
    wantsMoments: (y) => wanted.has(y),
    noteMoments: (y, chunks) => void moments.set(y, chunks),
    moments: (x) => moments.get(x),
    offerSums: (y, norm) => void offers.set(y, norm),
    noteSums: (dy, norm, chunks) => void sums.set(dy, { norm, chunks }),
    sums(dy, statistics) {
      const found = sums.get(dy);
      return found?.norm.statistics === statistics ? found.chunks : undefined;
    },
    addGradient(tensor, produce) {
      check.addsGradient(tensor);
      const left = missing.get(tensor)! - 1;
      missing.set(tensor, left);
      if (!learns.has(tensor)) return;
      const offer = left === 0 ? offers.get(known(values, tensor)) : undefined;
      const sum = produce(gradients.get(tensor), offer);
      keepPadding(sum, tensor.shape);
      gradients.set(tensor, sum);
    },
  };
  const nameOf = (parameter: Parameter) => places.state(parameter).label;
  let group = 0, current!: Node, check!: OperationCheck;
  const begin = (node: Node, pass: "forward" | "backward") => {
    group++;
    current = node;
    check = new OperationCheck(node, pass, nameOf);
  };
  /** Clears the padding of what the current operation has written, unless it says that this is not needed. */
  const keepPadding = (written: Operand, shape: Shape) => {
    if (current.operation.keepsPadding || shape.c === padded(shape.c) || !check.wrote(written)) return;
    lowering.emit(clearPadding(written, shape, options.caps));
  };
  const ways: { node: Node; output: Tensor; back: Backward }[] = [];
  for (const node of graph.nodes) {
    const { operation, inputs, output } = node;
    begin(node, "forward");
    const type = output === graph.output ? "f32" : precision;
    const y = operand(operation.name, storedElements(output.shape), type);
    const frozen = isFrozen({ operation }, options);
    if (frozen) refuseLearning(operation, places, options);
    if (options.training && normalized.has(output)) wanted.add(y);
    const learnsBefore = inputs.some((tensor) => learns.has(tensor));
    if (frozen && learnsBefore) throw new UserError(`Cannot freeze ${operation.name} after layers that learn`);
    const back = operation.forward(frozen ? { ...lowering, training: false } : lowering, inputs, y);
    if (!deferred.has(y)) check.checkResult(y);
    keepPadding(y, output.shape);
    values.set(output, y);
    if ((operation.parameters.length > 0 && !frozen) || learnsBefore) {
      check.checkBackward(back);
      learns.add(output);
      ways.push({ node, output, back });
    }
  }
  return {
    output: known(values, graph.output),
    backward(outputGradient) {
      gradients.set(graph.output, outputGradient);
      missing.set(graph.output, missing.get(graph.output)! - 1);
      for (const { node, output, back } of ways.reverse()) {
        begin(node, "backward");
        back(known(gradients, output));
        check.checkGradients(lowering.needsGradient);
        for (const part of parts.splice(0)) lowering.emit(accumulate(part, part.elements, options.caps));
      }
      return gradients.get(graph.input);
    },
  };
}

function isFrozen({ operation }: { readonly operation: Operation }, { frozen }: LowerOptions): boolean {
  return operation.parameters.some((parameter) => frozen?.(parameter));
}

/** An operation in part frozen would neither learn what is left nor leave it alone. */
function refuseLearning({ name, parameters }: Operation, places: StatePlaces, { frozen }: LowerOptions): void {
  const learning = parameters.find((parameter) => !frozen?.(parameter));
  if (!learning) return;
  throw new UserError(
    `Cannot freeze a part of ${name}: "${places.state(learning).label}" learns; freeze all of a layer or none`,
  );
}

function known(map: ReadonlyMap<Tensor, Operand>, tensor: Tensor): Operand {
  const found = map.get(tensor);
  if (!found) throw new Error("A tensor is used before it is computed");
  return found;
}
