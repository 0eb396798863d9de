import { assert, assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { encodeSafetensors, float32Tensor, type TensorData } from "../nn/safetensors.ts";
import { runParity } from "./parity/runner.ts";
import { type Golden, goldens, gpuTest, testDevice, withFolder } from "./support.ts";
import { referenceConv } from "./kernels/conv_support.ts";

const GOLDENS = fromFileUrl(new URL("goldens", import.meta.url));
const ROOT = fromFileUrl(new URL("..", import.meta.url));

/** The networks that take longest; `deno task parity` runs them all. */
const COSTLY = new Set(["resnext101", "resnext101_32x8d", "resnext101_64x4d"]);

gpuTest("PyTorch's cases all agree", async (device) => {
  const lines: string[] = [];
  const selects = (file: string, name: string) => file !== "full_networks" || !COSTLY.has(name);
  const totals = await runParity(device, GOLDENS, (line) => lines.push(line), { selects });
  assertEquals([totals.failed, totals.skipped], [0, 0], lines.join("\n"));
  assert(totals.ok >= 26, lines.join("\n"));
  assertMatch(lines.find((line) => line.startsWith("conv2d/conv1x1 "))!, /worst relative error \d.*\) +ok$/);
  assert(lines.includes("README.md: skipped, no .safetensors file"));
});

gpuTest("PyTorch's operations, blocks and a network agree in half precision", async (device) => {
  const lines: string[] = [];
  const files = new Set(["batch_norm", "block", "conv2d", "ops"]);
  const selects = (file: string, name: string) => files.has(file) || name === "resnext50_32x4d";
  const totals = await runParity(device, GOLDENS, (line) => lines.push(line), { selects, precision: "f16" });
  assertEquals([totals.failed, totals.skipped], [0, 0], lines.join("\n"));
  assert(totals.ok >= 20, lines.join("\n"));
  // Half precision it is: what is right to half a unit in a half's last place is no float32 number's.
  const [, error] = lines.find((line) => line.startsWith("conv2d/conv1x1 "))!.match(/relative error (\S+)/)!;
  assert(Number(error) > 1e-5 && Number(error) < 2 ** -11, error);
});

/** Runs the task as a user does. */
async function parity(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "tests/parity/main.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** Writes the tensors of a golden file that `keeps` names, `changes` made. */
function writePart(
  path: string,
  { file }: Golden,
  keeps: (key: string) => boolean,
  changes: Record<string, TensorData> = {},
): void {
  const kept = [...file.tensors].filter(([key]) => keeps(key)).map(([key, tensor]) => [key, changes[key] ?? tensor]);
  Deno.writeFileSync(path, encodeSafetensors({ ...file, tensors: new Map(kept as [string, TensorData][]) }));
}

Deno.test("what differs, and what is damaged, fails; what is unknown is named and skipped", () =>
  withFolder(async (folder) => {
    const golden = goldens("conv2d");
    const y = golden.values("conv1x1.y").map((value) => value * 1.01);
    writePart(join(folder, "altered.safetensors"), golden, (key) => /^conv1x1(_s2)?\./.test(key), {
      "conv1x1.y": float32Tensor(y, golden.shape("conv1x1.y")),
    });
    const whole = Deno.readFileSync(join(GOLDENS, "ops.safetensors"));
    Deno.writeFileSync(join(folder, "damaged.safetensors"), whole.subarray(0, 100_000));
    Deno.writeTextFileSync(join(folder, "notes.txt"), "nothing");
    const other = new Map([["weights.a", float32Tensor(Float32Array.of(1), [1])]]);
    Deno.writeFileSync(join(folder, "other.safetensors"), encodeSafetensors({ tensors: other, metadata: {} }));
    const { code, stdout, stderr } = await parity(folder);
    assertEquals([code, stderr], [1, ""]);
    const lines = stdout.trimEnd().split("\n");
    assertEquals(lines.length, 6, stdout);
    assertMatch(lines[0], /^altered\/conv1x1 +worst relative error 9\.9e-3 \(y\), allowed 1\.0e-4; 1 of 4 miss +FAIL$/);
    assertMatch(lines[1], /^altered\/conv1x1_s2 .* ok$/);
    assertMatch(lines[2], /^damaged\.safetensors: FAIL, Cannot read "damaged\.safetensors" as safetensors: /);
    assertEquals(lines[3], "notes.txt: skipped, no .safetensors file");
    assertEquals(lines[4], "other.safetensors: skipped, no case of a known form in it");
    assertEquals(lines[5], "3 cases: 1 ok, 2 FAIL, 0 skipped");
  }));

Deno.test("a wrong call ends with 2 and says what is right", async () => {
  const [none, missing, help] = await Promise.all([parity(), parity("no-such-folder"), parity("--help")]);
  for (const wrong of [["--precision", "f8"], ["--precison", "f16"], ["more"], ["--variant", ""]]) {
    assertEquals((await parity("no-such-folder", ...wrong)).stderr, none.stderr, wrong.join(" "));
  }
  assertEquals([none.code, none.stdout], [2, ""]);
  assertMatch(none.stderr, /^Usage: deno task parity DIR \[--precision f32\|f16\] \[--variant NAME\]\n/);
  assertEquals([missing.code, missing.stdout], [2, ""]);
  assertMatch(missing.stderr, /^Cannot read the folder "no-such-folder": .*; give a folder .*\n$/);
  assertEquals(help.code, 0);
});

gpuTest("cases may hold less, and be of any name and shape", () =>
  withFolder(async (folder) => {
    const device = await testDevice();
    writePart(join(folder, "few.safetensors"), goldens("conv2d"), (key) => /^grouped3x3_w8\.(x|weight|y)$/.test(key));
    writePart(join(folder, "norm.safetensors"), goldens("batch_norm"), (key) => /^small\.(x|y|before\..*)$/.test(key));
    writePart(join(folder, "loss.safetensors"), goldens("ops"), (key) => /^cross_entropy\.(l.*)$/.test(key));
    writePart(join(folder, "nothing.safetensors"), goldens("conv2d"), (key) => /^conv1x1\.(x|weight)$/.test(key));
    writePart(join(folder, "block.safetensors"), goldens("block"), (key) => /^identity\.(x|y|before\..*)$/.test(key));
    const geometry = {
      input: { n: 1, h: 5, w: 9, c: 6 },
      outChannels: 4,
      kernelHeight: 1,
      kernelWidth: 4,
      stride: 2,
      padding: 1,
      groups: 2,
    };
    const { x, weight, y, bias } = referenceConv(geometry);
    const tensors = new Map([
      ["v1.0.x", float32Tensor(x, [1, 6, 5, 9])],
      ["v1.0.weight", float32Tensor(weight, [4, 3, 1, 4])],
      ["v1.0.bias", float32Tensor(bias!, [4])],
      ["v1.0.y", float32Tensor(Float32Array.from(y), [1, 4, 4, 4])],
    ]);
    const metadata = { format: "pt", "v1.0": JSON.stringify({ stride: [2, 2], padding: 1, groups: 2 }) };
    Deno.writeFileSync(join(folder, "own.safetensors"), encodeSafetensors({ tensors, metadata }));
    const lines: string[] = [];
    const totals = await runParity(device, folder, (line) => lines.push(line));
    assertEquals(totals, { ok: 5, failed: 0, skipped: 1 }, lines.join("\n"));
    assertEquals(lines.map((line) => line.split(/ +/)[0]), [
      "block/identity",
      "few/grouped3x3_w8",
      "loss/cross_entropy",
      "norm/small",
      "nothing/conv1x1",
      "own/v1.0",
      "5",
    ]);
    assertMatch(lines[4], /skipped, it holds nothing to compare with$/);
  }));
