/** The names of a state, as the network has them: without what wrappers of it have put before. */

/**
 * What stands before every name of a wrapped network: `nn.DataParallel` and `AveragedModel` write `module.`,
 * `torch.compile` `_orig_mod.`, a module of Lightning's the name of its field.
 */
const PREFIXES = ["module.", "_orig_mod.", "model.", "net."];
/** `AveragedModel`'s own: how many states are in the average. */
const COUNT = "n_averaged";
/** More than any script has; a hostile file's names would else keep this busy. */
const MAX_WRAPPERS = 8;

/** @returns The state under the network's own names, and what was taken off, for people. */
export function withoutWrappers<T>(
  state: ReadonlyMap<string, T>,
): { readonly state: ReadonlyMap<string, T>; readonly notes: readonly string[] } {
  let entries = [...state], taken = "", counted = false;
  for (let wrappers = 0; wrappers < MAX_WRAPPERS; wrappers++) {
    const wrapped = entries.filter(([name]) => name !== COUNT);
    const prefix = PREFIXES.find((prefix) => wrapped.every(([name]) => name.startsWith(prefix)));
    if (prefix === undefined || wrapped.length === 0) break;
    counted ||= wrapped.length < entries.length;
    taken += prefix;
    entries = wrapped.map(([name, value]) => [name.slice(prefix.length), value]);
  }
  if (taken === "") return { state, notes: [] };
  return {
    state: new Map(entries),
    notes: [`took "${taken}" off the names`, ...(counted ? [`left out "${COUNT}"`] : [])],
  };
}
