/** The device runs out of memory while a run is planned: told with what was asked, what there is, and what would fit. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { toFileUrl } from "@std/path";
import { program, report, ROOT, runToEnd, SMALL_RUN, withFolder } from "./support.ts";

/** Limits the address space of its own process, then is the program. */
const SCARCE = `
const entry = Deno.args[0], room = Number(Deno.args[1]);
const open = Object.getPrototypeOf(navigator.gpu).requestAdapter;
let limited = false;
const request = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...args) {
  const device = await request.apply(this, args);
  if (!limited) {
    limited = true;
    const size = Number(/VmSize:\\s+(\\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))[1]) * 1024;
    const limit = ["--pid", String(Deno.pid), "--as=" + (size + room)];
    if (!new Deno.Command("prlimit", { args: limit }).outputSync().success) Deno.exit(77);
  }
  return device;
};
const { commands } = await import(entry);
const { runProgram } = await import(new URL("./cli/program.ts", entry).href);
Deno.exit(await runProgram({ name: "resnext", version: "", summary: "", commands, examples: [] }, Deno.args.slice(2)));
`;

Deno.test({
  name: "no room on the device: the message says what was asked, what it gives and which batch would fit, which does",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await withFolder(async (folder) => {
      const entry = `${folder}/scarce.js`;
      await Deno.writeTextFile(entry, SCARCE);
      const train = (batch: number, out: string) =>
        runToEnd(program([
          ...[toFileUrl(`${ROOT}main.ts`).href, "250e6", ...SMALL_RUN.filter((word) => word !== "--json")],
          ...["--image-size", "64", "--batch-size", String(batch), "--train-limit", String(batch), "--epochs", "1"],
          ...["--out", `${folder}/${out}`],
        ], { entry }));
      const refused = await train(400, "first");
      const found =
        /Cannot run batches of 400: they would take (\d+) MiB beside weights and images, .* gives (\d+) MiB; use a batch size of (\d+) or less/
          .exec(refused.err);
      if (refused.code === 77) return console.log("memory: skipped, no prlimit here");
      assert(found, refused.err + refused.out);
      assertEquals(refused.code, 1);
      const [wanted, given, fits] = found.slice(1).map(Number);
      assert(wanted > given && fits > 0 && fits < 400, found[0]);
      const fitting = await train(Math.floor(fits * 0.9), "second");
      assertEquals(fitting.code, 0, fitting.err);
      assertStringIncludes(fitting.out, "Done");
      report("out of memory while planning", 1, 1, `asked ${wanted} MiB, given ${given} MiB, batches of ${fits} fit`);
    });
  },
});
