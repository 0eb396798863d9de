/**
 * Options out of a file: `--config FILE.json` holds values under the options' names, or is what a run wrote of itself; what
 * the command line says wins.
 */

import { readWithin, touching } from "../data/files.ts";
import { UserError } from "../kernels/user_error.ts";
import { parseStrictJson, quoted } from "../nn/json.ts";
import { type Command, flagName, type OptionSpec, type OptionSpecs, usageError } from "./command.ts";
import { nearest } from "./nearest.ts";

/** The key that editors find the schema by; of no meaning here. */
const SCHEMA_KEY = "$schema";

/** Bytes of a config file: any that says something is far smaller. */
const MOST_BYTES = 1_000_000;

/** What of a command its config files need. */
type Configured = Pick<Command, "options"> & Partial<Pick<Command, "fromRuns">>;

/**
 * Puts a config file's values before the arguments, so that these win, and takes `--config` out.
 *
 * @throws {UserError} for a file that cannot be read, and for keys and values that the command does not know.
 */
export async function withConfig(args: readonly string[], command: Configured, path: string): Promise<string[]> {
  const rest: string[] = [], files: string[] = [];
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "--") {
      rest.push(...args.slice(i));
      break;
    }
    if (args[i] === "--config") files.push(args[++i] ?? "");
    else if (args[i].startsWith("--config=")) files.push(args[i].slice("--config=".length));
    else rest.push(args[i]);
  }
  const file = files.at(-1);
  if (file === undefined) return rest;
  if (file === "") throw usageError("Option --config needs a value", path);
  const text = await touching(
    `read "${file}"`,
    async () => new TextDecoder().decode(await readWithin(file, MOST_BYTES)),
  );
  return [...configArguments(text, file, command, { written: rest }), ...rest];
}

/**
 * Whether an option means something only with a value of another one for which the command line says another value: of a
 * run by one optimizer that is done again with the other.
 */
function isMoot({ onlyWith }: OptionSpec, written: readonly string[]): boolean {
  if (!onlyWith) return false;
  const [other, value] = onlyWith;
  const said = written.findLast((word, i) => word.startsWith(`--${other}=`) || written[i - 1] === `--${other}`);
  return said !== undefined && said.replace(`--${other}=`, "") !== value;
}

/**
 * A config's values as arguments.
 *
 * @param more The arguments on the command line, beside which some values mean nothing, and who is told of doubts.
 */
export function configArguments(
  text: string,
  file: string,
  { options, fromRuns }: Configured,
  { written = [], warn = (message) => console.error(`warning: ${file}: ${message}`) }: {
    readonly written?: readonly string[];
    readonly warn?: (message: string) => void;
  } = {},
): string[] {
  const refuse = (why: string): never => {
    throw new UserError(`Cannot use "${file}": ${why}`, { exitCode: 2 });
  };
  // Windows' editors begin a file with a mark of its byte order.
  const found = parseObject(text.replace(/^\uFEFF/, ""), refuse);
  const values = isOfRun(found) ? optionsOf(found, fromRuns, refuse, warn) : found;
  const specs = new Map(Object.entries(options).map(([key, spec]) => [flagName(key), spec]));
  return Object.entries(values).flatMap(([key, value]) => {
    if (key === SCHEMA_KEY) return [];
    const spec = specs.get(key);
    if (!spec) {
      const match = nearest(
        key.replaceAll("_", "-").replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`),
        specs.keys(),
      );
      return refuse(`unknown key ${quoted(key)}${match ? `; did you mean "${match}"?` : ""}`);
    }
    // A value of null is as if the key were not there.
    return value === null || isMoot(spec, written) ? [] : [`--${key}=${valueText(key, value, spec, refuse)}`];
  });
}

/** Whether it is what a run wrote of itself, and not options. */
function isOfRun(values: Record<string, unknown>): boolean {
  return Boolean(values.network && values.settings);
}

/** The options that do a run again, or those of them that a command takes. */
function optionsOf(
  { options, lengthened, input }: Record<string, unknown>,
  fromRuns: Configured["fromRuns"],
  refuse: (why: string) => never,
  warn: (message: string) => void,
): Record<string, unknown> {
  if (!fromRuns) return refuse("it is what a run wrote of itself, and holds no options of this command");
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    return refuse(
      "it is what a run wrote of itself, and lacks the options that the run was begun with; give them anew",
    );
  }
  if (fromRuns !== "all") {
    // The size may be that of the run's first weights.
    const all = { "image-size": (input as Record<string, unknown> | undefined)?.image_size, ...options };
    const flags = fromRuns.map(flagName);
    return Object.fromEntries(
      Object.entries(all).filter(([flag, value]) => flags.includes(flag) && value !== undefined),
    );
  }
  if (lengthened === true) {
    warn("the run was given other --epochs or --patience on its way: one begun with these ends with other bits");
  }
  return options as Record<string, unknown>;
}

function parseObject(text: string, refuse: (why: string) => never): Record<string, unknown> {
  let value: unknown;
  try {
    value = parseStrictJson(text);
  } catch (error) {
    const { message, cause } = error as Error;
    // The parser's words tell where, with a piece of the file.
    refuse(`it ${message}${cause instanceof Error ? `: ${cause.message.replaceAll(/[\s\p{C}]+/gu, " ")}` : ""}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse("it must hold one JSON object");
  return value as Record<string, unknown>;
}

/** A value as it would stand on the command line. */
function valueText(key: string, value: unknown, spec: OptionSpec, refuse: (why: string) => never): string {
  const wrong = (kind: string) => refuse(`"${key}" must be ${kind}, not ${quoted(value)}`);
  switch (spec.type) {
    case "boolean":
      return typeof value === "boolean" ? String(value) : wrong("true or false");
    case "number":
    case "integer":
      if (typeof value === "string" && spec.words?.includes(value)) return value;
      return typeof value === "number" ? String(value) : wrong(["a number", ...(spec.words ?? [])].join(" or "));
    case "choice":
      return typeof value === "string" ? value : wrong(`one of ${spec.choices.join(", ")}`);
    case "string": {
      const { items } = spec;
      // `[3, 4, 6, 3]` is what the command line writes as 3,4,6,3.
      const list = items && (Array.isArray(value) ? value : [value]);
      if (list && list.length > 0 && list.every((each) => typeof each === items)) return list.join(",");
      return typeof value === "string" ? value : wrong(items ? `text or a list of ${items}s` : "text");
    }
  }
}

/** The JSON schema (2020-12) of a command's config files, for editors. */
export function configSchema(
  command: { name: string; summary: string; options: OptionSpecs },
): Record<string, unknown> {
  const entries = Object.entries(command.options);
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: `resnext ${command.name} --config`,
    description: `${command.summary}.`,
    type: "object",
    additionalProperties: false,
    properties: {
      [SCHEMA_KEY]: { type: "string" },
      ...Object.fromEntries(entries.map(([key, spec]) => [flagName(key), optionSchema(spec)])),
    },
  };
}

function optionSchema(spec: OptionSpec): Record<string, unknown> {
  const otherwise = "otherwise" in spec && spec.otherwise ? ` (default: ${spec.otherwise})` : "";
  const common = {
    description: `${spec.doc}${otherwise}.`,
    ...(spec.default !== undefined && { default: spec.default }),
  };
  // As everywhere in a config, null is as if the key were not there.
  switch (spec.type) {
    case "boolean":
      return { type: ["boolean", "null"], ...common, default: spec.default ?? false };
    case "choice":
      return { enum: [...spec.choices, null], ...common };
    case "string": {
      const { items } = spec;
      if (!items) return { type: ["string", "null"], ...common };
      const types = [...new Set(["string", items]), "array", "null"];
      return { type: types, items: { type: items }, minItems: 1, ...common };
    }
    default: {
      const { min, max, above, below, words } = spec;
      const numbers = {
        type: [spec.type, "null"],
        ...(min !== undefined && { minimum: min }),
        ...(max !== undefined && { maximum: max }),
        ...(above !== undefined && { exclusiveMinimum: above }),
        ...(below !== undefined && { exclusiveMaximum: below }),
      };
      return words ? { anyOf: [numbers, { enum: [...words] }], ...common } : { ...numbers, ...common };
    }
  }
}
