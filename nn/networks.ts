/** The field's networks: what has been published of each, and which weights exist. */

import type { Architecture } from "./resnext.ts";

/** A file of weights that somebody has published. */
export interface PublishedWeights {
  /** How it is asked for: torchvision's versions, or timm. */
  readonly version: "1" | "2" | "timm";
  /** Where it lies. */
  readonly url: string;
  /** First digits of the file's SHA-256, where its publisher tells them. */
  readonly sha256?: string;
  /** Share of ImageNet-1k's validation images named right, one centre crop, as published. */
  readonly top1: number;
  /** Height and width of that crop. */
  readonly imageSize: number;
  /** What the shorter side of a picture is resized to before the crop, as published. */
  readonly resizeSize: number;
}

/** What is known of a network beside its code. */
export interface NetworkFacts {
  /** Where it comes from. */
  readonly origin: string;
  /** Height and width of the images it was made for. */
  readonly imageSize: number;
  /** Accuracy as published by its authors, and where. */
  readonly published?: { readonly top1: number; readonly on: string };
  /** The best first. */
  readonly weights: readonly PublishedWeights[];
}

/** torchvision's file, whose name ends in the first 8 digits of its SHA-256. */
function torchvision(
  version: "1" | "2",
  stem: string,
  sha256: string,
  top1: number,
  resizeSize: number,
): PublishedWeights {
  const url = `https://download.pytorch.org/models/${stem}-${sha256}.pth`;
  return { version, url, sha256, top1, imageSize: 224, resizeSize };
}

/** timm's file on its hub. */
function timm(name: string, top1: number, imageSize: number, resizeSize: number): PublishedWeights {
  return {
    version: "timm",
    url: `https://huggingface.co/timm/${name}/resolve/main/model.safetensors`,
    top1,
    imageSize,
    resizeSize,
  };
}

const NOTEBOOK = "the notebook's", PAPER = "Xie et al. 2017", IMAGENET = "ImageNet-1k", CIFAR = "CIFAR-10";

/**
 * Facts by network. Accuracies: the paper's tables 3 to 6 and its repository's README; torchvision's
 * `models/resnet.py`; timm's `results-imagenet.csv`.
 */
export const NETWORK_FACTS: Readonly<Record<Exclude<Architecture, "resnext">, NetworkFacts>> = {
  resnext50: { origin: NOTEBOOK, imageSize: 224, published: { top1: 0.7550, on: `${CIFAR} at 224` }, weights: [] },
  resnext101: { origin: NOTEBOOK, imageSize: 224, weights: [] },
  resnext50_32x4d: {
    origin: PAPER,
    imageSize: 224,
    published: { top1: 0.778, on: IMAGENET },
    weights: [
      torchvision("2", "resnext50_32x4d", "1a0047aa", 0.81198, 232),
      torchvision("1", "resnext50_32x4d", "7cdf4587", 0.77618, 256),
      timm("resnext50_32x4d.a1h_in1k", 0.8203, 288, 288),
    ],
  },
  resnext101_32x4d: {
    origin: PAPER,
    imageSize: 224,
    published: { top1: 0.788, on: IMAGENET },
    weights: [timm("resnext101_32x4d.gluon_in1k", 0.80342, 224, 256)],
  },
  resnext101_32x8d: {
    origin: "torchvision",
    imageSize: 224,
    weights: [
      torchvision("2", "resnext101_32x8d", "110c445d", 0.82834, 232),
      torchvision("1", "resnext101_32x8d", "8ba56ff5", 0.79312, 256),
      timm("resnext101_32x8d.tv2_in1k", 0.82834, 224, 232),
    ],
  },
  resnext101_64x4d: {
    origin: PAPER,
    imageSize: 224,
    published: { top1: 0.796, on: IMAGENET },
    weights: [
      torchvision("1", "resnext101_64x4d", "173b62eb", 0.83246, 232),
      timm("resnext101_64x4d.c1_in1k", 0.8316, 288, 288),
    ],
  },
  resnext29_8x64d: { origin: PAPER, imageSize: 32, published: { top1: 0.9635, on: CIFAR }, weights: [] },
  resnext29_16x64d: { origin: PAPER, imageSize: 32, published: { top1: 0.9642, on: CIFAR }, weights: [] },
};

/** A network whose facts are known. */
export type KnownNetwork = keyof typeof NETWORK_FACTS;

/** All of them, in the table's order. */
export const KNOWN_NETWORKS = Object.keys(NETWORK_FACTS) as KnownNetwork[];

/** What the file of published weights is called where it is kept: torchvision's own name; timm's after its model's. */
export function weightsFileName({ url }: Pick<PublishedWeights, "url">): string {
  const timm = /\/timm\/([^/]+)\/resolve\//.exec(url);
  return timm ? `${timm[1]}.safetensors` : new URL(url).pathname.split("/").at(-1)!;
}

/** The published weights that a file's name says it holds. */
export function publishedAs(fileName: string): PublishedWeights | undefined {
  return KNOWN_NETWORKS.flatMap((name) => NETWORK_FACTS[name].weights)
    .find((published) => weightsFileName(published) === fileName);
}
