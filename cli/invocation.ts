/** How the user calls this program: for messages that name a command to copy. */

import { fromFileUrl, join, relative, SEPARATOR } from "@std/path";
import type { OptionSpec } from "./command.ts";

/** A command line of this program that works from here, such as `./resnext train --resume runs/a/last.safetensors`. */
export function commandLine(...words: readonly string[]): string {
  const root = fromFileUrl(new URL("..", import.meta.url));
  const here = relative(Deno.cwd(), root) || ".";
  const program = Deno.build.os === "windows"
    ? `deno run -A ${shellWord(join(here, "main.ts"))}`
    : shellWord(here === "." ? `.${SEPARATOR}resnext` : join(here, "resnext"));
  return [program, ...words.map((word) => shellWord(word))].join(" ");
}

/** The option of commands that keep something in the data directory, or look there. */
export const dataDirOption = {
  type: "string",
  placeholder: "DIR",
  otherwise: "$RESNEXT_DATA, else resnext in the user's cache directory",
  doc: "The data directory",
} as const satisfies OptionSpec;

/** The option of a data directory that the user named, for commands that are to find the same images. */
export function dataDirWords(dataDir: string | undefined): string[] {
  return dataDir === undefined ? [] : ["--data-dir", dataDir];
}

/** A word as a shell reads it back: quoted where it holds anything that could mean something else. */
export function shellWord(word: string, os: string = Deno.build.os): string {
  if (os === "windows") return /^[\w@%+=:,./\\-]+$/.test(word) ? word : `"${word}"`;
  return /^[\w@%+=:,./-]+$/.test(word) ? word : singleQuoted(word);
}

/** In single quotes, as bash, zsh and fish read them: nothing but the quote itself means anything between. */
export function singleQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
