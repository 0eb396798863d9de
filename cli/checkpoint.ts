/** `resnext checkpoint ...`: shows, converts and checks checkpoints. */

import { UserError } from "../kernels/user_error.ts";
import {
  decodeCheckpoint,
  encodeCheckpoint,
  type InputDescription,
  type NetworkDescription,
  testedState,
} from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { imagenetStatistics } from "../data/folder.ts";
import { type KnownNetwork, NETWORK_FACTS } from "../nn/networks.ts";
import { type Architecture, ARCHITECTURES, type ResNeXtOptions } from "../nn/resnext.ts";
import { recognise } from "../nn/recognise.ts";
import { encodeOnnx } from "../nn/onnx.ts";
import { encodeSafetensors, type TensorData } from "../nn/safetensors.ts";
import type { StateDict } from "../nn/weights.ts";
import { checkpointJson, checkpointText, weightsJson, weightsText } from "./checkpoint_report.ts";
import { checkEnding, defineCommand, defineGroup, flagName, usageError } from "./command.ts";
import { checkOtherFile, readCheckpoint, readFile, writeNewFile } from "./files.ts";
import { architectureNames, networkDescription, networkOptions, type NetworkOptionValues } from "./network_options.ts";
import { checkFinite } from "./network_file.ts";
import { pictureInput } from "./picture_input.ts";
import { isCheckpoint, readWeights, tellNotes } from "./weights_input.ts";
import { weightsDescription, weightsMetadata } from "./weights_metadata.ts";

const force = { type: "boolean", doc: "Overwrite the file" } as const;

const inspect = defineCommand({
  name: "inspect",
  summary: "Show what a checkpoint, or any file of weights, holds",
  positionals: [{ name: "file", doc: "A checkpoint, a safetensors file, or PyTorch's .pth" }],
  options: { json: { type: "boolean", doc: "Print one JSON object instead" } },
  examples: ["checkpoint inspect runs/first/best.safetensors"],
  run: async ({ args: { file }, options: { json } }) => {
    if (await isCheckpoint(file)) {
      const bytes = await readFile(file);
      const checkpoint = await decodeCheckpoint(bytes, file);
      console.log(json ? JSON.stringify(checkpointJson(checkpoint)) : checkpointText(file, bytes.length, checkpoint));
      return;
    }
    const { tensors, metadata, format, notes } = await readWeights(file);
    tellNotes(notes);
    const what = format === "torch" ? "PyTorch's weights" : "safetensors without a description";
    console.log(json ? JSON.stringify(weightsJson(tensors, metadata)) : weightsText(file, what, tensors, metadata));
  },
});

const exportWeights = defineCommand({
  name: "export",
  summary: "Write a checkpoint's weights alone, for PyTorch, or its network as ONNX",
  details: "As safetensors, under PyTorch's names and in its layouts: in Python, " +
    "model.load_state_dict(safetensors.torch.load_file(OUT)). Of a run with --ema, the moving average. resnext50_32x4d and " +
    "the like are torchvision's; the class of resnext50 and resnext101 is in docs/pytorch.md.\n\n" +
    "As ONNX, where OUT ends in .onnx: opset 17, input `images` [batch, 3, height, width] of normalized pixels, output " +
    "`logits` [batch, classes], for any batch.",
  positionals: [{ name: "file", doc: "The checkpoint" }],
  options: {
    to: { type: "string", required: true, placeholder: "OUT", doc: "The file to write: .safetensors or .onnx" },
    fold: { type: "boolean", doc: "ONNX: put batch norms into the convolutions before them" },
    imageSize: { type: "integer", min: 1, max: 4096, otherwise: "any", doc: "ONNX: height and width of the images" },
    force,
  },
  examples: [
    "checkpoint export runs/first/best.safetensors --to weights.safetensors",
    "checkpoint export runs/first/best.safetensors --to network.onnx --fold",
  ],
  run: async ({ args: { file }, options, given }) => {
    await checkOtherFile(options.to, file);
    const checkpoint = await readCheckpoint(file), { description } = checkpoint;
    const state = testedState(checkpoint), averaged = checkpoint.average ? " of the weights' moving average" : "";
    if (/\.onnx$/i.test(options.to)) {
      const module = describedNetwork(description.network);
      const { fold, imageSize } = options;
      const bytes = encodeOnnx(module, fittedState(module, state), {
        fold,
        imageSize,
        metadata: weightsMetadata(description),
      });
      await writeNewFile(options.to, bytes, options);
      console.log(
        `Wrote ${description.network.arch}${averaged} as ONNX, batch norm ${
          fold ? "folded" : "kept"
        }, to ${options.to}`,
      );
      return;
    }
    checkEnding("to", options.to, [".safetensors", ".onnx"], EXPORT);
    for (const key of ["fold", "imageSize"] as const) {
      if (given.has(key)) throw usageError(`Option --${flagName(key)} is of ONNX alone: end --to in .onnx`, EXPORT);
    }
    const metadata = { format: "pt", ...weightsMetadata(description) };
    await writeNewFile(options.to, encodeSafetensors({ tensors: state, metadata }), options);
    console.log(`Wrote ${state.size} tensors${averaged} to ${options.to}`);
  },
});

const EXPORT = "resnext checkpoint export", IMPORT = "resnext checkpoint import";

const importWeights = defineCommand({
  name: "import",
  summary: "Make a checkpoint of weights, such as PyTorch's",
  details:
    "Takes a state_dict saved by torch.save (of any version) or safetensors.torch.save_file, its names as PyTorch " +
    "has them, and training scripts' checkpoints, such as torchvision's, timm's and Lightning's: of several states the " +
    "moving average is taken, and what wrappers put before the names is taken off. A pickle is read and never run: " +
    "what is in it beside tensors is passed over; a pickled model is refused. The shapes tell which network it is; what they leave open is said by " +
    "--arch and the options after it. What `export` writes tells the classes' names and how images are prepared, too.",
  positionals: [{ name: "file", doc: "A file of weights: .safetensors, .pth or .pt" }],
  options: {
    arch: {
      type: "choice",
      choices: architectureNames,
      otherwise: "what the shapes tell",
      doc: "Its network",
    },
    to: { type: "string", required: true, placeholder: "FILE", doc: "The checkpoint to write: .safetensors" },
    numClasses: { type: "integer", min: 1, otherwise: "what fc.weight has", doc: "Classes" },
    ...networkOptions,
    cardinality: { type: "integer", min: 1, otherwise: "what layer1.0.conv2.weight has", doc: "Groups" },
    labels: {
      type: "string",
      placeholder: "FILE",
      otherwise: "the file's, if it tells",
      doc: "Classes, a name a line",
    },
    imageSize: {
      type: "integer",
      min: 1,
      max: 4096,
      otherwise: "the file's, if it tells",
      doc: "Height and width of the images",
    },
    force,
  },
  examples: [
    "checkpoint import resnext50_32x4d-1a0047aa.pth --to imported.safetensors",
    "checkpoint import weights.safetensors --arch resnext50 --layers 1,1,1,1 --to imported.safetensors",
  ],
  run: async ({ args: { file }, options }) => {
    checkEnding("to", options.to, [".safetensors"], IMPORT);
    await checkOtherFile(options.to, file);
    if (await isCheckpoint(file)) {
      throw new UserError(
        `Cannot import "${file}": it is a checkpoint already; \`checkpoint export\` takes its weights`,
      );
    }
    const weights = await readWeights(file), { tensors, notes } = weights;
    const { arch, imageSize, labels } = options,
      sizes = ["numClasses", ...Object.keys(networkOptions)] as (keyof typeof options)[];
    const size = sizes.find((key) => options[key] !== undefined);
    if (arch === undefined && size) throw usageError(`Option --${flagName(size)} needs --arch`, IMPORT);
    const network = arch === undefined ? recognise(tensors, file) : chosenNetwork(arch, options, tensors);
    const state = fittedState(describedNetwork(network), tensors);
    checkFinite(state, file);
    const told = weightsDescription(file, weights, network), input = told.input ?? inputOf(network);
    const description = {
      network,
      input: imageSize === undefined ? input : pictureInput({ input }, imageSize),
      class_names: labels === undefined ? told.class_names : await readLabels(labels, network.num_classes),
    };
    await writeNewFile(options.to, await encodeCheckpoint({ description, state }), options);
    tellNotes(notes);
    console.log(`Wrote ${state.size} tensors of ${network.arch} with ${network.num_classes} classes to ${options.to}`);
  },
});

/** A class's name a line. @throws {UserError} where they are not as many as the classes. */
async function readLabels(path: string, classes: number): Promise<string[]> {
  const names = new TextDecoder().decode(await readFile(path)).trimEnd().split(/\r?\n/);
  if (names.length === classes) return names;
  throw new UserError(
    `Cannot use "${path}": it names ${names.length} classes, a line each, the network has ${classes}`,
  );
}

/** An architecture of the sizes that the options say, the shapes where they do not. */
function chosenNetwork(
  arch: Architecture,
  options: NetworkOptionValues & { readonly numClasses?: number },
  tensors: StateDict,
): NetworkDescription {
  const standard: ResNeXtOptions = ARCHITECTURES[arch];
  const numClasses = options.numClasses ?? tensors.get("fc.weight")?.shape[0] ?? standard.numClasses ?? 10;
  const cardinality = options.cardinality ?? groups(tensors);
  return networkDescription(arch, numClasses, { ...options, cardinality }, IMPORT);
}

/** How pictures are prepared for weights of ImageNet's 1000 classes, as their publishers do; other weights do not tell. */
function inputOf({ arch, num_classes: classes }: NetworkDescription): InputDescription | undefined {
  const facts = classes === 1000 ? NETWORK_FACTS[arch as KnownNetwork] : undefined;
  return facts && facts.weights.length > 0 ? { image_size: facts.imageSize, ...imagenetStatistics } : undefined;
}

/** Groups of the first grouped convolution: its weight is `[width, width / groups, 3, 3]`. */
function groups(tensors: StateDict): number | undefined {
  const shape = (tensors.get("layer1.0.conv2.weight") as TensorData | undefined)?.shape;
  return shape?.length === 4 && shape[1] > 0 ? shape[0] / shape[1] : undefined;
}

const verify = defineCommand({
  name: "verify",
  summary: "Check a checkpoint: its checksum, and that its weights are its network's and finite",
  positionals: [{ name: "file", doc: "The checkpoint" }],
  examples: ["checkpoint verify runs/first/last.safetensors"],
  run: async ({ args: { file } }) => {
    // Reading it fits its tensors to the network.
    const { state, momenta, average } = await readCheckpoint(file);
    checkFinite(state, file);
    if (average) checkFinite(average, file);
    const tensors = state.size + (momenta?.size ?? 0) + (average?.size ?? 0);
    console.log(`${file} is whole: ${tensors} tensors match the checksum and the network`);
  },
});

/** The commands. */
export const checkpointCommand = defineGroup({
  name: "checkpoint",
  summary: "Show, convert and check checkpoints",
  commands: [inspect, exportWeights, importWeights, verify],
});
