/**
 * A long run holds no more at its end than at its beginning: memory, buffers of the GPU, open files. Memory is looked at
 * after a garbage collection: a step leaves some 10 kB of WebGPU's objects, which V8 collects late.
 */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import type { Sample } from "./fixtures/watched_gpu.ts";
import { withFolder } from "../support.ts";
import { LONG, program, report, ROOT, runToEnd, SMALL_RUN, trials } from "./support.ts";

const STEPS = trials(100, 5000);

/** The slope of the least-squares line through `y` over `x`. */
function slope(x: readonly number[], y: readonly number[]): number {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const mx = mean(x), my = mean(y);
  return x.reduce((sum, v, i) => sum + (v - mx) * (y[i] - my), 0) / x.reduce((sum, v) => sum + (v - mx) ** 2, 0);
}

Deno.test({
  name: `a long run: buffers${LONG ? ", memory" : ""} and open files are flat`,
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await withFolder(async (folder) => {
      const file = join(folder, "samples.json");
      const perEpoch = Math.min(STEPS / 2, 250);
      const args = [
        ...[...SMALL_RUN, "--train-limit", String(perEpoch * 4), "--epochs", String(STEPS / perEpoch)],
        // The tuner of a GPU has buffers of its own, for a while.
        ...["--checkpoint-every", "100", "--tune", "off", "--out", join(folder, "run")],
      ];
      const env = { FAULTS_SAMPLES: file, FAULTS_EVERY: String(Math.ceil(STEPS / 100)) };
      const { code, err } = await runToEnd(
        program(args, { entry: `${ROOT}tests/faults/fixtures/watched_gpu.ts`, env }),
      );
      assertEquals(code, 0, err);
      const all: Sample[] = JSON.parse(await Deno.readTextFile(file));
      // The first tenth warms up: compilation, the heap's growth.
      const samples = all.slice(Math.ceil(all.length / 10));
      const at = samples.map(({ submissions }) => submissions);
      const perThousand = (pick: (sample: Sample) => number) => slope(at, samples.map(pick)) * 1000;
      const rss = perThousand((sample) => sample.rss) / 1e6;
      const range = (pick: (sample: Sample) => number) =>
        Math.max(...samples.map(pick)) - Math.min(...samples.map(pick));
      const line = [
        `resident memory ${rss.toFixed(2)} MB per 1000 submissions (now ${(samples.at(-1)!.rss / 1e6).toFixed(0)} MB)`,
        `buffers ${perThousand((sample) => sample.buffers).toFixed(4)}`,
        `open files ${perThousand((sample) => sample.files).toFixed(4)}`,
      ].join(", ");
      // A reading or a checkpoint may be under way at a sample.
      assert(range(({ buffers }) => buffers) <= 3, line);
      assert(range(({ files }) => files) <= 4, line);
      // A step that leaked its batch alone would show 5 MB in a thousand; fewer steps are lost in noise.
      if (LONG) assert(rss < 4, line);
      report(`${STEPS} steps`, 1, line);
    });
  },
});
