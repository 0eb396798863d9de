/** An evaluation as text that fits a terminal of 80 columns, and as JSON. */

import type { ElementType } from "../kernels/dispatch.ts";
import type { CheckpointDescription } from "../nn/checkpoint.ts";
import type { EvaluationReport } from "../nn/evaluator.ts";
import { plain } from "./columns.ts";
import { byClass, commonestMistakes, type Confusion } from "./confusion.ts";

/** What was evaluated. */
export interface EvaluationSubject {
  readonly file: string;
  readonly dataset: string;
  readonly imageSize: number;
  readonly precision: ElementType;
  readonly device: string;
  readonly description: CheckpointDescription;
  /** The weights are a moving average that the file holds beside others. */
  readonly averaged?: boolean;
}

/** Columns of a terminal. */
const COLUMNS = 80;
/** How many of the commonest mistakes are listed. */
const MISTAKES = 10;

/** For people. */
export function evaluationText(
  { file, dataset, imageSize, precision, device, description: { network, progress }, averaged }: EvaluationSubject,
  { images, loss, top1, top5, confusion }: EvaluationReport,
  names: readonly string[],
): string {
  const classNames = names.map(plain);
  const epoch = progress ? `, after epoch ${progress.epoch}` : "";
  const lines = [
    file,
    `${network.arch}${epoch}, on ${images} test images of ${dataset} at ${imageSize}x${imageSize}`,
    ...(averaged ? ["with the moving average of the weights, as in training"] : []),
    `on ${device}${precision === "f32" ? "" : `, ${precision}`}`,
    "",
    `Loss            ${loss.toFixed(4)}`,
    `Top-1 accuracy  ${top1.toFixed(4)}`,
    `Top-5 accuracy  ${top5.toFixed(4)}`,
    "",
    ...classTable(confusion, classNames),
    "",
    ...confusionTable(confusion, classNames),
  ];
  return lines.join("\n");
}

function classTable(confusion: Confusion, classNames: readonly string[]): string[] {
  const width = Math.max(5, ...classNames.map(({ length }) => length));
  return [
    `${"Class".padEnd(width)}  Accuracy   Right  Images`,
    ...byClass(confusion).map(({ images, correct, accuracy }, label) =>
      [
        classNames[label].padEnd(width),
        (images > 0 ? accuracy.toFixed(4) : "-").padStart(8),
        String(correct).padStart(6),
        String(images).padStart(6),
      ].join("  ")
    ),
  ];
}

/** The whole matrix where it fits, else the commonest mistakes. */
function confusionTable(confusion: Confusion, classNames: readonly string[]): string[] {
  // A row at a time: all cells are more arguments than a call may have.
  const most = confusion.reduce((most, row) => Math.max(most, ...row), 0);
  const cell = Math.max(String(most).length, String(classNames.length - 1).length) + 1;
  const number = String(classNames.length - 1).length;
  const names = Math.max(...classNames.map(({ length }) => length));
  if (number + 1 + names + 1 + cell * classNames.length > COLUMNS) return mistakes(confusion, classNames);
  // Zeros as dots: what is confused stands out.
  const row = (head: string, cells: readonly (string | number)[]) =>
    head + cells.map((value) => String(value).padStart(cell)).join("");
  const head = (label: number) => `${String(label).padStart(number)} ${classNames[label].padEnd(names + 1)}`;
  return [
    "Confusion: a row is a class, a column what it was taken for",
    row(" ".repeat(number + names + 2), classNames.map((_, label) => label)),
    ...confusion.map((counts, label) => row(head(label), counts.map((count) => count || "."))),
  ];
}

function mistakes(confusion: Confusion, classNames: readonly string[]): string[] {
  return [
    "Commonest mistakes",
    ...commonestMistakes(confusion, MISTAKES).map(({ count, label, taken }) =>
      `${String(count).padStart(6)}  ${classNames[label]} taken for ${classNames[taken]}`
    ),
  ];
}

/** For programs; names as in a checkpoint's metadata. */
export function evaluationJson(
  { file, dataset, imageSize, precision, device, description: { network }, averaged }: EvaluationSubject,
  { images, loss, top1, top5, confusion }: EvaluationReport,
  classNames: readonly string[],
): Record<string, unknown> {
  return {
    checkpoint: file,
    arch: network.arch,
    dataset,
    image_size: imageSize,
    precision,
    ...(averaged && { averaged }),
    device,
    images,
    loss,
    top1,
    top5,
    classes: byClass(confusion).map(({ images, accuracy }, label) => ({
      name: classNames[label],
      images,
      accuracy: images > 0 ? accuracy : null,
    })),
    confusion,
  };
}
