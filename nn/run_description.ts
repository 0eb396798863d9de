/** What a training run is given: images, and a description of what is to be made of them. */

import type { ImageInput } from "./image_source.ts";
import type { LabelledImages } from "./labelled_images.ts";
import type { InputDescription, NetworkDescription, RunSettings } from "./checkpoint.ts";
import type { OptimizerSettings } from "./optimizers.ts";

/** Images to learn from and to test on. */
export interface TrainingData {
  /** In the order of the labels. */
  readonly classNames: readonly string[];
  /** The stored images' size. */
  readonly height: number;
  /** As `height`. */
  readonly width: number;
  /** What the network learns from. */
  readonly train: LabelledImages;
  /** What it is judged by. */
  readonly test: LabelledImages;
}

/** What a run is. */
export interface RunDescription {
  /** What is trained. */
  readonly network: NetworkDescription;
  /** How images are prepared. */
  readonly input: InputDescription;
  /** How it is trained. */
  readonly settings: RunSettings;
}

/** Joins what a data set, a description and a set of its images say of how they become the network's input. */
export function imageInput(
  data: { readonly height: number; readonly width: number },
  { image_size, mean, std }: InputDescription,
  set?: LabelledImages,
): ImageInput {
  const { height, width } = set?.size ?? data;
  return { height, width, mean, std, imageSize: image_size };
}

/** What updates the weights of a run. */
export function optimizerSettings(
  { optimizer, momentum, nesterov, betas, eps, weight_decay: weightDecay, decay_vectors: decayVectors }: RunSettings,
): OptimizerSettings {
  return optimizer === "adamw"
    ? { kind: optimizer, betas, eps, weightDecay, decayVectors }
    : { momentum, nesterov, weightDecay, decayVectors };
}
