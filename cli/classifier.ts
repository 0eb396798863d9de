/** A network on the device that names what is on pictures: what `predict` and `serve` have in common. */

import { type PictureTransform, testTransform } from "../data/pictures/transform.ts";
import type { Device } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import type { ElementType } from "../kernels/dispatch.ts";
import { Classifier } from "../nn/classifier.ts";
import { describedNetwork, fittedState } from "../nn/described_network.ts";
import { Network } from "../nn/network.ts";
import { type OptionSpecs, type OptionValues, usageError } from "./command.ts";
import { type NetworkFile, readNetworkFile } from "./network_file.ts";
import { architectureNames } from "./network_options.ts";
import { type PictureInput, pictureInput } from "./picture_input.ts";
import { precisionOption } from "./precision.ts";
import { useKnownTuning } from "./tuning.ts";
import { tellNotes } from "./weights_input.ts";

/** Options of commands that name what is on pictures. */
export const classifierOptions = {
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
    otherwise: "the file's, that of published weights, 224 for others",
    doc: "Height and width of what the network sees",
  },
  resizeSize: {
    type: "integer",
    min: 1,
    max: 8192,
    otherwise: "the file's, that of published weights; 256 for an image size of 224, in proportion for others",
    doc: "The shorter side before the centre is cut out",
  },
  precision: precisionOption,
} as const satisfies OptionSpecs;

/** A network's file, and how pictures become what the network sees. */
export interface ClassifierFile {
  readonly network: NetworkFile;
  readonly input: PictureInput;
  readonly transform: PictureTransform;
  readonly precision: ElementType;
}

/**
 * Reads a network's file as the options say, and tells what was done to find its weights.
 *
 * @param command For messages, such as `resnext predict`.
 * @throws {UserError} for files that hold no network, and options that contradict each other.
 */
export async function readClassifier(
  path: string,
  { arch, imageSize, resizeSize, precision }: OptionValues<typeof classifierOptions>,
  command: string,
): Promise<ClassifierFile> {
  const network = await readNetworkFile(path, { arch });
  tellNotes(network.notes);
  const input = chosenInput(network, imageSize, resizeSize, command);
  return { network, input, transform: testTransform(input.image_size, input.resize_size), precision };
}

/** A classifier on a device of its own, which goes with it. */
export type OpenClassifier = Pick<Classifier, "device" | "batchSize" | "classify" | "warmUp"> & Disposable;

/**
 * Opens the device, loads the network, compiles a step for each size of batch.
 *
 * @param batchSizes As of `Classifier.create`.
 * @param device Already open; closed with the classifier.
 * @throws {UserError} where the device is missing, has no room, or the weights are not the network's.
 */
export async function openClassifier(
  { network: { description, state }, input, precision }: ClassifierFile,
  batchSizes: readonly number[],
  device?: Device,
): Promise<OpenClassifier> {
  device ??= await openDevice();
  try {
    await useKnownTuning(device);
    const module = describedNetwork(description.network);
    const network = await Network.create(device, module);
    network.loadStateDict(fittedState(module, state));
    const { image_size: imageSize, mean, std } = input;
    const classifier = await Classifier.create(network, { imageSize, mean, std, batchSizes, precision });
    return {
      device,
      batchSize: classifier.batchSize,
      classify: (pictures) => classifier.classify(pictures),
      warmUp: () => classifier.warmUp(),
      [Symbol.dispose]: () => device.close(),
    };
  } catch (error) {
    device.close();
    throw error;
  }
}

/** How pictures are prepared, with the options' sizes. @throws {UserError} where they contradict each other. */
export function chosenInput(
  { description }: Pick<NetworkFile, "description">,
  imageSize: number | undefined,
  resizeSize: number | undefined,
  command: string,
): PictureInput {
  const input = pictureInput(description, imageSize), size = input.image_size;
  if (resizeSize !== undefined && resizeSize < size) {
    throw usageError(`Option --resize-size must be at least the image size, ${size}`, command);
  }
  return { ...input, resize_size: resizeSize ?? input.resize_size };
}
