/** `resnext checkpoint ...`: shows, converts and checks checkpoints. */

import { UserError } from "../kernels/user_error.ts";
import { decodeCheckpoint, encodeCheckpoint, type NetworkDescription } from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { ARCHITECTURES, type ResNeXtOptions } from "../nn/resnext.ts";
import { encodeSafetensors, parseSafetensors, type TensorData } from "../nn/safetensors.ts";
import type { StateDict } from "../nn/weights.ts";
import { checkpointJson, checkpointText, weightsJson, weightsText } from "./checkpoint_report.ts";
import { defineCommand, defineGroup } from "./command.ts";
import { readCheckpoint, readFile, writeNewFile } from "./files.ts";
import { architectureNames, networkOptions, readList } from "./network_options.ts";

const force = { type: "boolean", doc: "Overwrite the file" } as const;

const inspect = defineCommand({
  name: "inspect",
  summary: "Show what a checkpoint, or any safetensors file, holds",
  positionals: [{ name: "file", doc: "The file" }],
  options: { json: { type: "boolean", doc: "Print one JSON object instead" } },
  examples: ["checkpoint inspect runs/first/best.safetensors"],
  run: async ({ args: { file }, options: { json } }) => {
    const bytes = await readFile(file);
    const { tensors, metadata } = parseSafetensors(bytes, file);
    if (metadata.resnext === undefined) {
      console.log(json ? JSON.stringify(weightsJson(tensors, metadata)) : weightsText(file, tensors, metadata));
      return;
    }
    const checkpoint = await decodeCheckpoint(bytes, file);
    console.log(json ? JSON.stringify(checkpointJson(checkpoint)) : checkpointText(file, bytes.length, checkpoint));
  },
});

const exportWeights = defineCommand({
  name: "export",
  summary: "Write a checkpoint's weights alone, under PyTorch's names and in its layouts",
  details: "In Python: model.load_state_dict(safetensors.torch.load_file(OUT)).",
  positionals: [{ name: "file", doc: "The checkpoint" }],
  options: {
    to: { type: "string", required: true, placeholder: "OUT.safetensors", doc: "The file to write" },
    force,
  },
  examples: ["checkpoint export runs/first/best.safetensors --to weights.safetensors"],
  run: async ({ args: { file }, options }) => {
    const { state } = await readCheckpoint(file);
    await writeNewFile(options.to, encodeSafetensors({ tensors: state, metadata: { format: "pt" } }), options);
    console.log(`Wrote ${state.size} tensors to ${options.to}`);
  },
});

const importWeights = defineCommand({
  name: "import",
  summary: "Make a checkpoint of weights, such as PyTorch's",
  details: "Takes a state_dict saved by safetensors.torch.save_file, its names as PyTorch has them. What the file's " +
    "shapes tell need not be said.",
  positionals: [{ name: "file", doc: "A safetensors file of weights" }],
  options: {
    arch: {
      type: "choice",
      choices: architectureNames,
      required: true,
      doc: "Its network",
    },
    to: { type: "string", required: true, placeholder: "FILE", doc: "The checkpoint to write" },
    numClasses: { type: "integer", min: 1, otherwise: "what fc.weight has", doc: "Classes" },
    cardinality: { type: "integer", min: 1, otherwise: "what layer1.0.conv2.weight has", doc: "Groups" },
    layers: networkOptions.layers,
    channels: networkOptions.channels,
    force,
  },
  examples: ["checkpoint import weights.safetensors --arch resnext50 --to imported.safetensors"],
  run: async ({ args: { file }, options }) => {
    const { tensors, metadata } = parseSafetensors(await readFile(file), file);
    if (metadata.resnext !== undefined) {
      throw new UserError(
        `Cannot import "${file}": it is a checkpoint already; \`checkpoint export\` takes its weights`,
      );
    }
    const { arch } = options;
    const standard: ResNeXtOptions = ARCHITECTURES[arch];
    const network: NetworkDescription = {
      arch,
      num_classes: options.numClasses ?? tensors.get("fc.weight")?.shape[0] ?? standard.numClasses ?? 10,
      cardinality: options.cardinality ?? groups(tensors) ?? standard.cardinality ?? 32,
      layers: readList("layers", options.layers, "resnext checkpoint import"),
      channels: readList("channels", options.channels, "resnext checkpoint import"),
    };
    const state = fittedState(describedNetwork(network), tensors);
    await writeNewFile(options.to, await encodeCheckpoint({ description: { network }, state }), options);
    console.log(`Wrote ${state.size} tensors of ${arch} with ${network.num_classes} classes to ${options.to}`);
  },
});

/** Groups of the first grouped convolution: its weight is `[width, width / groups, 3, 3]`. */
function groups(tensors: StateDict): number | undefined {
  const shape = (tensors.get("layer1.0.conv2.weight") as TensorData | undefined)?.shape;
  return shape?.length === 4 && shape[1] > 0 ? shape[0] / shape[1] : undefined;
}

const verify = defineCommand({
  name: "verify",
  summary: "Check a checkpoint: its checksum, and that its weights are its network's",
  positionals: [{ name: "file", doc: "The checkpoint" }],
  examples: ["checkpoint verify runs/first/last.safetensors"],
  run: async ({ args: { file } }) => {
    const { description, state, momenta } = await readCheckpoint(file);
    fittedState(describedNetwork(description.network), state);
    console.log(`${file} is whole: ${state.size + (momenta?.size ?? 0)} tensors match the checksum and the network`);
  },
});

/** The commands. */
export const checkpointCommand = defineGroup({
  name: "checkpoint",
  summary: "Show, convert and check checkpoints",
  commands: [inspect, exportWeights, importWeights, verify],
});
