/** `resnext networks`: the networks known by name, what they cost and what has been published of them. */

import type { ElementType } from "../kernels/dispatch.ts";
import { stepMemory } from "../nn/memory.ts";
import { KNOWN_NETWORKS, NETWORK_FACTS } from "../nn/networks.ts";
import { resnext } from "../nn/resnext.ts";
import { summarize } from "../nn/summary.ts";
import { columns, shortCount } from "./columns.ts";
import { defineCommand } from "./command.ts";
import { precisionOption } from "./precision.ts";
import { formatBytes } from "./progress.ts";

/** The command. */
export const networksCommand = defineCommand({
  name: "networks",
  summary: "List the networks: size, cost, memory, published accuracy and weights",
  details:
    `Multiply-adds are those of one image of the network's usual size; those of convolutions and the linear layer count, as
    in the paper. Memory is what the plan of a step takes for a batch, weights included, with the tilings of a usual GPU;
    nothing is allocated for it. Published accuracies are their authors'; nothing here has been measured.

    \`resnext\` stands for any other: --layers, --channels, --cardinality, --base-width, --stem.`,
  options: {
    batchSize: { type: "integer", min: 1, max: 65536, default: 32, doc: "Images a batch, for the memory" },
    precision: precisionOption,
    json: { type: "boolean", doc: "Print one JSON object a network instead" },
  },
  examples: ["networks", "networks --batch-size 64 --json"],
  run: ({ options: { batchSize, precision, json } }) => {
    const all = KNOWN_NETWORKS.map((name) => describe(name, batchSize, precision));
    if (json) {
      for (const network of all) console.log(JSON.stringify(network));
      return;
    }
    const rows = all.map((network) => [
      network.name,
      shortCount(network.parameters),
      shortCount(network.multiply_adds),
      String(network.image_size),
      formatBytes(network.training_bytes),
      formatBytes(network.inference_bytes),
      network.published ? `${percent(network.published.top1)} ${network.published.on}` : "-",
      network.weights.map(({ version, top1 }) => `${version} (${percent(top1)})`).join(", ") || "-",
    ]);
    const head = ["Network", "Parameters", "Mult-adds", "Image", "Training", "Inference", "Published top-1", "Weights"];
    for (const line of columns([head, ...rows], { left: [0, 6, 7] })) console.log(line);
    console.log(
      `\nMemory for batches of ${batchSize}, in ${precision}. \`download weights NAME --version 1|2|timm\` brings weights, whose ` +
        "published top-1 on ImageNet-1k\nstands behind their version.",
    );
  },
});

const percent = (share: number) => `${(share * 100).toFixed(1)} %`;

/** A network's line; names as in the JSON. */
function describe(name: typeof KNOWN_NETWORKS[number], batchSize: number, precision: ElementType) {
  const { imageSize, origin, published, weights } = NETWORK_FACTS[name];
  const shape = { n: batchSize, c: 3, h: imageSize, w: imageSize };
  const module = resnext(name);
  const { total } = summarize(module, { ...shape, n: 1 });
  const bytes = (training: boolean) => {
    const { stateBytes, activationBytes } = stepMemory(module, shape, { training, precision });
    return stateBytes + activationBytes;
  };
  return {
    name,
    origin,
    parameters: total.parameters,
    classes: total.output.c,
    image_size: imageSize,
    multiply_adds: total.multiplyAdds,
    batch_size: batchSize,
    precision,
    training_bytes: bytes(true),
    inference_bytes: bytes(false),
    published,
    weights: weights.map(({ version, url, sha256, top1, imageSize }) => ({
      version,
      url,
      sha256,
      top1,
      image_size: imageSize,
    })),
  };
}
