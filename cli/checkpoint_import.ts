/** `resnext checkpoint import`: a checkpoint of weights from elsewhere. */

import { UserError } from "../kernels/user_error.ts";
import { encodeCheckpoint, type InputDescription, type NetworkDescription } from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { quoted } from "../nn/json.ts";
import { classesOf, recognise } from "../nn/recognise.ts";
import type { Architecture } from "../nn/resnext.ts";
import type { TensorData } from "../nn/safetensors.ts";
import type { StateDict } from "../nn/weights.ts";
import { counted } from "./columns.ts";
import { checkEnding, defineCommand, flagName, type OptionSpec, readNumbers, usageError } from "./command.ts";
import { checkOtherFile, readFile, writeNewFile } from "./files.ts";
import { checkFinite, checkHead } from "./network_file.ts";
import { architectureNames, networkDescription, networkOptions, type NetworkOptionValues } from "./network_options.ts";
import { pictureInput } from "./picture_input.ts";
import { isCheckpoint, readWeights, tellNotes } from "./weights_input.ts";
import { weightsDescription } from "./weights_metadata.ts";

const PATH = "resnext checkpoint import";

/** A number for red, green and blue each. */
const colours = (doc: string) =>
  ({
    type: "string",
    placeholder: "R,G,B",
    items: "number",
    otherwise: "the file's, if it tells",
    doc,
  }) as const satisfies OptionSpec;

/** The command. */
export const importWeights = defineCommand({
  name: "import",
  summary: "Make a checkpoint of weights, such as PyTorch's",
  details:
    "Takes a state_dict saved by torch.save (of any version) or safetensors.torch.save_file, its names as PyTorch " +
    "has them, and training scripts' checkpoints, such as torchvision's, timm's and Lightning's: of several states the " +
    "moving average is taken, and what wrappers put before the names is taken off. A pickle is read and never run: " +
    "what is in it beside tensors is passed over; a pickled model is refused. The shapes tell which network it is; what " +
    "they leave open is said by --arch and the options after it. What `export` writes tells the classes' names and how " +
    "images are prepared, too; weights of a thousand classes are taken for ImageNet's, prepared as torchvision's are.",
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
    mean: colours("What was taken from pixels, scaled to [0, 1], in training, such as 0.5,0.5,0.5"),
    std: colours("What they were divided by then"),
    force: { type: "boolean", doc: "Overwrite the file" },
  },
  examples: [
    "checkpoint import resnext50_32x4d-1a0047aa.pth --to imported.safetensors",
    "checkpoint import weights.safetensors --arch resnext50 --layers 1,1,1,1 --to imported.safetensors",
    "checkpoint import timm.safetensors --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --to imported.safetensors",
  ],
  run: async ({ args: { file }, options }) => {
    checkEnding("to", options.to, [".safetensors"], PATH);
    const statistics = readStatistics(options);
    await checkOtherFile(options.to, file);
    if (await isCheckpoint(file)) {
      throw new UserError(
        `Cannot import "${file}": it is a checkpoint already; \`checkpoint export\` takes its weights`,
      );
    }
    const weights = await readWeights(file), { tensors, notes } = weights, { arch, labels } = options;
    const sizes = ["numClasses", ...Object.keys(networkOptions)] as (keyof typeof options)[];
    const size = sizes.find((key) => options[key] !== undefined);
    if (arch === undefined && size) throw usageError(`Option --${flagName(size)} needs --arch`, PATH);
    const network = arch === undefined
      ? recognise(tensors, file, { headless: true })
      : chosenNetwork(arch, options, tensors);
    checkHead(tensors, file);
    const state = fittedState(describedNetwork(network), tensors);
    checkFinite(state, file);
    const told = weightsDescription(file, weights, network);
    const description = {
      network,
      input: chosenInput(told.input, options.imageSize, statistics),
      class_names: labels === undefined ? told.class_names : await readLabels(labels, network.num_classes),
    };
    await writeNewFile(options.to, await encodeCheckpoint({ description, state }), options);
    tellNotes(notes);
    console.log(`Wrote ${state.size} tensors of ${network.arch} with ${network.num_classes} classes to ${options.to}`);
  },
});

/** Of colours. */
type Statistics = Pick<InputDescription, "mean" | "std">;

/** Both or neither: one that is forgotten would be another's. @throws {UserError} with exit code 2. */
function readStatistics({ mean, std }: { readonly mean?: string; readonly std?: string }): Statistics | undefined {
  if (mean === undefined && std === undefined) return undefined;
  if (mean === undefined || std === undefined) {
    const [given, missing] = mean === undefined ? ["std", "mean"] : ["mean", "std"];
    throw usageError(`Option --${given} needs --${missing}: give both`, PATH);
  }
  return {
    mean: readColours("mean", mean, "from 0 to 1", (value) => value >= 0 && value <= 1),
    std: readColours("std", std, "above 0, at most 1", (value) => value > 0 && value <= 1),
  };
}

/** Of pixels from 0 to 1: numbers beyond are of those from 0 to 255. */
function readColours(
  key: string,
  text: string,
  range: string,
  allowed: (value: number) => boolean,
): Statistics["mean"] {
  const kind = `three numbers ${range}, as of pixels scaled to [0, 1],`;
  const [red, green, blue] = readNumbers(key, text, { kind, allowed, count: 3 }, PATH);
  return [red, green, blue];
}

/** How images are prepared, as the options say, and as the file tells where they do not. */
function chosenInput(
  told: InputDescription | undefined,
  imageSize: number | undefined,
  statistics: Statistics | undefined,
): InputDescription | undefined {
  const input = imageSize === undefined ? told : pictureInput({ input: told }, imageSize);
  if (!statistics) return input;
  if (!input) throw usageError("Options --mean and --std need --image-size: the file does not tell it", PATH);
  return { ...input, ...statistics };
}

/**
 * A class's name a line. Several classes may have one name, as ImageNet's cranes and maillots: it is told, because lines
 * that were copied twice by mistake look the same.
 *
 * @throws {UserError} where they are not as many as the classes.
 */
async function readLabels(path: string, classes: number): Promise<string[]> {
  const refuse = (why: string) => new UserError(`Cannot use "${path}": ${why}`);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await readFile(path));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw refuse("it is not UTF-8; save it as that");
  }
  if (text.includes("\0")) throw refuse("it is no text; give a class's name a line, in UTF-8");
  const names = text.trimEnd().split(/\r?\n/);
  if (names.length !== classes) {
    throw refuse(`it has ${counted(names.length, "line")}, a class's name each, and the network ${classes} classes`);
  }
  const nameless = names.findIndex((name) => name.trim() === "");
  if (nameless >= 0) throw refuse(`line ${nameless + 1} is empty; give class ${nameless} a name there`);
  const repeated = new Set(names.filter((name, at) => names.indexOf(name) !== at));
  if (repeated.size > 0) {
    const shown = [...repeated].slice(0, 3).map((name) => quoted(name)).join(", ");
    console.error(
      `warning: ${path}: ${counted(repeated.size, "name")} of several classes, ${shown}${
        repeated.size > 3 ? ", ..." : ""
      }; their numbers tell them apart, as in \`predict --json\``,
    );
  }
  return names;
}

/** An architecture of the sizes that the options say, the shapes where they do not. */
function chosenNetwork(
  arch: Architecture,
  options: NetworkOptionValues & { readonly numClasses?: number },
  tensors: StateDict,
): NetworkDescription {
  const { numClasses = classesOf(tensors, arch), cardinality = groups(tensors) } = options;
  return networkDescription(arch, numClasses, { ...options, cardinality }, PATH);
}

/** Groups of the first grouped convolution: its weight is `[width, width / groups, 3, 3]`. */
function groups(tensors: StateDict): number | undefined {
  const shape = (tensors.get("layer1.0.conv2.weight") as TensorData | undefined)?.shape;
  return shape?.length === 4 && shape[1] > 0 ? shape[0] / shape[1] : undefined;
}
