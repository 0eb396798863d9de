import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { join } from "@std/path";
import { bestEpoch, readEpochs, readRun } from "../../cli/run_files.ts";
import { readNetworkFile } from "../../cli/network_file.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../../nn/checkpoint.ts";
import { parseSafetensors } from "../../nn/safetensors.ts";
import { withFolder } from "../support.ts";
import { NARROW, resnext } from "./support.ts";

const SMALL = [...NARROW, "--dataset", "shapes", "--batch-size", "16", "--train-limit", "32", "--test-limit", "20"];

Deno.test("a recipe out of a config file: checkpoints, folder, TensorBoard's file, resumed", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), config = join(folder, "run.json");
    await Deno.writeTextFile(
      config,
      JSON.stringify({
        ...{ schedule: "cosine", warmup: 1, epochs: 3, lr: 0.04, "weight-decay": 0.01, "vector-decay": false },
        ...{ ema: 0.5, flip: true, crop: 2, mixup: 0.2, tensorboard: true, quiet: true },
      }),
    );
    const { code, stdout, stderr } = await resnext([
      "train",
      ...SMALL,
      "--config",
      config,
      "--lr",
      "0.02",
      "--out",
      out,
    ]);
    assertEquals([code, stderr], [0, ""]);
    const lines = stdout.trimEnd().split("\n");
    assertEquals(lines.length, 3, "--quiet leaves the epochs' lines");
    assert(lines.every((line) => /^Epoch {2}\d\/3 \| Train Loss: .*Test Acc: \d\.\d{4}$/.test(line)), stdout);

    const run = await readRun(out), { settings } = run.config!;
    assertEquals(settings.schedule, { kind: "cosine", warmup: 1, warmup_start: 0.01 });
    assertEquals(settings.augment, { flip: true, crop: 2, mixup: 0.2 });
    assertEquals([settings.lr, settings.decay_vectors, settings.ema_decay], [0.02, false, 0.5]);
    assertEquals(run.epochs.map(({ lr }) => lr?.toFixed(6)), ["0.000200", "0.020000", "0.010000"]);
    assert(run.epochs.every(({ seconds, images_per_second }) => seconds! > 0 && images_per_second! > 0));
    const files = [...Deno.readDirSync(out)].map(({ name }) => name);
    assert(files.some((name) => name.startsWith("events.out.tfevents.")), String(files));

    const read = async (name: string) => await decodeCheckpoint(await Deno.readFile(join(out, name)), name);
    const last = await read("last.safetensors"), best = await read("best.safetensors");
    assert(last.average !== undefined && best.average === undefined && best.momenta === undefined);
    assertEquals(best.description.progress!.epoch, bestEpoch(run.epochs)!.epoch);

    const contradiction = await resnext(["train", "--resume", join(out, "last.safetensors"), "--mixup", "0.4"]);
    assertEquals(contradiction.code, 2);
    assertMatch(contradiction.stderr, /Cannot resume with --mixup: the run was begun with 0\.2/);
    for (
      const [option, was] of [["--vector-decay", "without it"], ["--no-flip", "with it"], [
        "--num-classes=7",
        "with 10",
      ]]
    ) {
      const { code, stderr } = await resnext(["train", "--resume", join(out, "last.safetensors"), option]);
      assertEquals(code, 2);
      assertStringIncludes(stderr, `Cannot resume with ${option.split("=")[0]}: the run was begun ${was};`);
    }
    const more = await resnext(["train", "--resume", join(out, "last.safetensors"), "--epochs", "4"]);
    assertEquals(more.code, 0, more.stderr);
    assertMatch(more.stdout, /^Rate {6}cosine after warm-up of 1 epoch$/m);
    assertMatch(more.stdout, /^Augment {3}flip, crop 2, mixup 0\.2$/m);
    const epochs = await readEpochs(out);
    assertEquals(epochs.map(({ epoch }) => epoch), [1, 2, 3, 4]);
    assertEquals(epochs.slice(0, 3), run.epochs);

    const known = await resnext(["runs", "--dir", folder]);
    assertMatch(known.stdout, /^run +resnext50 +shapes +4\/4 +0\.\d{4}/m);
  });
});

Deno.test("of a run with a moving average, what was tested is what is evaluated, named with, exported and begun with", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), last = join(out, "last.safetensors"), weights = join(folder, "w.safetensors");
    const trained = await resnext(["train", ...SMALL, "--epochs", "2", "--lr", "0.02", "--ema", "0.9", "--out", out]);
    assertEquals(trained.code, 0, trained.stderr);
    const { average, state } = await decodeCheckpoint(await Deno.readFile(last), last);
    assertNotEquals(average, state);

    const { test_loss, test_acc } = (await readEpochs(out))[1];
    const json = await resnext(["eval", last, "--json"]);
    const { loss, top1, averaged } = JSON.parse(json.stdout);
    assertAlmostEquals(loss, test_loss, 1e-6);
    assertEquals([top1, averaged], [test_acc, true]);
    const text = await resnext(["eval", last]);
    assertMatch(text.stdout, /^with the moving average of the weights, as in training$/m);

    const exported = await resnext(["checkpoint", "export", last, "--to", weights]);
    assertStringIncludes(exported.stdout, "tensors of the weights' moving average to ");
    assertEquals(parseSafetensors(await Deno.readFile(weights)).tensors, average);
    assertEquals((await readNetworkFile(last)).state, average, "predict, serve and train --weights");
    const onnx = ["raw", "average"].map((name) => join(folder, `${name}.onnx`));
    const raw = join(folder, "raw.safetensors");
    const { description } = await decodeCheckpoint(await Deno.readFile(last), last);
    await Deno.writeFile(raw, await encodeCheckpoint({ description, state: average! }));
    for (const [i, file] of [raw, last].entries()) {
      assertEquals((await resnext(["checkpoint", "export", file, "--to", onnx[i]])).code, 0);
    }
    assertEquals(await Deno.readFile(onnx[1]), await Deno.readFile(onnx[0]));

    const shown = await resnext(["checkpoint", "inspect", last]);
    assertStringIncludes(
      shown.stdout,
      "\nand the moving average of these, which is what was tested and is to be used\n",
    );
    // A rate of zero: the run ends with the weights that it began with.
    const still = ["--lr", "0", "--epochs", "1", "--out", join(folder, "next")];
    const next = await resnext(["train", ...SMALL.slice(NARROW.length), "--weights", last, ...still]);
    assertEquals(next.code, 0, next.stderr);
    const ended = await decodeCheckpoint(await Deno.readFile(join(folder, "next/last.safetensors")), "next");
    assertEquals(ended.state.get("fc.weight"), average!.get("fc.weight"));
    assertMatch(next.stdout, /^Weights {3}the moving average of .*last\.safetensors, resnext50, with their head$/m);
  });
});

Deno.test("a run that its patience stopped is done, until it is given more", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), last = join(out, "last.safetensors");
    const again = (patience: number) =>
      resnext([
        "train",
        ...SMALL,
        "--lr",
        "0",
        "--epochs",
        "6",
        "--patience",
        `${patience}`,
        "--out",
        out,
        "--resume",
        "auto",
      ]);
    const { code, stderr } = await again(1);
    assertEquals(code, 0, stderr);
    const bytes = await Deno.readFile(last);
    const done = await again(1);
    assertEquals([done.code, done.stdout], [0, ""]);
    assertMatch(
      done.stderr,
      /^Nothing to do: .* stopped after epoch 2, without a better one for 1; go on with --patience N$/m,
    );
    assertEquals(await Deno.readFile(last), bytes);
    const more = await again(2);
    assertEquals(more.code, 0, more.stderr);
    assertEquals((await readEpochs(out)).map(({ epoch }) => epoch), [1, 2, 3]);
  });
});

Deno.test("recipes that are none are a wrong call", async () => {
  const refused = async (args: string[], text: string) => {
    const { code, stderr } = await resnext(["train", ...SMALL, ...args]);
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, text);
  };
  await refused(["--schedule", "multistep"], "it needs milestones");
  await refused(["--milestones", "2"], "milestones belong to multistep");
  await refused(["--reflect"], "reflect needs a crop");
  await refused(["--schedule", "cosine", "--gamma", "0.1"], "--gamma has no use without --schedule multistep");
  await refused(["--schedule", "one-cycle", "--min-lr", "0"], "--min-lr has no use without --schedule cosine");
  await refused(["--schedule", "cosine", "--warmup-start", "0.1"], "--warmup-start has no use without --warmup");
  await refused(["--schedule", "constant", "--schedule-by", "step"], "--schedule-by has no use without a --schedule");
  await withFolder(async (folder) => {
    const config = join(folder, "x.json");
    await Deno.writeTextFile(config, '{"shedule": "cosine"}');
    await refused(["--config", config], 'unknown key "shedule"; did you mean "schedule"?');
  });
});
