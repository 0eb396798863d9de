/** Training on a terminal, as `script` makes one. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { withFolder } from "../support.ts";
import { NARROW } from "./support.ts";

const MAIN = fromFileUrl(new URL("../../main.ts", import.meta.url));

const canScript = Deno.build.os === "linux" && await (async () => {
  try {
    return (await new Deno.Command("script", { args: ["--version"], stdout: "null" }).output()).success;
  } catch {
    return false;
  }
})();

Deno.test({
  name: "on a terminal the display is redrawn in place, and Ctrl-C saves the run",
  ignore: !canScript,
  fn: async () => {
    await withFolder(async (folder) => {
      const out = join(folder, "run");
      const words = ["train", ...NARROW, "--dataset", "shapes", "--train-limit", "400", "--test-limit", "20"];
      const line = [Deno.execPath(), "run", "-A", "--no-check", MAIN, ...words, "--epochs", "500", "--out", out].join(
        " ",
      );
      const child = new Deno.Command("script", {
        args: ["-qec", `stty cols 80 rows 24; ${line}`, "/dev/null"],
        env: { XDG_RUNTIME_DIR: "/tmp", TERM: "xterm-256color", NO_COLOR: "" },
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      let text = "";
      const writer = child.stdin.getWriter();
      let stopped = false;
      for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        if (stopped || !/Step +\d+\/25 /.test(text)) continue;
        stopped = true;
        await writer.write(new TextEncoder().encode("\x03"));
      }
      await writer.close().catch(() => {});
      assertEquals((await child.status).code, 130, text);
      assertMatch(text, /Stopping: what was begun is being finished[^]*Stopped after step \d+ of epoch \d+, saved in /);
      assert(!text.includes("\x1b[2J"), "the screen is never cleared");
      // deno-lint-ignore no-control-regex
      const shown = text.replace(/\x1b\[[?\d]*[A-Za-z]/g, "").split(/[\r\n]+/).filter((line) => /[█░]/.test(line));
      assert(shown.length >= 2 && shown.every((line) => [...line].length < 80), shown.join("\n"));
    });
  },
});
