/** A traced network: its nodes in an order in which they can be computed. */

import type { Shape } from "../kernels/layout.ts";
import { type Module, outputOf } from "./module.ts";
import { type Operation, Tensor } from "./tensor.ts";

/** One node of a graph, with the tensor it makes. */
export interface GraphNode {
  readonly operation: Operation;
  readonly inputs: readonly Tensor[];
  readonly output: Tensor;
}

/** A network for one size of input. */
export interface Graph {
  readonly input: Tensor;
  readonly output: Tensor;
  readonly nodes: readonly GraphNode[];
}

/** Runs a module on a symbolic input and collects what it did; what the output does not need is left out. */
export function trace(module: Module, input: Shape): Graph {
  const x = new Tensor(input);
  const output = outputOf(module, x);
  const nodes: GraphNode[] = [];
  const done = new Set<Tensor>([x]);
  // Depth first with a stack of our own: a network may be deeper than the call stack.
  const stack: { tensor: Tensor; next: number }[] = [{ tensor: output, next: 0 }];
  while (stack.length > 0) {
    const top = stack[stack.length - 1];
    const { node } = top.tensor;
    if (!node && top.tensor !== x) {
      throw new Error("Cannot trace: the output depends on a tensor that is not the input");
    }
    if (!node || done.has(top.tensor)) {
      stack.pop();
    } else if (top.next < node.inputs.length) {
      const tensor = node.inputs[top.next++];
      if (!(tensor instanceof Tensor)) {
        throw new TypeError(`Cannot trace: ${tensor} is an input of operation "${node.operation.name}"; pass tensors`);
      }
      stack.push({ tensor, next: 0 });
    } else {
      nodes.push({ ...node, output: top.tensor });
      done.add(top.tensor);
      stack.pop();
    }
  }
  return { input: x, output, nodes };
}

/** How many nodes use each tensor; the output of the graph counts as used once more. */
export function useCounts(graph: Graph): Map<Tensor, number> {
  const counts = new Map<Tensor, number>([[graph.output, 1]]);
  for (const { inputs } of graph.nodes) {
    for (const input of inputs) counts.set(input, (counts.get(input) ?? 0) + 1);
  }
  return counts;
}
