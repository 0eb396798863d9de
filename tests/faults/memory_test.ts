/** The device runs out of memory while a run is planned: told with what was asked, what there is, and what would fit. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { toFileUrl } from "@std/path";
import { testDevice, withFolder } from "../support.ts";
import { program, report, ROOT, runToEnd, SMALL_RUN } from "./support.ts";

/** Whether a process's memory can be limited here, and the device's is the process's. */
const canLimit = Deno.build.os === "linux" && (await testDevice()).capabilities.software &&
  await new Deno.Command("prlimit", { args: ["--version"], stdout: "null" }).output().then(() => true, () => false);

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
const { commands } = await import(new URL("./cli/commands.ts", entry).href);
const { runProgram } = await import(new URL("./cli/program.ts", entry).href);
Deno.exit(await runProgram({ name: "resnext", version: "", summary: "", commands, examples: [] }, Deno.args.slice(2)));
`;

Deno.test({
  name: "no room on the device: the message says what was asked, what it gives and which batch would fit, which does",
  ignore: !canLimit,
  fn: async () => {
    await withFolder(async (folder) => {
      const entry = `${folder}/scarce.js`;
      await Deno.writeTextFile(entry, SCARCE);
      const train = (batch: number, out: string) =>
        runToEnd(program([
          ...[toFileUrl(`${ROOT}main.ts`).href, "400e6", ...SMALL_RUN.filter((word) => word !== "--json")],
          ...["--image-size", "64", "--batch-size", String(batch), "--train-limit", String(batch), "--epochs", "1"],
          ...["--out", `${folder}/${out}`],
          // Each arena of glibc's takes 64 MiB of addresses for what may be little: how many threads begin one is chance.
        ], { entry, env: { MALLOC_ARENA_MAX: "1" } }));
      const refused = await train(500, "first");
      const found =
        /Cannot run batches of 500: they would take (\d+) MiB beside weights and images, .* gives (\d+) MiB; use a batch size of (\d+) or less/
          .exec(refused.err);
      assert(found, refused.err + refused.out);
      assertEquals(refused.code, 1);
      const [wanted, given, fits] = found.slice(1).map(Number);
      assert(wanted > given && fits > 0 && fits < 500, found[0]);
      // Compiling takes room too, two hundred megabytes where nothing is cached.
      const fitting = await train(Math.floor(fits * 0.3), "second");
      assertEquals(fitting.code, 0, fitting.err);
      assertStringIncludes(fitting.out, "Done");
      report("out of memory while planning", 1, `asked ${wanted} MiB, given ${given} MiB, batches of ${fits} fit`);
    });
  },
});

/** A device that gives so many bytes of buffers in all; where it lies, it gives any number of those that only try. */
const BUDGET = `
const entry = Deno.args[0], budget = Number(Deno.args[1]), lies = Deno.args[2] === "lies";
const { createBuffer, popErrorScope } = GPUDevice.prototype, { destroy } = GPUBuffer.prototype;
const held = new Map();
let taken = 0, refused = false;
GPUDevice.prototype.createBuffer = function (descriptor) {
  const { size, label } = descriptor;
  if (lies && label === "probe") return createBuffer.call(this, { ...descriptor, size: 4 });
  if (taken + size > budget) {
    refused = true;
    return createBuffer.call(this, { ...descriptor, size: 4 });
  }
  const buffer = createBuffer.call(this, descriptor);
  held.set(buffer, size);
  taken += size;
  return buffer;
};
GPUBuffer.prototype.destroy = function () {
  taken -= held.get(this) ?? 0;
  held.delete(this);
  destroy.call(this);
};
GPUDevice.prototype.popErrorScope = async function () {
  const was = refused, error = popErrorScope.call(this);
  refused = false;
  return await error ?? (was ? new GPUOutOfMemoryError("no room") : null);
};
const { commands } = await import(new URL("./cli/commands.ts", entry).href);
const { runProgram } = await import(new URL("./cli/program.ts", entry).href);
Deno.exit(await runProgram({ name: "resnext", version: "", summary: "", commands, examples: [] }, Deno.args.slice(3)));
`;

Deno.test("--batch-size auto takes what the device gives, and less where it gives less than it said", async () => {
  await withFolder(async (folder) => {
    const entry = `${folder}/budget.js`;
    await Deno.writeTextFile(entry, BUDGET);
    const train = async (lies: string) => {
      const { code, out, err } = await runToEnd(program([
        ...[toFileUrl(`${ROOT}main.ts`).href, "40e6", lies, ...SMALL_RUN.filter((word) => word !== "--json")],
        ...["--image-size", "32", "--batch-size", "auto", "--train-limit", "400", "--epochs", "1", "--tune", "off"],
        ...["--layers", "1,1", "--channels", "16,32", "--cardinality", "2", "--out", `${folder}/${lies}`],
      ], { entry }));
      assertEquals(code, 0, `${err}${out}`);
      assertStringIncludes(out, "Done");
      const { settings } = JSON.parse(await Deno.readTextFile(`${folder}/${lies}/config.json`));
      return { out, batch: settings.batch_size as number };
    };
    const honest = await train("honest"), lied = await train("lies");
    assertStringIncludes(honest.out, `${honest.batch}, the largest that fits: the run takes `);
    assert(honest.batch >= 8 && honest.batch % 8 === 0 && honest.batch < 400, honest.out);
    assertStringIncludes(lied.out, "Batches of 400 do not fit this device; the run takes batches of ");
    assert(lied.batch >= honest.batch && lied.batch % 8 === 0 && lied.batch < 400, lied.out);
    report("batches found under a budget", 2, `${honest.batch}, and ${lied.batch} after a refusal`);
  });
});
