import { assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { readCheckpoint } from "../../cli/files.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { withFolder } from "../support.ts";
import { NARROW, resnext } from "./support.ts";

/** 40 images are 2 batches of 16 and one of 8. */
const SMALL = [...NARROW, "--dataset", "shapes", "--batch-size", "16", "--train-limit", "40", "--test-limit", "20"];

const objects = (stdout: string) => stdout.trim().split("\n").map((line) => JSON.parse(line));

Deno.test("train --accumulate steps on groups of batches, says so, and a run that goes on keeps to them", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run"), last = join(out, "last.safetensors");
    const { code, stdout, stderr } = await resnext([
      ...["train", ...SMALL, "--epochs", "2", "--accumulate", "2", "--out", out],
    ]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Training {2}2 epochs, batch size 16, 2 batches a step, seed 0$/m);
    assertMatch(stderr, /^Epoch {2}1\/2 \[######[.]{6}\] 1\/2 {2}loss \d/m);
    const { settings } = JSON.parse(await Deno.readTextFile(join(out, "config.json")));
    assertEquals([settings.batch_size, settings.accumulate], [16, 2]);
    const saved = await readCheckpoint(last);
    assertEquals(saved.description.settings!.accumulate, 2);
    // Batches that batch norm has seen: three an epoch.
    assertEquals(toFloat32(saved.state.get("bn1.num_batches_tracked")!)[0], 6);

    const again = ["--resume", last, "--epochs", "3", "--out", join(folder, "more")];
    const refused = await resnext(["train", ...again, "--accumulate", "3"]);
    assertEquals([refused.code, refused.stdout], [2, ""]);
    assertMatch(refused.stderr, /^error: Cannot resume with --accumulate: the run was begun with 2; [^\n]*\n$/);
    const more = await resnext(["train", ...again, "--accumulate", "2", "--json"]);
    assertEquals(more.code, 0, more.stderr);
    const events = objects(more.stdout);
    assertEquals(events.find(({ type }) => type === "prepared").steps_per_epoch, 2);
    assertEquals(events.filter(({ type }) => type === "step").at(-1).step, 2);
  });
});

Deno.test("sums of gradients are memory that train tells, and there are none without --accumulate", async () => {
  await withFolder(async (folder) => {
    const weights = async (...more: string[]) => {
      const out = join(folder, more.join("_") || "none");
      const { code, stdout, stderr } = await resnext([
        ...["train", ...SMALL, "--epochs", "1", "--json", "--out", out, ...more],
      ]);
      assertEquals(code, 0, stderr);
      const events = objects(stdout);
      const bytes = await Deno.readFile(join(out, "last.safetensors"));
      return { bytes, told: events.find(({ type }) => type === "prepared").device_bytes.weights as number };
    };
    const [none, one, two] = [await weights(), await weights("--accumulate", "1"), await weights("--accumulate", "2")];
    assertEquals([one.told, one.bytes], [none.told, none.bytes]);
    const share = (two.told - none.told) / none.told;
    assertEquals(share > 0.25 && share < 0.34, true, `${share}`);
  });
});

Deno.test("numbers of batches that make no sense are one line on stderr", async () => {
  for (const value of ["0", "-1", "1.5", "257", "many"]) {
    const { code, stdout, stderr } = await resnext(["train", ...SMALL, "--accumulate", value]);
    assertEquals([code, stdout], [2, ""], value);
    assertMatch(stderr, /^error: Option --accumulate must be a whole number from 1 to 256, not "[^"]*" [^\n]*\n$/);
  }
});
