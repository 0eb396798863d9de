import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { withAutoBatch } from "../../cli/auto_batch.ts";
import { readCheckpoint } from "../../cli/files.ts";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { TYPICAL_GPU } from "../../nn/memory.ts";
import { withFolder } from "../support.ts";
import { NARROW, narrowCheckpoint, resnext } from "./support.ts";

const small = (images: number) => [
  ...["train", ...NARROW, "--dataset", "shapes", "--train-limit", `${images}`, "--test-limit", "20", "--epochs", "1"],
];

Deno.test("train --batch-size auto says what it takes and why, and the run goes on with that number", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), last = join(out, "last.safetensors");
    const command = [...small(52), "--batch-size", "auto", "--out", out, "--resume", "auto"];
    const { code, stdout, stderr } = await resnext(command);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Training {2}1 epoch, batch size 48, seed 0$/m);
    assertMatch(stdout, /^Batch {5}48, as the training images fill no larger ones; the run takes about [\d.]+ MB$/m);
    const { settings } = JSON.parse(await Deno.readTextFile(join(out, "config.json")));
    assertEquals(settings.batch_size, 48);
    assertEquals((await readCheckpoint(last)).description.settings!.batch_size, 48);

    // The same command once more is the same run.
    const more = await resnext([...command.slice(0, -2), "--resume", "auto", "--epochs", "2"]);
    assertEquals(more.code, 0, more.stderr);
    assertMatch(more.stdout, /^Training {2}2 epochs, batch size 48, seed 0$/m);
  });
});

Deno.test("what was found stands in --json; the memory told in advance is about what the run takes", async () => {
  await withFolder(async (folder) => {
    const { code, stdout, stderr } = await resnext([
      ...[...small(64), "--batch-size", "auto", "--accumulate", "2", "--ema", "0.9", "--flip"],
      ...["--json", "--out", join(folder, "run")],
    ]);
    assertEquals(code, 0, stderr);
    const events = stdout.trim().split("\n").map((line) => JSON.parse(line));
    const { settings, batch_size_found: found } = events[0];
    // Two batches a step must not be more than there are images.
    assertEquals([settings.batch_size, settings.accumulate, found.bound], [32, 2, "images"]);
    const { weights, activations, images } = events.find(({ type }) => type === "prepared").device_bytes;
    const error = found.bytes / (weights + activations + images) - 1;
    assert(Math.abs(error) < 0.15, `${found.bytes} for ${weights} + ${activations} + ${images}`);
  });
});

/** A run on 32 images. */
const run = (() => {
  const { network, input, settings } = narrowCheckpoint().description;
  return {
    ...{ description: { network, input: input!, settings: settings! }, data: shapes({ train: 32, test: 20, seed: 0 }) },
    ...{ parameters: 0, foundDataset: false, batchSizeChosen: false },
  };
})();

/** A device that binds so many bytes, and has so many. */
const device = (maxBindingBytes: number, room: number) =>
  ({
    ...{ name: "a device", capabilities: { ...TYPICAL_GPU, maxBindingBytes } },
    roomFor: () => Promise.resolve(room),
  }) as unknown as Device;

Deno.test("a tenth of a device is left alone", async () => {
  const whole = (await withAutoBatch(run, device(2 ** 30, 2 ** 30))).autoBatch!;
  assertEquals([whole.rows, whole.bound, whole.room], [32, "images", whole.memory.total]);
  const room = whole.memory.total;
  const less = (await withAutoBatch(run, device(2 ** 30, room))).autoBatch!;
  assertEquals([less.bound, less.room, less.rows < 32], ["memory", room * 0.9, true]);
});

Deno.test("where a single image is too large, what is too large is told", async () => {
  const pieces =
    /^Cannot train on a device: batches of a single image do not fit, a piece takes [\d.]+ kB of at most 1\.0 kB;/;
  assertMatch((await assertRejects(() => withAutoBatch(run, device(1000, 2 ** 30)), UserError)).message, pieces);
  const all = /do not fit, the run takes [\d.]+ (kB|MB); use a smaller image size$/;
  assertMatch((await assertRejects(() => withAutoBatch(run, device(2 ** 30, 1000)), UserError)).message, all);
});

Deno.test("other words than auto are refused", async () => {
  const { code, stderr } = await resnext([...small(16), "--batch-size", "automatic"]);
  assertEquals(code, 2);
  assertMatch(stderr, /^error: Option --batch-size must be a whole number from 1 to 65536 or auto, not "automatic" /);
});
