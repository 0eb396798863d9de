/** A report's charts, as SVG whose colours are CSS variables, so that they follow light and dark. */

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import type { ClassResult, Confusion } from "../confusion.ts";
import type { EpochRecord } from "../run_files.ts";

const WIDTH = 560, HEIGHT = 260;
const TRAIN = "var(--train)", TEST = "var(--test)", QUIET = "var(--quiet)";

function draw(description: string, options: Plot.PlotOptions): string {
  const { document } = parseHTML("<!doctype html><body></body>") as unknown as Pick<Plot.PlotOptions, "document">;
  const figure = Plot.plot({
    document,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 52,
    marginRight: 24,
    marginTop: 16,
    marginBottom: 42,
    ariaDescription: description,
    style: { background: "none", fontSize: "12px" },
    ...options,
  });
  return figure.outerHTML.replaceAll("--plot-background: white", "--plot-background: var(--card)");
}

/** Whole epochs at the axis, however few there are. */
function epochAxis(epochs: readonly EpochRecord[]) {
  const count = epochs.at(-1)?.epoch ?? 1, step = Math.max(1, Math.ceil(count / 10));
  const ticks = Array.from({ length: Math.floor(count / step) }, (_, i) => (i + 1) * step);
  return Plot.axisX(ticks, {
    label: "epoch",
    labelAnchor: "center",
    labelOffset: 38,
    labelArrow: "none",
    tickFormat: (value: number) => String(value),
  });
}

/** A single epoch stands in the middle, off the axis. */
function epochScale(epochs: readonly EpochRecord[]) {
  const last = epochs.at(-1)?.epoch ?? 1;
  return { domain: last === 1 ? [0, 2] : [1, last] };
}

function lines(epochs: readonly EpochRecord[], value: (epoch: EpochRecord) => number | undefined, colour: string) {
  const known = epochs.filter((epoch) => value(epoch) !== undefined);
  const place = { x: "epoch", y: value as (epoch: EpochRecord) => number };
  return [
    Plot.lineY(known, { ...place, stroke: colour, strokeWidth: 2 }),
    ...(known.length <= 40 ? [Plot.dot(known, { ...place, fill: colour, r: 2.5 })] : []),
  ];
}

/** A ring and a word at the best epoch. */
function bestMark(
  best: EpochRecord,
  value: (epoch: EpochRecord) => number,
  text: string,
  epochs: readonly EpochRecord[],
  above: boolean,
) {
  const [first, last] = epochScale(epochs).domain, right = best.epoch > (first + last) / 2;
  return [
    Plot.ruleX([best], { x: "epoch", stroke: QUIET, strokeDasharray: "3,4" }),
    Plot.dot([best], { x: "epoch", y: value, r: 6, stroke: TEST, strokeWidth: 2 }),
    Plot.text([best], {
      x: "epoch",
      y: value,
      text: () => text,
      dx: right ? -10 : 10,
      dy: above ? -14 : 16,
      textAnchor: right ? "end" : "start",
      fontWeight: 600,
      fill: "currentColor",
      stroke: "var(--card)",
      strokeWidth: 4,
    }),
  ];
}

/** Loss of training and testing by epoch. */
export function lossChart(epochs: readonly EpochRecord[], best: EpochRecord): string {
  return draw("Loss by epoch, training and test", {
    x: epochScale(epochs),
    y: { grid: true, label: null, nice: true },
    marks: [
      epochAxis(epochs),
      ...lines(epochs, ({ train_loss }) => train_loss, TRAIN),
      ...lines(epochs, ({ test_loss }) => test_loss, TEST),
      ...bestMark(best, ({ test_loss }) => test_loss, best.test_loss.toFixed(4), epochs, true),
    ],
  });
}

/** Test accuracy by epoch. */
export function accuracyChart(epochs: readonly EpochRecord[], best: EpochRecord): string {
  const percent = (value: number) => `${Number((value * 100).toFixed(1))} %`;
  return draw("Test accuracy by epoch", {
    x: epochScale(epochs),
    y: {
      grid: true,
      label: null,
      nice: true,
      tickFormat: percent,
      domain: accuracyRange(epochs),
    },
    marks: [
      epochAxis(epochs),
      ...lines(epochs, ({ test_acc }) => test_acc, TEST),
      ...bestMark(best, ({ test_acc }) => test_acc, `best ${(best.test_acc * 100).toFixed(2)} %`, epochs, true),
    ],
  });
}

/** A little room about the curve, within 0 and 1. */
function accuracyRange(epochs: readonly EpochRecord[]): [number, number] {
  const values = epochs.map(({ test_acc }) => test_acc);
  const low = Math.min(...values), high = Math.max(...values), room = Math.max(0.02, (high - low) * 0.15);
  return [Math.max(0, low - room), Math.min(1, high + room)];
}

/** The learning rate by epoch, where the run tells it. */
export function rateChart(epochs: readonly EpochRecord[]): string | undefined {
  const known = epochs.filter(({ lr }) => lr !== undefined);
  if (known.length === 0) return undefined;
  return draw("Learning rate by epoch", {
    height: 200,
    x: epochScale(epochs),
    y: { grid: true, label: null, zero: true, nice: true, ticks: 5 },
    marks: [epochAxis(epochs), ...lines(known, ({ lr }) => lr, TRAIN)],
  });
}

/** Images a second by epoch, where the run tells them. */
export function throughputChart(epochs: readonly EpochRecord[]): string | undefined {
  const known = epochs.filter(({ images_per_second }) => images_per_second !== undefined);
  if (known.length === 0) return undefined;
  return draw("Training images a second by epoch", {
    height: 200,
    x: epochScale(epochs),
    y: { grid: true, label: null, zero: true, nice: true, ticks: 5 },
    marks: [epochAxis(epochs), ...lines(known, ({ images_per_second }) => images_per_second, TRAIN)],
  });
}

/** How many classes are shown one by one. */
const MANY = 30;

/** A class in a list, sorted by accuracy. */
export type ClassAccuracy = ClassResult & { readonly name: string };

/** Accuracy by class, the weakest first; of many classes the weakest alone. */
export function classChart(classes: readonly ClassAccuracy[]): string {
  const shown = classes.filter(({ images }) => images > 0).sort((a, b) => a.accuracy - b.accuracy).slice(0, MANY);
  const names = shown.map(({ name }) => name), longest = Math.max(...names.map(({ length }) => length));
  return draw("Accuracy by class", {
    height: 22 * shown.length + 46,
    marginLeft: Math.min(170, 16 + longest * 7),
    marginRight: 56,
    marginTop: 6,
    marginBottom: 28,
    x: {
      domain: [0, 1],
      label: null,
      tickFormat: (value: number) => `${Math.round(value * 100)} %`,
      ticks: 5,
      grid: true,
    },
    y: { domain: names, label: null, padding: 0.25, tickSize: 0 },
    marks: [
      Plot.barX(shown, { y: "name", x: () => 1, fill: "var(--track)" }),
      Plot.barX(shown, { y: "name", x: "accuracy", fill: TEST }),
      Plot.text(shown, {
        y: "name",
        x: () => 1,
        text: ({ accuracy }: ClassAccuracy) => `${(accuracy * 100).toFixed(1)} %`,
        textAnchor: "start",
        dx: 6,
        fill: "currentColor",
        fontVariant: "tabular-nums",
      }),
    ],
  });
}

/** Who was taken for whom: a row is a class, a column what it was taken for, its shade the share of the row. */
export function confusionChart(confusion: Confusion, names: readonly string[]): string {
  // A cell without images is the background, drawn once: most cells of many classes are.
  const cells = confusion.flatMap((row, label) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count, taken) => ({
      label: names[label],
      taken: names[taken],
      count,
      share: count / total,
      right: label === taken,
    })).filter(({ count }) => count > 0);
  });
  type Cell = typeof cells[number];
  const few = names.length <= 20,
    size = few ? Math.max(26, Math.min(46, 480 / names.length)) : Math.max(4, 640 / names.length);
  const longest = Math.min(150, 14 + Math.max(...names.map(({ length }) => length)) * 7);
  const shade = (cell: Cell) => 0.12 + 0.88 * cell.share;
  return draw("Confusion matrix", {
    width: longest + size * names.length + 20,
    height: size * names.length + (few ? longest + 24 : 40),
    marginLeft: few ? longest : 30,
    marginBottom: 12,
    marginTop: few ? longest : 24,
    x: { domain: names, axis: few ? "top" : null, label: null, tickRotate: -45, tickSize: 0, padding: few ? 0.04 : 0 },
    y: { domain: names, axis: few ? "left" : null, label: null, tickSize: 0, padding: few ? 0.04 : 0 },
    marks: [
      Plot.frame({ fill: "var(--track)", stroke: "none", rx: few ? 3 : 0 }),
      Plot.cell(cells, {
        x: "taken",
        y: "label",
        fill: ({ right }: Cell) => right ? TEST : "var(--wrong)",
        fillOpacity: shade,
        rx: few ? 3 : 0,
        title: ({ label, taken, count }: Cell) => `${label} taken for ${taken}: ${count}`,
      }),
      ...(few
        ? [Plot.text(cells, {
          x: "taken",
          y: "label",
          text: ({ count }: Cell) => String(count),
          fill: (cell: Cell) => shade(cell) > 0.55 ? "var(--on-accent)" : "currentColor",
          fontSize: size > 34 ? 12 : 9,
        })]
        : []),
    ],
    // Colours are CSS's, no scale's.
    color: { type: "identity" },
    opacity: { type: "identity" },
  });
}
