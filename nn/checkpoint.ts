/**
 * A checkpoint: one safetensors file with a network's `state_dict` under PyTorch's names, SGD's momenta under
 * `optimizer.momentum.` or what AdamW keeps under `optimizer.adamw.`, in half precision the loss scale under
 * `optimizer.loss_scale.`, the weights' moving average, where a run keeps one, under `optimizer.average.`, and what the run
 * was and had reached as JSON in the metadata. Any safetensors reader opens it.
 *
 * The metadata carries a SHA-256 of all of it, so that a damaged file is found out. What a file claims is checked, sizes
 * bounded, before anything is made of it: whoever wrote it need not be trusted.
 */

import type { ElementType } from "../kernels/dispatch.ts";
import type { LossScaleState } from "../kernels/loss_scale.ts";
import { UserError } from "../kernels/user_error.ts";
import { describedNetwork, fittedState } from "./described_network.ts";
import { wrongInDescription, wrongInProgress } from "./description_check.ts";
import { parseStrictJson, quoted } from "./json.ts";
import { adamwOf, type AdamWState, adamwTensors } from "./optimizer_memory.ts";
import type { OptimizerKind } from "./optimizers.ts";
import { lossScaleOf, lossScaleTensors } from "./loss_scale.ts";
import type { AugmentSettings } from "./augment.ts";
import type { ScheduleSettings } from "./schedule.ts";
import { encodeSafetensors, parseSafetensors, type TensorData } from "./safetensors.ts";
import type { Stem } from "./resnext.ts";
import type { StateDict } from "./weights.ts";

/** What a network is built from again. Names as in the file. */
export interface NetworkDescription {
  /** A name of `ARCHITECTURES`. */
  readonly arch: string;
  /** Logits of an image. */
  readonly num_classes: number;
  /** Groups of the 3x3 convolutions. */
  readonly cardinality: number;
  /** Blocks of each stage; absent: the architecture's. */
  readonly layers?: readonly number[];
  /** Width of each stage; absent: the architecture's. */
  readonly channels?: readonly number[];
  /** Channels of a group in the first stage; absent: the architecture's. */
  readonly base_width?: number;
  /** The kind of beginning; absent: the architecture's. */
  readonly stem?: Stem;
}

/** How images become its input. */
export interface InputDescription {
  /** Height and width that images are resized to. */
  readonly image_size: number;
  /**
   * What the shorter side of a picture is resized to, before its centre is cut out at `image_size`. Absent: `image_size`
   * where a run on whole small images tells its settings, else as much as 256 is of 224.
   */
  readonly resize_size?: number;
  /** Of each colour, pixel values scaled to [0, 1]. */
  readonly mean: readonly [number, number, number];
  /** Standard deviation of each colour. */
  readonly std: readonly [number, number, number];
}

/** What a training run was told to do. */
export interface RunSettings {
  /** Its name. */
  readonly dataset: string;
  /** Images of a batch. */
  readonly batch_size: number;
  /** Batches of a step, whose gradients are summed; absent: one. */
  readonly accumulate?: number;
  /** How activations, their gradients and what convolutions load are stored; absent: `f32`. */
  readonly precision?: ElementType;
  /** Passes over the training images. */
  readonly epochs: number;
  /** Learning rate. */
  readonly lr: number;
  /** What updates the weights; absent: `sgd`. */
  readonly optimizer?: OptimizerKind;
  /** SGD's, as PyTorch's, which must have one. */
  readonly momentum?: number;
  /** Whether SGD's momentum is Nesterov's: it must be told. */
  readonly nesterov?: boolean;
  /** AdamW's, as PyTorch's; absent: as PyTorch's default. */
  readonly betas?: readonly [number, number];
  /** As `betas`. */
  readonly eps?: number;
  /** SGD's is L2, added to the gradient; AdamW's the share of the weights that a step takes off, times the rate. */
  readonly weight_decay: number;
  /** Share of the target that is spread over all classes. */
  readonly label_smoothing: number;
  /** The norm that all gradients together are scaled down to; absent: they are left as they are. */
  readonly clip_grad_norm?: number;
  /** How the learning rate changes; absent: it stays. */
  readonly schedule?: ScheduleSettings;
  /** False: batch norm's parameters and biases do not decay. Absent: they do. */
  readonly decay_vectors?: boolean;
  /** What is kept of the weights' moving average at each step; absent: there is none. */
  readonly ema_decay?: number;
  /** Epochs without a better one after which the run stops; absent: it does not. */
  readonly patience?: number;
  /** What is done to training images; absent: nothing. */
  readonly augment?: AugmentSettings;
  /** Of the first weights and the order of the images. */
  readonly seed: number;
  /** The file of the first weights; absent: they were drawn. */
  readonly weights?: string;
  /** Images used of each set; absent: all. */
  readonly train_limit?: number;
  /** As `train_limit`, of the test set. */
  readonly test_limit?: number;
  /** Share of each class of a folder of pictures that is for testing; absent: the folder has a part for it. */
  readonly val_split?: number;
  /** Stages that stay as they are. */
  readonly frozen?: readonly string[];
}

/** What an epoch came to. */
export interface EpochMetrics {
  /** From 1. */
  readonly epoch: number;
  /** Mean over the epoch's steps, weights changing meanwhile. */
  readonly train_loss: number;
  /** Mean over the test set, after the epoch. */
  readonly test_loss: number;
  /** Share of the test set that is classified right. */
  readonly test_acc: number;
}

/** How far a run has got. */
export interface RunProgress {
  /** Whole epochs done. */
  readonly epoch: number;
  /** Steps done of the epoch begun. */
  readonly step: number;
  /** Loss summed over the rows of those steps, and their count. */
  readonly loss_sum: number;
  /** Images of those steps. */
  readonly rows: number;
  /** Of the epochs done. */
  readonly history: readonly EpochMetrics[];
}

/** Everything about a checkpoint but its tensors. */
export interface CheckpointDescription {
  /** What its network is. */
  readonly network: NetworkDescription;
  /** Absent for weights that were imported without it. */
  readonly input?: InputDescription;
  /** In the order of the labels. */
  readonly class_names?: readonly string[];
  /** Absent for imported weights. */
  readonly settings?: RunSettings;
  /** Absent for imported weights. */
  readonly progress?: RunProgress;
}

/** A network's state, and where it came from. */
export interface Checkpoint {
  /** What it is of. */
  readonly description: CheckpointDescription;
  /** The network's `state_dict`. */
  readonly state: StateDict;
  /** SGD's, by parameter name; absent for weights alone. */
  readonly momenta?: StateDict;
  /** What AdamW keeps, in their place. */
  readonly adamw?: AdamWState;
  /** What the loss is multiplied by next, where the run is in half precision. */
  readonly lossScale?: LossScaleState;
  /** The moving average of `state`, where the run keeps one: what was tested, see {@linkcode testedState}. */
  readonly average?: StateDict;
}

/** The weights to use: those that were tested, which are the moving average where a run keeps one. */
export function testedState({ state, average }: Pick<Checkpoint, "state" | "average">): StateDict {
  return average ?? state;
}

const MOMENTUM = "optimizer.momentum.", ADAMW = "optimizer.adamw.";
const AVERAGE = "optimizer.average.", LOSS_SCALE = "optimizer.loss_scale.";
const FORMAT = 1;

/** What is said where a file is not as it was written. */
const DAMAGED = "the file is damaged: copy it again, or use another checkpoint of its run";

/**
 * The bytes of a checkpoint's file.
 *
 * @throws {UserError} for a checkpoint that {@linkcode decodeCheckpoint} would refuse.
 *
 * @example
 * ```ts
 * import { decodeCheckpoint, describedNetwork, encodeCheckpoint, Network, openDevice } from "@cardinal/resnext";
 *
 * const network = { arch: "resnext50", num_classes: 10, cardinality: 4, layers: [1], channels: [16] };
 * const device = await openDevice();
 * const state = await (await Network.create(device, describedNetwork(network))).stateDict();
 * const bytes = await encodeCheckpoint({ description: { network }, state });
 * const read = await decodeCheckpoint(bytes, "checkpoint");
 * if (read.state.size !== state.size) throw new Error("all tensors come back");
 * device.close();
 * ```
 */
export async function encodeCheckpoint(checkpoint: Checkpoint): Promise<Uint8Array<ArrayBuffer>> {
  const { description, adamw, lossScale } = checkpoint;
  const refuse = (why: string): never => {
    throw new UserError(`Cannot write a checkpoint: ${why}`);
  };
  checkWeights({ ...checkpoint, description: parseDescription(descriptionJson(description), refuse) }, refuse);
  if (adamw) adamwOf(adamwTensors(adamw), refuse);
  if (lossScale) lossScaleOf(lossScaleTensors(lossScale), refuse);
  return await checkpointFile(checkpoint);
}

/** @internal Writes whatever it is given: for tests of those who read. */
export async function checkpointFile(
  { description, state, momenta, adamw, lossScale, average }: Checkpoint,
): Promise<Uint8Array<ArrayBuffer>> {
  const tensors = new Map(state);
  for (const [name, tensor] of momenta ?? []) tensors.set(MOMENTUM + name, tensor);
  for (const [name, tensor] of adamw ? adamwTensors(adamw) : []) tensors.set(ADAMW + name, tensor);
  for (const [name, tensor] of lossScale ? lossScaleTensors(lossScale) : []) tensors.set(LOSS_SCALE + name, tensor);
  for (const [name, tensor] of average ?? []) tensors.set(AVERAGE + name, tensor);
  const resnext = descriptionJson(description);
  return encodeSafetensors({ tensors, metadata: { format: "pt", resnext, sha256: await digest(resnext, tensors) } });
}

/**
 * Reads a checkpoint's bytes; the tensors share their memory.
 *
 * @param name Stands in error messages.
 * @throws {UserError} for other files, damaged ones, those of a newer version, and weights of another network than theirs.
 */
export async function decodeCheckpoint(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Checkpoint> {
  const { tensors, metadata } = parseSafetensors(bytes, name);
  const refuse = (why: string): never => {
    throw new UserError(`Cannot read "${name}" as a checkpoint: ${why}`);
  };
  if (metadata.resnext === undefined) {
    refuse("it holds weights without a description; `readWeightsFile` reads those");
  }
  const description = parseDescription(metadata.resnext, refuse);
  if (metadata.sha256 !== await digest(metadata.resnext, tensors)) {
    refuse(`its data do not match its checksum; ${DAMAGED}`);
  }
  const state = new Map<string, TensorData>(), momenta = new Map<string, TensorData>();
  const average = new Map<string, TensorData>(), scale = new Map<string, TensorData>();
  const adamw = new Map<string, TensorData>();
  for (const [key, tensor] of tensors) {
    if (key.startsWith(MOMENTUM)) momenta.set(key.slice(MOMENTUM.length), tensor);
    else if (key.startsWith(ADAMW)) adamw.set(key.slice(ADAMW.length), tensor);
    else if (key.startsWith(LOSS_SCALE)) scale.set(key.slice(LOSS_SCALE.length), tensor);
    else if (key.startsWith(AVERAGE)) average.set(key.slice(AVERAGE.length), tensor);
    else state.set(key, tensor);
  }
  checkWeights({ description, state, average: average.size > 0 ? average : undefined }, refuse);
  return {
    description,
    state,
    momenta: momenta.size > 0 ? momenta : undefined,
    ...(adamw.size > 0 && { adamw: adamwOf(adamw, refuse) }),
    ...(scale.size > 0 && { lossScale: lossScaleOf(scale, refuse) }),
    ...(average.size > 0 && { average }),
  };
}

/** SHA-256 of the description and of the tensors' names and bytes, in order, in hexadecimal. */
async function digest(description: string, tensors: StateDict): Promise<string> {
  // Each tensor's own digest first, so that nothing has to be copied into one piece.
  const parts: Uint8Array[] = [new TextEncoder().encode(description)];
  for (const [name, { dtype, shape, bytes }] of tensors) {
    parts.push(new TextEncoder().encode(JSON.stringify([name, dtype, shape])));
    parts.push(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
  }
  const whole = new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function descriptionJson(description: CheckpointDescription): string {
  return JSON.stringify({ format: FORMAT, ...description });
}

/** A network is made, and memory taken, only for weights that are there. */
function checkWeights({ description, state, average }: Checkpoint, refuse: (why: string) => never): void {
  try {
    const module = describedNetwork(description.network);
    fittedState(module, state);
    if (average) fittedState(module, average);
  } catch (error) {
    if (error instanceof UserError) refuse(`its weights are not its network's: ${error.message}`);
    throw error;
  }
}

function parseDescription(json: string, refuse: (why: string) => never): CheckpointDescription {
  let value: Record<string, unknown>;
  try {
    value = parseStrictJson(json) as Record<string, unknown>;
  } catch (error) {
    return refuse(`its description ${(error as Error).message}; ${DAMAGED}`);
  }
  if (typeof value !== "object" || value === null) refuse(`its description is not a JSON object; ${DAMAGED}`);
  if (value.format !== FORMAT) {
    refuse(`it is of format ${quoted(value.format)}, this version reads ${FORMAT}; use a newer version`);
  }
  const wrong = wrongInDescription(value);
  if (wrong) {
    refuse(
      `its description has no valid "${wrong.path}": it is ${
        wrong.value === undefined ? "missing" : quoted(wrong.value)
      }`,
    );
  }
  const { format: _, ...fields } = value, description = fields as unknown as CheckpointDescription;
  const contradiction = description.progress && wrongInProgress(description.progress);
  if (contradiction) refuse(contradiction);
  return description;
}
