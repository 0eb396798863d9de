import { assertEquals } from "@std/assert";
import { commandLine, shellWord } from "../../cli/invocation.ts";

const WORDS = ["a b", "$HOME", "`run`", "it's", 'say "x"', "a\\b", "größe", "*", "", "plain/x.y"];

Deno.test({
  name: "a command to copy gives a shell the words that it was made of",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const line = commandLine("train", ...WORDS);
    const { stdout } = await new Deno.Command("sh", { args: ["-c", `printf '%s\\n' ${line}`] }).output();
    assertEquals(new TextDecoder().decode(stdout).split("\n").slice(1, -1), ["train", ...WORDS]);
  },
});

Deno.test("words are quoted where they have to be, on Windows in its way", () => {
  assertEquals(["runs/a-1.b", "a b", "it's"].map((word) => shellWord(word, "linux")), [
    "runs/a-1.b",
    "'a b'",
    "'it'\\''s'",
  ]);
  assertEquals(["C:\\runs", "a b"].map((word) => shellWord(word, "windows")), ["C:\\runs", '"a b"']);
});
