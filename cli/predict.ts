/** `resnext predict`: names what is on pictures. */

import { PicturePool, type PictureResult } from "../data/pictures/pool.ts";
import type { PictureTransform } from "../data/pictures/transform.ts";
import { resizedSide } from "../data/pictures/transform.ts";
import { openDevice } from "../kernels/device.ts";
import { DeviceImages, ImageSource } from "../nn/batch_source.ts";
import type { CheckpointDescription, InputDescription } from "../nn/checkpoint.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { softmax } from "../nn/judge.ts";
import { Network } from "../nn/network.ts";
import { evalStep } from "../nn/eval_step.ts";
import { imagenetStatistics } from "../data/folder.ts";
import { defineCommand, usageError } from "./command.ts";
import { isPictures } from "./dataset.ts";
import { architectureNames } from "./network_options.ts";
import { type NetworkFile, readNetworkFile } from "./network_file.ts";
import { precisionOption } from "./precision.ts";
import { useKnownTuning } from "./tuning.ts";

/** Pictures a step. */
const BATCH = 16;

/** The command. */
export const predictCommand = defineCommand({
  name: "predict",
  summary: "Name what is on pictures",
  details:
    "Prints a line a picture: its most probable labels, each with its probability. The labels are those that the " +
    "checkpoint was trained on; of weights with a thousand classes ImageNet's. JPEG, PNG, WebP, AVIF, GIF and TIFF are " +
    "read. A picture that cannot be read is told on stderr, and the exit code is 1.",
  positionals: [
    { name: "network", doc: "A checkpoint, or weights: safetensors or PyTorch's .pth" },
    { name: "image", doc: "Pictures; - reads one from stdin", several: true },
  ],
  options: {
    topk: { type: "integer", min: 1, default: 5, doc: "Labels a picture" },
    arch: {
      type: "choice",
      choices: architectureNames,
      otherwise: "the checkpoint's, or what the weights' shapes tell",
      doc: "The network of weights",
    },
    imageSize: {
      type: "integer",
      min: 1,
      max: 4096,
      otherwise: "the checkpoint's, that of published weights, 224 for others",
      doc: "Height and width of what the network sees",
    },
    resizeSize: {
      type: "integer",
      min: 1,
      max: 8192,
      otherwise: "that of published weights; 256 for an image size of 224, in proportion for others",
      doc: "The shorter side before the centre is cut out",
    },
    precision: precisionOption,
    json: { type: "boolean", doc: "Print a JSON object a line instead" },
  },
  examples: [
    "predict runs/first/best.safetensors cat.jpg dog.png",
    "predict resnext50_32x4d.pth --topk 1 holiday/*.jpg",
    "predict best.safetensors - < cat.jpg",
  ],
  run: async ({ args, options }) => {
    if (args.image.filter((path) => path === "-").length > 1) {
      throw usageError("Cannot read more than one picture from stdin: give - once", "resnext predict");
    }
    const { description, state, published } = await readNetworkFile(args.network, options.arch);
    const input = inputOf(description, options.imageSize ?? published?.imageSize);
    const transform = transformOf({ description, published }, input.image_size, options.resizeSize);
    if (transform.side! < transform.size) {
      throw usageError(`Option --resize-size must be at least the image size, ${transform.size}`, "resnext predict");
    }
    using pictures = new Pictures(args.image, transform);
    const device = await openDevice();
    try {
      await useKnownTuning(device);
      const module = describedNetwork(description.network);
      const network = await Network.create(device, module);
      network.loadStateDict(fittedState(module, state));
      const size = input.image_size, bytes = size ** 2 * 3;
      const rows = Math.min(BATCH, args.image.length);
      const pixels = new Uint8Array(rows * bytes);
      const set = { count: rows, images: pixels, labels: new Uint8Array(rows) };
      const images = await DeviceImages.create(device, set, { stream: true });
      const source = await ImageSource.create(images, { height: size, width: size, imageSize: size, ...input }, rows);
      const step = await evalStep(network, { source, precision: options.precision });
      let refused = 0;
      for (let at = 0; at < args.image.length; at += rows) {
        const paths = args.image.slice(at, at + rows), results = await pictures.next(paths.length);
        const good = results.flatMap((result) => "pixels" in result ? [result.pixels] : []);
        for (const [row, each] of good.entries()) pixels.set(each, row * bytes);
        let logits = new Float32Array();
        if (good.length > 0) {
          step.run(Uint32Array.from(good, (_, row) => row));
          logits = (await step.logits()) as Float32Array<ArrayBuffer>;
          await step.evaluations();
        }
        let row = 0;
        for (const [i, result] of results.entries()) {
          if ("error" in result) {
            refused++;
            if (options.json) console.log(JSON.stringify({ image: paths[i], error: result.error }));
            else console.error(`error: Cannot read "${paths[i]}": ${result.error}`);
            continue;
          }
          const own = logits.subarray(row * step.classes, ++row * step.classes);
          const ranking = rank(own, options.topk, description.class_names);
          console.log(
            options.json ? JSON.stringify({ image: paths[i], predictions: ranking }) : line(paths[i], ranking),
          );
        }
      }
      return refused > 0 ? 1 : 0;
    } finally {
      device.close();
    }
  },
});

/** A label of a picture. */
interface Prediction {
  readonly label: string;
  /** Its index among the classes. */
  readonly class: number;
  readonly probability: number;
}

/** The most probable classes; of equal ones the first. */
export function rank(logits: ArrayLike<number>, count: number, names?: readonly string[]): Prediction[] {
  return softmax(logits)
    .map((probability, index) => ({ label: names?.[index] ?? `class ${index}`, class: index, probability }))
    .sort((a, b) => b.probability - a.probability || a.class - b.class)
    .slice(0, count);
}

/** Such as `cat.jpg: tabby 0.8123, tiger cat 0.1021`. */
function line(path: string, predictions: readonly Prediction[]): string {
  return `${path}: ${predictions.map(({ label, probability }) => `${label} ${probability.toFixed(4)}`).join(", ")}`;
}

/** How pictures become the network's input; ImageNet's way where nothing else is known. */
function inputOf({ input }: CheckpointDescription, imageSize?: number): InputDescription {
  const known = { image_size: 224, ...imagenetStatistics, ...input };
  return { ...known, image_size: imageSize ?? known.image_size };
}

/**
 * Networks that learned from whole small images see a picture's whole centre, published weights what they were tested with,
 * others what testing shows them.
 */
export function transformOf(
  { description: { settings }, published }: Pick<NetworkFile, "description" | "published">,
  size: number,
  side?: number,
): PictureTransform {
  const whole = settings !== undefined && !isPictures(settings.dataset);
  const usual = size === published?.imageSize ? published.resizeSize : resizedSide(size);
  return { kind: "centre", size, side: side ?? (whole ? size : usual) };
}

/** Pictures in their order, decoded ahead of the device. */
class Pictures {
  readonly #pool: PicturePool;
  readonly #transform: PictureTransform;
  readonly #paths: readonly string[];
  readonly #begun: Promise<PictureResult>[] = [];
  #taken = 0;

  constructor(paths: readonly string[], transform: PictureTransform) {
    this.#paths = paths;
    this.#transform = transform;
    this.#pool = new PicturePool(Math.min(paths.length, navigator.hardwareConcurrency));
    this.#begin(BATCH);
  }

  #begin(count: number): void {
    for (const path of this.#paths.slice(this.#begun.length, count)) this.#begun.push(this.#prepare(path));
  }

  async #prepare(path: string): Promise<PictureResult> {
    if (path !== "-") return await this.#pool.prepare(path, this.#transform);
    return await this.#pool.prepare(
      new Uint8Array(await new Response(Deno.stdin.readable).arrayBuffer()),
      this.#transform,
    );
  }

  /** The next ones; meanwhile those after them are begun. */
  async next(count: number): Promise<PictureResult[]> {
    const from = this.#taken;
    this.#taken += count;
    this.#begin(this.#taken + BATCH);
    return await Promise.all(this.#begun.slice(from, this.#taken));
  }

  [Symbol.dispose](): void {
    this.#pool.close();
  }
}
