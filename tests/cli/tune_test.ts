import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { readTunings } from "../../cli/tuning.ts";
import { resnext, withFolder } from "./support.ts";

/** One block: few products. */
const TINY = ["--layers", "1", "--channels", "16", "--cardinality", "2", "--image-size", "16", "--batch-size", "2"];

Deno.test("tune measures once, remembers, and measures anew when told to; a damaged file counts as none", async () => {
  await withFolder(async (directory) => {
    const tune = (...more: string[]) => resnext(["tune", "resnext50", ...TINY, "--data-dir", directory, ...more]);
    const file = join(directory, "tuning.json");
    await Deno.writeTextFile(file, "{ not json");
    const first = await tune();
    assertEquals(first.code, 0, first.stderr);
    assertMatch(first.stdout, /^gemm kn \S+ +.*\d ms/m);
    assertMatch(first.stdout, /\d+ products measured on .*Kept in /);
    const [entries] = Object.values(await readTunings(file));
    assertEquals(Object.keys(entries).every((key) => key.startsWith("gemm ")), true);
    assertStringIncludes((await tune()).stdout, "Nothing to measure");
    const again = await tune("--again", "--json");
    const trials = again.stdout.trim().split("\n").map((line) => JSON.parse(line));
    assertEquals(trials.length, Object.keys(entries).length);
    assertEquals(
      trials.every(({ tried, won }) => tried.some(({ variant }: { variant: string }) => variant === won)),
      true,
    );
  });
});

Deno.test("a file that holds something else has no tunings", async () => {
  const file = await Deno.makeTempFile();
  try {
    assertEquals(await readTunings(`${file}.absent`), {});
    for (const text of ["[]", "3", '{"a": 1}', '{"a": {"k": 2}}', '{"a": []}']) {
      await Deno.writeTextFile(file, text);
      assertEquals(await readTunings(file), {}, text);
    }
    await Deno.writeTextFile(file, '{"a": {"k": "shared 8x2"}, "b": 1}');
    assertEquals(await readTunings(file), { a: { k: "shared 8x2" } });
  } finally {
    await Deno.remove(file);
  }
});
