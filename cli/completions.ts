/** `resnext completions`, `resnext schema`: what shells and editors can be told out of the commands' declarations. */

import { type Command, type CommandGroup, defineCommand, flagName, type OptionSpec } from "./command.ts";
import { configSchema } from "./config.ts";
import { singleQuoted } from "./invocation.ts";
import type { ListedCommand } from "./program.ts";

/** A command, by the words that call it. */
interface Called {
  readonly words: readonly string[];
  readonly command?: Command;
  /** What its arguments may be, by their places: names, and what they do; empty where any file may stand. */
  readonly places: readonly (readonly Choice[])[];
}

interface Choice {
  readonly name: string;
  readonly summary?: string;
}

async function called(commands: readonly ListedCommand[]): Promise<Called[]> {
  const loaded: (Command | CommandGroup)[] = await Promise.all(commands.map(({ load }) => load()));
  const alone = (command: Command, ...before: string[]): Called => ({
    words: [...before, command.name],
    command,
    places: command.positionals.map(({ choices = [] }) => choices.map((name) => ({ name }))),
  });
  return [
    ...loaded.flatMap((command): Called[] =>
      command.kind === "command" ? [alone(command)] : [
        { words: [command.name], places: [command.commands] },
        ...command.commands.map((each) => alone(each, command.name)),
      ]
    ),
    { words: [HELP.name], places: [commands] },
  ];
}

/** `resnext help train` is `resnext train --help`. */
const HELP: Choice = { name: "help", summary: "Show the help of a command" };

interface Flag {
  readonly flag: string;
  readonly doc: string;
  /** Words that may follow; undefined where any value, and `file` where a path may. */
  readonly choices?: readonly string[];
  readonly takesValue: boolean;
  readonly file: boolean;
}

function flagsOf(command: Command | undefined): Flag[] {
  const options: [string, OptionSpec][] = Object.entries(command?.options ?? {});
  const flags = options.map(([key, spec]): Flag => ({
    ...(spec.type === "boolean" && spec.default
      ? { flag: `--no-${flagName(key)}`, doc: `Turn off: ${spec.doc}` }
      : { flag: `--${flagName(key)}`, doc: spec.doc }),
    choices: valuesOf(spec),
    takesValue: spec.type !== "boolean",
    file: spec.type === "string" && /FILE|DIR|OUT|PATH/.test(spec.placeholder ?? ""),
  }));
  const more = command?.config
    ? [{ flag: "--config", doc: "Take options from a JSON file", takesValue: true, file: true }]
    : [];
  return [...flags, ...more, { flag: "--help", doc: "Show help", takesValue: false, file: false }];
}

function valuesOf(spec: OptionSpec): readonly string[] | undefined {
  switch (spec.type) {
    case "choice":
      return spec.choices;
    case "string":
      return spec.suggestions;
    case "integer":
    case "number":
      return spec.words;
  }
}

const joined = (choices: readonly Choice[]) => choices.map(({ name }) => name).join(" ");

/** Bash: a function that looks at the words before. It keeps to what macOS's bash 3.2 has. */
function bash(name: string, all: readonly Called[], top: readonly ListedCommand[]): string {
  const cases = all.map(({ words, command, places }) => {
    const flags = flagsOf(command), valued = flags.filter(({ takesValue }) => takesValue);
    const values = valued.map(({ flag, choices, file }) => {
      const offer = choices ? `_${name}_words ${singleQuoted(choices.join(" "))}` : file ? `_${name}_files` : ":";
      return `        ${flag}) ${offer}; return ;;`;
    });
    return `    ${singleQuoted(words.join(" "))})
      case "$prev" in
${values.join("\n") || "        *) ;;"}
      esac
      flags=${singleQuoted(flags.map(({ flag }) => flag).join(" "))}
      valued=${singleQuoted(valued.map(({ flag }) => ` ${flag} `).join(""))}
      places=(${places.map((choices) => singleQuoted(joined(choices))).join(" ")})
      ;;`;
  });
  const commands = [...joined(top).split(" "), HELP.name, "--help", "--version"].join(" ");
  return `# Completion of ${name} for bash: put this file where bash-completion looks, or: source <(${name} completions bash)
_${name}_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }
_${name}_files() {
  local file
  while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -- "$cur")
}
_${name}() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" path="\${COMP_WORDS[1]}" i=2 place=0
  local flags="" valued="" places=()
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    _${name}_words ${singleQuoted(commands)}
    return
  fi
  case "$path \${COMP_WORDS[2]}" in
${
    all.filter(({ words }) => words.length > 1).map(({ words }) =>
      `    ${singleQuoted(words.join(" "))}) [ "$COMP_CWORD" -gt 2 ] && path=${singleQuoted(words.join(" "))} i=3 ;;`
    ).join("\n") || "    *) ;;"
  }
  esac
  case "$path" in
${cases.join("\n")}
  esac
  # The arguments before: neither options nor their values.
  for ((; i < COMP_CWORD; i++)); do
    case "\${COMP_WORDS[i]}" in
      -*) case "$valued" in *" \${COMP_WORDS[i]} "*) ((i++)) ;; esac ;;
      *) ((place++)) ;;
    esac
  done
  case "$cur" in
    -*) _${name}_words "$flags" ;;
    *) if [ -n "\${places[place]}" ]; then _${name}_words "\${places[place]}"; else _${name}_files; fi ;;
  esac
}
complete -o filenames -F _${name} ${name} ./${name}
`;
}

/** Zsh: \`_arguments\` for each command. */
function zsh(name: string, all: readonly Called[], top: readonly ListedCommand[]): string {
  const described = (list: readonly Choice[]) =>
    list.map(({ name, summary = "" }) => singleQuoted(`${name}:${summary.replaceAll(":", " -")}`)).join(" ");
  const escape = (doc: string) => doc.replace(/[[\]:]/g, (character) => `\\${character}`);
  const spec = ({ flag, doc, choices, takesValue, file }: Flag) =>
    singleQuoted(
      `${flag}[${escape(doc)}]${
        takesValue ? `:value:${choices ? `(${choices.join(" ")})` : file ? "_files" : ""}` : ""
      }`,
    );
  const cases = all.map(({ words, command, places }) => {
    const positions = places.map((choices, i) =>
      singleQuoted(`${i + 1}:what:${choices.length > 0 ? `(${joined(choices)})` : "_files"}`)
    );
    return `      ${singleQuoted(words.join(" "))}) _arguments ${
      [...flagsOf(command).map(spec), ...positions, singleQuoted("*:file:_files")].join(" ")
    } ;;`;
  });
  return `#compdef ${name} ./${name}
# Completion of ${name} for zsh: put this file as _${name} into a folder of $fpath, or: source <(${name} completions zsh)
_${name}() {
  local -a commands
  commands=(${described([...top, HELP])})
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local route="$words[2]"
  case "$route $words[3]" in
${
    all.filter(({ words }) => words.length > 1).map(({ words }) =>
      `    ${singleQuoted(words.join(" "))}) (( CURRENT > 3 )) && { route=${
        singleQuoted(words.join(" "))
      }; shift words; (( CURRENT-- )) } ;;`
    ).join("\n") || "    *) ;;"
  }
  esac
  shift words
  (( CURRENT-- ))
  case "$route" in
${cases.join("\n")}
  esac
}
compdef _${name} ${name}
`;
}

/** Fish: a line a flag. */
function fish(name: string, all: readonly Called[], top: readonly ListedCommand[]): string {
  const lines = [...top, HELP].map(({ name: command, summary = "" }) =>
    `complete -c ${name} -n __fish_use_subcommand -f -a ${command} -d ${singleQuoted(summary)}`
  );
  for (const { words, command, places } of all) {
    const seen = words.map((word) => `__fish_seen_subcommand_from ${word}`).join("; and ");
    for (const [place, choices] of places.entries()) {
      // The program, the command's words, and the arguments before.
      const before = 1 + words.length + place;
      const here = `${seen}; and test (commandline -poc | string match -v -- "-*" | count) -eq ${before}`;
      for (const { name: word, summary } of choices) {
        const doc = summary ? ` -d ${singleQuoted(summary)}` : "";
        lines.push(`complete -c ${name} -n ${singleQuoted(here)} -f -a ${word}${doc}`);
      }
    }
    for (const { flag, doc, choices, takesValue, file } of flagsOf(command)) {
      const value = !takesValue ? "" : choices ? ` -x -a ${singleQuoted(choices.join(" "))}` : file ? " -r -F" : " -x";
      lines.push(`complete -c ${name} -n ${singleQuoted(seen)} -l ${flag.slice(2)}${value} -d ${singleQuoted(doc)}`);
    }
  }
  return `# Completion of ${name} for fish: ${name} completions fish > ~/.config/fish/completions/${name}.fish\n${
    lines.join("\n")
  }\n`;
}

const SHELLS = { bash, zsh, fish };

/** The script that completes the program's commands in a shell. */
export async function completionScript(
  shell: keyof typeof SHELLS,
  name: string,
  commands: readonly ListedCommand[],
): Promise<string> {
  return SHELLS[shell](name, await called(commands), commands);
}

/** The command that prints it. */
export function completionsCommand(commands: readonly ListedCommand[]): Command {
  return defineCommand({
    name: "completions",
    summary: "Print a script that completes commands in a shell",
    details: "The script's first line says where it goes.",
    positionals: [{ name: "shell", doc: "The shell", choices: Object.keys(SHELLS) as (keyof typeof SHELLS)[] }],
    examples: ["completions bash"],
    run: async ({ args: { shell } }) => console.log((await completionScript(shell, "resnext", commands)).trimEnd()),
  });
}

/** The command that prints the JSON schema of a command's config files. */
export function schemaCommand(commands: readonly ListedCommand[]): Command {
  const choices = commands.filter(({ config }) => config).map(({ name }) => name);
  return defineCommand({
    name: "schema",
    summary: "Print the JSON schema of a command's --config file, for editors",
    positionals: [{ name: "command", doc: "The command", choices }],
    examples: ["schema train"],
    run: async ({ args }) => {
      const command = await commands.find(({ name }) => name === args.command)!.load();
      if (command.kind !== "command") throw new TypeError(`"${command.name}" is no single command`);
      console.log(JSON.stringify(configSchema(command), null, 2));
    },
  });
}
