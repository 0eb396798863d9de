/** What goes with weights in the metadata of a safetensors or an ONNX file: how pictures are prepared, names of classes. */

import type { CheckpointDescription, InputDescription } from "../nn/checkpoint.ts";
import { wrongInDescription } from "../nn/description_check.ts";
import { parseStrictJson } from "../nn/json.ts";

/** What whoever runs a network must know beside its weights. */
export type WeightsDescription = Pick<CheckpointDescription, "input" | "class_names">;

/** It as metadata, each value in JSON. */
export function weightsMetadata({ input, class_names }: WeightsDescription): Record<string, string> {
  const { image_size, mean, std } = input ?? {};
  const known = Object.entries({ image_size, mean, std, class_names }).filter(([, value]) => value !== undefined);
  return Object.fromEntries(known.map(([name, value]) => [name, JSON.stringify(value)]));
}

/** What metadata tell of it. Others may mean something else by these names: what is of another form is left out. */
export function readMetadata(metadata: Readonly<Record<string, string>>, classes: number): WeightsDescription {
  const value = (name: string) => parsed(metadata[name]);
  const input = { image_size: value("image_size"), mean: value("mean"), std: value("std") };
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
