/**
 * ResNeXt: Xie, Girshick, Dollar, Tu, He, "Aggregated Residual Transformations for Deep Neural Networks" (2017).
 *
 * One block, one network; the variants below are rows of a table. `resnext50` and `resnext101` are the notebook's: their
 * bottleneck is a quarter of the stage's width and every convolution but the stem's has a bias. The names with a width
 * are the paper's, with torchvision's names in the `state_dict`: wider bottlenecks, no biases. Those of depth 29 are its
 * networks for CIFAR (section 5.2). `resnext` is a start for any other.
 */

import { BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, MaxPool2d } from "./layers.ts";
import { Module, Sequential } from "./module.ts";
import { relu } from "./ops/relu.ts";
import { add } from "./ops/sum.ts";
import type { Tensor } from "./tensor.ts";

/** What {@linkcode ResNeXtBlock} is made of. */
export interface ResNeXtBlockOptions {
  /** Channels of the input. */
  readonly inChannels: number;
  /** Channels of the 3x3 convolution. */
  readonly bottleneckChannels: number;
  /** Channels of the output. */
  readonly outChannels: number;
  /** Of the 3x3 convolution and the shortcut. Default 1. */
  readonly stride?: number;
  /** Groups of the 3x3 convolution. Default 32. */
  readonly cardinality?: number;
  /** Biases in the convolutions. Default true. */
  readonly bias?: boolean;
  /** The shortcut's name in the `state_dict`. Default `shortcut`. */
  readonly shortcutName?: string;
}

/**
 * A residual block (figure 3c of the paper): 1x1, grouped 3x3 and 1x1 convolutions, each with batch norm, plus the
 * shortcut, which is a 1x1 convolution where the stride or the width changes.
 */
export class ResNeXtBlock extends Module {
  /** 1x1, to the bottleneck. */
  readonly conv1: Conv2d;
  /** After `conv1`. */
  readonly bn1: BatchNorm2d;
  /** 3x3, grouped. */
  readonly conv2: Conv2d;
  /** After `conv2`. */
  readonly bn2: BatchNorm2d;
  /** 1x1, from the bottleneck. */
  readonly conv3: Conv2d;
  /** After `conv3`. */
  readonly bn3: BatchNorm2d;
  /** 1x1 convolution and batch norm; absent where the input is added as it is. */
  readonly shortcut?: Sequential;
  readonly #shortcutName: string;

  /**
   * Makes the layers.
   *
   * @throws {RangeError} when `cardinality` does not divide the bottleneck's channels.
   */
  constructor(options: ResNeXtBlockOptions) {
    super();
    const { inChannels, bottleneckChannels: width, outChannels, stride = 1, cardinality: groups = 32, bias = true } =
      options;
    this.conv1 = new Conv2d(inChannels, width, 1, { bias });
    this.bn1 = new BatchNorm2d(width);
    this.conv2 = new Conv2d(width, width, 3, { stride, padding: 1, groups, bias });
    this.bn2 = new BatchNorm2d(width);
    this.conv3 = new Conv2d(width, outChannels, 1, { bias });
    this.bn3 = new BatchNorm2d(outChannels);
    if (stride !== 1 || inChannels !== outChannels) {
      this.shortcut = new Sequential(
        new Conv2d(inChannels, outChannels, 1, { stride, bias }),
        new BatchNorm2d(outChannels),
      );
    }
    this.#shortcutName = options.shortcutName ?? "shortcut";
  }

  /** `[n, inChannels, h, w]` to `[n, outChannels, h / stride, w / stride]`, rounded up. */
  forward(x: Tensor): Tensor {
    let y = relu(this.bn1.forward(this.conv1.forward(x)));
    y = relu(this.bn2.forward(this.conv2.forward(y)));
    y = this.bn3.forward(this.conv3.forward(y));
    return relu(add(y, this.shortcut ? this.shortcut.forward(x) : x));
  }

  /** The layers, the shortcut under its name in the `state_dict`. */
  override *children(): Generator<[string, Module]> {
    for (const [name, child] of super.children()) yield [name === "shortcut" ? this.#shortcutName : name, child];
  }
}

/** The kinds of a network's beginning. */
export const STEMS = ["imagenet", "cifar"] as const;

/** One of {@linkcode STEMS}. */
export type Stem = typeof STEMS[number];

/** What a ResNeXt is made of; the defaults are the notebook's ResNeXt-50. */
export interface ResNeXtOptions {
  /** Blocks of each stage. Default [3, 4, 6, 3]. */
  readonly layers?: readonly number[];
  /** Width of each stage. Default 256, doubling. */
  readonly channels?: readonly number[];
  /**
   * What the images meet first. `imagenet` (default): 7x7 convolution with stride 2, max pool with stride 2. `cifar`: a 3x3
   * convolution that keeps the size.
   */
  readonly stem?: Stem;
  /** Groups of the 3x3 convolutions. Default 32. */
  readonly cardinality?: number;
  /**
   * Channels of a group in the first stage, for 64 planes (torchvision's `width_per_group`); the bottleneck is then
   * `floor(planes * baseWidth / 64) * cardinality`, planes being a quarter of the stage's width. Without it, the notebook's
   * rule: a quarter of the stage's width.
   */
  readonly baseWidth?: number;
  /** Default 10. */
  readonly numClasses?: number;
  /** Channels of the images. Default 3. */
  readonly inChannels?: number;
  /** Biases in the convolutions of the blocks. Default true. */
  readonly bias?: boolean;
  /** The shortcut's name in the `state_dict`. Default `shortcut`. */
  readonly shortcutName?: string;
}

/**
 * The network: stem (convolution, batch norm, ReLU, perhaps max pool), stages of blocks, global average pool, linear layer.
 * Input `[n, 3, h, w]`, output logits `[n, numClasses]`.
 */
export class ResNeXt extends Module {
  /** The stem's convolution. */
  readonly conv1: Conv2d;
  /** After `conv1`. */
  readonly bn1: BatchNorm2d;
  /** Blocks by stage; `layer1`, `layer2`, ... in the `state_dict`. */
  readonly stages: readonly Sequential[];
  /** From the last stage's channels to logits. */
  readonly fc: Linear;
  readonly #stem: Stem;

  /**
   * Makes stem, stages and linear layer.
   *
   * @throws {RangeError} for sizes that make no network.
   */
  constructor(options: ResNeXtOptions = {}) {
    super();
    const { layers = [3, 4, 6, 3], cardinality = 32, numClasses = 10, inChannels = 3, stem = "imagenet" } = options;
    const { baseWidth, bias, shortcutName } = options;
    const channels = options.channels ?? layers.map((_, stage) => 256 << stage);
    if (channels.length !== layers.length) {
      throw new RangeError(`Cannot build a ResNeXt: ${layers.length} stages have ${channels.length} widths`);
    }
    for (const size of [...layers, ...channels, cardinality, numClasses, inChannels, baseWidth ?? 1]) {
      if (!Number.isInteger(size) || size < 1) {
        throw new RangeError(`Cannot build a ResNeXt: ${size} is not a positive whole number`);
      }
    }
    this.#stem = stem;
    this.conv1 = stem === "cifar"
      ? new Conv2d(inChannels, 64, 3, { padding: 1, bias: false })
      : new Conv2d(inChannels, 64, 7, { stride: 2, padding: 3, bias: false });
    this.bn1 = new BatchNorm2d(64);
    let width = 64;
    this.stages = layers.map((depth, stage) => {
      const outChannels = channels[stage];
      const planes = Math.floor(outChannels / 4);
      const bottleneckChannels = baseWidth ? Math.floor(planes * baseWidth / 64) * cardinality : planes;
      if (bottleneckChannels < 1) {
        const least = 4 * (baseWidth ? Math.ceil(64 / baseWidth) : 1);
        throw new RangeError(
          `Cannot build a ResNeXt: a stage of width ${outChannels} has no bottleneck of ${cardinality} groups; ` +
            `its width must be at least ${least}`,
        );
      }
      const blocks = Array.from({ length: depth }, (_, index) => {
        const block = new ResNeXtBlock({
          inChannels: width,
          bottleneckChannels,
          outChannels,
          stride: stage > 0 && index === 0 ? 2 : 1,
          cardinality,
          bias,
          shortcutName,
        });
        width = outChannels;
        return block;
      });
      return new Sequential(...blocks);
    });
    this.fc = new Linear(width, numClasses);
  }

  /** `[n, inChannels, h, w]` to logits `[n, numClasses]`. */
  forward(x: Tensor): Tensor {
    let y = relu(this.bn1.forward(this.conv1.forward(x)));
    if (this.#stem === "imagenet") y = new MaxPool2d({ kernel: 3, stride: 2, padding: 1 }).forward(y);
    for (const stage of this.stages) y = stage.forward(y);
    return this.fc.forward(new GlobalAvgPool2d().forward(y));
  }

  /** Stem, stages and linear layer by their names in the `state_dict`. */
  override *children(): Generator<[string, Module]> {
    yield ["conv1", this.conv1];
    yield ["bn1", this.bn1];
    for (const [index, stage] of this.stages.entries()) yield [`layer${index + 1}`, stage];
    yield ["fc", this.fc];
  }
}

const torchvision = { bias: false, shortcutName: "downsample", numClasses: 1000 } as const;
const cifar = { ...torchvision, stem: "cifar", layers: [3, 3, 3], baseWidth: 64, numClasses: 10 } as const;

/** The networks known by name. */
export const ARCHITECTURES = {
  resnext50: { layers: [3, 4, 6, 3] },
  resnext101: { layers: [3, 4, 23, 3] },
  resnext50_32x4d: { layers: [3, 4, 6, 3], baseWidth: 4, ...torchvision },
  resnext101_32x4d: { layers: [3, 4, 23, 3], baseWidth: 4, ...torchvision },
  resnext101_32x8d: { layers: [3, 4, 23, 3], baseWidth: 8, ...torchvision },
  resnext101_64x4d: { layers: [3, 4, 23, 3], cardinality: 64, baseWidth: 4, ...torchvision },
  resnext29_8x64d: { ...cifar, cardinality: 8 },
  resnext29_16x64d: { ...cifar, cardinality: 16 },
  resnext: { layers: [3, 4, 6, 3], baseWidth: 4, ...torchvision },
} as const satisfies Record<string, ResNeXtOptions>;

/** A name of {@linkcode ARCHITECTURES}. */
export type Architecture = keyof typeof ARCHITECTURES;

/** Whether a network of that name exists. */
export function isArchitecture(name: string): name is Architecture {
  return Object.hasOwn(ARCHITECTURES, name);
}

/**
 * A network by its name, with any of its settings changed; those that are undefined stay the name's.
 *
 * @throws {RangeError} for an unknown name, and for sizes that make no network.
 *
 * @example
 * ```ts
 * import { resnext } from "@cardinal/resnext";
 *
 * const network = resnext("resnext50_32x4d");
 * if (network.parameterCount !== 25_028_904) throw new Error("not torchvision's");
 * ```
 */
export function resnext(name: Architecture, options: ResNeXtOptions = {}): ResNeXt {
  if (!isArchitecture(name)) {
    throw new RangeError(`Cannot build "${name}": the networks are ${Object.keys(ARCHITECTURES).join(", ")}`);
  }
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return new ResNeXt({ ...ARCHITECTURES[name], ...Object.fromEntries(given) });
}

/** The notebook's ResNeXt-50: 12,591,434 parameters with 10 classes. */
export function resnext50(options: ResNeXtOptions = {}): ResNeXt {
  return resnext("resnext50", options);
}

/** The notebook's ResNeXt-101: 21,896,010 parameters with 10 classes. */
export function resnext101(options: ResNeXtOptions = {}): ResNeXt {
  return resnext("resnext101", options);
}
