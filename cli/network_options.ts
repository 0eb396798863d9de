/** The options that choose a network, and the network that they choose. */

import type { NetworkDescription } from "../nn/checkpoint.ts";
import { describedNetwork } from "../nn/described_network.ts";
import type { Module } from "../nn/module.ts";
import { type Architecture, ARCHITECTURES, type ResNeXtOptions, type Stem, STEMS } from "../nn/resnext.ts";
import { UserError } from "../kernels/user_error.ts";
import { type OptionSpecs, readNumbers, usageError } from "./command.ts";

/** Names of networks. */
export const architectureNames = Object.keys(ARCHITECTURES) as Architecture[];

/** Sizes that change a network from what its name says. */
export const networkOptions = {
  layers: {
    type: "string",
    placeholder: "N,N,...",
    items: "number",
    otherwise: "the network's, such as 3,4,6,3",
    doc: "Blocks of each stage",
  },
  depths: {
    type: "string",
    placeholder: "N,N,...",
    items: "number",
    otherwise: "as --layers",
    doc: "Another name of --layers",
  },
  channels: {
    type: "string",
    placeholder: "N,N,...",
    items: "number",
    otherwise: "256, doubling by the stage",
    doc: "Width of each stage",
  },
  cardinality: {
    type: "integer",
    min: 1,
    max: 4096,
    otherwise: "the network's, mostly 32",
    doc: "Groups of the 3x3 convolutions",
  },
  baseWidth: {
    type: "integer",
    min: 1,
    max: 4096,
    otherwise: "the network's",
    doc: "Channels of a group in the first stage",
  },
  stem: { type: "choice", choices: STEMS, otherwise: "the network's", doc: "7x7 with stride 2 and pool, or 3x3" },
} as const satisfies OptionSpecs;

/** Values of {@linkcode networkOptions}. */
export interface NetworkOptionValues {
  readonly layers?: string;
  readonly depths?: string;
  readonly channels?: string;
  readonly cardinality?: number;
  readonly baseWidth?: number;
  readonly stem?: Stem;
}

/**
 * The description of a network by name and options; what the options leave open is the architecture's.
 *
 * @param path Of the command, for messages.
 * @throws {UserError} for values of no meaning, with exit code 2.
 */
export function networkDescription(
  arch: Architecture,
  numClasses: number,
  options: NetworkOptionValues,
  path: string,
): NetworkDescription {
  if (options.layers !== undefined && options.depths !== undefined) {
    throw usageError("Options --layers and --depths are one and the same: give one of them", path);
  }
  return {
    arch,
    num_classes: numClasses,
    cardinality: options.cardinality ?? (ARCHITECTURES[arch] as ResNeXtOptions).cardinality ?? 32,
    layers: readSizes(options.layers === undefined ? "depths" : "layers", options.layers ?? options.depths, path),
    channels: readSizes("channels", options.channels, path),
    base_width: options.baseWidth,
    stem: options.stem,
  };
}

/** The network that options describe. @throws {UserError} with exit code 2 where they make none. */
export function describedByOptions(description: NetworkDescription, path: string): Module {
  try {
    return describedNetwork(description);
  } catch (error) {
    if (error instanceof UserError) throw usageError(error.message, path);
    throw error;
  }
}

/** Blocks of a stage, and its width: what descriptions of networks may say. */
const LARGEST = { layers: 1024, depths: 1024, channels: 65536 };
const MOST_STAGES = 8;

function readSizes(key: "layers" | "depths" | "channels", text: string | undefined, path: string) {
  if (text === undefined) return undefined;
  const allowed = (value: number) => Number.isSafeInteger(value) && value >= 1 && value <= LARGEST[key];
  const sizes = readNumbers(key, text, { kind: `whole numbers from 1 to ${LARGEST[key]}`, allowed }, path);
  if (sizes.length > MOST_STAGES) throw usageError(`Option --${key} must be of ${MOST_STAGES} stages at most`, path);
  return sizes;
}
