import { assert, assertAlmostEquals, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import sharp from "sharp";
import { readCheckpoint } from "../../cli/files.ts";
import { FIRST_LOSS_SCALE } from "../../kernels/loss_scale.ts";
import { formula, withFolder } from "../support.ts";
import { NARROW, resnext, writeNarrow } from "./support.ts";

/** 40 images are 2 batches of 16 and one of 8. */
const SMALL = [...NARROW, "--dataset", "shapes", "--batch-size", "16", "--train-limit", "40", "--test-limit", "20"];

const objects = (stdout: string) => stdout.trim().split("\n").map((line) => JSON.parse(line));

Deno.test("train --precision f16 says so, saves it with the loss scale, and goes on with the same bits", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), last = join(out, "last.safetensors");
    const train = ["train", ...SMALL, "--precision", "f16", "--schedule", "constant"];
    const { code, stdout, stderr } = await resnext([...train, "--epochs", "1", "--out", out]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Training {2}1 epoch, batch size 16, f16, seed 0$/m);
    assertEquals(JSON.parse(await Deno.readTextFile(join(out, "config.json"))).settings.precision, "f16");
    const saved = await readCheckpoint(last);
    assertEquals(saved.description.settings!.precision, "f16");
    assertEquals(saved.lossScale, { ...FIRST_LOSS_SCALE, goodSteps: 3 });

    const shown = await resnext(["checkpoint", "inspect", last]);
    assertMatch(shown.stdout, /^ {2}precision +f16$/m);
    assertMatch(shown.stdout, /momentum of \d+ parameters, and the loss scale, 65536$/m);
    assertEquals((await resnext(["checkpoint", "verify", last])).code, 0);

    const again = ["train", "--resume", last, "--epochs", "2"];
    const refused = await resnext([...again, "--precision", "f32"]);
    assertEquals([refused.code, refused.stdout], [2, ""]);
    assertMatch(refused.stderr, /^error: Cannot resume with --precision: the run was begun with f16; [^\n]*\n$/);
    const more = await resnext([...again, "--precision", "f16", "--json", "--out", join(folder, "more")]);
    assertEquals(more.code, 0, more.stderr);
    const steps = objects(more.stdout).filter(({ type }) => type === "step");
    assert(steps.every(({ loss_scale, skipped }) => loss_scale === 65536 && skipped === 0), more.stdout);
    const whole = await resnext([...train, "--epochs", "2", "--out", join(folder, "whole")]);
    assertEquals(whole.code, 0, whole.stderr);
    assertEquals(
      await Deno.readFile(join(folder, "more/last.safetensors")),
      await Deno.readFile(join(folder, "whole/last.safetensors")),
    );
  });
});

Deno.test("in float32 nothing tells of scales, and f16's weights take half as much again", async () => {
  await withFolder(async (folder) => {
    const weights: number[] = [];
    for (const precision of ["f32", "f16"]) {
      const { code, stdout, stderr } = await resnext([
        ...["train", ...SMALL, "--epochs", "1", "--json", "--out", join(folder, precision), "--precision", precision],
      ]);
      assertEquals(code, 0, stderr);
      const events = objects(stdout);
      weights.push(events.find(({ type }) => type === "prepared").device_bytes.weights);
      const step = events.find(({ type }) => type === "step");
      assertEquals("loss_scale" in step, precision === "f16");
      assertEquals("precision" in events.find(({ type }) => type === "start").settings, precision === "f16");
    }
    const share = weights[1] / weights[0];
    assert(share > 1.1 && share < 1.2, `${share}`);
  });
});

Deno.test("train --precision f16 --detect-anomaly names the layer of a run that diverges", async () => {
  await withFolder(async (folder) => {
    const diverging = ["train", ...SMALL, "--epochs", "1", "--precision", "f16", "--lr", "1e20", "--out"];
    const { code, stderr } = await resnext([...diverging, join(folder, "found"), "--detect-anomaly"]);
    assertEquals(code, 1);
    assertMatch(stderr, /first value that is not finite appeared at step [12] of epoch 1, in .* \(kernel "/);
    const plain = await resnext([...diverging, join(folder, "plain")]);
    assertMatch(plain.stderr, /learning rate; --detect-anomaly looks for the layer; the last good checkpoint is /);
  });
});

Deno.test("eval and predict in f16 agree with float32; eval goes by the run", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder);
    const evaluated = async (...more: string[]) => {
      const { code, stdout, stderr } = await resnext(["eval", file, "--json", "--test-limit", "40", ...more]);
      assertEquals(code, 0, stderr);
      return JSON.parse(stdout);
    };
    const full = await evaluated(), half = await evaluated("--precision", "f16");
    assertEquals([full.precision, half.precision], ["f32", "f16"]);
    assertAlmostEquals(half.loss, full.loss, 1e-2);
    assert(half.loss !== full.loss);
    assertAlmostEquals(half.top1, full.top1, 0.051);

    const picture = join(folder, "picture.png");
    const pixels = Uint8Array.from(formula(32 * 32 * 3, 1), (value) => (value + 1) * 127);
    await sharp(pixels, { raw: { width: 32, height: 32, channels: 3 } }).png().toFile(picture);
    const predicted = async (precision: string) => {
      const { code, stdout, stderr } = await resnext([
        ...["predict", file, picture, "--json", "--topk", "10", "--precision", precision],
      ]);
      assertEquals(code, 0, stderr);
      const { predictions } = JSON.parse(stdout) as { predictions: { class: number; probability: number }[] };
      return predictions.toSorted((a, b) => a.class - b.class).map(({ probability }) => probability);
    };
    const [one, other] = [await predicted("f32"), await predicted("f16")];
    for (const [i, probability] of one.entries()) assertAlmostEquals(other[i], probability, 5e-3);
    assert(String(one) !== String(other));
  });
});

Deno.test("bench, networks and summary count f16's memory", async () => {
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await resnext(args);
    assertEquals(code, 0, stderr);
    return objects(stdout);
  };
  const summary = async (precision: string) =>
    (await run("summary", "resnext50_32x4d", "--batch-size", "32", "--json", "--precision", precision))[0];
  const [full, half] = [await summary("f32"), await summary("f16")];
  assert(half.training_bytes < full.training_bytes * 0.75);
  const networks = async (precision: string) =>
    (await run("networks", "--json", "--precision", precision)).find(({ name }) => name === "resnext50_32x4d");
  assertEquals((await networks("f16")).training_bytes, half.training_bytes);
  assertEquals([(await networks("f16")).precision, half.precision, full.precision], ["f16", "f16", "f32"]);
  assertEquals((await networks("f32")).training_bytes, full.training_bytes);

  const bench = async (precision: string) => {
    const tables = await run(
      ...[
        "bench",
        "--layers",
        "1",
        "--channels",
        "64",
        "--cardinality",
        "4",
        "--image-size",
        "32",
        "--batch-size",
        "8",
      ],
      ...["--repeats", "1", "--steps", "1", "--json", "--precision", precision],
    );
    assertEquals(tables.find(({ kind }) => kind === "device").precision, precision);
    return tables.find(({ kind }) => kind === "throughput").measured;
  };
  const measured = { f32: await bench("f32"), f16: await bench("f16") };
  for (const [i, { mode, memory, flops }] of measured.f16.entries()) {
    const plain = measured.f32[i];
    assertEquals([mode, flops, memory.gradients], [plain.mode, flops, plain.memory.gradients]);
    assert(memory.weights > plain.memory.weights && memory.activations < plain.memory.activations, mode);
  }
});

Deno.test("precisions that there are not are one line on stderr", async () => {
  for (const command of [["train"], ["eval", "x"], ["predict", "x", "y"], ["bench"]]) {
    const { code, stdout, stderr } = await resnext([...command, "--precision", "f8"]);
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, /^error: Option --precision must be f32 or f16, not "f8"[^\n]*\n$/);
  }
});
