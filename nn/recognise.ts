/** Tells by the names and shapes of weights which network they are of. */

import { UserError } from "../kernels/user_error.ts";
import type { NetworkDescription } from "./checkpoint.ts";
import { describedNetwork } from "./described_network.ts";
import { HEAD, isHeadless } from "./fine_tune.ts";
import { quoted } from "./json.ts";
import { type Architecture, ARCHITECTURES, type ResNeXtOptions, type Stem } from "./resnext.ts";
import { Counter } from "./state.ts";
import type { StateDict } from "./weights.ts";

/** Options of {@linkcode recognise}. */
export interface RecogniseOptions {
  /**
   * Take the weights of a network without its head, too, as for fine-tuning: the classes are then those of the
   * architecture. Default false.
   */
  readonly headless?: boolean;
}

/**
 * The network that weights are of: a known one, or one of other sizes.
 *
 * @param name Of the file, for messages.
 * @throws {UserError} where they are of no network of this kind, naming the first tensor that is not the nearest one's.
 *
 * @example
 * ```ts
 * import { Network, openDevice, recognise, resnext } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const network = await Network.create(device, resnext("resnext29_8x64d", { layers: [1, 1, 1] }));
 * const { num_classes, layers } = recognise(await network.stateDict(), "weights");
 * if (num_classes !== 10 || String(layers) !== "1,1,1") throw new Error("its sizes");
 * device.close();
 * ```
 */
export function recognise(
  state: StateDict,
  name: string,
  { headless = false }: RecogniseOptions = {},
): NetworkDescription {
  const measured = measure(state);
  const known = (Object.keys(ARCHITECTURES) as Architecture[]).map((arch) => namedNetwork(arch, state));
  const compared = [...known, ...(measured ? [measured] : [])].flatMap((description) => {
    const comparison = compare(description, state, headless && isHeadless(state));
    return comparison ? [{ description, ...comparison }] : [];
  });
  const found = compared.find(({ differences }) => differences.length === 0);
  if (found) return found.description;
  const nearest = compared.reduce((a, b) => b.differences.length < a.differences.length ? b : a);
  // What shares few names with all of them is near to none.
  if (2 * nearest.shared < state.size || state.size === 0) {
    const [first] = state;
    const shown = first ? `; the first is ${quoted(first[0])} of shape [${first[1].shape}]` : "";
    throw new UserError(
      `Cannot tell the network of "${name}": its tensors are of no ResNeXt, and no other is known${shown}`,
    );
  }
  throw new UserError(
    `Cannot tell the network of "${name}": it is no ResNeXt that is known; the nearest is ` +
      `${sized(nearest.description)}, ${nearest.differences[0]}`,
  );
}

/** Classes of a network's weights: without a head, as many as the architecture has. */
export function classesOf(state: StateDict, arch: Architecture): number {
  return state.get("fc.weight")?.shape[0] ?? (ARCHITECTURES[arch] as ResNeXtOptions).numClasses ?? 10;
}

/** A network that has a name, with the classes of the weights. */
export function namedNetwork(arch: Architecture, state: StateDict): NetworkDescription {
  const { cardinality = 32 }: ResNeXtOptions = ARCHITECTURES[arch];
  return { arch, num_classes: classesOf(state, arch), cardinality };
}

/**
 * How weights differ from a network's, counters aside: a phrase each, in the network's order; and how many of them have a
 * name of the network's. Undefined where the sizes make no network.
 */
function compare(
  description: NetworkDescription,
  state: StateDict,
  withoutHead: boolean,
): { readonly differences: readonly string[]; readonly shared: number } | undefined {
  let module;
  try {
    module = describedNetwork(description);
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
  const wanted = [...module.stateEntries()], names = new Set(wanted.map(([name]) => name));
  const differences = wanted.flatMap(([name, entry]) => {
    if (entry instanceof Counter || (withoutHead && HEAD.includes(name))) return [];
    const shape = state.get(name)?.shape;
    if (!shape) return [`but "${name}" is missing`];
    return String(shape) === `${entry.shape}` ? [] : [`whose "${name}" has shape [${entry.shape}], not [${shape}]`];
  });
  const others = [...state.keys()].filter((name) => !names.has(name));
  differences.push(...others.map((name) => `which has no ${quoted(name)}`));
  return { differences, shared: state.size - others.length };
}

/** A network in words: its name, and sizes that are not the name's. */
function sized({ arch, layers, channels }: NetworkDescription): string {
  return layers ? `${arch} with layers ${layers} and channels ${channels}` : arch;
}

/** Sizes of a network as its shapes tell them. */
function measure(state: StateDict): NetworkDescription | undefined {
  const shape = (name: string) => state.get(name)?.shape ?? [];
  const stages: { depth: number; width: number }[] = [];
  for (let stage = 1; stage <= 8 && state.has(`layer${stage}.0.conv1.weight`); stage++) {
    let depth = 1;
    while (depth <= 256 && state.has(`layer${stage}.${depth}.conv1.weight`)) depth++;
    stages.push({ depth, width: shape(`layer${stage}.0.conv3.weight`)[0] });
  }
  const [bottleneck, groupWidth] = shape("layer1.0.conv2.weight");
  if (stages.length === 0 || !bottleneck || !groupWidth) return undefined;
  const cardinality = bottleneck / groupWidth;
  const notebook = state.has("layer1.0.conv1.bias"), arch = notebook ? "resnext50" : "resnext";
  const stem: Stem = shape("conv1.weight")[2] === 3 ? "cifar" : "imagenet";
  return {
    arch,
    num_classes: classesOf(state, arch),
    cardinality,
    layers: stages.map(({ depth }) => depth),
    channels: stages.map(({ width }) => width),
    ...(!notebook && { base_width: Math.round(groupWidth * 256 / stages[0].width) }),
    stem,
  };
}
