/** What a network makes of each image of a test set, for other programs: the file of `eval --predictions`. */

import type { Judgement } from "../nn/judge.ts";

/** How the files end that are written. */
export const PREDICTIONS_ENDINGS = [".csv", ".jsonl"] as const;

/** A column's or a key's name each; `label` is a class's name, `class` its number, as in `predict --json`. */
interface Row {
  /** The image's number in the test set. */
  readonly image: number;
  /** Absent where images are no files. */
  readonly file?: string;
  readonly class: number;
  readonly label: string;
  readonly label_probability: number;
  readonly predicted_class: number;
  readonly predicted_label: string;
  readonly predicted_probability: number;
  readonly correct: boolean;
}

const COLUMNS: readonly (keyof Row)[] = [
  "image",
  "file",
  "class",
  "label",
  "label_probability",
  "predicted_class",
  "predicted_label",
  "predicted_probability",
  "correct",
];

/**
 * The file's text: of JSON a line, or of CSV as RFC 4180 has it, by how its path ends.
 *
 * @param files By the image's number, where they are files.
 */
export function predictionsText(
  path: string,
  judgements: readonly Judgement[],
  { classNames, files }: { readonly classNames: readonly string[]; readonly files?: readonly string[] },
): string {
  const rows = judgements.map(({ image, label, prediction, confidence, labelProbability }): Row => ({
    image,
    ...(files && { file: files[image] }),
    class: label,
    label: classNames[label],
    label_probability: labelProbability,
    predicted_class: prediction,
    predicted_label: classNames[prediction],
    predicted_probability: confidence,
    correct: label === prediction,
  }));
  const lines = path.toLowerCase().endsWith(".csv")
    ? [COLUMNS.join(","), ...rows.map((row) => COLUMNS.map((column) => cell(row[column])).join(","))]
    : rows.map((row) => JSON.stringify(row));
  return `${lines.join("\n")}\n`;
}

/** In quotes where it would end the cell or the line. */
function cell(value: string | number | boolean = ""): string {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
