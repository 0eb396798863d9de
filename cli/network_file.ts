/** A network out of a file: a checkpoint, or weights that are recognised. */

import { UserError } from "../kernels/user_error.ts";
import { type CheckpointDescription, decodeCheckpoint, testedState } from "../nn/checkpoint.ts";
import { isHeadless } from "../nn/fine_tune.ts";
import { namedNetwork, recognise } from "../nn/recognise.ts";
import type { Architecture } from "../nn/resnext.ts";
import { firstNonFinite } from "../nn/safetensors.ts";
import type { StateDict } from "../nn/weights.ts";
import { imagenetLabels } from "../data/imagenet_labels.ts";
import { readFile } from "./files.ts";
import { isCheckpoint, readWeights } from "./weights_input.ts";
import { assumedInput, weightsDescription } from "./weights_metadata.ts";

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

/** What the user says of a network's file, and what it is for. */
export interface NetworkFileOptions {
  /** What the network is. */
  readonly arch?: Architecture;
  /** It gets a new head: one without a head will do. */
  readonly forFineTuning?: boolean;
}

/**
 * Reads a checkpoint, safetensors or PyTorch's file. Weights of a thousand classes are taken for ImageNet's.
 *
 * @throws {UserError} for other files, damaged ones, weights that are not finite, and networks that are not known.
 */
export async function readNetworkFile(path: string, options: NetworkFileOptions = {}): Promise<NetworkFile> {
  const file = await readAny(path, options);
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

/** @throws {UserError} for weights of a network without its head: it names no class. */
export function checkHead(state: StateDict, path: string): void {
  if (!isHeadless(state)) return;
  throw new UserError(
    `Cannot use "${path}": it has no "fc.weight", by which a network names classes; ` +
      "`train --weights` gives such a one a new head",
  );
}

async function readAny(path: string, { arch, forFineTuning = false }: NetworkFileOptions): Promise<NetworkFile> {
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
  const network = arch === undefined ? recognise(tensors, path, { headless: true }) : namedNetwork(arch, tensors);
  if (!forFineTuning) checkHead(tensors, path);
  const description = known({ network, ...weightsDescription(path, weights, network) });
  return { description, state: tensors, averaged: false, notes };
}

/** With what goes without saying of weights of a thousand classes. */
function known(description: CheckpointDescription): CheckpointDescription {
  const input = assumedInput(description.network);
  return input ? { input, class_names: imagenetLabels, ...description } : description;
}
