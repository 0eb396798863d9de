/** Which part of a network a dispatch belongs to: for people who look at a plan. */

import type { Dispatch, Operand } from "../kernels/dispatch.ts";

/**
 * For each dispatch the name of an operand that tells whose it is: one that it binds, one that another of its operation's
 * pass binds, or what the dispatch before was given.
 *
 * @param nameOf The name of an operand, where it has one that tells something.
 */
export function owners(
  dispatches: readonly Dispatch[],
  nameOf: (operand: Operand) => string | undefined,
): (string | undefined)[] {
  const own = dispatches.map(({ bindings }) =>
    Object.values(bindings).map(({ operand }) => nameOf(operand)).find((name) => name !== undefined)
  );
  const ofGroup = new Map<number, string>();
  for (const [i, { group }] of dispatches.entries()) {
    const name = own[i];
    if (group !== undefined && name !== undefined && !ofGroup.has(group)) ofGroup.set(group, name);
  }
  let before: string | undefined;
  return dispatches.map(({ group }, i) =>
    before = own[i] ?? (group === undefined ? undefined : ofGroup.get(group)) ?? before
  );
}
