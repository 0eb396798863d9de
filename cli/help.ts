/** The help of a command, made from its declaration. */

import type { Command, CommandGroup, OptionSpec } from "./command.ts";
import { describeRange, flagName } from "./command.ts";

const WIDTH = 100;

/** Usage, arguments, every option with its default, examples. */
export function commandHelp(command: Command, path: string): string {
  const positionals = command.positionals.map(({ name, optional, several }) =>
    `${optional ? `[${name.toUpperCase()}]` : name.toUpperCase()}${several ? "..." : ""}`
  );
  const required = Object.entries(command.options)
    .filter(([, spec]) => "required" in spec && spec.required)
    .map(([key, spec]) => optionHead(key, spec));
  const program = path.split(" ")[0];
  return sections([
    `${command.summary}.`,
    command.details && wrap(command.details, WIDTH).join("\n"),
    section("Usage", [[path, ...positionals, ...required, "[options]"].join(" ")]),
    section(
      "Arguments",
      table(command.positionals.map(({ name, doc, choices, optional }) => [
        name.toUpperCase(),
        [choices ? `${doc}: ${choices.join(" or ")}` : doc, optional ? "(may be left out)" : ""].join(" ").trim(),
      ])),
    ),
    section(
      "Options",
      table([
        ...Object.entries(command.options).map(([key, spec]) => [optionHead(key, spec), optionDoc(spec)]),
        ...(command.config ? [["--config FILE", "Take options from a JSON file; those given here win"]] : []),
        ["--help", "Show this help"],
      ]),
    ),
    section("Examples", command.examples.map((example) => `${program} ${example}`)),
  ]);
}

/** The commands under a name. */
export function groupHelp(group: Pick<CommandGroup, "summary" | "commands">, path: string): string {
  return sections([
    `${group.summary}.`,
    section("Usage", group.commands.map(({ name }) => `${path} ${name} ...`)),
    section("Commands", table(group.commands.map(({ name, summary }) => [name, summary]))),
    `\`${path} COMMAND --help\` tells a command's options.`,
  ]);
}

/** Two columns, the second one wrapped. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const column = Math.max(0, ...rows.map(([head]) => head.length)) + 2;
  return rows.flatMap(([head, text]) => {
    const lines = wrap(text, WIDTH - column - 2);
    return lines.map((line, i) => (i === 0 ? head : "").padEnd(column) + line);
  });
}

/** Joins what is there with empty lines between. */
export function sections(parts: readonly (string | undefined)[]): string {
  return parts.filter(Boolean).join("\n\n");
}

/** A heading and its lines, indented; nothing where there are none. */
export function section(heading: string, lines: readonly string[]): string | undefined {
  return lines.length === 0 ? undefined : [`${heading}:`, ...lines.map((line) => `  ${line}`.trimEnd())].join("\n");
}

function optionHead(key: string, spec: OptionSpec): string {
  const flag = flagName(key);
  if (spec.type === "boolean") return spec.default ? `--[no-]${flag}` : `--${flag}`;
  const placeholders = { string: "TEXT", number: "X", integer: "N", choice: "NAME" };
  return `--${flag} ${spec.placeholder ?? placeholders[spec.type]}`;
}

function optionDoc(spec: OptionSpec): string {
  const notes: string[] = [];
  if (spec.type === "choice") notes.push(spec.choices.join(" or "));
  if (spec.type === "number" || spec.type === "integer") {
    const range = describeRange(spec);
    if (range !== "a number") notes.push(range);
  }
  if (spec.type === "boolean") notes.push(`default: ${spec.default ? "on" : "off"}`);
  else if (spec.required) notes.push("required");
  else notes.push(`default: ${spec.default ?? spec.otherwise}`);
  return `${spec.doc} (${notes.join("; ")})`;
}

/** Breaks lines between words; an empty line stays between paragraphs. */
function wrap(text: string, width: number): string[] {
  const [first, ...rest] = text.split(/\n\s*\n/);
  if (rest.length > 0) return [...wrap(first, width), ...rest.flatMap((paragraph) => ["", ...wrap(paragraph, width)])];
  const lines: string[] = [];
  let line = "";
  for (const word of text.trim().split(/\s+/)) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = "";
    }
    line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
