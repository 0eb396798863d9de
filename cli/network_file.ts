/** A network out of a file: a checkpoint, or weights that are recognised. */

import { UserError } from "../kernels/user_error.ts";
import { type CheckpointDescription, decodeCheckpoint, testedState } from "../nn/checkpoint.ts";
import { recognise } from "../nn/recognise.ts";
import { type Architecture, ARCHITECTURES, type ResNeXtOptions } from "../nn/resnext.ts";
import { firstNonFinite } from "../nn/safetensors.ts";
import type { StateDict } from "../nn/weights.ts";
import { imagenetLabels } from "../data/imagenet_labels.ts";
import { imagenetStatistics } from "../data/folder.ts";
import { readFile } from "./files.ts";
import { isCheckpoint, readWeights } from "./weights_input.ts";
import { weightsDescription } from "./weights_metadata.ts";

/** What a file tells of a network; weights alone tell no settings and no progress. */
export interface NetworkFile {
  readonly description: CheckpointDescription;
  /** The weights to use: of a run that keeps a moving average, that. */
  readonly state: StateDict;
  /** The weights are the moving average out of a checkpoint that holds the last step's beside. */
  readonly averaged: boolean;
  /** What was done to find the weights, for people. */
  readonly notes: readonly string[];
}

/**
 * Reads a checkpoint, safetensors or PyTorch's file. Weights of a thousand classes are taken for ImageNet's.
 *
 * @param arch What the user says that the network is.
 * @throws {UserError} for other files, damaged ones, weights that are not finite, and networks that are not known.
 */
export async function readNetworkFile(path: string, arch?: Architecture): Promise<NetworkFile> {
  const file = await readAny(path, arch);
  checkFinite(file.state, path);
  return file;
}

/** @throws {UserError} for weights that give nothing but NaN. */
export function checkFinite(state: StateDict, path: string): void {
  const name = firstNonFinite(state);
  if (name !== undefined) {
    throw new UserError(`Cannot use "${path}": "${name}" in it is NaN or infinite, as after a training that diverged`);
  }
}

async function readAny(path: string, arch?: Architecture): Promise<NetworkFile> {
  if (await isCheckpoint(path)) {
    const checkpoint = await decodeCheckpoint(await readFile(path), path), { description } = checkpoint;
    if (arch !== undefined && arch !== description.network.arch) {
      throw new UserError(
        `Cannot take "${path}" as ${arch}: it is of ${description.network.arch}; leave out --arch`,
        { exitCode: 2 },
      );
    }
    const state = testedState(checkpoint), averaged = checkpoint.average !== undefined;
    return { description: known(description), state, averaged, notes: [] };
  }
  const weights = await readWeights(path), { tensors, notes } = weights;
  const network = arch === undefined ? recognise(tensors, path) : {
    arch,
    num_classes: tensors.get("fc.weight")?.shape[0] ?? (ARCHITECTURES[arch] as ResNeXtOptions).numClasses ?? 10,
    cardinality: (ARCHITECTURES[arch] as ResNeXtOptions).cardinality ?? 32,
  };
  const description = known({ network, ...weightsDescription(path, weights, network) });
  return { description, state: tensors, averaged: false, notes };
}

/** What goes without saying of weights of a thousand classes. */
function known(description: CheckpointDescription): CheckpointDescription {
  if (description.network.num_classes !== imagenetLabels.length) return description;
  return {
    input: { image_size: 224, ...imagenetStatistics },
    class_names: imagenetLabels,
    ...description,
  };
}
