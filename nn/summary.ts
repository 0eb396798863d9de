/** What each layer of a network makes and costs: sizes, parameters, multiply-adds, memory. */

import { type Shape, storedElements } from "../kernels/layout.ts";
import { trace } from "./graph.ts";
import type { Module } from "./module.ts";
import { Conv2dOperation } from "./ops/conv2d.ts";
import type { Tensor } from "./tensor.ts";

/** One operation of a network, or all of a part of it. */
export interface SummaryRow {
  /** The module's path, such as `layer1.0.conv1`; for an operation without a module of its own, the one it is in and its name. */
  readonly name: string;
  /** The operation's name; for a part of several, how many. */
  readonly operation: string;
  /** Of its last output. */
  readonly output: Shape;
  /** Numbers that it learns. */
  readonly parameters: number;
  /** Of convolutions and linear layers, as the field counts them. */
  readonly multiplyAdds: number;
  /** Of the outputs as the device stores them in float32, before fusing. */
  readonly activationBytes: number;
}

/** A network for one size of input. */
export interface Summary {
  /** What it was traced with. */
  readonly input: Shape;
  /** In the order of computation. */
  readonly rows: readonly SummaryRow[];
  /** Of the whole network. */
  readonly total: Omit<SummaryRow, "name" | "operation">;
}

/**
 * Traces a network and tells what its operations cost.
 *
 * @param depth Names are cut to so many parts and rows of one name become one. Default: a row for each operation.
 * @throws {RangeError} when the network cannot take the input.
 *
 * @example
 * ```ts
 * import { resnext50, summarize } from "@cardinal/resnext";
 *
 * const { total } = summarize(resnext50(), { n: 1, c: 3, h: 224, w: 224 });
 * if ((total.multiplyAdds / 1e9).toFixed(3) !== "2.295") throw new Error("not the notebook's network");
 * ```
 */
export function summarize(
  module: Module,
  input: Shape,
  { depth = Infinity }: { readonly depth?: number } = {},
): Summary {
  const owners = new Map<Tensor, string>();
  const { nodes, output } = withOwners(module, owners, () => trace(module, input));
  const rows: SummaryRow[] = nodes.map(({ operation, inputs, output }) => {
    const path = owners.get(output) ?? "", { name } = operation;
    const own = operation.parameters.length > 0;
    return {
      name: own && path ? path : [path, name].filter(Boolean).join("."),
      operation: name,
      output: output.shape,
      parameters: operation.parameters.reduce((sum, { elements }) => sum + elements, 0),
      multiplyAdds: operation instanceof Conv2dOperation ? operation.flops(inputs) / 2 : 0,
      activationBytes: storedElements(output.shape) * 4,
    };
  });
  const { name: _, operation: __, ...total } = rows.reduce(join, { ...EMPTY, output: output.shape });
  return {
    input,
    rows: depth === Infinity ? rows : grouped(rows, depth),
    // Parameters of a module that no operation uses count too, as PyTorch's do; shared ones count once.
    total: { ...total, output: output.shape, parameters: module.parameterCount },
  };
}

const EMPTY: Omit<SummaryRow, "output"> = {
  name: "",
  operation: "",
  parameters: 0,
  multiplyAdds: 0,
  activationBytes: 0,
};

/** Two rows as one, named as the first. */
function join(a: SummaryRow, b: SummaryRow): SummaryRow {
  return {
    ...a,
    output: b.output,
    parameters: a.parameters + b.parameters,
    multiplyAdds: a.multiplyAdds + b.multiplyAdds,
    activationBytes: a.activationBytes + b.activationBytes,
  };
}

function grouped(rows: readonly SummaryRow[], depth: number): SummaryRow[] {
  const groups: { row: SummaryRow; count: number }[] = [];
  for (const row of rows) {
    const name = row.name.split(".").slice(0, depth).join(".");
    const last = groups.at(-1);
    if (last?.row.name === name) {
      last.row = join(last.row, row);
      last.count++;
    } else groups.push({ row: { ...row, name }, count: 1 });
  }
  return groups.map(({ row, count }) => count === 1 ? row : { ...row, operation: `${count} operations` });
}

/** Runs `run` while each module notes the tensors made in its `forward`; the innermost module owns a tensor. */
function withOwners<T>(root: Module, owners: Map<Tensor, string>, run: () => T): T {
  const watched: Module[] = [];
  const watch = (module: Module, path: string) => {
    const forward = module.forward.bind(module);
    if (Object.hasOwn(module, "forward")) return;
    watched.push(module);
    module.forward = (x) => {
      const y = forward(x);
      const open = [y], seen = new Set([x]);
      for (let tensor = open.pop(); tensor; tensor = open.pop()) {
        if (!tensor.node || seen.has(tensor)) continue;
        seen.add(tensor);
        if (!owners.has(tensor)) owners.set(tensor, path);
        open.push(...tensor.node.inputs);
      }
      return y;
    };
    for (const [name, child] of module.children()) watch(child, path ? `${path}.${name}` : name);
  };
  try {
    watch(root, "");
    return run();
  } finally {
    for (const module of watched) delete (module as { forward?: unknown }).forward;
  }
}
