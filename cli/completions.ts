/** `resnext completions`, `resnext schema`: what shells and editors can be told out of the commands' declarations. */

import { type Command, type CommandGroup, defineCommand, flagName, type OptionSpec, usageError } from "./command.ts";
import { configSchema } from "./config.ts";
import { singleQuoted } from "./invocation.ts";
import { nearest } from "./nearest.ts";
import type { ListedCommand } from "./program.ts";

/** A command, by the words that call it. */
interface Called {
  readonly words: readonly string[];
  readonly summary: string;
  readonly command?: Command;
  /** What may come next, of a group. */
  readonly next: readonly { readonly name: string; readonly summary: string }[];
}

async function called(commands: readonly ListedCommand[]): Promise<Called[]> {
  const loaded: (Command | CommandGroup)[] = await Promise.all(commands.map(({ load }) => load()));
  return loaded.flatMap((command): Called[] => {
    const { name, summary } = command;
    if (command.kind === "command") return [{ words: [name], summary, command, next: [] }];
    return [
      { words: [name], summary, next: command.commands },
      ...command.commands.map((each) => ({ words: [name, each.name], summary: each.summary, command: each, next: [] })),
    ];
  });
}

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
    choices: spec.type === "choice" ? spec.choices : spec.type === "integer" ? spec.words : undefined,
    takesValue: spec.type !== "boolean",
    file: spec.type === "string" && /FILE|DIR|OUT|PATH/.test(spec.placeholder ?? ""),
  }));
  const more = command?.config
    ? [{ flag: "--config", doc: "Take options from a JSON file", takesValue: true, file: true }]
    : [];
  return [...flags, ...more, { flag: "--help", doc: "Show help", takesValue: false, file: false }];
}

/** The words that a command's first argument may be. */
const words = (
  { command, next }: Called,
) => [...next.map(({ name }) => name), ...(command?.positionals[0]?.choices ?? [])];

/** Bash: a function that looks at the words before. */
function bash(name: string, all: readonly Called[], top: readonly ListedCommand[]): string {
  const cases = all.map((each) => {
    const flags = flagsOf(each.command);
    const valued = flags.filter(({ takesValue }) => takesValue).map(({ flag, choices, file }) =>
      `      ${flag}) ${
        choices
          ? `COMPREPLY=($(compgen -W ${singleQuoted(choices.join(" "))} -- "$cur"))`
          : file
          ? 'COMPREPLY=($(compgen -f -- "$cur"))'
          : ":"
      }; return ;;`
    );
    return `    ${singleQuoted(each.words.join(" "))})
      case "$prev" in
${valued.map((line) => `  ${line}`).join("\n") || "        *) ;;"}
      esac
      flags=${singleQuoted(flags.map(({ flag }) => flag).join(" "))}
      words=${singleQuoted(words(each).join(" "))}
      ;;`;
  });
  return `# Completion of ${name} for bash: put this file where bash-completion looks, or: source <(${name} completions bash)
_${name}() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" flags="" words="" path="\${COMP_WORDS[1]}"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W ${
    singleQuoted([...top.map(({ name }) => name), "help", "--help", "--version"].join(" "))
  } -- "$cur"))
    return
  fi
  case "$path \${COMP_WORDS[2]}" in
${
    all.filter(({ words }) => words.length > 1).map(({ words }) =>
      `    ${singleQuoted(words.join(" "))}) [ "$COMP_CWORD" -gt 2 ] && path=${singleQuoted(words.join(" "))} ;;`
    ).join("\n") || "    *) ;;"
  }
  esac
  case "$path" in
${cases.join("\n")}
  esac
  case "$cur" in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$cur") $(compgen -f -- "$cur")) ;;
  esac
}
complete -o filenames -F _${name} ${name} ./${name}
`;
}

/** Zsh: \`_arguments\` for each command. */
function zsh(name: string, all: readonly Called[], top: readonly ListedCommand[]): string {
  const described = (list: readonly { name: string; summary: string }[]) =>
    list.map(({ name, summary }) => singleQuoted(`${name}:${summary.replaceAll(":", " -")}`)).join(" ");
  const escape = (doc: string) => doc.replace(/[[\]:]/g, (character) => `\\${character}`);
  const spec = ({ flag, doc, choices, takesValue, file }: Flag) =>
    singleQuoted(
      `${flag}[${escape(doc)}]${
        takesValue ? `:value:${choices ? `(${choices.join(" ")})` : file ? "_files" : ""}` : ""
      }`,
    );
  const cases = all.map((each) => {
    const first = words(each).length > 0 ? [singleQuoted(`1:what:(${words(each).join(" ")})`)] : [];
    return `      ${singleQuoted(each.words.join(" "))}) _arguments ${
      [...flagsOf(each.command).map(spec), ...first, singleQuoted("*:file:_files")].join(" ")
    } ;;`;
  });
  return `#compdef ${name} ./${name}
# Completion of ${name} for zsh: put this file as _${name} into a folder of $fpath, or: source <(${name} completions zsh)
_${name}() {
  local -a commands
  commands=(${described(top)})
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
  const lines = top.map(({ name: command, summary }) =>
    `complete -c ${name} -n __fish_use_subcommand -f -a ${command} -d ${singleQuoted(summary)}`
  );
  for (const each of all) {
    const seen = each.words.map((word) => `__fish_seen_subcommand_from ${word}`).join("; and ");
    const condition = singleQuoted(seen);
    for (const word of words(each)) {
      const summary = each.next.find(({ name }) => name === word)?.summary;
      lines.push(`complete -c ${name} -n ${condition} -f -a ${word}${summary ? ` -d ${singleQuoted(summary)}` : ""}`);
    }
    for (const { flag, doc, choices, takesValue, file } of flagsOf(each.command)) {
      const value = !takesValue ? "" : choices ? ` -x -a ${singleQuoted(choices.join(" "))}` : file ? " -r -F" : " -x";
      lines.push(`complete -c ${name} -n ${condition} -l ${flag.slice(2)}${value} -d ${singleQuoted(doc)}`);
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
  return defineCommand({
    name: "schema",
    summary: "Print the JSON schema of a command's --config file, for editors",
    positionals: [{ name: "command", doc: "The command" }],
    examples: ["schema train"],
    run: async ({ args: { command: name } }) => {
      const listed = commands.find((each) => each.name === name);
      const command = await listed?.load();
      if (command?.kind !== "command") {
        const match = nearest(name, commands.map(({ name }) => name));
        throw usageError(
          `Unknown command ${JSON.stringify(name)}${match ? `; did you mean ${match}?` : ""}`,
          "resnext schema",
        );
      }
      console.log(JSON.stringify(configSchema(command), null, 2));
    },
  });
}
