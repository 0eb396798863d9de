/** `resnext checkpoint ...`: shows, converts and checks checkpoints. */

import { decodeCheckpoint, testedState } from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { encodeOnnx } from "../nn/onnx.ts";
import { encodeSafetensors } from "../nn/safetensors.ts";
import { importWeights } from "./checkpoint_import.ts";
import { checkpointJson, checkpointText, weightsJson, weightsText } from "./checkpoint_report.ts";
import { checkEnding, defineCommand, defineGroup, flagName, usageError } from "./command.ts";
import { checkOtherFile, readCheckpoint, readFile, writeNewFile } from "./files.ts";
import { checkFinite } from "./network_file.ts";
import { isCheckpoint, readWeights, tellNotes } from "./weights_input.ts";
import { weightsMetadata } from "./weights_metadata.ts";

const EXPORT = "resnext checkpoint export";

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

const verify = defineCommand({
  name: "verify",
  summary: "Check a checkpoint: its checksum, and that its weights are its network's and finite",
  positionals: [{ name: "file", doc: "The checkpoint" }],
  examples: ["checkpoint verify runs/first/last.safetensors"],
  run: async ({ args: { file } }) => {
    // Reading it fits its tensors to the network.
    const { state, momenta, adamw, average } = await readCheckpoint(file);
    checkFinite(state, file);
    if (average) checkFinite(average, file);
    const parts = [state, momenta, adamw?.expAvg, adamw?.expAvgSq, average];
    const tensors = parts.reduce((sum, part) => sum + (part?.size ?? 0), 0);
    console.log(`${file} is whole: ${tensors} tensors match the checksum and the network`);
  },
});

/** The commands. */
export const checkpointCommand = defineGroup({
  name: "checkpoint",
  summary: "Show, convert and check checkpoints",
  commands: [inspect, exportWeights, importWeights, verify],
});
