/**
 * A stand-in for `jsr:@std/cli`: `parseArgs` with the documented behaviour, so that the project runs on a machine that
 * reaches no JSR. deno.json's `links` puts it in the real package's place. Left out: dotted names that make nested
 * objects, values that are collected, stopping at the first argument, and the types inferred for negatable names.
 *
 * @module
 */

type OneOrMore<T> = T | readonly T[];

/** How {@linkcode parseArgs} reads the arguments. */
export interface ParseOptions<B extends string = string, S extends string = string> {
  /** Names that are true or false: they take no following argument, and are false when absent. `true`: all names. */
  readonly boolean?: boolean | OneOrMore<B>;
  /** Names whose value stays a string. `_` keeps positional arguments strings. */
  readonly string?: OneOrMore<S>;
  /** Other names for a name. */
  readonly alias?: Readonly<Record<string, OneOrMore<string>>>;
  /** Values for absent names. */
  readonly default?: Readonly<Record<string, unknown>>;
  /** Names that `--no-NAME` sets to false. */
  readonly negatable?: OneOrMore<string>;
  /** What stands after `--` goes to the result's `--`, else to `_`. */
  readonly "--"?: boolean;
  /** Called with an undeclared argument, and its name and value if it is an option: `false` drops it. */
  readonly unknown?: (argument: string, key?: string, value?: unknown) => unknown;
}

/** What {@linkcode parseArgs} gives: values by name, the arguments that are no options in `_`. */
export type Args<B extends string = never, S extends string = never> =
  & { [Name in B]: boolean }
  & { [Name in Exclude<S, "_">]?: string }
  // deno-lint-ignore no-explicit-any
  & { _: (string | number)[]; "--"?: string[]; [name: string]: any };

type Value = string | number | boolean;

function set(names: OneOrMore<string> | boolean | undefined): Set<string> {
  return new Set(typeof names === "string" ? [names] : typeof names === "object" ? names : []);
}

/** As `Number` reads it, but for what is no literal: the empty string, spaces, `Infinity`. */
function guess(text: string): string | number {
  return /^(0x[0-9a-f]+|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)$/i.test(text) ? Number(text) : text;
}

/** Reads command line arguments: `--name value`, `--name=value`, `--flag`, `-n value`, `-abc`, and what follows `--`. */
export function parseArgs<B extends string = never, S extends string = never>(
  args: readonly string[],
  options: ParseOptions<B, S> = {},
): Args<B, S> {
  const groups = new Map<string, string[]>();
  for (const [name, others] of Object.entries(options.alias ?? {})) {
    const group = [name, ...set(others)];
    for (const member of group) groups.set(member, group);
  }
  /** A name with its aliases. */
  const all = (name: string) => groups.get(name) ?? [name];
  const declared = (names: OneOrMore<string> | boolean | undefined) => new Set([...set(names)].flatMap(all));
  const booleans = declared(options.boolean), strings = declared(options.string);
  const negatable = declared(options.negatable);
  const everyBoolean = options.boolean === true;
  // deno-lint-ignore no-explicit-any
  const result: Record<string, any> = { _: [] };

  const put = (name: string, value: Value, argument: string) => {
    const known = booleans.has(name) || strings.has(name) || groups.has(name) ||
      (everyBoolean && /^--[^=]+$/.test(argument));
    if (!known && options.unknown?.(argument, name, value) === false) return;
    const typed = typeof value === "string" && !strings.has(name) ? guess(value) : value;
    for (const key of all(name)) result[key] = typed;
  };

  const end = args.indexOf("--");
  const rest = end < 0 ? [] : args.slice(end + 1);
  const queue = end < 0 ? [...args] : args.slice(0, end);

  /** The value of an option that carries none itself: the argument behind it where that fits, else true (or empty). */
  const following = (name: string, long: boolean): Value => {
    const next = queue[0];
    const takesNone = booleans.has(name) || (long && everyBoolean);
    if (takesNone && (next === "true" || next === "false")) return queue.shift() === "true";
    if (!takesNone && next !== undefined && (long ? !next.startsWith("-") : !/^--?[^-]/.test(next))) {
      return queue.shift()!;
    }
    return strings.has(name) ? "" : true;
  };

  while (queue.length > 0) {
    const argument = queue.shift()!;
    const long = /^--([^=]+)(?:=(.+))?$/s.exec(argument);
    if (long) {
      const [, name, value] = long;
      const positive = name.startsWith("no-") ? name.slice(3) : undefined;
      if (value !== undefined) put(name, booleans.has(name) ? value !== "false" : value, argument);
      else if (positive && negatable.has(positive)) put(positive, false, argument);
      else put(name, following(name, true), argument);
    } else if (/^-[^-]/.test(argument)) {
      // A cluster: each letter a flag, until one is followed by what looks like its value.
      let letters = argument.slice(1);
      while (letters.length > 0) {
        const letter = letters[0], tail = letters.slice(1);
        const attached = /^=(.+)$/s.exec(tail)?.[1] ??
          (/^-?\d+(\.\d*)?(e-?\d+)?$/.test(tail) || /^[^\w-]/.test(tail) ? tail : undefined);
        if (tail === "") put(letter, following(letter, false), argument);
        else put(letter, attached ?? (strings.has(letter) ? "" : true), argument);
        letters = attached === undefined ? tail : "";
      }
    } else {
      if (options.unknown?.(argument) !== false) result._.push(strings.has("_") ? argument : guess(argument));
    }
  }

  for (const [name, value] of Object.entries(options.default ?? {})) {
    for (const key of all(name)) if (!Object.hasOwn(result, key)) result[key] = value;
  }
  for (const name of booleans) if (!Object.hasOwn(result, name)) result[name] = false;
  if (options["--"]) result["--"] = rest;
  else result._.push(...rest);
  return result as Args<B, S>;
}
