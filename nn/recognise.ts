/** Tells by the names and shapes of weights which network they are of. */

import { UserError } from "../kernels/user_error.ts";
import type { NetworkDescription } from "./checkpoint.ts";
import { describedNetwork } from "./described_network.ts";
import { ARCHITECTURES, type ResNeXtOptions, type Stem } from "./resnext.ts";
import { Counter } from "./state.ts";
import type { StateDict } from "./weights.ts";

/**
 * The network that weights are of: a known one, or one of other sizes.
 *
 * @param name Of the file, for messages.
 * @throws {UserError} where they are of no network of this kind.
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
export function recognise(state: StateDict, name: string): NetworkDescription {
  const measured = measure(state);
  if (measured) {
    for (const arch of Object.keys(ARCHITECTURES)) {
      const { num_classes, cardinality } = measured;
      const known: ResNeXtOptions = ARCHITECTURES[arch as keyof typeof ARCHITECTURES];
      const description = { arch, num_classes, cardinality: known.cardinality ?? 32 };
      // The shapes do not tell groups of one width from each other: they must be the known network's.
      if (cardinality === description.cardinality && fits(description, state)) return description;
    }
    if (fits(measured, state)) return measured;
  }
  throw new UserError(`Cannot tell the network of "${name}": its tensors are of no ResNeXt, and no other is known`);
}

/** Whether a network has these names and shapes, counters aside. */
function fits(description: NetworkDescription, state: StateDict): boolean {
  let module;
  try {
    module = describedNetwork(description);
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
  const wanted = [...module.stateEntries()];
  const names = new Set(wanted.map(([name]) => name));
  return wanted.every(([name, entry]) =>
    entry instanceof Counter || String(state.get(name)?.shape) === `${entry.shape}`
  ) &&
    [...state.keys()].every((name) => names.has(name));
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
  const [classes] = shape("fc.weight");
  if (stages.length === 0 || !bottleneck || !groupWidth || !classes) return undefined;
  const cardinality = bottleneck / groupWidth;
  const notebook = state.has("layer1.0.conv1.bias");
  const stem: Stem = shape("conv1.weight")[2] === 3 ? "cifar" : "imagenet";
  return {
    arch: notebook ? "resnext50" : "resnext",
    num_classes: classes,
    cardinality,
    layers: stages.map(({ depth }) => depth),
    channels: stages.map(({ width }) => width),
    ...(!notebook && { base_width: Math.round(groupWidth * 256 / stages[0].width) }),
    stem,
  };
}
