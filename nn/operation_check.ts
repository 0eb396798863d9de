/**
 * Holds operations to their contract ({@linkcode Operation} in `tensor.ts`) while they are lowered. Who forgets a gradient
 * would train on numbers that are wrong, without a word, and who forgets a result would read what lay in memory before. Here
 * both are errors, which name the operation.
 */

import type { Dispatch, Operand } from "../kernels/dispatch.ts";
import { describe } from "./ops/sum.ts";
import type { Parameter } from "./state.ts";
import type { Backward, Node, Tensor } from "./tensor.ts";

/** What one pass of one operation has done so far. */
export class OperationCheck {
  readonly #node: Node;
  readonly #pass: "forward" | "backward";
  readonly #nameOf: (parameter: Parameter) => string;
  readonly #written = new Set<Operand>();
  readonly #added = new Map<Tensor, number>();
  readonly #gradients = new Map<Parameter, Operand>();

  /**
   * @param nameOf A parameter's name in the `state_dict`.
   */
  constructor(node: Node, pass: "forward" | "backward", nameOf: (parameter: Parameter) => string) {
    this.#node = node;
    this.#pass = pass;
    this.#nameOf = nameOf;
  }

  /** Notes what is written. */
  emits(dispatches: readonly Dispatch[]): void {
    for (const { bindings } of dispatches) {
      for (const { access, operand } of Object.values(bindings)) {
        if (access === "read_write") this.#written.add(operand);
      }
    }
  }

  /** Whether this pass has written an operand. */
  wrote(operand: Operand): boolean {
    return this.#written.has(operand);
  }

  /** Refuses tensors of others: nothing would keep their values, or count on a gradient. */
  uses(tensor: Tensor): void {
    if (this.#node.inputs.includes(tensor)) return;
    this.#refuse(`it asks for a tensor that is not one of its inputs: pass it to \`apply\``);
  }

  /** Refuses parameters that are not listed: nothing would learn before them, nor freeze them. */
  usesParameter(parameter: Parameter): void {
    if (this.#node.operation.parameters.includes(parameter)) return;
    this.#refuse(`it uses "${this.#nameOf(parameter)}", which its \`parameters\` do not list: list it`);
  }

  /** Notes where a gradient goes. */
  asksForGradient(parameter: Parameter, gradient: Operand): void {
    this.usesParameter(parameter);
    if (this.#pass === "forward") {
      this.#refuse(
        `its forward asks for the gradient of "${this.#nameOf(parameter)}": ask in the function that it returns`,
      );
    }
    this.#gradients.set(parameter, gradient);
  }

  /** Counts a part of an input's gradient. */
  addsGradient(tensor: Tensor): void {
    this.uses(tensor);
    if (this.#pass === "forward") this.#refuse("its forward adds a gradient: add it in the function that it returns");
    this.#added.set(tensor, (this.#added.get(tensor) ?? 0) + 1);
  }

  /** Of a forward pass that is done. */
  checkResult(y: Operand): void {
    if (!this.wrote(y)) this.#refuse("its forward writes no result: emit a dispatch that binds `y` for writing");
  }

  /** Of a forward pass that is done, where gradients will be asked for. */
  checkBackward(back: Backward): void {
    if (typeof back === "function") return;
    this.#refuse(`its forward returns ${back}: return the function that emits the gradients`);
  }

  /** Of a backward pass that is done. @param learns Whether a gradient is needed. */
  checkGradients(learns: (tensor: Tensor) => boolean): void {
    const { operation: { parameters }, inputs } = this.#node;
    for (const [index, input] of inputs.entries()) {
      const due = inputs.filter((other) => other === input).length, added = this.#added.get(input) ?? 0;
      if (!learns(input) || added === due) continue;
      this.#refuse(
        `its backward adds ${count(added)} to input ${index}, ${describe(input.shape)}, where ${due} ${
          due === 1 ? "is" : "are"
        } due: call \`addGradient\` once for each input`,
      );
    }
    for (const parameter of parameters) {
      const gradient = this.#gradients.get(parameter), name = this.#nameOf(parameter);
      if (!gradient) {
        this.#refuse(
          `its backward does not ask for the gradient of "${name}", which learns: write to \`parameterGradient\``,
        );
      }
      if (!this.wrote(gradient)) {
        this.#refuse(
          `its backward does not write the gradient of "${name}": emit a dispatch that binds what ` +
            "`parameterGradient` returns for writing",
        );
      }
    }
  }

  #refuse(why: string): never {
    throw new Error(`Cannot use operation "${this.#node.operation.name}": ${why}`);
  }
}

function count(gradients: number): string {
  return gradients === 0 ? "no gradient" : gradients === 1 ? "1 gradient" : `${gradients} gradients`;
}
