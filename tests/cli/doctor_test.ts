import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { adapterAdvice, type SystemFacts } from "../../cli/advice.ts";
import { bufferFinding, dataFinding, denoFinding, doctorText } from "../../cli/doctor.ts";
import { cifar10 } from "../../data/cifar10.ts";
import { names } from "../data/archive_support.ts";
import { withFolder } from "../support.ts";
import { resnext } from "./support.ts";

const plain: SystemFacts = { os: "linux", nvidia: false, wsl: false, container: false, dri: false, packages: "apt" };
const steps = (changes: Partial<SystemFacts>, software = false) =>
  adapterAdvice({ ...plain, ...changes }, software).steps.join("\n");

Deno.test("the advice is the system's", () => {
  assertStringIncludes(steps({}), "sudo apt-get install mesa-vulkan-drivers (gives a software adapter)");
  assertStringIncludes(steps({ packages: "dnf" }), "sudo dnf install");
  assertStringIncludes(steps({ packages: undefined }), "your distribution's");
  assertStringIncludes(steps({ nvidia: true }), "nvidia-smi");
  assertStringIncludes(steps({ nvidia: true, container: true }), "NVIDIA_DRIVER_CAPABILITIES=all");
  assert(!steps({ nvidia: true, container: true }).includes("/dev/dri"));
  assertStringIncludes(steps({ container: true }), "--device /dev/dri");
  assertStringIncludes(steps({ wsl: true, nvidia: true }), "wsl --update");
  assertStringIncludes(steps({ dri: true }), "usermod -aG render");
  assertStringIncludes(steps({ os: "darwin" }), "update macOS");
  assertStringIncludes(steps({ os: "windows" }), "graphics driver");
  assert(!steps({}, true).includes("apt-get"), "a software adapter is there already");
});

Deno.test("an old Deno is bad, and the command mends it", () => {
  assertEquals([denoFinding("2.9.0").verdict, denoFinding("3.0.0").verdict], ["ok", "ok"]);
  assertEquals([denoFinding("2.8.9").verdict, denoFinding("2.8.9").steps], ["bad", ["deno upgrade"]]);
});

Deno.test("doctor says where a GPU gives smaller buffers than it promises", () => {
  const { verdict, text, steps } = bufferFinding(200e6, 4e9);
  assertEquals([verdict, steps?.length], ["note", 1]);
  assertMatch(text, /^200\.0 MB at most, not 4\.0 GB: /);
});

Deno.test("a data set that is not there, in part, or damaged", async () => {
  await withFolder(async (folder) => {
    assertEquals((await dataFinding(cifar10, folder)).verdict, "note");
    const place = join(folder, cifar10.folder);
    await Deno.mkdir(place);
    assertMatch((await dataFinding(cifar10, folder)).text, /files are missing/);
    for (const { name, size } of [...cifar10.trainFiles, ...cifar10.testFiles]) {
      await Deno.writeFile(join(place, name), new Uint8Array(0));
      await Deno.truncate(join(place, name), size);
    }
    const { verdict, text, steps } = await dataFinding(cifar10, folder);
    assertEquals(verdict, "bad");
    assertMatch(text, /data_batch_1\.bin has other bytes/);
    assertMatch(steps![0], /download cifar10$/);
  });
});

Deno.test("doctor tells of this machine, and its exit code says whether it will do", async () => {
  await withFolder(async (folder) => {
    const { code, stdout, stderr } = await resnext(["doctor", "--data-dir", folder, "--no-measure"]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^ok {4}Deno +2\.\d+/m);
    assertMatch(stdout, /^(ok {2}|note) {2}GPU +\S/m);
    assertMatch(stdout, /^note {2}cifar10 +not downloaded/m);
    assertStringIncludes(stdout, "This machine is ready.");
  });
});

Deno.test("where nothing can be written doctor says so, and what mends it; it leaves nothing behind", async () => {
  await withFolder(async (folder) => {
    const doctor = (data: string) => resnext(["doctor", "--no-measure", "--data-dir", data], {}, folder);
    const data = join(folder, "file");
    await doctor(join(folder, "new", "data"));
    assertEquals(names(folder), []);
    await Deno.writeTextFile(data, "");
    await Deno.writeTextFile(join(folder, "runs"), "");
    const { code, stdout, stderr } = await doctor(data);
    assertEquals([code, stderr], [1, ""]);
    const state = "something else is in its place; move it away or choose another directory";
    assertStringIncludes(stdout, `BAD   Disk of data  Cannot write into "${data}": ${state}\n`);
    assertStringIncludes(stdout, "-> name another data directory with --data-dir, or set RESNEXT_DATA");
    assertStringIncludes(stdout, `BAD   Disk here     Cannot write into "runs": ${state}\n`);
    assertStringIncludes(stdout, "another one to train into with --out");
    assertStringIncludes(stdout, "2 things need mending.");
    assertEquals(names(folder), ["file", "runs"]);
  });
});

Deno.test("the text names each problem with what mends it", () => {
  const text = doctorText([{ name: "A", verdict: "ok", text: "x" }, {
    name: "GPU",
    verdict: "bad",
    text: "none",
    steps: ["do"],
  }]);
  assertEquals(text, "ok    A    x\nBAD   GPU  none\n           -> do\n\nOne thing needs mending.");
});

Deno.test({
  name: "a data directory that no system resolves is told, and is bad",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await withFolder(async (folder) => {
      const loop = join(folder, "loop");
      await Deno.symlink(loop, loop);
      const { code, stdout, stderr } = await resnext(["doctor", "--no-measure", "--data-dir", loop]);
      assertEquals([code, stderr], [1, ""]);
      assertMatch(stdout, /^BAD +Data +Cannot read .*: its links lead in a circle/m);
    });
  },
});
