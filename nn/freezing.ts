/**
 * Freezing: the first stages of a network stay as they are while the others learn. A frozen stage runs as in evaluation,
 * with its running statistics, and gradients end where it ends.
 */

import { UserError } from "../kernels/user_error.ts";

/** What is before the first stage, in the networks of this project. */
const STEM = ["conv1", "bn1"];

/**
 * The entries of a `state_dict` that stages stand for: `stem`, `layer1`, ... A stage can be frozen only with all before it.
 *
 * @param entries Names of the network's entries.
 * @throws {UserError} for a stage that there is not, all stages and the classifier, or a gap.
 */
export function frozenEntries(stages: readonly string[], entries: Iterable<string>): (name: string) => boolean {
  const parts = new Set([...entries].map((name) => stageOf(name)));
  const order = [...parts].filter((part) => part !== "fc");
  for (const stage of stages) {
    if (!order.includes(stage)) {
      throw new UserError(`Cannot freeze "${stage}": the network has ${order.join(", ")}`, { exitCode: 2 });
    }
    const missing = order.slice(0, order.indexOf(stage)).find((before) => !stages.includes(before));
    if (missing) {
      throw new UserError(
        `Cannot freeze "${stage}" while "${missing}" learns: freeze the first stages, such as ` +
          order.slice(0, order.indexOf(stage) + 1).join(","),
        { exitCode: 2 },
      );
    }
  }
  return (name) => stages.includes(stageOf(name));
}

/** `layer1.0.bn1.weight` is of `layer1`. */
function stageOf(name: string): string {
  const [part] = name.split(".");
  return STEM.includes(part) ? "stem" : part;
}
