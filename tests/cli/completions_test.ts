import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { completionScript } from "../../cli/completions.ts";
import { commands } from "../../main.ts";
import { withFolder } from "./support.ts";

async function has(shell: string): Promise<boolean> {
  try {
    return (await new Deno.Command(shell, { args: ["--version"], stdout: "null" }).output()).success;
  } catch {
    return false;
  }
}

/** Runs a shell's words after the script was read. */
async function ask(shell: string, script: string, args: (file: string) => string[]): Promise<string> {
  let said = "";
  await withFolder(async (folder) => {
    const file = join(folder, "completion");
    await Deno.writeTextFile(file, script);
    const { code, stdout, stderr } = await new Deno.Command(shell, { args: args(file) }).output();
    assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
    said = new TextDecoder().decode(stdout);
  });
  return said;
}

/** What bash would offer for the last of some words. */
const offered = async (script: string, ...words: string[]) => {
  const quoted = words.map((word) => `'${word}'`).join(" ");
  const line = `COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _resnext; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return (await ask("bash", script, (file) => ["-c", `source ${file}; ${line}`])).trim().split("\n");
};

Deno.test({
  name: "bash completes commands, options, and their values",
  ignore: !await has("bash"),
  fn: async () => {
    const script = await completionScript("bash", "resnext", commands);
    assertEquals(await offered(script, "resnext", "tr"), ["train"]);
    assertEquals(await offered(script, "resnext", "train", "--batch"), ["--batch-size"]);
    assertEquals(await offered(script, "resnext", "train", "--schedule", "co"), ["constant", "cosine"]);
    assertEquals(await offered(script, "resnext", "checkpoint", "ver"), ["verify"]);
    assertEquals(await offered(script, "resnext", "checkpoint", "export", "--for"), ["--force"]);
  },
});

Deno.test({
  name: "zsh reads its script",
  ignore: !await has("zsh"),
  fn: async () => {
    const script = await completionScript("zsh", "resnext", commands);
    await ask("zsh", script, (file) => ["-f", "-n", file]);
    assertStringIncludes(script, "'train:Train a network, on");
  },
});

Deno.test({
  name: "fish completes commands and options",
  ignore: !await has("fish"),
  fn: async () => {
    const script = await completionScript("fish", "resnext", commands);
    const complete = (line: string) =>
      ask("fish", script, (file) => ["--no-config", "-c", `source ${file}; complete -C '${line}'`]);
    assertStringIncludes(await complete("resnext tr"), "train\tTrain a network");
    assertStringIncludes(await complete("resnext train --batch"), "--batch-size\tImages a batch");
  },
});
