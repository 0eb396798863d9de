/** `resnext eval`: what a checkpoint's network, or weights, make of a test set. */

import { openDevice } from "../kernels/open_device.ts";
import { UserError } from "../kernels/user_error.ts";
import type { CheckpointDescription } from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { Evaluator } from "../nn/evaluator.ts";
import { judge, type Judgement } from "../nn/judge.ts";
import { Network } from "../nn/network.ts";
import { imageInput } from "../nn/run_description.ts";
import { imagenetLabels } from "../data/imagenet_labels.ts";
import { chosenInput, classifierOptions } from "./classifier.ts";
import { plain } from "./columns.ts";
import { checkEnding, defineCommand, usageError } from "./command.ts";
import { dataDirOption } from "./invocation.ts";
import {
  datasetForms,
  datasetNames,
  findDataset,
  isPictures,
  readDatasetName,
  runDefaults,
  valSplitOption,
  workersOption,
} from "./dataset.ts";
import { PREDICTIONS_ENDINGS, predictionsText } from "./eval_predictions.ts";
import { evaluationJson, evaluationText } from "./eval_report.ts";
import { checkNewFile, checkOtherFile, writeNewFile } from "./files.ts";
import { Interruptible } from "./interrupt.ts";
import { readNetworkFile } from "./network_file.ts";
import { runPrecisionOption } from "./precision.ts";
import { formatRate, ProgressLine } from "./progress.ts";
import { knownTuneOption, useKnownTuning } from "./tuning.ts";
import { tellNotes } from "./weights_input.ts";

const PATH = "resnext eval";

/** The command. */
export const evalCommand = defineCommand({
  name: "eval",
  summary: "Test a checkpoint: loss, accuracy, and which class is taken for which",
  details:
    "The network and how images are prepared come from the checkpoint, the images from its data set's test set. Weights " +
    "need a --dataset. A folder of pictures needs only what is tested: PATH/val/CLASS/* or PATH/CLASS/*; for ImageNet's " +
    "weights the classes are named by WordNet's numbers, such as n01440764. Of a run with --ema, the moving " +
    "average is tested, as the run did.\n\n" +
    "--predictions writes a line an image: its number, its file, its class, the class it is most taken for, and the " +
    "probability of each.",
  positionals: [{ name: "network", doc: "A checkpoint, or weights: safetensors or PyTorch's .pth" }],
  options: {
    dataset: {
      type: "string",
      placeholder: "NAME",
      suggestions: datasetNames,
      otherwise: "the checkpoint's",
      doc: `Images: ${datasetForms}`,
    },
    valSplit: { ...valSplitOption, otherwise: "the run's" },
    arch: classifierOptions.arch,
    workers: workersOption,
    strict: { type: "boolean", doc: "Stop at a picture that cannot be read, instead of leaving it out" },
    dataDir: dataDirOption,
    imageSize: {
      type: "integer",
      min: 1,
      max: 4096,
      otherwise: "the checkpoint's",
      doc: "Height and width that images are resized to",
    },
    resizeSize: classifierOptions.resizeSize,
    batchSize: { type: "integer", min: 1, max: 65536, otherwise: "the checkpoint's", doc: "Images a step" },
    testLimit: { type: "integer", min: 1, otherwise: "as many as the run's", doc: "Images to test on, the first ones" },
    precision: runPrecisionOption,
    tune: knownTuneOption,
    predictions: {
      type: "string",
      placeholder: "FILE",
      otherwise: "none",
      doc: "Write what each image is taken for: .csv, or .jsonl for JSON a line",
    },
    force: { type: "boolean", doc: "Overwrite the file of --predictions" },
    json: { type: "boolean", doc: "Print one JSON object instead" },
  },
  examples: [
    "eval runs/first/best.safetensors",
    "eval imported.safetensors --dataset cifar10 --test-limit 1000",
    "eval runs/first/best.safetensors --predictions predictions.csv",
    "eval resnext50_32x4d-1a0047aa.pth --dataset folder:imagenet/val",
  ],
  run: async ({ args: { network: file }, options }) => {
    const { predictions, force } = options;
    if (predictions !== undefined) {
      checkEnding("predictions", predictions, PREDICTIONS_ENDINGS, PATH);
      await checkOtherFile(predictions, file);
      // Told before minutes of testing.
      await checkNewFile(predictions, { force });
    }
    const networkFile = await readNetworkFile(file, { arch: options.arch }),
      { description, state, averaged } = networkFile;
    tellNotes(networkFile.notes);
    const { settings } = description;
    const name = options.dataset === undefined ? settings?.dataset : readDatasetName(options.dataset, PATH);
    if (name === undefined) {
      throw new UserError(`Cannot evaluate "${file}": it names no data set; choose one with --dataset`, {
        exitCode: 2,
      });
    }
    const own = name === settings?.dataset;
    const known = runDefaults(name);
    // A data set of its own is the one that was tested while training.
    const testLimit = options.testLimit ?? (own ? settings.test_limit : known?.testLimit);
    const imageSize = options.imageSize ?? description.input?.image_size ?? known?.imageSize ?? 224;
    if (options.resizeSize !== undefined && !isPictures(name)) {
      throw usageError("Option --resize-size is of folders of pictures alone: leave it out", PATH);
    }
    const { resize_size: resizeSize } = chosenInput(networkFile, imageSize, options.resizeSize, PATH);
    const found = await findDataset(name, {
      ...{ trainLimit: 0, testLimit, dataDir: options.dataDir, imageSize, resizeSize, strict: options.strict },
      ...{ quiet: options.json, workers: options.workers },
      ...{ valSplit: options.valSplit ?? (own ? settings.val_split : undefined), seed: settings?.seed },
    });
    checkClasses(file, name, description, found.classNames);
    const data = await found.load();
    for (const { path, error } of data.skipped ?? []) console.error(`warning: skipped ${path}: ${error}`);
    const input = {
      mean: data.mean,
      std: data.std,
      ...description.input,
      image_size: imageSize,
    };
    const batchSize = options.batchSize ?? settings?.batch_size ?? known!.batchSize;

    using interruptible = new Interruptible();
    const progress = new ProgressLine();
    const device = await openDevice();
    try {
      if (!options.json && Deno.stderr.isTerminal()) progress.update("Compiling kernels ...");
      await useKnownTuning(device, { mode: options.tune, directory: options.dataDir });
      const module = describedNetwork(description.network);
      const network = await Network.create(device, module);
      network.loadStateDict(fittedState(module, state));
      const precision = options.precision ?? settings?.precision ?? "f32", shown = imageInput(data, input, data.test);
      const { signal } = interruptible, judgements: Judgement[] = [];
      const pass = predictions === undefined
        ? (await Evaluator.create(network, data.test, shown, batchSize, { precision })).pass(signal)
        : keeping(judgements, judge(network, data.test, shown, batchSize, { precision, signal }));
      const started = performance.now();
      for (;;) {
        const { done, value } = await pass.next();
        if (!done) {
          const rate = formatRate(value / ((performance.now() - started) / 1000), "img");
          if (!options.json) progress.update(`Testing ${value}/${data.test.count}  ${rate}`);
          continue;
        }
        progress.clear();
        if (!value) return interruptible.came!.exitCode;
        const subject = {
          file,
          dataset: name,
          imageSize: input.image_size,
          precision,
          device: device.name,
          description,
          averaged,
        };
        console.log(
          options.json
            ? JSON.stringify(evaluationJson(subject, value, data.classNames))
            : evaluationText(subject, value, data.classNames),
        );
        if (predictions === undefined) return 0;
        const text = predictionsText(predictions, judgements, { classNames: data.classNames, files: data.test.files });
        await writeNewFile(predictions, new TextEncoder().encode(text), { force });
        if (!options.json) console.log(`\nWrote what each image is taken for to ${predictions}`);
        return 0;
      }
    } finally {
      progress.clear();
      device.close();
    }
  },
});

/** A pass that keeps what it is told of each image, and tells how many that are. */
async function* keeping<Result>(
  judgements: Judgement[],
  pass: AsyncGenerator<Judgement[], Result, void>,
): AsyncGenerator<number, Result, void> {
  for (;;) {
    const { done, value } = await pass.next();
    if (done) return value;
    judgements.push(...value);
    yield judgements.length;
  }
}

/** How the folders of ImageNet's classes are named; sorted, they are in the order of its labels. */
const WORDNET = /^n\d{8}$/;

/** Other classes make numbers without a meaning. @throws {UserError} */
export function checkClasses(
  file: string,
  dataset: string,
  { network, class_names: names }: CheckpointDescription,
  classNames: readonly string[],
): void {
  const refuse = (state: string) => {
    throw new UserError(`Cannot evaluate "${file}" on ${dataset}: ${state}; choose another --dataset`);
  };
  if (network.num_classes !== classNames.length) {
    refuse(`its network has ${network.num_classes} classes, the data set ${classNames.length}`);
  }
  if (names === imagenetLabels && classNames.every((name) => WORDNET.test(name))) return;
  if (names && String(names) !== String(classNames)) {
    refuse(plain(`its classes are ${firstOf(names)}, not ${firstOf(classNames)}`));
  }
}

function firstOf(names: readonly string[]): string {
  return [...names.slice(0, 3), ...(names.length > 3 ? ["..."] : [])].join(", ");
}
