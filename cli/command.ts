/**
 * A command is declared as data: its positional arguments and options with their types, ranges and defaults. From that
 * one declaration come the types of the values `run` gets, the checks of what the user wrote, and the help.
 */

import { parseArgs } from "@std/cli";
import { UserError } from "../kernels/user_error.ts";
import { quoted } from "../nn/json.ts";
import { MAX_FLOAT } from "../nn/number_check.ts";
import { nearest } from "./nearest.ts";

/** What every option has. */
interface OptionBase {
  /** What it does, in a few words, without a full stop. */
  readonly doc: string;
  /** What stands for the value in the help, such as `DIR`. By default `N`, `X` or `TEXT`. */
  readonly placeholder?: string;
  /** It means something with one value of another option alone: that option's flag, and the value. */
  readonly onlyWith?: readonly [flag: string, value: string];
}

/** What holds when the option is not given: a value, a must, or, in words for the help, what the command then does. */
type Absence<T> =
  | { readonly default: T; readonly required?: undefined; readonly otherwise?: undefined }
  | { readonly required: true; readonly default?: undefined; readonly otherwise?: undefined }
  | { readonly otherwise: string; readonly default?: undefined; readonly required?: undefined };

/** Limits of a number: `min` and `max` included, `above` and `below` not. */
interface Limits {
  readonly min?: number;
  readonly max?: number;
  readonly above?: number;
  readonly below?: number;
}

type TextOption = OptionBase & Absence<string> & {
  readonly type: "string";
  /** It is a list with commas between, of these: a config file may hold an array. */
  readonly items?: "number" | "string";
  /** Values that shells offer; others are as good. */
  readonly suggestions?: readonly string[];
};
type NumericOption = OptionBase & Absence<number> & Limits & {
  readonly type: "number" | "integer";
  /** Words that may stand for a number. */
  readonly words?: readonly string[];
};
type ChoiceOption = OptionBase & Absence<string> & { readonly type: "choice"; readonly choices: readonly string[] };
/** A flag; one that is on by default is turned off by `--no-NAME`. */
type BooleanOption = OptionBase & { readonly type: "boolean"; readonly default?: boolean };

/** One option. Its flag is its key in kebab case: `batchSize` is `--batch-size`. */
export type OptionSpec = TextOption | NumericOption | ChoiceOption | BooleanOption;
/** Options by their keys. */
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** One positional argument. */
export interface PositionalSpec {
  /** Its key in `args`, lower case; the help shows it in capitals. */
  readonly name: string;
  readonly doc: string;
  /** The words allowed. */
  readonly choices?: readonly string[];
  /** It may be left out. Only the last ones may. */
  readonly optional?: boolean;
  /** It may be given several times: a list, of at least one. Only the last one may. */
  readonly several?: boolean;
}

type OptionValue<O extends OptionSpec> = O extends { type: "boolean" } ? boolean
  : O extends { type: "number" | "integer"; words: readonly (infer Word)[] } ? number | Word
  : O extends { type: "number" | "integer" } ? number
  : O extends { choices: readonly (infer Choice)[] } ? Choice
  : string;

/** The values of declared options: those without a default, and not required, may be `undefined`. */
export type OptionValues<O extends OptionSpecs> = {
  readonly [Key in keyof O]: O[Key] extends { otherwise: string } ? OptionValue<O[Key]> | undefined
    : OptionValue<O[Key]>;
};

type PositionalValue<P extends PositionalSpec> = P extends { choices: readonly (infer Choice)[] } ? Choice : string;

/** The values of declared positional arguments, by name. */
export type PositionalValues<P extends readonly PositionalSpec[]> = {
  readonly [Spec in P[number] as Spec["name"]]: Spec extends { optional: true } ? PositionalValue<Spec> | undefined
    : Spec extends { several: true } ? readonly PositionalValue<Spec>[]
    : PositionalValue<Spec>;
};

/** What a command's `run` gets. */
export interface Invocation<O extends OptionSpecs, P extends readonly PositionalSpec[]> {
  readonly options: OptionValues<O>;
  readonly args: PositionalValues<P>;
  /** Keys of the options that the user wrote. */
  readonly given: ReadonlySet<keyof O>;
}

/** A command's declaration. */
export interface CommandSpec<O extends OptionSpecs, P extends readonly PositionalSpec[]> {
  readonly name: string;
  /** One sentence, without a full stop; the first line of its help and its line in the list. */
  readonly summary: string;
  /** More for its help: paragraphs, an empty line between. */
  readonly details?: string;
  readonly positionals?: P;
  readonly options?: O;
  /** Options may come from `--config FILE.json` too. */
  readonly config?: boolean;
  /** Such a file may be what a run wrote of itself: all of its options are taken, or those of these keys. */
  readonly fromRuns?: "all" | readonly (keyof O & string)[];
  /** Command lines, without the program's name, that the help shows. */
  readonly examples: readonly string[];
  /** Does the work. A number is the exit code; nothing is 0. */
  run(invocation: Invocation<O, P>): void | number | Promise<void | number>;
}

/** A declared command, its types closed over. */
export interface Command {
  readonly kind: "command";
  readonly name: string;
  readonly summary: string;
  readonly details?: string;
  readonly positionals: readonly PositionalSpec[];
  readonly options: OptionSpecs;
  /** Whether options may come from `--config FILE.json` too: who calls it reads the file. */
  readonly config: boolean;
  readonly fromRuns?: "all" | readonly string[];
  readonly examples: readonly string[];
  /** Reads the arguments and does the work. `path` is how the user called it, such as `resnext train`. */
  execute(args: readonly string[], path: string): Promise<number>;
}

/** Commands under one name: `checkpoint inspect`. */
export interface CommandGroup {
  readonly kind: "group";
  readonly name: string;
  readonly summary: string;
  readonly commands: readonly Command[];
}

/** Declares a command. */
export function defineCommand<
  const O extends OptionSpecs = Record<never, never>,
  const P extends readonly PositionalSpec[] = [],
>(
  spec: CommandSpec<O, P>,
): Command {
  const { name, summary, details, examples, config = false, fromRuns } = spec;
  const options: OptionSpecs = spec.options ?? {};
  const positionals: readonly PositionalSpec[] = spec.positionals ?? [];
  return {
    kind: "command",
    name,
    summary,
    details,
    positionals,
    options,
    config,
    fromRuns,
    examples,
    execute: async (args, path) => {
      const read = readArguments({ options, positionals }, args, path);
      // The declaration that `readArguments` follows is the one that O and P were inferred from.
      return await spec.run(read as unknown as Invocation<O, P>) ?? 0;
    },
  };
}

/** Declares commands under one name. */
export function defineGroup(spec: Omit<CommandGroup, "kind">): CommandGroup {
  return { kind: "group", ...spec };
}

/** A mistake in how a command was called: exit code 2, and where to read more. */
export function usageError(message: string, path: string): UserError {
  return new UserError(`${message} (see ${path} --help)`, { exitCode: 2 });
}

/** @throws {UserError} where the file that an option names has none of some endings. */
export function checkEnding(key: string, name: string, endings: readonly string[], path: string): void {
  if (endings.some((ending) => name.toLowerCase().endsWith(ending))) return;
  throw usageError(`Option --${flagName(key)} must end in ${endings.join(" or ")}, not as "${name}" does`, path);
}

/** `batchSize` is `batch-size`. */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/**
 * Reads the arguments of a command as declared.
 *
 * @throws {UserError} with exit code 2 for anything else than what is declared.
 */
export function readArguments(
  declared: { options: OptionSpecs; positionals: readonly PositionalSpec[] },
  args: readonly string[],
  path: string,
): { options: Record<string, unknown>; args: Record<string, string | string[]>; given: Set<string> } {
  const specs = Object.entries(declared.options).map(([key, spec]) => ({ key, flag: flagName(key), spec }));
  const flags = new Map(specs.map((entry) => [entry.flag, entry]));
  const complain = (message: string) => usageError(message, path);

  const { joined, written } = attachValues(args, flags, complain);
  const parsed = parseArgs(joined, {
    string: ["_", ...specs.filter(({ spec }) => spec.type !== "boolean").map(({ flag }) => flag)],
    boolean: specs.filter(({ spec }) => spec.type === "boolean").map(({ flag }) => flag),
    negatable: specs.filter(({ spec }) => spec.type === "boolean").map(({ flag }) => flag),
    default: Object.fromEntries(specs.filter(({ spec }) => spec.default === true).map(({ flag }) => [flag, true])),
    unknown: (argument, key) => {
      if (key === undefined) return true;
      const written = argument.replace(/=.*$/s, "");
      const match = nearest(written.replace(/^-+/, ""), [...flags.keys(), "help"]);
      throw complain(`Unknown option ${JSON.stringify(written)}${match ? `; did you mean --${match}?` : ""}`);
    },
  });

  const options: Record<string, unknown> = {};
  const given = new Set<string>();
  for (const { key, flag, spec } of specs) {
    const value: unknown = parsed[flag];
    if (written.has(flag)) given.add(key);
    if (spec.type === "boolean") options[key] = value;
    else if (value !== undefined) options[key] = readValue(String(value), flag, spec, complain);
    else if (spec.required) throw complain(`Missing option --${flag}: it is required`);
    else options[key] = spec.default;
  }
  return { options, args: readPositionals(parsed._.map(String), declared.positionals, complain), given };
}

type Flags = ReadonlyMap<string, { readonly spec: OptionSpec }>;
type Complain = (message: string) => UserError;

/**
 * Joins each `--name value` to `--name=value`, so that parseArgs takes a negative number for a value and no flag for a
 * positional argument's switch, and refuses options whose value is missing or has no meaning. Tells the flags written too.
 */
function attachValues(
  args: readonly string[],
  flags: Flags,
  complain: Complain,
): { joined: string[]; written: ReadonlySet<string> } {
  const joined: string[] = [], written = new Set<string>();
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "--") {
      joined.push(...args.slice(i));
      break;
    }
    const [, flag, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(args[i]) ?? [];
    const spec = flags.get(flag)?.spec;
    if (flag !== undefined) written.add(spec ? flag : flag.replace(/^no-/, ""));
    if (!spec) {
      joined.push(args[i]);
    } else if (spec.type === "boolean") {
      if (inline !== undefined && inline !== "true" && inline !== "false") {
        throw complain(`Option --${flag} takes no value, it got ${JSON.stringify(inline)}`);
      }
      joined.push(`--${flag}=${inline ?? true}`);
    } else {
      const next = args[i + 1];
      const value = inline ?? (next !== undefined && /^(?!-)|^-$|^-[\d.]/.test(next) ? args[++i] : "");
      if (value === "") throw complain(`Option --${flag} needs a value`);
      joined.push(`--${flag}=${value}`);
    }
  }
  return { joined, written };
}

/**
 * The numbers of an option that is a list with commas between, such as `3,4,6,3`.
 *
 * @param kind What they must be, in words for people, and how to tell; and how many, where that matters.
 */
export function readNumbers(
  key: string,
  text: string,
  { kind, allowed, count }: {
    readonly kind: string;
    readonly allowed: (value: number) => boolean;
    readonly count?: number;
  },
  path: string,
): number[] {
  const values = text.split(",").map((part) => part.trim() === "" ? NaN : Number(part));
  if (values.every(allowed) && (count === undefined || values.length === count)) return values;
  throw usageError(`Option --${flagName(key)} must be ${kind} with commas between, not ${quoted(text)}`, path);
}

function readValue(
  text: string,
  flag: string,
  spec: Exclude<OptionSpec, BooleanOption>,
  complain: Complain,
): string | number {
  if (spec.type === "string") return text;
  if (spec.type === "choice") {
    return readChoice(text, `Option --${flag}`, spec.choices, complain);
  }
  if (spec.words?.includes(text)) return text;
  const value = text.trim() === "" ? NaN : Number(text);
  const { min = -Infinity, max = Infinity, above = -Infinity, below = Infinity } = spec;
  const right = spec.type === "integer" ? Number.isSafeInteger(value) : Number.isFinite(value);
  if (!right || value < min || value > max || value <= above || value >= below) {
    throw complain(`Option --${flag} must be ${describeRange(spec)}, not ${quoted(text)}`);
  }
  if (Math.abs(value) > MAX_FLOAT) {
    throw complain(`Option --${flag} must be a number that float32 holds, at most ${MAX_FLOAT}, not ${quoted(text)}`);
  }
  return value;
}

function readChoice(text: string, what: string, choices: readonly string[], complain: Complain): string {
  if (choices.includes(text)) return text;
  const match = choices.length > 1 ? nearest(text, choices) : undefined;
  const hint = match ? `; did you mean ${match}?` : "";
  throw complain(`${what} must be ${choices.join(" or ")}, not ${quoted(text)}${hint}`);
}

/** Such as `a whole number of at least 1`. */
export function describeRange(spec: NumericOption): string {
  return [describeNumbers(spec), ...(spec.words ?? [])].join(" or ");
}

function describeNumbers(spec: NumericOption): string {
  const { min, max, above, below } = spec;
  const kind = spec.type === "integer" ? "a whole number" : "a number";
  if (min !== undefined && max !== undefined) return `${kind} from ${min} to ${max}`;
  const lower = min !== undefined ? `of at least ${min}` : above !== undefined ? `above ${above}` : "";
  const upper = max !== undefined ? `of at most ${max}` : below !== undefined ? `below ${below}` : "";
  return [kind, [lower, upper].filter(Boolean).join(" and ")].filter(Boolean).join(" ");
}

function readPositionals(
  values: readonly string[],
  specs: readonly PositionalSpec[],
  complain: Complain,
): Record<string, string | string[]> {
  const args: Record<string, string | string[]> = {};
  specs.forEach((spec, i) => {
    const value = values[i], what = `Argument ${spec.name.toUpperCase()}`;
    if (value === undefined) {
      if (!spec.optional) throw complain(`Missing argument ${spec.name.toUpperCase()}: ${spec.doc}`);
      return;
    }
    const read = (value: string) => spec.choices ? readChoice(value, what, spec.choices, complain) : value;
    args[spec.name] = spec.several ? values.slice(i).map(read) : read(value);
  });
  if (values.length > specs.length && !specs.at(-1)?.several) {
    throw complain(`Unexpected argument ${JSON.stringify(values[specs.length])}`);
  }
  return args;
}
