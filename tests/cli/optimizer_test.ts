import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { readCheckpoint } from "../../cli/files.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { withFolder } from "../support.ts";
import { NARROW, resnext, writeNarrow } from "./support.ts";

/** 40 images are 2 batches of 16 and one of 8. */
const SMALL = [...NARROW, "--dataset", "shapes", "--batch-size", "16", "--train-limit", "40", "--test-limit", "20"];

const objects = (stdout: string) => stdout.trim().split("\n").map((line) => JSON.parse(line));

Deno.test("train --optimizer adamw says so, saves what it keeps, and goes on with the same bits", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), last = join(out, "last.safetensors");
    const adamw = ["--optimizer", "adamw", "--betas", "0.8, 0.99", "--eps", "1e-6", "--no-vector-decay"];
    const train = ["train", ...SMALL, ...adamw, "--schedule", "constant", "--ema", "0.5"];
    const { code, stdout, stderr } = await resnext([...train, "--epochs", "1", "--out", out]);
    assertEquals(code, 0, stderr);
    assertMatch(
      stdout,
      /^AdamW {5}lr 0\.001, betas 0\.8 and 0\.99, eps 0\.000001, weight decay 0\.01 of matrices alone$/m,
    );
    const { settings, options } = JSON.parse(await Deno.readTextFile(join(out, "config.json")));
    assertEquals(
      [settings.optimizer, settings.lr, settings.betas, settings.eps, settings.weight_decay, settings.momentum],
      ["adamw", 0.001, [0.8, 0.99], 1e-6, 0.01, undefined],
    );
    assertEquals([options.optimizer, options.betas], ["adamw", "0.8, 0.99"]);
    const saved = await readCheckpoint(last);
    assertEquals([saved.momenta, saved.adamw!.step], [undefined, 3]);
    assert(toFloat32(saved.adamw!.expAvgSq.get("fc.weight")!).some((value) => value > 0));

    const shown = await resnext(["checkpoint", "inspect", last]);
    assertMatch(shown.stdout, /^ {2}optimizer +adamw$/m);
    assertMatch(shown.stdout, /^and AdamW's two averages of \d+ parameters after 3 steps$/m);
    const json = JSON.parse((await resnext(["checkpoint", "inspect", "--json", last])).stdout);
    assertEquals([json.adamw.step, json.adamw.exp_avg.length, json.momenta], [3, saved.adamw!.expAvg.size, []]);
    const verified = await resnext(["checkpoint", "verify", last]), tensors = 2 * saved.state.size;
    assertMatch(verified.stdout, new RegExp(` ${tensors + 2 * saved.adamw!.expAvg.size} tensors match`));

    const again = ["train", "--resume", last, "--epochs", "2", "--out", join(folder, "more")];
    for (const [wrong, was] of [["--optimizer=sgd", "with adamw"], ["--momentum=0.9", "without it"]]) {
      const refused = await resnext([...again, wrong]);
      assertEquals([refused.code, refused.stdout], [2, ""]);
      assertMatch(
        refused.stderr,
        new RegExp(`^error: Cannot resume with ${wrong.split("=")[0]}: the run was begun ${was}; [^\n]*\n$`),
      );
    }
    const more = await resnext([...again, "--betas", "0.80,0.99", "--no-nesterov"]);
    assertEquals(more.code, 0, more.stderr);
    const whole = await resnext([...train, "--epochs", "2", "--out", join(folder, "whole")]);
    assertEquals(whole.code, 0, whole.stderr);
    const bytes = (run: string) => Deno.readFile(join(folder, run, "last.safetensors"));
    assertEquals(await bytes("more"), await bytes("whole"));
    // As a config, too.
    const config = join(folder, "whole/config.json");
    const repeated = await resnext(["train", "--config", config, "--out", join(folder, "again")]);
    assertEquals(repeated.code, 0, repeated.stderr);
    assertEquals(await bytes("again"), await bytes("whole"));
    // By the other optimizer: what the run was given for its own does not matter.
    const other = await resnext(["train", "--config", config, "--optimizer", "sgd", "--out", join(folder, "other")]);
    assertEquals(other.code, 0, other.stderr);
    assertMatch(other.stdout, /^SGD +lr 0\.004, momentum 0\.9$/m);

    // The best one of a run with an average has nothing to go on with, but begins another.
    const best = join(folder, "whole/best.safetensors");
    const anew = await resnext([
      ...["train", "--weights", best, "--dataset", "shapes", "--train-limit", "16", "--test-limit", "10"],
      ...["--epochs", "1", "--optimizer", "adamw", "--out", join(folder, "anew")],
    ]);
    assertEquals(anew.code, 0, anew.stderr);
    assertEquals((await readCheckpoint(join(folder, "anew/last.safetensors"))).adamw!.step, 1);

    const compared = await resnext(["runs", "compare", join(folder, "whole"), join(folder, "anew")]);
    assertMatch(compared.stdout, /^\* {2}betas +0\.8, 0\.99 +0\.9, 0\.999$/m);
    assertMatch(compared.stdout, /^ {3}optimizer +adamw +adamw$/m);
  });
});

Deno.test("train tells AdamW's memory, and in JSON its settings", async () => {
  await withFolder(async (folder) => {
    const run = async (...more: string[]) => {
      const out = join(folder, more.join("_") || "sgd");
      const { code, stdout, stderr } = await resnext([
        ...["train", ...SMALL, "--epochs", "1", "--json", "--out", out, ...more],
      ]);
      assertEquals(code, 0, stderr);
      const events = objects(stdout);
      return {
        settings: events.find(({ type }) => type === "start").settings,
        bytes: events.find(({ type }) => type === "prepared").device_bytes.weights as number,
      };
    };
    const sgd = await run(), adamw = await run("--optimizer", "adamw", "--lr", "0.002");
    const share = (adamw.bytes - sgd.bytes) / sgd.bytes;
    assert(share > 0.25 && share < 0.34, `${share}`);
    assertEquals([adamw.settings.optimizer, adamw.settings.lr], ["adamw", 0.002]);
    assertEquals(["optimizer", "betas", "eps"].filter((key) => key in sgd.settings), []);
    const summary = async (...more: string[]) => {
      const { stdout } = await resnext(["summary", "resnext29_8x64d", "--json", ...more]);
      return JSON.parse(stdout);
    };
    const [one, two] = [await summary(), await summary("--optimizer", "adamw")];
    assertEquals([one.optimizer, two.optimizer], ["sgd", "adamw"]);
    assert(two.training_bytes - one.training_bytes >= one.parameters * 4);
  });
});

Deno.test("options of the other optimizer, and values that make no sense, are one line on stderr", async () => {
  await withFolder(async (folder) => {
    const last = await writeNarrow(folder), adamw = ["--optimizer", "adamw"];
    const cases: [string[], string][] = [
      [[...adamw, "--momentum", "0.9"], "Option --momentum has no use without --optimizer sgd"],
      [[...adamw, "--nesterov"], "Option --nesterov has no use without --optimizer sgd"],
      [["--betas", "0.9,0.99"], "Option --betas has no use without --optimizer adamw"],
      [["--eps", "1e-6"], "Option --eps has no use without --optimizer adamw"],
      [["--optimizer", "adam"], 'Option --optimizer must be sgd or adamw, not "adam"; did you mean adamw?'],
      [[...adamw, "--betas", "0.9"], "Option --betas must be two numbers from 0 to below 1"],
      [[...adamw, "--betas", "0.9,1"], "Option --betas must be two numbers from 0 to below 1"],
      [[...adamw, "--betas", "0.9,0.99,0.999"], "Option --betas must be two numbers from 0 to below 1"],
      [[...adamw, "--eps", "0"], "Option --eps must be a number of at least 1e-30"],
      [[...adamw, "--resume", last], "Cannot resume with --optimizer: the run was begun with sgd"],
    ];
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await resnext(["train", "--dataset", "shapes", ...args]);
      assertEquals([code, stdout], [2, ""], stderr);
      assertStringIncludes(stderr, message);
      assertMatch(stderr, /^error: [^\n]*\n$/);
    }
  });
});
