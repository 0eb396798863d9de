/** A report as one HTML file that needs nothing else: no script, no address outside. */

import { groupDigits } from "../columns.ts";
import { byClass, commonestMistakes, type Confusion } from "../confusion.ts";
import type { EpochRecord, RecordedRun } from "../run_files.ts";
import { accuracyChart, classChart, confusionChart, lossChart, rateChart, throughputChart } from "./charts.ts";
import STYLE from "./style.ts";

/** A picture inside the page. */
export interface Picture {
  readonly url: string;
  readonly width: number;
  readonly height: number;
}

/** A picture that the network took for another class, most sure first. */
export interface WrongPicture extends Picture {
  /** Where it has one. */
  readonly file?: string;
  readonly label: string;
  readonly prediction: string;
  readonly confidence: number;
  readonly labelProbability: number;
}

/** What the network makes of the test set. */
export interface Verdict {
  readonly images: number;
  readonly correct: number;
  readonly classNames: readonly string[];
  readonly confusion: Confusion;
  readonly wrong: readonly WrongPicture[];
}

/** All that a report shows. */
export interface ReportData {
  readonly run: RecordedRun;
  readonly best: EpochRecord;
  /** Name and value: the settings and what came of them. */
  readonly facts: readonly (readonly [string, string])[];
  /** The large numbers at the top. */
  readonly headline: readonly (readonly [label: string, value: string])[];
  /** Or in words why there is none. */
  readonly verdict: Verdict | string;
  readonly filters?: Picture;
  /** The network's layers; the first row is the head. None where no checkpoint tells them. */
  readonly layers: readonly (readonly string[])[];
  /** When and by what it was made. */
  readonly made: string;
}

/** How many of the commonest mistakes are listed where the matrix has no numbers. */
const MISTAKES = 12;
/** Of more classes a matrix is megabytes of cells smaller than a dot: the mistakes stand for it. */
const MATRIX_CLASSES = 100;

/** Stands in every report, within the first {@linkcode MARK_WITHIN} bytes: by it a report is known, which may be written anew. */
export const REPORT_MARK = '<meta name="generator" content="resnext report">';
/** See {@linkcode REPORT_MARK}. */
export const MARK_WITHIN = 512;

/** The page. */
export function reportPage(data: ReportData): string {
  const { run, best, facts, headline, verdict, filters, layers, made } = data;
  const { epochs } = run;
  const rate = rateChart(epochs), throughput = throughputChart(epochs);
  const legend = `<p class="legend"><span class="train">training</span><span class="test">test</span></p>`;
  const charts = [
    card("Loss", legend + lossChart(epochs, best)),
    card("Test accuracy", accuracyChart(epochs, best)),
    rate && card("Learning rate", rate),
    throughput && card("Throughput", throughput),
  ];
  const body = [
    `<header><h1>${text(run.name)}</h1><p>${text(subtitle(run))}</p></header>`,
    `<dl class="headline">${
      headline.map(([label, value]) => `<div><dt>${text(label)}</dt><dd>${text(value)}</dd></div>`).join("")
    }</dl>`,
    `<div class="grid">${charts.filter(Boolean).join("")}</div>`,
    ...(typeof verdict === "string" ? [card("Test set", `<p>${text(verdict)}</p>`)] : verdictCards(verdict)),
    filters && card(
      "First layer's filters",
      `<p>Each is stretched to the whole range of colours; grey is zero.</p>${picture(filters, "filters", "Filters")}`,
    ),
    `<div class="grid">${card("Settings and outcome", factTable(facts))}${
      card("Epochs", epochTable(epochs, best))
    }</div>`,
    layers.length > 0 && card("Network", table(layers)),
    `<footer>${text(made)}</footer>`,
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
${REPORT_MARK}
<title>${text(run.name)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
${body.filter(Boolean).join("\n")}
</main>
</body>
</html>
`;
}

function subtitle({ config, description }: RecordedRun): string {
  const { network, input, settings } = config ?? description ?? {};
  return [
    network && `${network.arch} on ${settings?.dataset ?? "an unknown data set"}`,
    input && `${input.image_size}x${input.image_size} pixels`,
    config && `${config.device}${config.software ? ", a software adapter" : ""}`,
    config && config.started.slice(0, 16).replace("T", " ") + " UTC",
  ].filter(Boolean).join(" · ");
}

function verdictCards({ images, correct, classNames, confusion, wrong }: Verdict): string[] {
  const classes = byClass(confusion).map((result, label) => ({ name: classNames[label], ...result }));
  const share = (correct / images * 100).toFixed(2);
  const shown = wrong.map((each) =>
    `<figure>${picture(each, "", `A picture of ${each.label}`)}<figcaption><b>${text(each.prediction)}</b> ` +
    `${percent(each.confidence)}<br>is ${text(each.label)} ${percent(each.labelProbability)}` +
    `${each.file === undefined ? "" : `<br>${text(each.file)}`}</figcaption></figure>`
  );
  const right = `${groupDigits(correct)} of ${groupDigits(images)} test images are right: ${share} %.`;
  const chart = classNames.length > MATRIX_CLASSES
    ? `<p>${right}</p>`
    : `<p>${right} A row is a class, a column what it was taken for.</p>` +
      `<div class="scroll">${confusionChart(confusion, classNames)}</div>`;
  const matrix = card("Confusion", chart + (classNames.length > 20 ? mistakes(confusion, classNames) : ""));
  const bars = card(
    "Accuracy by class",
    (classes.length > 30 ? "<p>The 30 weakest classes.</p>" : "") + classChart(classes),
  );
  return [
    classNames.length <= 12 ? `<div class="grid">${matrix}${bars}</div>` : matrix + bars,
    wrong.length > 0
      ? card(
        "Most wrong",
        `<p>The pictures whose class the network believed in least.</p><div class="wrong">${shown.join("")}</div>`,
      )
      : card("Most wrong", "<p>No picture of the test set is taken for another class.</p>"),
  ];
}

function mistakes(confusion: Confusion, names: readonly string[]): string {
  const rows = commonestMistakes(confusion, MISTAKES).map((
    { count, label, taken },
  ) => [names[label], names[taken], String(count)]);
  return `<h3>Commonest mistakes</h3>${table([["Class", "taken for", "Images"], ...rows], 2)}`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(share > 0.995 || share < 0.005 ? 2 : 0)} %`;
}

function card(title: string, content: string): string {
  return `<section><h2>${text(title)}</h2>${content}</section>`;
}

function picture({ url, width, height }: Picture, name: string, alt: string): string {
  return `<img src="${url}" width="${width}" height="${height}" class="${name}" alt="${text(alt)}">`;
}

function factTable(facts: ReportData["facts"]): string {
  return `<table class="facts">${
    facts.map(([name, value]) => `<tr><th>${text(name)}</th><td>${text(value)}</td></tr>`).join("")
  }</table>`;
}

function epochTable(epochs: readonly EpochRecord[], best: EpochRecord): string {
  // Of many epochs the last ones, and the best.
  const shown = epochs.length <= 30
    ? epochs
    : epochs.filter(({ epoch }) => epoch === best.epoch || epoch > epochs.length - 29);
  const rows = shown.map(({ epoch, train_loss, test_loss, test_acc, lr, seconds }) => {
    const cells = [
      String(epoch),
      train_loss.toFixed(4),
      test_loss.toFixed(4),
      test_acc.toFixed(4),
      lr === undefined ? "" : lr.toPrecision(3),
      seconds === undefined ? "" : seconds.toFixed(1),
    ];
    return `<tr${epoch === best.epoch ? ' class="best"' : ""}>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  const head = ["Epoch", "Train loss", "Test loss", "Test acc", "Rate", "Seconds"];
  return `<div class="scroll"><table class="numbers"><thead><tr>${
    head.map((cell) => `<th>${cell}</th>`).join("")
  }</tr></thead><tbody>${rows.join("")}</tbody></table></div>`;
}

/** Cells of the first `left` columns are words, the others numbers. */
function table([head, ...rows]: readonly (readonly string[])[], left = 3): string {
  const cells = (row: readonly string[], tag: string) =>
    row.map((cell, i) => `<${tag}${i < left ? ' class="word"' : ""}>${text(cell)}</${tag}>`).join("");
  return `<div class="scroll"><table class="numbers"><thead><tr>${cells(head, "th")}</tr></thead><tbody>${
    rows.map((row) => `<tr>${cells(row, "td")}</tr>`).join("")
  }</tbody></table></div>`;
}

/** Text as HTML: names of classes and files are the user's. */
function text(value: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return value.replace(/[&<>"']/g, (character) => entities[character]);
}
