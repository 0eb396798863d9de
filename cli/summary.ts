/** `resnext summary ARCH`: a network's layers in a table. */

import type { ElementType } from "../kernels/dispatch.ts";
import type { Shape } from "../kernels/layout.ts";
import { UserError } from "../kernels/user_error.ts";
import { type StepMemory, stepMemory } from "../nn/memory.ts";
import type { Module } from "../nn/module.ts";
import { type OptimizerKind, OPTIMIZERS } from "../nn/optimizers.ts";
import { ARCHITECTURES, type ResNeXtOptions } from "../nn/resnext.ts";
import { summarize, type Summary } from "../nn/summary.ts";
import { columns, groupDigits, shortCount } from "./columns.ts";
import { defineCommand, usageError } from "./command.ts";
import { architectureNames, describedByOptions, networkDescription, networkOptions } from "./network_options.ts";
import { OPTIMIZER_NAMES } from "./optimizer_options.ts";
import { precisionOption } from "./precision.ts";
import { formatBytes } from "./progress.ts";

const PATH = "resnext summary";

/** The command. */
export const summaryCommand = defineCommand({
  name: "summary",
  summary: "Show a network's layers: output shape, parameters, multiply-adds, memory",
  positionals: [{ name: "arch", doc: "The network", choices: architectureNames }],
  options: {
    imageSize: {
      type: "integer",
      min: 1,
      max: 4096,
      otherwise: "what the network was made for, 224 or 32",
      doc: "Height and width of the images",
    },
    batchSize: { type: "integer", min: 1, max: 65536, default: 1, doc: "Images" },
    numClasses: { type: "integer", min: 1, max: 1_000_000, otherwise: "the network's, 10 or 1000", doc: "Classes" },
    ...networkOptions,
    depth: { type: "integer", min: 1, max: 9, otherwise: "every layer", doc: "1 shows stages, 2 blocks" },
    precision: precisionOption,
    optimizer: {
      type: "choice",
      choices: OPTIMIZERS,
      default: "sgd",
      doc: "Of the training step, whose memory is shown",
    },
    json: { type: "boolean", doc: "Print one JSON object instead" },
  },
  examples: ["summary resnext50_32x4d", "summary resnext --depths 3,3,3 --stem cifar --depth 2 --batch-size 64"],
  run: ({ args: { arch }, options }) => {
    const standard: ResNeXtOptions = ARCHITECTURES[arch];
    const numClasses = options.numClasses ?? standard.numClasses ?? 10;
    const module = describedByOptions(networkDescription(arch, numClasses, options, PATH), PATH);
    const usual = (options.stem ?? standard.stem) === "cifar" ? 32 : 224;
    const size = options.imageSize ?? usual;
    const input: Shape = { n: options.batchSize, c: 3, h: size, w: size };
    let summary: Summary;
    try {
      summary = summarize(module, input, { depth: options.depth });
    } catch (error) {
      if (error instanceof RangeError) {
        throw usageError(`Cannot take images of ${size}x${size}: ${error.message}`, PATH);
      }
      throw error;
    }
    const memory = {
      precision: options.precision,
      optimizer: options.optimizer,
      training: trainingMemory(module, input, options),
      inference: stepMemory(module, input, { training: false, precision: options.precision }),
    };
    console.log(options.json ? JSON.stringify(summaryJson(arch, summary, memory)) : summaryText(arch, summary, memory));
  },
});

interface Memory {
  readonly precision: ElementType;
  readonly optimizer: OptimizerKind;
  /** Absent where the network cannot be trained on such batches, with the reason. */
  readonly training: StepMemory | { readonly refused: string };
  readonly inference: StepMemory;
}

/** A single value a channel has no variance: nothing to train with, all the same a network. */
function trainingMemory(
  module: Module,
  input: Shape,
  { precision, optimizer }: Pick<Memory, "precision" | "optimizer">,
): Memory["training"] {
  try {
    return stepMemory(module, input, { training: true, precision, optimizer });
  } catch (error) {
    if (error instanceof UserError) return { refused: error.message };
    throw error;
  }
}

const list = ({ n, c, h, w }: Shape) => [n, c, h, w];
const shapeText = (shape: Shape) => `[${list(shape).join(", ")}]`;

function summaryText(
  arch: string,
  { input, rows, total }: Summary,
  { precision, optimizer, training, inference }: Memory,
): string {
  const table = columns([
    ["Layer", "Operation", "Output", "Parameters", "Mult-adds", "Activation"],
    ["input", "", shapeText(input), "", "", ""],
    ...rows.map(({ name, operation, output, parameters, multiplyAdds, activationBytes }) => [
      name,
      operation,
      shapeText(output),
      parameters ? groupDigits(parameters) : "-",
      multiplyAdds ? groupDigits(multiplyAdds) : "-",
      formatBytes(activationBytes),
    ]),
  ], { left: [0, 1, 2] });
  const rule = "-".repeat(Math.max(...table.map(({ length }) => length)));
  const bytes = ({ stateBytes, activationBytes }: StepMemory) =>
    `${formatBytes(stateBytes + activationBytes)} (state ${formatBytes(stateBytes)}, the rest ${
      formatBytes(activationBytes)
    })`;
  return [
    arch,
    "",
    table[0],
    rule,
    ...table.slice(1),
    rule,
    `Parameters        ${groupDigits(total.parameters)}`,
    `Multiply-adds     ${shortCount(total.multiplyAdds)} (convolutions and the linear layer)`,
    `All activations   ${formatBytes(total.activationBytes)}, in float32, before fusing and sharing memory`,
    `A training step   ${
      "refused" in training
        ? `none: ${training.refused}`
        : `${bytes(training)}, in ${precision} with ${OPTIMIZER_NAMES[optimizer]}, as planned for a usual GPU`
    }`,
    `An inference step ${bytes(inference)}`,
  ].join("\n");
}

function summaryJson(
  arch: string,
  { input, rows, total }: Summary,
  { precision, optimizer, training, inference }: Memory,
) {
  return {
    arch,
    input: list(input),
    parameters: total.parameters,
    multiply_adds: total.multiplyAdds,
    activation_bytes: total.activationBytes,
    precision,
    optimizer,
    training_bytes: "refused" in training ? null : training.stateBytes + training.activationBytes,
    inference_bytes: inference.stateBytes + inference.activationBytes,
    layers: rows.map(({ name, operation, output, parameters, multiplyAdds, activationBytes }) => ({
      name,
      operation,
      output: list(output),
      parameters,
      multiply_adds: multiplyAdds,
      activation_bytes: activationBytes,
    })),
  };
}
