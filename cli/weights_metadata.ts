/** What goes with weights in the metadata of a safetensors or an ONNX file: how pictures are prepared, names of classes. */

import { basename } from "@std/path";
import type { CheckpointDescription, InputDescription, NetworkDescription } from "../nn/checkpoint.ts";
import { wrongInDescription } from "../nn/description_check.ts";
import { parseStrictJson } from "../nn/json.ts";
import { imagenetStatistics } from "../data/folder.ts";
import { imagenetLabels } from "../data/imagenet_labels.ts";
import { publishedAs } from "../nn/networks.ts";
import type { WeightsFile } from "../nn/weights_file.ts";
import { pictureInput } from "./picture_input.ts";

/** What whoever runs a network must know beside its weights. */
export type WeightsDescription = Pick<CheckpointDescription, "input" | "class_names">;

/** It as metadata, each value in JSON; the side of pictures that a checkpoint leaves to its settings is told. */
export function weightsMetadata(description: CheckpointDescription): Record<string, string> {
  const { input, class_names } = description;
  const { image_size, resize_size, mean, std } = input ? pictureInput(description) : {} as Partial<InputDescription>;
  const known = Object.entries({ image_size, resize_size, mean, std, class_names });
  return Object.fromEntries(
    known.filter(([, value]) => value !== undefined).map(([name, value]) => [name, JSON.stringify(value)]),
  );
}

/**
 * What a file of weights tells of it: by its metadata, by its name, where that is of published weights, or by its classes,
 * see {@linkcode assumedInput}.
 */
export function weightsDescription(
  path: string,
  { metadata }: Pick<WeightsFile, "metadata">,
  network: NetworkDescription,
): WeightsDescription {
  const told = readMetadata(metadata, network.num_classes);
  const input = told.input ?? publishedInput(path) ?? assumedInput(network);
  return { ...told, ...(input && { input }) };
}

/** How pictures are prepared for a network that does not tell: of a thousand classes as for ImageNet's, usually. */
export function assumedInput({ num_classes }: NetworkDescription): InputDescription | undefined {
  return num_classes === imagenetLabels.length ? { image_size: 224, ...imagenetStatistics } : undefined;
}

function publishedInput(path: string): InputDescription | undefined {
  const published = publishedAs(basename(path));
  if (!published) return undefined;
  const { imageSize: image_size, resizeSize: resize_size } = published;
  return { image_size, resize_size, ...imagenetStatistics };
}

/** Others may mean something else by these names: what is of another form is left out. */
function readMetadata(metadata: Readonly<Record<string, string>>, classes: number): WeightsDescription {
  const value = (name: string) => parsed(metadata[name]);
  const side = value("resize_size");
  const input = {
    ...{ image_size: value("image_size"), ...(side !== undefined && { resize_size: side }) },
    ...{ mean: value("mean"), std: value("std") },
  };
  const names = value("class_names"), named = Array.isArray(names) && names.length === classes;
  return {
    ...(!wrongInDescription({ input }, ["input"]) && { input: input as InputDescription }),
    ...(named && !wrongInDescription({ class_names: names }, []) && { class_names: names }),
  };
}

function parsed(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : parseStrictJson(text);
  } catch {
    return undefined;
  }
}
