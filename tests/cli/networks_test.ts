import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";

const main = fromFileUrl(new URL("../../main.ts", import.meta.url));

async function call(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--quiet", main, ...args],
    env: { NO_COLOR: "1" },
  }).output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

Deno.test("networks lists parameters and multiply-adds as the paper and torchvision do", async () => {
  const { code, out } = await call("networks", "--json", "--batch-size", "8");
  assertEquals(code, 0);
  const networks = out.trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(
    networks.map((it) => [it.name, it.parameters, (it.multiply_adds / 1e9).toFixed(2), it.image_size]),
    [
      ["resnext50", 12_591_434, "2.30", 224],
      ["resnext101", 21_896_010, "4.10", 224],
      ["resnext50_32x4d", 25_028_904, "4.23", 224],
      ["resnext101_32x4d", 44_177_704, "7.97", 224],
      ["resnext101_32x8d", 88_791_336, "16.41", 224],
      ["resnext101_64x4d", 83_455_272, "15.46", 224],
      ["resnext29_8x64d", 34_426_698, "5.39", 32],
      ["resnext29_16x64d", 68_155_210, "10.69", 32],
    ],
  );
  for (const { training_bytes, inference_bytes, parameters } of networks) {
    assert(training_bytes > inference_bytes && inference_bytes > 4 * parameters);
  }
  const weights = networks.flatMap((it) => it.weights);
  assertEquals(weights.length, 9);
  for (const { url, sha256 } of weights) assert(sha256 === undefined || url.endsWith(`-${sha256}.pth`), url);
});

Deno.test("networks prints a line a network within 140 columns", async () => {
  const { code, out } = await call("networks");
  assertEquals(code, 0);
  assertStringIncludes(out, "resnext29_16x64d      68.2 M     10.7 G     32");
  assert(out.split("\n").every(({ length }) => length <= 140));
});
