/** `resnext predict`: names what is on pictures. */

import { readAtMost } from "../data/files.ts";
import { MOST_PICTURE_BYTES } from "../data/pictures/limits.ts";
import { PicturePool, type PictureResult } from "../data/pictures/pool.ts";
import type { PictureTransform } from "../data/pictures/transform.ts";
import { type Prediction, rank } from "../nn/classifier.ts";
import { haveSoftmax, LOGITS_NOT_FINITE } from "../nn/non_finite.ts";
import { classifierOptions, openClassifier, readClassifier } from "./classifier.ts";
import { plain } from "./columns.ts";
import { defineCommand, usageError } from "./command.ts";

/** Pictures a step. */
const BATCH = 16;

/** The command. */
export const predictCommand = defineCommand({
  name: "predict",
  summary: "Name what is on pictures",
  details:
    "Prints a line a picture: its most probable labels, each with its probability. The labels are those that the " +
    "checkpoint was trained on; of weights with a thousand classes ImageNet's. JPEG, PNG, WebP, AVIF, GIF and TIFF are " +
    "read. A picture that cannot be read, or be named, is told on stderr, and the exit code is 1.",
  positionals: [
    { name: "network", doc: "A checkpoint, or weights: safetensors or PyTorch's .pth" },
    { name: "image", doc: "Pictures; - reads one from stdin", several: true },
  ],
  options: {
    topk: { type: "integer", min: 1, default: 5, doc: "Labels a picture" },
    ...classifierOptions,
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
    const file = await readClassifier(args.network, options, "resnext predict");
    const names = file.network.description.class_names;
    using pictures = new Pictures(args.image, file.transform);
    const rows = Math.min(BATCH, args.image.length);
    using classifier = await openClassifier(file, [rows]);
    let refused = 0;
    for (let at = 0; at < args.image.length; at += rows) {
      const paths = args.image.slice(at, at + rows), results = await pictures.next(paths.length);
      const good = results.flatMap((result) => "pixels" in result ? [result.pixels] : []);
      const logits = (await classifier.classify(good)).values();
      const refuse = (image: string, action: string, error: string) => {
        refused++;
        if (options.json) console.log(JSON.stringify({ image, error }));
        else console.error(`error: Cannot ${action} "${image}": ${error}`);
      };
      for (const [i, result] of results.entries()) {
        if ("error" in result) {
          refuse(paths[i], "read", result.error);
          continue;
        }
        const own = logits.next().value!;
        if (!haveSoftmax(own)) {
          refuse(paths[i], "name what is on", LOGITS_NOT_FINITE);
          continue;
        }
        const ranking = rank(own, options.topk, names);
        console.log(
          options.json ? JSON.stringify({ image: paths[i], predictions: ranking }) : line(paths[i], ranking),
        );
      }
    }
    return refused > 0 ? 1 : 0;
  },
});

/** Such as `cat.jpg: tabby 0.8123, tiger cat 0.1021`. */
function line(path: string, predictions: readonly Prediction[]): string {
  return `${plain(path)}: ${
    predictions.map(({ label, probability }) => `${plain(label)} ${probability.toFixed(4)}`).join(", ")
  }`;
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
    for (const path of this.#paths.slice(this.#begun.length, count)) {
      const picture = this.#prepare(path);
      // It may fail before anybody asks for it, or when nobody will any more: no bug of the program's.
      picture.catch(() => {});
      this.#begun.push(picture);
    }
  }

  async #prepare(path: string): Promise<PictureResult> {
    if (path !== "-") return await this.#pool.prepare(path, this.#transform);
    const bytes = await readAtMost(Deno.stdin.readable, MOST_PICTURE_BYTES);
    if (!bytes) return { error: `it is larger than ${MOST_PICTURE_BYTES} bytes` };
    return await this.#pool.prepare(bytes, this.#transform);
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
