import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";

const main = fromFileUrl(new URL("../../main.ts", import.meta.url));

async function call(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--quiet", main, "summary", ...args],
    env: { NO_COLOR: "1" },
  }).output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

Deno.test("summary shows every layer of a network with its size and cost", async () => {
  const { code, out } = await call("resnext50_32x4d");
  assertEquals(code, 0);
  assertMatch(out, /^conv1 +conv2d +\[1, 64, 112, 112\] +9,408 +118,013,952 +3\.2 MB$/m);
  assertMatch(out, /^layer4\.2\.conv2 +conv2d +\[1, 1024, 7, 7\] +294,912 +14,450,688 +200\.7 kB$/m);
  assertMatch(out, /^fc +linear +\[1, 1000, 1, 1\] +2,049,000 +2,048,000 +4\.0 kB$/m);
  assertStringIncludes(out, "Parameters        25,028,904\nMultiply-adds     4.23 G");
});

Deno.test("summary of a network by its sizes, in JSON", async () => {
  const words = "resnext --depths 1,1 --channels 32,64 --cardinality 4 --base-width 16 --stem cifar --num-classes 3";
  const { code, out } = await call(...words.split(" "), "--batch-size", "2", "--depth", "1", "--json");
  assertEquals(code, 0);
  const { input, layers, parameters, training_bytes } = JSON.parse(out);
  assertEquals(input, [2, 3, 32, 32]);
  assertEquals(
    layers.map((layer: { name: string; output: number[] }) => [layer.name, layer.output.join()]),
    [
      ["conv1", "2,64,32,32"],
      ["bn1", "2,64,32,32"],
      ["relu", "2,64,32,32"],
      ["layer1", "2,32,32,32"],
      ["layer2", "2,64,16,16"],
      ["global_avg_pool", "2,64,1,1"],
      ["fc", "2,3,1,1"],
    ],
  );
  assertEquals(parameters, layers.reduce((sum: number, layer: { parameters: number }) => sum + layer.parameters, 0));
  assertEquals(training_bytes > 0, true);
});

Deno.test("summary refuses what makes no network, one line, exit 2", async () => {
  const see = "(see resnext summary --help)\n";
  assertEquals(await call("resnext50", "--cardinality", "7"), {
    code: 2,
    out: "",
    err: `error: Cannot build resnext50: Cannot split 64 -> 64 channels into 7 groups: both must be divisible ${see}`,
  });
  const narrow = ["--channels", "32,64,128,256", "--cardinality", "8", "--base-width", "2"];
  assertStringIncludes((await call("resnext", ...narrow)).err, "error: Cannot build resnext: a stage of width 32 has");
  assertEquals(await call("resnext", "--layers", "3", "--depths", "3"), {
    code: 2,
    out: "",
    err: `error: Options --layers and --depths are one and the same: give one of them ${see}`,
  });
  assertEquals((await call("resnext", "--channels", "2", "--layers", "1")).code, 2);
  assertMatch((await call("resnext50", "--image-size", "1")).out, /^A training step +none: /m);
});
