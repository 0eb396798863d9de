/** `resnext report`: a run as one HTML file. */

import { join } from "@std/path";
import config from "../deno.json" with { type: "json" };
import type { Device } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import { UserError } from "../kernels/user_error.ts";
import { type Checkpoint, testedState } from "../nn/checkpoint.ts";
import { describedNetwork } from "../nn/described_network.ts";
import { confusionOf, judge, type Judgement } from "../nn/judge.ts";
import { Network } from "../nn/network.ts";
import { NonFiniteError } from "../nn/non_finite.ts";
import { toFloat32 } from "../nn/safetensors.ts";
import { summarize } from "../nn/summary.ts";
import { imageInput } from "../nn/run_description.ts";
import { groupDigits, shortCount } from "./columns.ts";
import { defineCommand } from "./command.ts";
import { dataDirOption } from "./invocation.ts";
import { datasetForms, datasetNames, isPictures, loadDataset, readDatasetName } from "./dataset.ts";
import { checkClasses } from "./eval.ts";
import { checkNewFile, exists, readCheckpoint, writeNewFile } from "./files.ts";
import { Interruptible } from "./interrupt.ts";
import { readStart, touching } from "../data/files.ts";
import { formatBytes, formatDuration, ProgressLine } from "./progress.ts";
import { MARK_WITHIN, type Picture, REPORT_MARK, reportPage, type Verdict, type WrongPicture } from "./report/page.ts";
import { dataUrl, filterTiles, imageBytes, png, tiled } from "./report/pictures.ts";
import { bestEpoch, readRun, type RecordedRun } from "./run_files.ts";
import { duration, located, runFacts, usualRate } from "./runs.ts";
import { useKnownTuning } from "./tuning.ts";

/** How many of the most wrong pictures are shown. */
const WRONG = 24;

/** The command. */
export const reportCommand = defineCommand({
  name: "report",
  summary: "Make an HTML file of a run: curves, confusion, the most wrong pictures, filters, settings",
  details:
    "The best checkpoint judges the test set anew for it. The file holds all that it shows and needs no network.",
  positionals: [{ name: "run", doc: "A run's folder, or its name" }],
  options: {
    out: {
      type: "string",
      placeholder: "FILE",
      otherwise: "report.html in the run's folder",
      doc: "The file to write",
    },
    force: { type: "boolean", doc: "Overwrite a file that is no report" },
    dir: { type: "string", placeholder: "DIR", default: "runs", doc: "The folder that holds the runs" },
    judge: { type: "boolean", default: true, doc: "Show what needs the test set: confusion, the most wrong pictures" },
    dataset: {
      type: "string",
      placeholder: "NAME",
      suggestions: datasetNames,
      otherwise: "the run's",
      doc: `Images to test on: ${datasetForms}; of use where a folder has moved`,
    },
    testLimit: { type: "integer", min: 1, otherwise: "as many as the run's", doc: "Images to test on, the first ones" },
    dataDir: dataDirOption,
  },
  examples: ["report runs/first", "report runs/first --out first.html --test-limit 1000"],
  run: async ({ args, options }) => {
    const folder = await located(args.run, options.dir);
    const run = await readRun(folder), best = bestEpoch(run.epochs);
    if (!best) {
      throw new UserError(`Cannot report on "${folder}": no epoch is done yet; go on with \`train --resume\` first`);
    }
    const out = options.out ?? join(folder, "report.html");
    const force = options.force || options.out === undefined || await isReport(out);
    // Told before minutes of judging.
    await checkNewFile(out, { force });
    using interruptible = new Interruptible();
    const checkpoint = await bestCheckpoint(folder);
    const verdict = !checkpoint
      ? "There is no checkpoint to judge the test set with."
      : options.judge
      ? await verdictOf(checkpoint, options, interruptible.signal)
      : "The test set was left out.";
    if (interruptible.signal.aborted) return interruptible.came!.exitCode;
    const page = reportPage({
      run,
      best,
      facts: runFacts(run),
      headline: headline(run, best),
      verdict,
      filters: checkpoint && await filtersOf(checkpoint),
      layers: checkpoint ? layersOf(checkpoint) : [],
      made: `Made ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC by resnext ${config.version}`,
    });
    const bytes = new TextEncoder().encode(page);
    await writeNewFile(out, bytes, { force });
    console.log(`Wrote ${out} (${formatBytes(bytes.length)})`);
    return 0;
  },
});

/** Whether a file is a report that was made before. */
async function isReport(path: string): Promise<boolean> {
  const start = await touching(`read "${path}"`, () => readStart(path, MARK_WITHIN));
  return start !== undefined && new TextDecoder().decode(start).includes(REPORT_MARK);
}

async function bestCheckpoint(folder: string): Promise<Checkpoint | undefined> {
  for (const name of ["best.safetensors", "last.safetensors"]) {
    const path = join(folder, name);
    if (!await exists(path)) continue;
    const checkpoint = await readCheckpoint(path);
    return { ...checkpoint, state: testedState(checkpoint) };
  }
}

function headline(run: RecordedRun, best: { epoch: number; test_acc: number; test_loss: number }) {
  const { config, epochs } = run, seconds = duration(run), rate = usualRate(run);
  return ([
    ["Best test accuracy", `${(best.test_acc * 100).toFixed(2)} %`],
    ["in epoch", `${best.epoch} of ${epochs.length}`],
    ["with test loss", best.test_loss.toFixed(4)],
    config && ["Parameters", shortCount(config.parameters)],
    seconds !== undefined && ["Time", formatDuration(seconds)],
    rate && ["Images a second", rate],
  ] as (readonly [string, string] | undefined | false)[]).filter((fact) => !!fact);
}

interface VerdictOptions {
  readonly dataset?: string;
  readonly testLimit?: number;
  readonly dataDir?: string;
}

/** Judges the test set; where its images cannot be had, says so: the rest of the report is worth having. */
async function verdictOf(
  checkpoint: Checkpoint,
  options: VerdictOptions,
  signal: AbortSignal,
): Promise<Verdict | string> {
  const { network: described, input, settings } = checkpoint.description;
  if (!input || !settings) return "The checkpoint does not tell what it was trained on.";
  const name = options.dataset === undefined ? settings.dataset : readDatasetName(options.dataset, "resnext report");
  let device: Device | undefined;
  const progress = new ProgressLine();
  try {
    const { dataDir, testLimit = settings.test_limit } = options;
    const data = await loadDataset(name, {
      ...{ trainLimit: 0, testLimit, dataDir, imageSize: input.image_size, resizeSize: input.resize_size },
      ...{ valSplit: isPictures(name) ? settings.val_split : undefined, seed: settings.seed },
    });
    checkClasses("the run", name, checkpoint.description, data.classNames);
    device = await openDevice();
    await useKnownTuning(device, { directory: dataDir });
    const network = await Network.create(device, describedNetwork(described));
    network.loadStateDict(checkpoint.state);
    const judgements: Judgement[] = [];
    const { batch_size: batchSize, precision } = settings, shown = imageInput(data, input, data.test);
    for await (const batch of judge(network, data.test, shown, batchSize, { signal, precision })) {
      judgements.push(...batch);
      progress.update(`Testing ${judgements.length}/${data.test.count}`);
    }
    const wrong = judgements.filter(({ label, prediction }) => label !== prediction);
    const { height, width } = data.test.size ?? data;
    const pictures = wrong.sort((a, b) => a.labelProbability - b.labelProbability).slice(0, WRONG).map(
      async ({ image, label, prediction, confidence, labelProbability }): Promise<WrongPicture> => ({
        url: dataUrl(await png(imageBytes(data.test, image, height * width * 3), width, height)),
        width,
        height,
        file: data.test.files?.[image],
        label: data.classNames[label],
        prediction: data.classNames[prediction],
        confidence,
        labelProbability,
      }),
    );
    return {
      images: judgements.length,
      correct: judgements.length - wrong.length,
      classNames: data.classNames,
      confusion: confusionOf(judgements, data.classNames.length),
      wrong: await Promise.all(pictures),
    };
  } catch (error) {
    // What is wrong with the network is not left out of its report.
    if (error instanceof NonFiniteError) throw new UserError(`${error.message}; --no-judge leaves the test set out`);
    if (!(error instanceof UserError)) throw error;
    progress.clear();
    console.error(`warning: ${error.message}; the report goes without the test set`);
    return `The test set could not be judged: ${error.message}.`;
  } finally {
    progress.clear();
    device?.close();
  }
}

/** The first convolution's filters as one picture. */
async function filtersOf({ state }: Checkpoint): Promise<Picture | undefined> {
  const first = [...state.values()].find(({ shape }) => shape.length === 4);
  if (!first || first.shape[1] !== 3) return undefined;
  const [, , height, width] = first.shape;
  const scale = Math.max(1, Math.round(40 / width));
  const { rgba, ...size } = tiled(filterTiles(toFloat32(first), first.shape), { width, height, columns: 16, scale });
  return { url: dataUrl(await png(rgba, size.width, size.height)), ...size };
}

function layersOf({ description: { network, input } }: Checkpoint): string[][] {
  const size = input?.image_size ?? 224;
  const { rows, total } = summarize(describedNetwork(network), { n: 1, c: 3, h: size, w: size }, { depth: 2 });
  return [
    ["Layer", "Operation", "Output", "Parameters", "Multiply-adds", "Activation"],
    ...[...rows, { ...total, name: "all", operation: "" }].map((row) => [
      row.name,
      row.operation,
      [row.output.c, row.output.h, row.output.w].join(" x "),
      row.parameters ? groupDigits(row.parameters) : "",
      row.multiplyAdds ? groupDigits(row.multiplyAdds) : "",
      formatBytes(row.activationBytes),
    ]),
  ];
}
