/** What the launcher lets a command do: `eval` of whatever file cannot write, connect or run. */

import { assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { encodeCheckpoint } from "../../nn/checkpoint.ts";
import { smallCheckpoint } from "../checkpoint_support.ts";
import { withFolder } from "../support.ts";
import { report, ROOT } from "./support.ts";

/** Stands for Deno: prints what it was called with. */
const FAKE = `#!/bin/sh
if [ "$1" = --version ]; then echo "deno 99.0.0 (stable)"; else printf '%s\\n' "$@"; fi
`;

/** Tries what a hostile file would, had it got hold of the program. */
const ATTEMPTS = `
const nothing = () => {
  throw new Deno.errors.NotCapable();
};
const attempts = {
  write: () => Deno.writeTextFileSync(Deno.args[0] + "/written", "x"),
  "write home": () => Deno.writeTextFileSync((Deno.env.get("HOME") ?? "/tmp") + "/.written", "x"),
  remove: () => Deno.removeSync(Deno.args[0] + "/victim"),
  connect: () => Deno.connect({ hostname: "127.0.0.1", port: Number(Deno.args[1]) }),
  fetch: () => fetch("http://127.0.0.1:" + Deno.args[1]),
  listen: () => Deno.listen({ port: 0 }),
  run: () => new Deno.Command("true").outputSync(),
  "run Deno": () => new Deno.Command(Deno.execPath()).outputSync(),
  "call native code": () => Deno.dlopen("libc.so.6", { getpid: { parameters: [], result: "i32" } }),
  // They are as if they were not set.
  "read a secret variable": () => Deno.env.get("SECRET") ?? nothing(),
  "list variables": () => Deno.env.toObject().SECRET ?? nothing(),
  "import from afar": () => import("http://127.0.0.1:" + Deno.args[1] + "/x.ts"),
};
const done = [];
for (const [name, attempt] of Object.entries(attempts)) {
  try {
    await attempt();
    done.push(name);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable) && !/import/.test(name)) done.push(name + ": " + error);
  }
}
console.log(JSON.stringify({ tried: Object.keys(attempts).length, done }));
`;

Deno.test({
  name: "least privilege: eval through the launcher cannot write, connect or run",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await withFolder(async (folder) => {
      const bin = join(folder, "bin");
      await Deno.mkdir(bin);
      await Deno.writeTextFile(join(bin, "deno"), FAKE, { mode: 0o755 });
      await Deno.writeTextFile(join(folder, "victim"), "");
      await Deno.writeTextFile(join(folder, "attempts.ts"), ATTEMPTS);
      // A checkpoint whose names are an attack on whoever takes them for commands, paths or markup.
      const { description, ...tensors } = smallCheckpoint();
      const hostile = { ...description, class_names: [`$(touch ${folder}/touched)`, "../../x\x1b]0;owned\x07"] };
      const file = join(folder, "hostile.safetensors");
      await Deno.writeFile(file, await encodeCheckpoint({ description: hostile, ...tensors }));
      const launcher = async (path: string) =>
        await new Deno.Command(join(ROOT, "resnext"), {
          args: ["eval", file, "--dataset", "shapes"],
          env: { PATH: `${path}:${Deno.env.get("PATH")}`, SECRET: "1" },
        }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

      const flags = text((await launcher(bin)).stdout).split("\n");
      const permissions = flags.slice(1, flags.indexOf("--config"));
      assertEquals(flags[0], "run");
      using server = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const attempt = await new Deno.Command(Deno.execPath(), {
        args: ["run", ...permissions, join(folder, "attempts.ts"), folder, String(server.addr.port)],
        env: { SECRET: "1" },
      }).output();
      const { tried, done } = JSON.parse(text(attempt.stdout));
      assertEquals(done, [], text(attempt.stderr));

      // And the real one, from end to end.
      const before = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
      const refused = await launcher(join(Deno.execPath(), ".."));
      assertEquals(refused.code, 1, text(refused.stderr));
      assertMatch(text(refused.stderr), /^error: Cannot evaluate [^\n]*\n$/);
      assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), before);
      report("what eval must not do", tried, permissions.join(" "));
    });
  },
});
