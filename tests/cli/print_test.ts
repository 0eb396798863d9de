import { assertEquals, assertThrows } from "@std/assert";
import { show, writeWhole } from "../../cli/print.ts";
import { resnext } from "./support.ts";

/** Takes a few bytes at a time, and fails in between with what is given, in turn. */
function sink(...failures: (Error | undefined)[]) {
  const written: number[] = [];
  return {
    text: () => new TextDecoder().decode(Uint8Array.from(written)),
    writeSync(bytes: Uint8Array): number {
      const failure = failures.shift();
      if (failure) throw failure;
      written.push(...bytes.subarray(0, 3));
      return Math.min(bytes.length, 3);
    },
  };
}

const full = () => Object.assign(new Error("No space left on device"), { code: "ENOSPC" });

Deno.test("a pipe that is full for a moment gets every byte once", () => {
  const { WouldBlock } = Deno.errors;
  const slow = sink(new WouldBlock(), undefined, new WouldBlock(), new WouldBlock(), undefined);
  writeWhole(slow, "naïve text\n");
  assertEquals(slow.text(), "naïve text\n");
});

Deno.test("stdout, which keeps what it refuses to flush, gets every byte once", () => {
  let kept = "", written = "", calls = 0;
  const busy = () => {
    if (calls++ % 3 > 0) throw new Deno.errors.WouldBlock();
  };
  const lineWriter = {
    writeSync(bytes: Uint8Array): number {
      const text = new TextDecoder().decode(bytes);
      // Lines go out at once, or are refused; anything else is kept first.
      if (text.includes("\n")) busy(), written += text;
      else kept += text;
      if (kept !== "") busy();
      written += kept;
      kept = "";
      return bytes.length;
    },
  };
  const text = `${"a long line ".repeat(100)}\n\nnaïve\nno end`;
  writeWhole(lineWriter, text, true);
  assertEquals(written, text);
});

Deno.test("results that cannot be written are an error; progress only where nobody reads it any more", () => {
  assertThrows(() => writeWhole(sink(undefined, full()), "result"), Error, "No space left");
  show("progress", sink(undefined, full()));
  assertThrows(() => show("progress", sink(new Deno.errors.BrokenPipe())), Deno.errors.BrokenPipe);
});

Deno.test({
  name: "a full disk under stderr changes no result, and one under stdout is told",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    const quietly = async (...args: string[]) => {
      const command = new Deno.Command("sh", { args, stdout: "piped", stderr: "piped" });
      const { code, stdout, stderr } = await command.output();
      return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
    };
    const main = new URL("../../main.ts", import.meta.url).pathname;
    const call = [Deno.execPath(), "run", "-A", "--no-check", main];
    const wanted = await resnext(["schema", "train"]);
    assertEquals(await quietly("-c", '"$@" 2>/dev/full', "sh", ...call, "schema", "train"), wanted);
    assertEquals((await quietly("-c", '"$@" 2>/dev/full', "sh", ...call, "nothing")).code, 2);
    assertEquals(await quietly("-c", '"$@" >/dev/full', "sh", ...call, "schema", "train"), {
      code: 1,
      stdout: "",
      stderr: "error: No space left on device (os error 28): the disk is full; make room and try again\n",
    });
  },
});
