import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { basename, join } from "@std/path";
import { readRun } from "../../cli/run_files.ts";
import { withFolder } from "../support.ts";
import { narrowCheckpoint, resnext, writeNarrow } from "./support.ts";

const epochs = (...accuracies: number[]) =>
  accuracies.map((test_acc, i) => ({ epoch: i + 1, train_loss: 1, test_loss: 1.5, test_acc }));
const progress = (...accuracies: number[]) => ({
  epoch: accuracies.length,
  step: 0,
  loss_sum: 0,
  rows: 0,
  history: epochs(...accuracies),
});

async function run(folder: string, name: string, ...accuracies: number[]): Promise<string> {
  const path = join(folder, name);
  await Deno.mkdir(path);
  await writeNarrow(path, "last.safetensors", { progress: progress(...accuracies) });
  return path;
}

Deno.test("runs are listed with what they reached, other folders are not", async () => {
  await withFolder(async (folder) => {
    await run(folder, "first", 0.25, 0.75, 0.5);
    const second = await run(folder, "second", 0.5);
    await Deno.mkdir(join(folder, "other"));
    const lines = epochs(0.5, 0.625).map((epoch) => JSON.stringify({ ...epoch, seconds: 35 }));
    // A line that a crash cut off is left out.
    await Deno.writeTextFile(join(second, "metrics.jsonl"), [...lines, '{"epoch": 3, "tr'].join("\n"));
    const { code, stdout } = await resnext(["runs", "--dir", folder]);
    assertEquals(code, 0);
    const [head, ...rows] = stdout.trimEnd().split("\n");
    assertMatch(head, /^Run +Network +Data +Epochs +Best acc +in +Time +Size$/);
    assertEquals(rows.map((row) => row.split(/ {2,}/).slice(0, 7)), [
      ["first", "resnext50", "shapes", "3/2", "0.7500", "2", "-"],
      ["second", "resnext50", "shapes", "2/2", "0.6250", "2", "1m 10s"],
    ]);
    const [, json] = JSON.parse((await resnext(["runs", "--dir", folder, "--json"])).stdout);
    assertEquals([json.best_test_acc, json.seconds, json.settings.lr], [0.625, 70, 0.01]);

    const compared = await resnext(["runs", "compare", "first", second, "--dir", folder]);
    assertStringIncludes(compared.stdout, "A: first");
    assertMatch(compared.stdout, /^\* +epochs done +3 +2$/m);
    assertMatch(compared.stdout, /^ +lr +0.01 +0.01$/m);
    assertMatch(compared.stdout, /^ +2 +1\.5000 +1\.5000 +0\.7500 +0\.6250 +-0\.1250$/m);
  });
});

Deno.test("runs stand in the order of their training, and tell their usual speed", async () => {
  await withFolder(async (folder) => {
    const { description } = narrowCheckpoint();
    for (const [name, started] of [["a", "2026-11-26T08:00"], ["b", "2026-11-25T09:00"], ["c", undefined]]) {
      const path = await run(folder, name!, 0.5);
      const config = { ...description, class_names: [], parameters: 1, device: "x", version: "1", started };
      if (started) await Deno.writeTextFile(join(path, "config.json"), JSON.stringify(config));
      const lines = [8000, 2, 1234.5].map((rate, i) => ({ ...epochs(1, 1, 1)[i], images_per_second: rate }));
      await Deno.writeTextFile(join(path, "metrics.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    }
    const runs = JSON.parse((await resnext(["runs", "--dir", folder, "--json"])).stdout);
    assertEquals(runs.map(({ path }: { path: string }) => basename(path)), ["c", "b", "a"]);
    const { stdout } = await resnext(["runs", "compare", "a", "b", "--dir", folder]);
    assertMatch(stdout, /^ +images a second +1,230 +1,230$/m);
  });
});

Deno.test("no runs, and no such run, are told", async () => {
  await withFolder(async (folder) => {
    const none = join(folder, "none"), typo = await resnext(["runs", "--dir", none]);
    const told = `error: Cannot list the runs in "${none}": no such folder; name the one that holds them\n`;
    assertEquals(typo, { code: 1, stdout: "", stderr: told });
    const yet = await resnext(["runs"], {}, folder);
    assertEquals(yet.code, 0);
    assertStringIncludes(yet.stdout, 'No runs in "runs" yet');
    const { code, stderr } = await resnext(["runs", "compare", "a", "b", "--dir", folder]);
    assertEquals(code, 1);
    assertMatch(stderr, /^error: Cannot find the run "a": .*\n$/);
    assertEquals((await resnext(["runs", "compare", "a"])).code, 2);
  });
});

Deno.test("a run of a checkpoint alone is read from the head of its file", async () => {
  await withFolder(async (folder) => {
    const { description, epochs: read, config } = await readRun(await run(folder, "x", 0.5));
    assertEquals([description?.network.arch, read.length, config], ["resnext50", 1, undefined]);
  });
});

Deno.test("what is wrong in a run's files counts as absent, and takes no list with it", async () => {
  await withFolder(async (folder) => {
    const good = { ...narrowCheckpoint().description, class_names: [], parameters: 1, device: "x", version: "1" };
    const configs = [
      { ...good, started: "2026", parameters: null },
      good,
      { ...good, started: "2026", settings: { ...good.settings, dataset: 5 } },
      { network: {}, settings: {} },
    ];
    for (const [i, config] of configs.entries()) {
      const path = await run(folder, `bad${i}`, 0.5);
      await Deno.writeTextFile(join(path, "config.json"), JSON.stringify(config));
      await Deno.writeTextFile(join(path, "metrics.jsonl"), '{"epoch":1}\n{"epoch":2,"test_acc":"x"}\nnull\n');
      assertEquals((await readRun(path)).config, undefined, JSON.stringify(config));
    }
    const whole = await run(folder, "whole\x1b[31m", 0.5);
    await Deno.writeTextFile(join(whole, "config.json"), JSON.stringify({ ...good, started: "2026" }));
    assertEquals((await readRun(whole)).config?.parameters, 1);
    const { code, stdout, stderr } = await resnext(["runs", "--dir", folder]);
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout.trimEnd().split("\n").length, 1 + configs.length + 1);
    assertStringIncludes(stdout, "whole\u{fffd}[31m  ");
    assertEquals((await resnext(["runs", "compare", "bad0", "bad3", "--dir", folder])).code, 0);
  });
});

Deno.test("a run's folder is read while files in it come and go", async () => {
  await withFolder(async (folder) => {
    await writeNarrow(folder);
    let done = false, written = 0;
    const writing = (async () => {
      for (; !done; written++) {
        const part = join(folder, `.${written % 50}.part`);
        await Deno.writeTextFile(part, "x".repeat(1000));
        await Deno.remove(part);
      }
    })();
    for (let i = 0; i < 300; i++) assertEquals((await readRun(folder)).name, basename(folder));
    done = true;
    await writing;
    assertEquals(written > 0, true);
  });
});
