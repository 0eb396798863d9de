/** Layers: modules of one operation, with PyTorch's names and shapes and, but for the first weights, its defaults. */

import { Module } from "./module.ts";
import { checkOptions, checkSettings, COUNT, SIZE, SWITCH } from "./number_check.ts";
import { BATCH_NORM_SETTINGS, batchNorm, type BatchNormSettings } from "./ops/batch_norm.ts";
import { conv2d, type Conv2dSettings } from "./ops/conv2d.ts";
import { globalAvgPool, maxPool, type MaxPoolSettings } from "./ops/pool.ts";
import { relu } from "./ops/relu.ts";
import { Counter, Parameter, StateBuffer } from "./state.ts";
import type { Tensor } from "./tensor.ts";

/** Settings of {@linkcode Conv2d}. */
export interface Conv2dOptions extends Conv2dSettings {
  /** Adds a bias a channel. Default true. */
  readonly bias?: boolean;
}

/**
 * `torch.nn.Conv2d` with a square kernel; weights Kaiming normal (fan in, ReLU gain), bias zero.
 *
 * @example
 * ```ts
 * import { Conv2d } from "@cardinal/resnext";
 *
 * const conv = new Conv2d(64, 64, 3, { padding: 1, groups: 32, bias: false });
 * if (String(conv.weight.shape) !== "64,2,3,3") throw new Error("[out, in / groups, 3, 3]");
 * ```
 */
export class Conv2d extends Module {
  /** `[outChannels, inChannels / groups, kernelSize, kernelSize]`. */
  readonly weight: Parameter;
  /** `[outChannels]`; absent with `bias: false`. */
  readonly bias?: Parameter;
  readonly #settings: Conv2dSettings;

  /**
   * Sizes and settings as PyTorch's.
   *
   * @throws {RangeError} when `groups` does not divide both channel counts, or a size is no whole number.
   * @throws {TypeError} for an option that there is not, such as PyTorch's `dilation`.
   */
  constructor(inChannels: number, outChannels: number, kernelSize: number, options: Conv2dOptions = {}) {
    super();
    checkSettings("make a Conv2d", { inChannels, outChannels, kernelSize }, SIZE);
    checkOptions("make a Conv2d", options, { stride: SIZE, padding: COUNT, groups: SIZE, bias: SWITCH });
    const { groups = 1, bias = true } = options;
    if (inChannels % groups !== 0 || outChannels % groups !== 0) {
      throw new RangeError(
        `Cannot split ${inChannels} -> ${outChannels} channels into ${groups} groups: both must be divisible`,
      );
    }
    const perGroup = inChannels / groups;
    const kaimingNormal = { fan_in: perGroup * kernelSize * kernelSize };
    this.weight = new Parameter([outChannels, perGroup, kernelSize, kernelSize], { kaimingNormal }, groups);
    if (bias) this.bias = new Parameter([outChannels], { constant: 0 });
    this.#settings = options;
  }

  /** The convolution of `x`. */
  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, this.bias, this.#settings);
  }
}

/** `torch.nn.BatchNorm2d`. */
export class BatchNorm2d extends Module {
  /** Scale of each channel, first 1. */
  readonly weight: Parameter;
  /** Shift of each channel, first 0. */
  readonly bias: Parameter;
  /** Mean of each channel, as evaluation uses it. */
  readonly running_mean: StateBuffer;
  /** Variance of each channel, as evaluation uses it. */
  readonly running_var: StateBuffer;
  /** Training steps seen. */
  readonly num_batches_tracked: Counter;
  readonly #settings: BatchNormSettings;

  /**
   * Settings as PyTorch's; but a momentum is a number, as there is no cumulative average.
   *
   * @throws {RangeError} for settings out of bounds.
   * @throws {TypeError} for a setting that there is not, such as PyTorch's `affine`.
   */
  constructor(channels: number, settings: BatchNormSettings = {}) {
    super();
    checkSettings("make a BatchNorm2d", { channels }, SIZE);
    checkOptions("make a BatchNorm2d", settings, BATCH_NORM_SETTINGS);
    this.weight = new Parameter([channels], { constant: 1 });
    this.bias = new Parameter([channels], { constant: 0 });
    this.running_mean = new StateBuffer([channels], { constant: 0 });
    this.running_var = new StateBuffer([channels], { constant: 1 });
    this.num_batches_tracked = new Counter();
    this.#settings = settings;
  }

  /** `x` normalized. */
  forward(x: Tensor): Tensor {
    return batchNorm(x, this, this.#settings);
  }
}

/** `torch.nn.Linear` on `[n, in]` (a 1x1 image); weights Kaiming normal (fan in, ReLU gain), bias zero. */
export class Linear extends Module {
  /** `[outFeatures, inFeatures]`. */
  readonly weight: Parameter;
  /** `[outFeatures]`. */
  readonly bias: Parameter;

  /**
   * Sizes as PyTorch's. There is always a bias.
   *
   * @throws {RangeError} for a size that is no positive whole number.
   */
  constructor(inFeatures: number, outFeatures: number) {
    super();
    checkSettings("make a Linear", { inFeatures, outFeatures }, SIZE);
    this.weight = new Parameter([outFeatures, inFeatures], { kaimingNormal: { fan_in: inFeatures } });
    this.bias = new Parameter([outFeatures], { constant: 0 });
  }

  /**
   * The linear map of `x`, `[n, inFeatures, 1, 1]`.
   *
   * @throws {RangeError} when x is larger than 1x1.
   */
  forward(x: Tensor): Tensor {
    if (x.shape.h !== 1 || x.shape.w !== 1) {
      throw new RangeError(`Cannot apply a linear layer to ${x.shape.h}x${x.shape.w} pixels: pool them first`);
    }
    return conv2d(x, this.weight, this.bias);
  }
}

/** `torch.nn.ReLU`. */
export class ReLU extends Module {
  /** `max(x, 0)`. */
  forward(x: Tensor): Tensor {
    return relu(x);
  }
}

/** `torch.nn.MaxPool2d`. */
export class MaxPool2d extends Module {
  readonly #settings: MaxPoolSettings;

  /**
   * Settings as PyTorch's, by name.
   *
   * @throws {RangeError} for settings that are no whole numbers; whether the window fits shows with the input.
   * @throws {TypeError} for a setting that there is not, such as PyTorch's `ceil_mode`.
   */
  constructor(settings: MaxPoolSettings) {
    super();
    checkOptions("make a MaxPool2d", settings, { kernel: SIZE, stride: SIZE, padding: COUNT });
    checkSettings("make a MaxPool2d", { kernel: settings.kernel }, SIZE);
    this.#settings = settings;
  }

  /** The largest value of each window. */
  forward(x: Tensor): Tensor {
    return maxPool(x, this.#settings);
  }
}

/** `torch.nn.AdaptiveAvgPool2d(1)`: the mean over all pixels. */
export class GlobalAvgPool2d extends Module {
  /** The mean of each channel. */
  forward(x: Tensor): Tensor {
    return globalAvgPool(x);
  }
}
