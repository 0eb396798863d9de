/** The program: finds the command that the arguments name, runs it, and turns what went wrong into a line and an exit code. */

import { UserError } from "../kernels/user_error.ts";
import { type Command, type CommandGroup, usageError } from "./command.ts";
import { withConfig } from "./config.ts";
import { commandHelp, groupHelp, section, sections, table } from "./help.ts";
import { nearest } from "./nearest.ts";

/** A command in the program's list; its module is loaded when it is called, so that the help is quick. */
export interface ListedCommand {
  readonly name: string;
  readonly summary: string;
  /** Its options may come from `--config FILE.json` too. */
  readonly config?: boolean;
  readonly load: () => Promise<Command | CommandGroup>;
}

/** The program. */
export interface Program {
  readonly name: string;
  readonly version: string;
  readonly summary: string;
  readonly commands: readonly ListedCommand[];
  readonly examples: readonly string[];
}

/**
 * Runs the command that `args` name, and gives the exit code: 0, what the command says, 2 for a wrong call, 1 for
 * anything else. Output goes to stdout, complaints to stderr: one line for what the user can change, a stack for a bug.
 */
export async function runProgram(program: Program, args: readonly string[]): Promise<number> {
  try {
    return await dispatch(program, args);
  } catch (error) {
    return complain(error);
  }
}

async function dispatch(program: Program, args: readonly string[]): Promise<number> {
  // `resnext help train` is `resnext train --help`.
  const [first, ...rest] = args[0] === "help" ? [...args.slice(1), "--help"] : args;
  if (first === undefined) {
    console.error(programHelp(program));
    return 2;
  }
  if (first === "--help" || first === "-h") {
    console.log(programHelp(program));
    return 0;
  }
  if (first === "--version" || first === "-V") {
    console.log(`${program.name} ${program.version}`);
    return 0;
  }
  const listed = find(program.commands, first, program.name);
  const command = await listed.load();
  const path = `${program.name} ${listed.name}`;
  return command.kind === "group" ? await runGroup(command, rest, path) : await runCommand(command, rest, path);
}

async function runGroup(group: CommandGroup, args: readonly string[], path: string): Promise<number> {
  const [first, ...rest] = args;
  if (first === undefined) {
    console.error(groupHelp(group, path));
    return 2;
  }
  if (first === "--help" || first === "-h") {
    console.log(groupHelp(group, path));
    return 0;
  }
  const command = find(group.commands, first, path);
  return await runCommand(command, rest, `${path} ${command.name}`);
}

async function runCommand(command: Command, args: readonly string[], path: string): Promise<number> {
  const end = args.indexOf("--");
  const before = end < 0 ? args : args.slice(0, end);
  if (before.includes("--help") || before.includes("-h")) {
    console.log(commandHelp(command, path));
    return 0;
  }
  return await command.execute(command.config ? await withConfig(args, command, path) : args, path);
}

function find<C extends { readonly name: string }>(commands: readonly C[], name: string, path: string): C {
  const found = commands.find((command) => command.name === name);
  if (found) return found;
  const match = nearest(name, commands.map((command) => command.name));
  const what = name.startsWith("-") ? "option" : "command";
  throw usageError(`Unknown ${what} ${JSON.stringify(name)}${match ? `; did you mean ${match}?` : ""}`, path);
}

function programHelp(program: Program): string {
  return sections([
    `${program.summary}.`,
    section("Usage", [`${program.name} COMMAND [options]`]),
    section("Commands", table(program.commands.map(({ name, summary }) => [name, summary]))),
    section("Options", table([["--help", "Show this help, or a command's"], ["--version", "Show the version"]])),
    section("Examples", program.examples.map((example) => `${program.name} ${example}`)),
  ]);
}

/** What the system refuses, by the code of the failure: nothing in the code is wrong. */
const REFUSALS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full; make room and try again",
  EDQUOT: "the disk quota is used up; make room and try again",
  EROFS: "the disk is read-only; choose another folder",
  EACCES: "permission denied; choose another folder or change its permissions",
};

/** Says what went wrong; gives the exit code. */
function complain(error: unknown): number {
  // Whoever reads the output has enough of it, as in `resnext checkpoint inspect FILE | head`.
  if (error instanceof Deno.errors.BrokenPipe) return 0;
  if (error instanceof UserError) {
    console.error(`error: ${error.message}`);
    return error.exitCode;
  }
  const refusal = REFUSALS[(error as { code?: string } | null)?.code ?? ""];
  if (refusal) {
    console.error(`error: ${(error as Error).message.split("\n")[0]}: ${refusal}`);
    return 1;
  }
  console.error("error: This is a bug in the program; please report it with these lines:");
  console.error(error);
  return 1;
}
