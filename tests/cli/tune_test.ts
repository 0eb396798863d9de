import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl, join, toFileUrl } from "@std/path";
import { mergeTunings } from "../../bench/ship_tunings.ts";
import { readTunings, shippedTunings, tuneFor, type Tunings, tuningsText } from "../../cli/tuning.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { resnext50 } from "../../nn/resnext.ts";
import config from "../../deno.json" with { type: "json" };
import { gpuTest, withFolder } from "../support.ts";
import { narrowCheckpoint, resnext } from "./support.ts";
import { encodeCheckpoint } from "../../nn/checkpoint.ts";

/** Runs the program with another table than the one it comes with. */
async function withTable(folder: string, table: Tunings, args: readonly string[]) {
  const at = (path: string) => new URL(`../../${path}`, import.meta.url);
  const shipped = join(folder, "tunings.json"), map = join(folder, "imports.json");
  await Deno.writeTextFile(shipped, tuningsText(table));
  const imports = { ...config.imports, [at("cli/tunings.json").href]: toFileUrl(shipped).href };
  await Deno.writeTextFile(map, JSON.stringify({ imports }));
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", `--import-map=${map}`, fromFileUrl(at("main.ts")), ...args],
    env: { XDG_RUNTIME_DIR: "/tmp", NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

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
    assertMatch(first.stdout, /\d+ operations measured on .*Kept in /);
    const [entries] = Object.values(await readTunings(file));
    assertEquals(Object.keys(entries).every((key) => key.startsWith("gemm ")), true);
    assertStringIncludes((await tune()).stdout, "Nothing to measure");
    // Of another network, size or precision.
    const [key] = Object.keys(await readTunings(file)), other = { "gemm kn 1x4x4": "shared 8x2" };
    await Deno.writeTextFile(file, tuningsText({ [key]: { ...entries, ...other } }));
    const again = await tune("--again", "--json");
    assertEquals((await readTunings(file))[key]["gemm kn 1x4x4"], "shared 8x2", "what was not measured is still known");
    const trials = again.stdout.trim().split("\n").map((line) => JSON.parse(line)), all = trials.pop();
    assertEquals(trials.length, Object.keys(entries).length);
    assertEquals([all.measured, all.known], [trials.length, 0]);
    const known = JSON.parse((await tune("--json")).stdout);
    assertEquals([known.measured, known.known, known.file], [0, trials.length, file]);
    assertEquals(
      trials.every(({ tried, won }) => tried.some(({ variant }: { variant: string }) => variant === won)),
      true,
    );
  });
});

Deno.test("products that the device cannot hold are told, and not measured", async () => {
  await withFolder(async (directory) => {
    const sizes = ["--layers", "1", "--channels", "256", "--image-size", "32", "--batch-size", "65536"];
    const { code, stdout, stderr } = await resnext(["tune", "resnext50", ...sizes, "--data-dir", directory]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /\d+ are larger than it holds/);
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

Deno.test("what the program's table knows is not measured, and not written; the user's own file counts for more", async () => {
  await withFolder(async (folder) => {
    const directory = join(folder, "data"), file = join(directory, "tuning.json");
    const args = ["tune", "resnext50", ...TINY, "--data-dir", directory];
    assertEquals((await resnext(args)).code, 0);
    const [[key, entries]] = Object.entries(await readTunings(file));
    const products = Object.keys(entries), half = products.slice(0, products.length >> 1);
    await Deno.remove(file);
    const known = (names: readonly string[]) => ({
      [key]: Object.fromEntries(names.map((name) => [name, entries[name]])),
    });

    const all = await withTable(folder, { ...known(products), "another adapter | Deno 1.0.0": {} }, args);
    assertEquals(all.code, 0, all.stderr);
    assertStringIncludes(all.stdout, `all ${products.length} operations are known`);
    assertStringIncludes(all.stdout, `${products.length} of them from the table`);
    assertEquals(await readTunings(file), {});

    const rest = await withTable(folder, known(half), args);
    assertStringIncludes(rest.stdout, `${products.length - half.length} operations measured`);
    assertStringIncludes(rest.stdout, `${half.length} were known, ${half.length} of them from the table`);
    assertEquals(Object.keys((await readTunings(file))[key]), products.slice(half.length).sort());

    const own = await withTable(folder, known(products), args);
    assertStringIncludes(own.stdout, `${half.length} of them from the table`);

    const stale = Object.fromEntries(products.map((name) => [name, "no such variant"]));
    const older = await withTable(folder, { [key]: stale, [`${key}.older`]: entries }, args);
    assertStringIncludes(older.stdout, `${half.length} operations measured`);
  });
});

Deno.test("eval by known kernels, by a damaged table and by rules gives the same bits", async () => {
  await withFolder(async (folder) => {
    const checkpoint = join(folder, "narrow.safetensors"), directory = join(folder, "data");
    await Deno.writeFile(checkpoint, await encodeCheckpoint(narrowCheckpoint()));
    const sizes = ["--layers", "1,1", "--channels", "16,32", "--cardinality", "2", "--image-size", "32"];
    const tuned = await resnext(["tune", "resnext50", ...sizes, "--batch-size", "16", "--data-dir", directory]);
    assertEquals(tuned.code, 0, tuned.stderr);
    const evaluate = (...more: string[]) =>
      resnext([
        "eval",
        checkpoint,
        "--test-limit",
        "20",
        "--batch-size",
        "16",
        "--json",
        "--data-dir",
        directory,
        ...more,
      ]);
    const known = await evaluate(), rules = await evaluate("--tune", "off");
    assertEquals([known.code, known.stdout], [0, rules.stdout], known.stderr);
    await Deno.writeTextFile(join(directory, "tuning.json"), "{ not json");
    assertEquals((await evaluate()).stdout, rules.stdout);
    const full = await evaluate("--tune", "full");
    assertEquals(full.code, 2);
    assertStringIncludes(full.stderr, "--tune");
  });
});

Deno.test("tables are merged product by product, the newer counting for more; the text is in order", () => {
  const old = { b: { x: "shared 8x2", y: "shared 4x2" }, a: {} },
    more = { b: { y: "shared 8x2" }, c: { z: "registers 4x2" } };
  const merged = mergeTunings(old, more);
  assertEquals(merged, { a: {}, b: { x: "shared 8x2", y: "shared 8x2" }, c: { z: "registers 4x2" } });
  assertEquals(Object.keys(JSON.parse(tuningsText(merged))), ["a", "b", "c"]);
  assertEquals(JSON.parse(tuningsText(merged)), merged);
});

Deno.test("the program's table has the form of tunings, its keys an adapter, a version of Deno and one of kernels", async () => {
  const file = fromFileUrl(new URL("../../cli/tunings.json", import.meta.url));
  assertEquals(await readTunings(file), shippedTunings);
  assertEquals(await Deno.readTextFile(file), tuningsText(shippedTunings));
  for (const [key, entries] of Object.entries(shippedTunings)) {
    assertMatch(key, /\S \| Deno \d+\.\d+\.\d+ \| kernels \d+$/);
    for (const [what, variant] of Object.entries(entries)) {
      assertMatch(`${what}: ${variant}`, /^gemm .*: (shared|subgroup|registers) |^grouped .*: (direct|staged)/);
    }
  }
});

Deno.test("where nothing can be kept tune fails before it measures, and has no need to where all is known", async () => {
  await withFolder(async (folder) => {
    const file = join(folder, "file");
    await Deno.writeTextFile(file, "");
    const args = ["tune", "resnext50", ...TINY, "--data-dir"];
    const { code, stdout, stderr } = await resnext([...args, file]);
    assertEquals([code, stdout], [1, ""]);
    assertMatch(stderr, /^error: Cannot keep what is measured in ".*": something else is in its place; .*\n$/);
    await resnext([...args, folder]);
    const known = await withTable(folder, await readTunings(join(folder, "tuning.json")), [...args, file]);
    assertEquals([known.code, known.stderr], [0, ""]);
    assertStringIncludes(known.stdout, "Nothing to measure");
  });
});

Deno.test("train measures what is not known and says so, but not when it is to be quiet, nor for batches that no device binds", async () => {
  await withFolder(async (folder) => {
    const train = (name: string, ...more: string[]) => {
      const directory = join(folder, name), out = join(directory, "run");
      const run = ["train", "--dataset", "shapes", ...TINY, "--train-limit", "4", "--test-limit", "2", "--epochs", "1"];
      return resnext([...run, "--tune", "full", "--data-dir", directory, "--out", out, ...more]);
    };
    const measured = async (name: string) => Object.keys(await readTunings(join(folder, name, "tuning.json"))).length;
    const told = await train("told"), quiet = await train("quiet", "--quiet"), json = await train("json", "--json");
    assertEquals([told.code, quiet.code, json.code], [0, 0, 0], told.stderr + quiet.stderr + json.stderr);
    assertMatch(told.stderr, /^Compiling kernels 1\/\d+\n/);
    assertEquals([quiet.stderr, json.stderr], ["", ""]);
    assertEquals([await measured("told"), await measured("quiet"), await measured("json")], [1, 1, 1]);

    const large = await train("large", "--image-size", "2048", "--batch-size", "512", "--train-limit", "512");
    assertEquals(large.code, 1);
    assertMatch(large.stderr, /^error: Cannot run batches of 512: [^\n]*\n$/);
    assertEquals(await measured("large"), 0);
  });
});

gpuTest("a device that cannot bind a batch uses what it knows all the same: a smaller batch may follow", async () => {
  const device = await openDevice();
  const module = resnext50({ layers: [1], channels: [16], cardinality: 2 });
  const { maxBindingBytes } = device.capabilities, pixels = Math.floor(maxBindingBytes / 16) + 1;
  const input = { n: 1, c: 3, h: 1, w: pixels };
  const { trials, tooLarge } = await tuneFor(device, module, [input], { mode: "full", wholeOnly: true });
  assertEquals(trials, []);
  assert(tooLarge > 0 && device.capabilities.tuning);
  device.close();
});
