/** The device is destroyed in the middle of a run: the run opens it again and ends with the bits of one that was not. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { Random } from "../../kernels/random.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { withFolder } from "../support.ts";
import { program, report, ROOT, runToEnd, SMALL_RUN, trials } from "./support.ts";

const ARGS = [...SMALL_RUN, "--train-limit", "40", "--epochs", "2", "--checkpoint-every", "3"];
const ENTRY = `${ROOT}tests/faults/fixtures/watched_gpu.ts`;

function losing(at: readonly number[], args: readonly string[]) {
  return runToEnd(program(args, { entry: ENTRY, env: { FAULTS_LOSE: at.join() } }));
}

Deno.test("a lost device is opened again, and the run ends with the same bits", async () => {
  await withFolder(async (folder) => {
    const whole = await runToEnd(program([...ARGS, "--out", join(folder, "whole")]));
    assertEquals(whole.code, 0, whole.err);
    const expected = await Deno.readFile(join(folder, "whole", "last.safetensors"));
    const random = new Random(6), count = trials(2, 30);
    let losses = 0;
    for (let i = 0; i < count; i++) {
      // Steps, readings and tests submit about 110 times; some runs lose it twice.
      const at = Array.from({ length: 1 + i % 2 }, () => 1 + random.below(100));
      const out = join(folder, `run${i}`);
      const { code, err, out: said } = await losing(at, [...ARGS, "--out", out]);
      assertEquals(code, 0, `lost at ${at}: ${err}${said}`);
      const warnings = said.split("\n").filter((line) => line.includes("The GPU device was lost")).length;
      losses += warnings;
      assertEquals(await Deno.readFile(join(out, "last.safetensors")), expected, `lost at ${at}: other bits`);
    }
    assert(losses > 0);
    report("a lost device", count, `${losses} losses`);
  });
});

Deno.test("a device that is lost while AdamW's checkpoint is read is opened again, too", async () => {
  await withFolder(async (folder) => {
    const args = [
      ...["train", "--dataset", "shapes", "--layers", "1", "--channels", "16", "--cardinality", "2", "--json"],
      ...["--image-size", "16", "--batch-size", "8", "--train-limit", "32", "--test-limit", "8", "--epochs", "1"],
      ...["--optimizer", "adamw", "--ema", "0.9", "--checkpoint-every", "2"],
    ];
    const whole = await runToEnd(program([...args, "--out", join(folder, "whole")]));
    assertEquals(whole.code, 0, whole.err);
    const expected = await Deno.readFile(join(folder, "whole", "last.safetensors"));
    // Of these submissions some are the checkpoint's readings.
    for (let at = 14; at < 20; at++) {
      const out = join(folder, `run${at}`), { code, err, out: said } = await losing([at], [...args, "--out", out]);
      assertEquals(code, 0, `lost at ${at}: ${err}${said}`);
      assertStringIncludes(said, "The GPU device was lost");
      assertEquals(await Deno.readFile(join(out, "last.safetensors")), expected, `lost at ${at}: other bits`);
    }
  });
});

Deno.test("--on-device-lost stop: the run ends with a line that says how to go on", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run");
    const { code, err } = await losing([40], [...ARGS, "--out", out, "--on-device-lost", "stop"]);
    assertEquals(code, 1, err);
    assertMatch(err, /^error: The GPU device was lost: [^\n]*; go on from the last checkpoint with: [^\n]*\n$/);
    assertStringIncludes(err, join(out, "last.safetensors"));
    await decodeCheckpoint(await Deno.readFile(join(out, "last.safetensors")), "last");
  });
});

Deno.test("a device that is lost again and again without any progress ends the run", async () => {
  await withFolder(async (folder) => {
    const every = Array.from({ length: 400 }, (_, i) => 20 + i);
    const { code, err } = await losing(every, [...ARGS, "--out", join(folder, "run")]);
    assertEquals(code, 1, err);
    assertStringIncludes(err, "error: The GPU device was lost");
  });
});
