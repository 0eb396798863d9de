/**
 * A checkpoint: one safetensors file with a network's `state_dict` under PyTorch's names, the optimizer's momenta under
 * `optimizer.momentum.`, and what the run was and had reached as JSON in the metadata. Any safetensors reader opens it.
 *
 * The metadata carries the SHA-256 of the tensors' bytes, so that a damaged file is found out.
 */

import { UserError } from "../kernels/user_error.ts";
import { encodeSafetensors, parseSafetensors, type TensorData } from "./safetensors.ts";
import { type Stem, STEMS } from "./resnext.ts";
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
  /** Of each colour, pixel values scaled to [0, 1]. */
  readonly mean: readonly [number, number, number];
  /** Standard deviation of each colour. */
  readonly std: readonly [number, number, number];
}

/** What a training run was told to do. */
export interface RunSettings {
  /** Its name. */
  readonly dataset: string;
  /** Images a step. */
  readonly batch_size: number;
  /** Passes over the training images. */
  readonly epochs: number;
  /** Learning rate. */
  readonly lr: number;
  /** SGD's, as PyTorch's. */
  readonly momentum: number;
  /** L2, added to the gradient. */
  readonly weight_decay: number;
  /** Whether the momentum is Nesterov's. */
  readonly nesterov: boolean;
  /** Share of the target that is spread over all classes. */
  readonly label_smoothing: number;
  /** Of the first weights and the order of the images. */
  readonly seed: number;
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
  /** By parameter name; absent for weights alone. */
  readonly momenta?: StateDict;
}

const MOMENTUM = "optimizer.momentum.";
const FORMAT = 1;

/** The bytes of a checkpoint's file. */
export async function encodeCheckpoint({ description, state, momenta }: Checkpoint): Promise<Uint8Array<ArrayBuffer>> {
  const tensors = new Map(state);
  for (const [name, tensor] of momenta ?? []) tensors.set(MOMENTUM + name, tensor);
  const metadata = {
    format: "pt",
    resnext: JSON.stringify({ format: FORMAT, ...description }),
    sha256: await digest(tensors),
  };
  return encodeSafetensors({ tensors, metadata });
}

/**
 * Reads a checkpoint's bytes; the tensors share their memory.
 *
 * @param name Stands in error messages.
 * @throws {UserError} for other files, damaged ones, and those of a newer version.
 */
export async function decodeCheckpoint(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Checkpoint> {
  const { tensors, metadata } = parseSafetensors(bytes, name);
  const refuse = (why: string): never => {
    throw new UserError(`Cannot read "${name}" as a checkpoint: ${why}`);
  };
  if (metadata.resnext === undefined) {
    refuse("it holds weights without a description; `checkpoint import` makes a checkpoint of them");
  }
  const description = parseDescription(metadata.resnext, refuse);
  if (metadata.sha256 !== await digest(tensors)) refuse("its data do not match its checksum; the file is damaged");
  const state = new Map<string, TensorData>(), momenta = new Map<string, TensorData>();
  for (const [key, tensor] of tensors) {
    if (key.startsWith(MOMENTUM)) momenta.set(key.slice(MOMENTUM.length), tensor);
    else state.set(key, tensor);
  }
  return { description, state, momenta: momenta.size > 0 ? momenta : undefined };
}

/** SHA-256 of the tensors' names and bytes, in order, in hexadecimal. */
async function digest(tensors: StateDict): Promise<string> {
  // Each tensor's own digest first, so that nothing has to be copied into one piece.
  const parts: Uint8Array[] = [];
  for (const [name, { dtype, shape, bytes }] of tensors) {
    parts.push(new TextEncoder().encode(JSON.stringify([name, dtype, shape])));
    parts.push(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
  }
  const whole = new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// ---------------------------------------------------------------------------------------------------------------------
// Checking what a file claims
// ---------------------------------------------------------------------------------------------------------------------

type Check = (value: unknown) => boolean;
type Fields = Readonly<Record<string, Check>>;

const text: Check = (value) => typeof value === "string";
const flag: Check = (value) => typeof value === "boolean";
const number: Check = (value) => typeof value === "number" && Number.isFinite(value);
const count: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const positive: Check = (value) => count(value) && (value as number) > 0;
const list = (item: Check): Check => (value) => Array.isArray(value) && value.every(item);
const triple: Check = (value) => list(number)(value) && (value as unknown[]).length === 3;
const optional = (check: Check): Check => (value) => value === undefined || check(value);
const fields = (checks: Fields): Check => (value) =>
  typeof value === "object" && firstWrong(value, checks) === undefined;

const EPOCH: Fields = { epoch: positive, train_loss: number, test_loss: number, test_acc: number };

const DESCRIPTION: Readonly<Record<string, { readonly required: boolean; readonly fields: Fields }>> = {
  network: {
    required: true,
    fields: {
      arch: text,
      num_classes: positive,
      cardinality: positive,
      layers: optional(list(positive)),
      channels: optional(list(positive)),
      base_width: optional(positive),
      stem: optional((value) => (STEMS as readonly unknown[]).includes(value)),
    },
  },
  input: { required: false, fields: { image_size: positive, mean: triple, std: triple } },
  settings: {
    required: false,
    fields: {
      dataset: text,
      batch_size: positive,
      epochs: count,
      lr: number,
      momentum: number,
      weight_decay: number,
      nesterov: flag,
      label_smoothing: number,
      seed: count,
      train_limit: optional(positive),
      test_limit: optional(positive),
      val_split: optional(number),
      frozen: optional(list(text)),
    },
  },
  progress: {
    required: false,
    fields: { epoch: count, step: count, loss_sum: number, rows: count, history: list(fields(EPOCH)) },
  },
};

function firstWrong(value: unknown, checks: Fields): string | undefined {
  if (typeof value !== "object" || value === null) return Object.keys(checks)[0];
  return Object.entries(checks).find(([key, check]) => !check((value as Record<string, unknown>)[key]))?.[0];
}

function parseDescription(json: string, refuse: (why: string) => never): CheckpointDescription {
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(json);
  } catch {
    return refuse("its description is not JSON");
  }
  if (typeof value !== "object" || value === null) refuse("its description is not a JSON object");
  if (value.format !== FORMAT) {
    refuse(`it is of format ${JSON.stringify(value.format)}, this version reads ${FORMAT}; use a newer version`);
  }
  for (const [section, { required, fields: checks }] of Object.entries(DESCRIPTION)) {
    if (value[section] === undefined && !required) continue;
    const wrong = firstWrong(value[section], checks);
    if (wrong) refuse(`its description has no valid "${section}.${wrong}"`);
  }
  if (!optional(list(text))(value.class_names)) refuse('its description has no valid "class_names"');
  const { format: _, ...description } = value;
  return description as unknown as CheckpointDescription;
}
