/** `resnext tune`: measures the variants of a network's heavy kernels on this adapter, and shows what was tried. */

import { openDevice } from "../kernels/open_device.ts";
import type { Trial } from "../kernels/tuner.ts";
import { dataDirectory } from "../data/directory.ts";
import { defineCommand } from "./command.ts";
import { dataDirOption } from "./invocation.ts";
import { architectureNames, describedByOptions, networkDescription, networkOptions } from "./network_options.ts";
import { precisionOption } from "./precision.ts";
import { ProgressLine } from "./progress.ts";
import { type Tuned, tuneFor, tuningFile } from "./tuning.ts";

const PATH = "resnext tune";

/** The command. */
export const tuneCommand = defineCommand({
  name: "tune",
  summary: "Measure the variants of a network's kernels on this adapter and remember the fastest",
  details:
    "What is found is kept in tuning.json of the data directory, by adapter, Deno version and generation of kernels, and " +
    "used by all commands that run networks (unless --tune off). The program brings a table of some adapters, which is " +
    "not measured again. On a GPU train measures by itself what it does not know yet.",
  positionals: [{ name: "arch", doc: "The network", choices: architectureNames, optional: true }],
  options: {
    imageSize: { type: "integer", min: 1, max: 4096, default: 224, doc: "Height and width of the images" },
    batchSize: { type: "integer", min: 1, max: 65536, default: 64, doc: "Images a step" },
    numClasses: { type: "integer", min: 1, max: 1_000_000, default: 10, doc: "Classes" },
    precision: precisionOption,
    ...networkOptions,
    allStrategies: { type: "boolean", doc: "Try the strategies of other kinds of adapters too: slow" },
    again: { type: "boolean", doc: "Measure what is known, too; other networks' and sizes' kernels stay known" },
    dataDir: dataDirOption,
    json: { type: "boolean", doc: "Print a JSON object an operation measured, and one of all, instead" },
  },
  examples: ["tune", "tune resnext50 --image-size 32 --batch-size 16"],
  async run({ args: { arch = "resnext50" }, options }) {
    const module = describedByOptions(networkDescription(arch, options.numClasses, options, PATH), PATH);
    const directory = dataDirectory(options.dataDir);
    const device = await openDevice();
    const progress = new ProgressLine();
    try {
      const input = { n: options.batchSize, c: 3, h: options.imageSize, w: options.imageSize };
      const tuned = await tuneFor(device, module, [input], {
        mode: "full",
        directory,
        again: options.again,
        mustKeep: true,
        precision: options.precision,
        likelyOnly: !options.allStrategies,
        onCompile: (done, all) => progress.update(`Compiling kernels ${done}/${all}`),
        onTrial: (trial, done, all) => progress.update(`${done}/${all} ${trial.key}: ${trial.won}`),
      });
      progress.clear();
      for (const trial of tuned.trials) console.log(options.json ? JSON.stringify(trial) : describe(trial));
      const file = tuningFile(directory);
      console.log(options.json ? JSON.stringify(counts(tuned, device.name, file)) : summary(tuned, device.name, file));
      if (tuned.unkept) throw tuned.unkept;
    } finally {
      progress.clear();
      device.close();
    }
  },
});

function describe({ key, tried, won }: Trial): string {
  const times = tried.map(({ variant, milliseconds }) =>
    `${variant === won ? "*" : " "}${variant} ${milliseconds.toFixed(3)} ms`
  );
  return `${key.padEnd(28)} ${times.join("  ")}`;
}

/** The summary for programs. */
function counts({ trials, known, shipped, tooLarge, unkept }: Tuned, device: string, file: string) {
  return { measured: trials.length, known, shipped, too_large: tooLarge, device, ...(!unkept && { file }) };
}

function summary({ trials, known, shipped, tooLarge, unkept }: Tuned, device: string, file: string): string {
  const large = tooLarge > 0 ? [`${tooLarge} are larger than it holds: such batches do not run on it`] : [];
  const brought = `${shipped} of them from the table that comes with the program`;
  if (trials.length === 0 && known > 0 && tooLarge === 0) {
    return `Nothing to measure: all ${known} operations are known for ${device}, ${brought} (--again measures anew)`;
  }
  const kept = unkept ? "" : ` Kept in ${file}`;
  const changed = trials.filter(({ tried, won }) => tried[0].variant !== won).length;
  return [
    `${trials.length} operations measured on ${device}; for ${changed} another variant than the rule's is faster.${kept}`,
    ...(known > 0 ? [`${known} were known, ${brought}`] : []),
    ...large,
  ].join("\n");
}
