import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { completionScript, schemaCommand } from "../../cli/completions.ts";
import { weightsNames } from "../../cli/download_weights.ts";
import { UserError } from "../../kernels/user_error.ts";
import { commands } from "../../cli/commands.ts";
import { withFolder } from "../support.ts";

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

/** Networks whose names begin with `resnext101`, of which weights are published. */
const large = weightsNames.filter((name) => name.startsWith("resnext101"));

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
    assertEquals(await offered(script, "resnext", "train", "--dataset", "cifar"), ["cifar10", "cifar100"]);
    // Arguments by their places, options and their values between.
    assertEquals(await offered(script, "resnext", "download", "c"), ["cifar10", "cifar100"]);
    const behind = ["--data-dir", "here", "--version=2"];
    assertEquals(await offered(script, "resnext", "download", ...behind, "weights", "resnext101"), large);
    assertEquals(await offered(script, "resnext", "download", "weights", ...behind, "resnext101"), large);
    assertEquals(await offered(script, "resnext", "schema", ""), ["train", "augment"]);
    assertEquals(await offered(script, "resnext", "help", "aug"), ["augment"]);
    await withFolder(async (folder) => {
      await Deno.writeTextFile(join(folder, "a * b.safetensors"), "");
      const file = join(folder, "a ");
      assertEquals(await offered(script, "resnext", "eval", file), [join(folder, "a * b.safetensors")]);
      assertEquals(await offered(script, "resnext", "train", "--resume", file), [join(folder, "a * b.safetensors")]);
    });
  },
});

Deno.test({
  name: "zsh reads its script",
  ignore: !await has("zsh"),
  fn: async () => {
    const script = await completionScript("zsh", "resnext", commands);
    await ask("zsh", script, (file) => ["-f", "-n", file]);
    assertStringIncludes(script, "'train:Train a network on");
    assertStringIncludes(script, `'2:what:(${weightsNames.join(" ")})'`);
    assertStringIncludes(script, "'help') _arguments");
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
    assertEquals((await complete("resnext download weights resnext101")).trim().split("\n"), large);
    assertEquals((await complete("resnext download c")).trim().split("\n"), ["cifar10", "cifar100"]);
    assertStringIncludes(await complete("resnext help aug"), "augment\tWrite a sheet");
  },
});

Deno.test("there are schemas of commands that take --config, and of no other", async () => {
  for (const name of ["eval", "checkpoint"]) {
    const told = await assertRejects(() => schemaCommand(commands).execute([name], "resnext schema"), UserError);
    assertStringIncludes(told.message, `Argument COMMAND must be train or augment, not "${name}"`);
  }
});
