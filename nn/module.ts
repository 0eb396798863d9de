/** Modules compose as PyTorch's do: a class with layers as fields and a `forward` that reads like the formula. */

import { Counter, Parameter, StateBuffer, type StateEntry } from "./state.ts";
import { Tensor } from "./tensor.ts";

/**
 * A part of a network. Subclasses keep parameters and other modules in fields; a field's name is its name in the
 * `state_dict`, and fields count in the order of their definition, a module's own entries before its children's.
 *
 * @example A block of two layers
 * ```ts
 * import { Conv2d, Module, relu, type Tensor } from "@cardinal/resnext";
 *
 * class Twice extends Module {
 *   conv1 = new Conv2d(8, 8, 3, { padding: 1 });
 *   conv2 = new Conv2d(8, 8, 3, { padding: 1 });
 *   forward(x: Tensor): Tensor {
 *     return relu(this.conv2.forward(relu(this.conv1.forward(x))));
 *   }
 * }
 * const names = [...new Twice().stateEntries()].map(([name]) => name);
 * if (names[0] !== "conv1.weight") throw new Error(names[0]);
 * ```
 */
export abstract class Module {
  /** The output for an input, both symbolic. */
  abstract forward(x: Tensor): Tensor;

  /** The modules directly inside, by name. */
  *children(): Generator<[string, Module]> {
    for (const [name, value] of Object.entries(this)) if (value instanceof Module) yield [name, value];
  }

  /** All entries of the `state_dict`, in its order, by their full names: what has several comes with each of them. */
  *stateEntries(prefix = ""): Generator<[string, StateEntry]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Parameter || value instanceof StateBuffer || value instanceof Counter) {
        yield [prefix + name, value];
      }
    }
    for (const [name, child] of this.children()) yield* child.stateEntries(`${prefix}${name}.`);
  }

  /** How many numbers are learned; what has several names counts once. */
  get parameterCount(): number {
    let count = 0;
    for (const entry of new Set([...this.stateEntries()].map(([, entry]) => entry))) {
      if (entry instanceof Parameter) count += entry.elements;
    }
    return count;
  }
}

/**
 * What a module makes of an input.
 *
 * @throws {TypeError} where its `forward` returns no tensor, as where the `return` was forgotten.
 */
export function outputOf(module: Module, x: Tensor): Tensor {
  const output: unknown = module.forward(x);
  if (output instanceof Tensor) return output;
  const what = output === undefined ? "nothing" : output instanceof Promise ? "a promise" : `${output}, no tensor`;
  throw new TypeError(`Cannot use ${module.constructor.name}: its forward returned ${what}; return a tensor`);
}

/**
 * Modules one after the other, named by their position: `0`, `1`, ...
 *
 * @example
 * ```ts
 * import { Conv2d, ReLU, Sequential } from "@cardinal/resnext";
 *
 * const block = new Sequential(new Conv2d(3, 8, 3), new ReLU());
 * if (block.parameterCount !== 8 * 3 * 9 + 8) throw new Error("weights and bias");
 * ```
 */
export class Sequential extends Module {
  readonly #modules: readonly Module[];

  /** In the order in which they are applied. */
  constructor(...modules: Module[]) {
    super();
    const wrong = modules.findIndex((module) => !(module instanceof Module));
    if (wrong >= 0) {
      throw new TypeError(
        `Cannot make a Sequential: argument ${wrong} is no module, but ${
          Array.isArray(modules[wrong]) ? "an array" : typeof modules[wrong]
        }; give modules, one an argument`,
      );
    }
    this.#modules = modules;
  }

  /** `x` through all modules, one after the other. */
  forward(x: Tensor): Tensor {
    return this.#modules.reduce((value, module) => outputOf(module, value), x);
  }

  /** The modules by their numbers. */
  override *children(): Generator<[string, Module]> {
    for (const [index, module] of this.#modules.entries()) yield [String(index), module];
  }
}
