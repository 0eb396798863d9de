/** `resnext download weights NAME`. */

import { fetchWeights, type WeightsOptions } from "../data/weights_download.ts";
import { UserError } from "../kernels/user_error.ts";
import { fittedState } from "../nn/described_network.ts";
import {
  KNOWN_NETWORKS,
  type KnownNetwork,
  NETWORK_FACTS,
  type PublishedWeights,
  weightsFileName,
} from "../nn/networks.ts";
import { resnext } from "../nn/resnext.ts";
import { usageError } from "./command.ts";
import { commandLine } from "./invocation.ts";
import { readWeights } from "./weights_input.ts";

/** Networks of which weights are published. */
export const weightsNames: readonly KnownNetwork[] = KNOWN_NETWORKS.filter((name) =>
  NETWORK_FACTS[name].weights.length > 0
);

/** How weights are asked for. */
export const WEIGHTS_VERSIONS = ["1", "2", "timm"] as const satisfies readonly PublishedWeights["version"][];

/** Fetches a network's weights and checks that they are its; tells what to do with them. */
export async function downloadWeights(
  name: KnownNetwork,
  version: PublishedWeights["version"] | undefined,
  options: WeightsOptions,
): Promise<string> {
  const published = publishedWeights(name, version), { url, sha256: prefix, top1, imageSize } = published;
  const { path, present, sha256 } = await fetchWeights({ file: weightsFileName(published), url, sha256: prefix }, {
    ...options,
    check: (path) => checkWeights(name, path, options.url ?? url),
  });
  const vouched = prefix === undefined ? "no checksum is published" : "as published";
  return [
    `The weights of ${name} are ${present ? "there" : "ready"}: ${path}`,
    `SHA-256 ${sha256.slice(0, 16)}... (${vouched}); top-1 published ${
      (top1 * 100).toFixed(1)
    } % at ${imageSize}x${imageSize}`,
    `A checkpoint of them: ${commandLine("checkpoint", "import", path, "--arch", name, "--to", `${name}.safetensors`)}`,
  ].join("\n");
}

/** The weights of a version, or those that are published first. @throws {UserError} where there are none of it. */
export function publishedWeights(name: KnownNetwork, version?: PublishedWeights["version"]): PublishedWeights {
  const { weights } = NETWORK_FACTS[name];
  const found = version === undefined ? weights[0] : weights.find((each) => each.version === version);
  if (found) return found;
  const known = weights.map((each) => each.version).join(" or ");
  throw usageError(`Option --version must be ${known} for ${name}, not "${version}"`, "resnext download");
}

/** @throws {UserError} where a file does not hold the network's weights; any number of classes will do. */
async function checkWeights(name: KnownNetwork, path: string, url: string): Promise<void> {
  try {
    const { tensors } = await readWeights(path);
    fittedState(resnext(name, { numClasses: tensors.get("fc.bias")?.shape[0] ?? 1000 }), tensors);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const { message } = error;
    throw new UserError(`${url} does not hold the weights of ${name}: ${message}; try another --url`, { cause: error });
  }
}
