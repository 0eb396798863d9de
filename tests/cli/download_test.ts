import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { describeProgress } from "../../cli/download.ts";
import { gzip, names, tar } from "../data/archive_support.ts";
import { withFolder } from "../support.ts";

/** Runs `download ...` as a process; gives its exit code and what it prints. */
async function resnext(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const main = fromFileUrl(new URL("../../main.ts", import.meta.url));
  const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", main, "download", ...args] });
  const { code, stdout, stderr } = await command.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

Deno.test("progress is told with size, speed and time left, as far as they are known", () => {
  assertEquals(
    describeProgress({ bytes: 12_300_000, total: 170_052_171, bytesPerSecond: 5_100_000, secondsLeft: 31 }),
    "Downloading 12.3 MB of 170.1 MB (7 %), 5.1 MB/s, 31s left",
  );
  assertEquals(describeProgress({ bytes: 900, bytesPerSecond: 0 }), "Downloading 900 B, 0 B/s");
});

Deno.test("a data set that is not known, or none, is a wrong call", async () => {
  const wrong = await resnext("cifar1000");
  assertEquals([wrong.code, wrong.stdout], [2, ""]);
  assertStringIncludes(wrong.stderr, "cifar10");
  assertEquals((await resnext()).code, 2);
});

Deno.test("what cannot be downloaded is one line on stderr, exit 1, and leaves nothing", async () => {
  await withFolder(async (folder) => {
    const data = join(folder, "data"), archive = join(folder, "wrong.tar.gz");
    const missing = await resnext("cifar10", "--data-dir", data, "--url", join(folder, "none.tar.gz"));
    assertEquals([missing.code, missing.stdout], [1, ""]);
    assertMatch(missing.stderr, /^error: Cannot read .*none\.tar\.gz: no such file; .*--url\n$/);
    await Deno.writeFile(
      archive,
      await gzip(tar([{ path: "cifar-10-batches-bin/test_batch.bin", data: new Uint8Array(9) }])),
    );
    const wrong = await resnext("cifar10", "--data-dir", data, "--url", archive);
    assertEquals([wrong.code, wrong.stdout], [1, ""]);
    assertMatch(wrong.stderr, /^Unpacking and checking\nerror: Cannot unpack .*9 bytes, must have 30730000; .*\n$/);
    assertEquals(names(data), []);
  });
});
