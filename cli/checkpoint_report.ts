/** What a checkpoint holds, as text and as JSON. */

import type { Checkpoint } from "../nn/checkpoint.ts";
import { describedNetwork } from "../nn/described_network.ts";
import type { StateDict } from "../nn/weights.ts";
import { columns, counted, factText, groupDigits, plain } from "./columns.ts";
import { formatBytes } from "./progress.ts";
import { epochLine } from "./train_report.ts";

const elements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/** Names, shapes and types, in columns. */
function tensorTable(tensors: StateDict): string[] {
  const rows = [...tensors].map(([name, { dtype, shape }]) => [
    name,
    dtype,
    `[${shape.join(", ")}]`,
    groupDigits(elements(shape)),
  ]);
  return columns([["Tensor", "Type", "Shape", "Elements"], ...rows], { left: [0, 1, 2] });
}

/** `arch`, `num_classes`, ... as a column of names and one of values. */
function fieldLines(fields: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(fields).filter(([, value]) => value !== undefined)
    .map(([name, value]) => `  ${plain(name).padEnd(16)} ${plain(factText(value))}`);
}

/** A checkpoint for people. */
export function checkpointText(
  file: string,
  bytes: number,
  { description, state, momenta, adamw, lossScale, average }: Checkpoint,
): string {
  const { network, input, class_names: classNames, settings, progress } = description;
  const lines = [`${file}: a checkpoint of ${formatBytes(bytes)}, its checksum is right`, "", "Network"];
  const parameters = groupDigits(describedNetwork(network).parameterCount);
  lines.push(...fieldLines({ ...network, parameters }));
  if (classNames) lines.push(...classLines(classNames));
  if (input) lines.push("", "Input", ...fieldLines({ ...input }));
  if (settings) lines.push("", "Settings", ...fieldLines({ ...settings }));
  if (progress) {
    const { epoch, step, history } = progress;
    lines.push("", "Progress", ...fieldLines({ epoch, step }));
    lines.push(...history.map((metrics) => `  ${epochLine(metrics, settings?.epochs ?? history.length)}`));
  }
  lines.push("", ...tensorTable(state), "");
  if (average) lines.push("and the moving average of these, which is what was tested and is to be used");
  const scaled = lossScale ? `, and the loss scale, ${lossScale.scale}` : "";
  const kept = momenta
    ? `the optimizer's momentum of ${momenta.size} parameters`
    : adamw && `AdamW's two averages of ${adamw.expAvg.size} parameters after ${counted(adamw.step, "step")}`;
  lines.push(kept ? `and ${kept}${scaled}` : "and no optimizer's state");
  return lines.join("\n");
}

function classLines(names: readonly string[]): string[] {
  const shown = names.slice(0, 10).join(", ");
  return [`  ${"class_names".padEnd(16)} ${plain(names.length > 10 ? `${shown}, ...` : shown)}`];
}

/** Any other file of weights for people; `what` says of which kind. */
export function weightsText(
  file: string,
  what: string,
  tensors: StateDict,
  metadata: Readonly<Record<string, string>>,
): string {
  const count = [...tensors.values()].reduce((sum, { shape }) => sum + elements(shape), 0);
  const lines = [`${file}: ${what}, ${tensors.size} tensors, ${groupDigits(count)} elements`, ""];
  const entries = fieldLines(metadata);
  if (entries.length > 0) lines.push("Metadata", ...entries, "");
  return [...lines, ...tensorTable(tensors)].join("\n");
}

const tensorList = (tensors: StateDict) => [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));

/** A checkpoint for programs. */
export function checkpointJson(
  { description, state, momenta, adamw, lossScale, average }: Checkpoint,
): Record<string, unknown> {
  return {
    ...description,
    parameters: describedNetwork(description.network).parameterCount,
    tensors: tensorList(state),
    momenta: momenta ? tensorList(momenta) : [],
    ...(adamw && {
      adamw: { step: adamw.step, exp_avg: tensorList(adamw.expAvg), exp_avg_sq: tensorList(adamw.expAvgSq) },
    }),
    ...(average && { average: tensorList(average) }),
    ...(lossScale && { loss_scale: lossScale.scale }),
  };
}

/** Any other file of weights for programs. */
export function weightsJson(
  tensors: StateDict,
  metadata: Readonly<Record<string, string>>,
): Record<string, unknown> {
  return { metadata, tensors: tensorList(tensors) };
}
