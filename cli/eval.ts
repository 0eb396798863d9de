/** `resnext eval`: what a checkpoint's network makes of a test set. */

import { openDevice } from "../kernels/device.ts";
import { UserError } from "../kernels/user_error.ts";
import type { CheckpointDescription } from "../nn/checkpoint.ts";
import { describedNetwork } from "../nn/described_network.ts";
import { Evaluator } from "../nn/evaluator.ts";
import { Network } from "../nn/network.ts";
import { imageInput } from "../nn/run_description.ts";
import { defineCommand } from "./command.ts";
import { dataDirOption } from "./invocation.ts";
import { datasetForms, datasetNames, loadDataset, readDatasetName, runDefaults } from "./dataset.ts";
import { evaluationJson, evaluationText } from "./eval_report.ts";
import { readCheckpoint } from "./files.ts";
import { Interruptible } from "./interrupt.ts";
import { runPrecisionOption } from "./precision.ts";
import { formatRate, ProgressLine } from "./progress.ts";
import { knownTuneOption, useKnownTuning } from "./tuning.ts";

/** The command. */
export const evalCommand = defineCommand({
  name: "eval",
  summary: "Test a checkpoint: loss, accuracy, and which class is taken for which",
  details: "The network and how images are prepared come from the checkpoint, the images from its data set's test set.",
  positionals: [{ name: "checkpoint", doc: "A checkpoint of `train`, or of `checkpoint import`" }],
  options: {
    dataset: {
      type: "string",
      placeholder: "NAME",
      suggestions: datasetNames,
      otherwise: "the checkpoint's",
      doc: `Images: ${datasetForms}`,
    },
    valSplit: {
      type: "number",
      above: 0,
      below: 1,
      otherwise: "the run's",
      doc: "For folder:PATH with PATH/CLASS/*: the share of each class to test on",
    },
    strict: { type: "boolean", doc: "Stop at a picture that cannot be read, instead of leaving it out" },
    dataDir: dataDirOption,
    imageSize: {
      type: "integer",
      min: 1,
      max: 4096,
      otherwise: "the checkpoint's",
      doc: "Height and width that images are resized to",
    },
    batchSize: { type: "integer", min: 1, max: 65536, otherwise: "the checkpoint's", doc: "Images a step" },
    testLimit: { type: "integer", min: 1, otherwise: "as many as the run's", doc: "Images to test on, the first ones" },
    precision: runPrecisionOption,
    tune: knownTuneOption,
    json: { type: "boolean", doc: "Print one JSON object instead" },
  },
  examples: ["eval runs/first/best.safetensors", "eval imported.safetensors --dataset cifar10 --test-limit 1000"],
  run: async ({ args: { checkpoint: file }, options }) => {
    const { description, state } = await readCheckpoint(file);
    const { settings } = description;
    const name = options.dataset === undefined ? settings?.dataset : readDatasetName(options.dataset, "resnext eval");
    if (name === undefined) {
      throw new UserError(`Cannot evaluate "${file}": it names no data set; choose one with --dataset`, {
        exitCode: 2,
      });
    }
    const own = name === settings?.dataset;
    const known = runDefaults(name);
    // A data set of its own is the one that was tested while training.
    const testLimit = options.testLimit ?? (own ? settings.test_limit : known?.testLimit);
    const imageSize = options.imageSize ?? description.input?.image_size ?? known?.imageSize;
    const data = await loadDataset(name, {
      ...{ trainLimit: 0, testLimit, dataDir: options.dataDir, imageSize, strict: options.strict, quiet: options.json },
      ...{ valSplit: options.valSplit ?? (own ? settings.val_split : undefined), seed: settings?.seed },
    });
    for (const { path, error } of data.skipped ?? []) console.error(`warning: skipped ${path}: ${error}`);
    checkClasses(file, name, description, data.classNames);
    const input = {
      mean: data.mean,
      std: data.std,
      ...description.input,
      image_size: imageSize ?? known!.imageSize,
    };
    const batchSize = options.batchSize ?? settings?.batch_size ?? known!.batchSize;

    using interruptible = new Interruptible();
    const progress = new ProgressLine();
    const device = await openDevice();
    try {
      if (!options.json && Deno.stderr.isTerminal()) progress.update("Compiling kernels ...");
      await useKnownTuning(device, { mode: options.tune, directory: options.dataDir });
      const network = await Network.create(device, describedNetwork(description.network));
      network.loadStateDict(state);
      const precision = options.precision ?? settings?.precision ?? "f32", shown = imageInput(data, input, data.test);
      const evaluator = await Evaluator.create(network, data.test, shown, batchSize, { precision });
      const started = performance.now();
      const pass = evaluator.pass(interruptible.signal);
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
        };
        console.log(
          options.json
            ? JSON.stringify(evaluationJson(subject, value, data.classNames))
            : evaluationText(subject, value, data.classNames),
        );
        return 0;
      }
    } finally {
      progress.clear();
      device.close();
    }
  },
});

/** Other classes make numbers without a meaning. */
function checkClasses(
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
  if (names && String(names) !== String(classNames)) {
    refuse(`its classes are ${names.slice(0, 3).join(", ")}, ..., not ${classNames.slice(0, 3).join(", ")}, ...`);
  }
}
