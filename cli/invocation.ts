/** How the user calls this program: for messages that name a command to copy. */

import { fromFileUrl, join, relative, SEPARATOR } from "@std/path";

/** A command line of this program that works from here, such as `./resnext train --resume runs/a/last.safetensors`. */
export function commandLine(...words: readonly string[]): string {
  const root = fromFileUrl(new URL("..", import.meta.url));
  const here = relative(Deno.cwd(), root) || ".";
  const program = Deno.build.os === "windows"
    ? `deno run -A ${quoted(join(here, "main.ts"))}`
    : quoted(here === "." ? `.${SEPARATOR}resnext` : join(here, "resnext"));
  return [program, ...words.map(quoted)].join(" ");
}

/** The option of a data directory that the user named, for commands that are to find the same images. */
export function dataDirWords(dataDir: string | undefined): string[] {
  return dataDir === undefined ? [] : ["--data-dir", dataDir];
}

function quoted(word: string): string {
  return /^[\w@%+=:,./\\-]+$/.test(word) ? word : `"${word}"`;
}
