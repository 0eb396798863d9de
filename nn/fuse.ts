/**
 * Rewrites of a graph that save passes over memory: a ReLU, or a sum and a ReLU, right after a batch norm becomes part of
 * it; in training its result is made where it is loaded; in evaluation it becomes part of the convolution before it. Values
 * and gradients stay what they were.
 */

import { convTakesOptions } from "../kernels/conv2d.ts";
import type { Capabilities } from "../kernels/device.ts";
import { type Graph, type GraphNode, useCounts } from "./graph.ts";
import { BatchNormOperation } from "./ops/batch_norm.ts";
import { Conv2dOperation } from "./ops/conv2d.ts";
import { ConvNormOperation } from "./ops/conv_norm.ts";
import { MaxPoolOperation } from "./ops/pool.ts";
import { ReluOperation } from "./ops/relu.ts";
import { AddOperation } from "./ops/sum.ts";
import type { Tensor } from "./tensor.ts";

/** The same graph with fewer nodes. */
export function fuse(graph: Graph): Graph {
  const uses = useCounts(graph);
  const nodes: GraphNode[] = [];
  const producer = new Map<Tensor, GraphNode>();
  /** The node of a tensor that nobody else uses. */
  const own = (tensor: Tensor) => uses.get(tensor) === 1 ? producer.get(tensor) : undefined;
  const append = (node: GraphNode) => {
    nodes.push(node);
    producer.set(node.output, node);
  };
  const replace = (absorbed: GraphNode, node: GraphNode) => {
    nodes.splice(nodes.indexOf(absorbed), 1);
    append(node);
  };
  for (const node of graph.nodes) {
    if (node.operation instanceof AddOperation) {
      // The batch norm made last goes first: the other operand is then ready when its turn comes.
      const candidates = node.inputs.map(own).filter((made) => made !== undefined && isPlainNorm(made));
      const norm = candidates.sort((a, b) => nodes.indexOf(b!) - nodes.indexOf(a!))[0];
      if (norm && node.inputs[0] !== node.inputs[1]) {
        const { state, settings } = norm.operation as BatchNormOperation;
        const other = node.inputs[0] === norm.output ? node.inputs[1] : node.inputs[0];
        replace(norm, {
          operation: new BatchNormOperation(state, settings, false, true),
          inputs: [norm.inputs[0], other],
          output: node.output,
        });
        continue;
      }
    }
    if (node.operation instanceof ReluOperation) {
      const norm = own(node.inputs[0]);
      if (norm?.operation instanceof BatchNormOperation && !norm.operation.relu) {
        const { state, settings, residual } = norm.operation;
        replace(norm, {
          operation: new BatchNormOperation(state, settings, true, residual),
          inputs: norm.inputs,
          output: node.output,
        });
        continue;
      }
    }
    append(node);
  }
  return { ...graph, nodes };
}

function isPlainNorm({ operation }: GraphNode): boolean {
  return operation instanceof BatchNormOperation && !operation.relu && !operation.residual;
}

/** For evaluation, after {@linkcode fuse}: convolutions take over the batch norm that alone uses their output. */
export function fuseForEvaluation(graph: Graph, { maxStorageBuffers }: Capabilities): Graph {
  if (maxStorageBuffers < ConvNormOperation.bindings) return graph;
  const uses = useCounts(graph);
  const convolutions = new Map<Tensor, GraphNode>();
  const nodes: GraphNode[] = [];
  for (const node of graph.nodes) {
    const { operation, inputs: [input, ...residual], output } = node;
    const conv = convolutions.get(input);
    if (operation instanceof BatchNormOperation && conv && uses.get(input) === 1) {
      nodes.splice(nodes.indexOf(conv), 1);
      const fused = new ConvNormOperation(conv.operation as Conv2dOperation, operation);
      nodes.push({ operation: fused, inputs: [conv.inputs[0], ...residual], output });
      continue;
    }
    if (operation instanceof Conv2dOperation && convTakesOptions(operation.geometry(input.shape))) {
      convolutions.set(output, node);
    }
    nodes.push(node);
  }
  return { ...graph, nodes };
}

/**
 * For training, after {@linkcode fuse}: the result of a batch norm is not written where a convolution, a max pool or a sum
 * with another norm alone uses it; they normalize what they load, in the weight's gradient again, and only what goes into
 * the norm is kept for the backward pass.
 */
export function deferNorms(graph: Graph): Graph {
  const uses = useCounts(graph);
  const users = new Map<Tensor, GraphNode>();
  for (const node of graph.nodes) for (const input of node.inputs) users.set(input, node);
  const nodes = graph.nodes.map((node) => {
    const { operation, output } = node, { operation: user, inputs = [] } = users.get(output) ?? {};
    if (!(operation instanceof BatchNormOperation) || operation.residual || uses.get(output) !== 1) return node;
    const normalizes = user instanceof MaxPoolOperation ||
      user instanceof BatchNormOperation && user.residual && inputs[1] === output ||
      user instanceof Conv2dOperation && convTakesOptions(user.geometry(output.shape));
    if (!normalizes) return node;
    const { state, settings, relu } = operation;
    return { ...node, operation: new BatchNormOperation(state, settings, relu, false, true) };
  });
  return { ...graph, nodes };
}
