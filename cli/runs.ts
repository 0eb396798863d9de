/** `resnext runs`: what has been trained, in a table; two runs side by side. */

import { join } from "@std/path";
import { touching } from "../data/files.ts";
import { UserError } from "../kernels/user_error.ts";
import type { CheckpointDescription } from "../nn/checkpoint.ts";
import { columns, factText, groupDigits } from "./columns.ts";
import { defineCommand, usageError } from "./command.ts";
import { commandLine } from "./invocation.ts";
import { formatBytes, formatDuration } from "./progress.ts";
import { bestEpoch, findRun, readRun, type RecordedRun } from "./run_files.ts";

/** The command. */
export const runsCommand = defineCommand({
  name: "runs",
  summary: "List the runs, or put two side by side",
  details:
    "A run is a folder that `train` has made. Without arguments all runs are listed, the one trained latest last.",
  positionals: [
    { name: "action", doc: "What to do", choices: ["list", "compare"], optional: true },
    { name: "a", doc: "A run's folder, or its name", optional: true },
    { name: "b", doc: "The other run's", optional: true },
  ],
  options: {
    dir: { type: "string", placeholder: "DIR", default: "runs", doc: "The folder that holds the runs" },
    json: { type: "boolean", doc: "Print a JSON array instead, an object a run" },
  },
  examples: ["runs", "runs compare runs/first runs/second"],
  run: async ({ args: { action = "list", a, b }, options: { dir, json }, given }) => {
    if (action === "list") {
      if (a !== undefined) throw usageError(`Unexpected argument ${JSON.stringify(a)}`, "resnext runs");
      const runs = await readRuns(dir, given.has("dir"));
      console.log(json ? JSON.stringify(runs.map(runJson)) : runsText(runs, dir));
      return;
    }
    if (a === undefined || b === undefined) {
      throw usageError("Missing arguments: name the two runs to compare", "resnext runs");
    }
    const pair = [await readRun(await located(a, dir)), await readRun(await located(b, dir))] as const;
    console.log(json ? JSON.stringify(pair.map(runJson)) : compareText(...pair));
  },
});

/** A run by its folder, or by its name in `dir`. */
export async function located(run: string, dir: string): Promise<string> {
  const path = run.replace(/[/\\]+$/, "");
  const folders: string[] = [];
  for (const each of [path, join(dir, path)]) {
    if (await Deno.stat(each).then(({ isDirectory }) => isDirectory, () => false)) folders.push(each);
  }
  // A folder of that name here may be something else.
  for (const folder of folders) if (await findRun(folder)) return folder;
  if (folders.length > 0) return folders[0];
  throw new UserError(`Cannot find the run "${run}": no such folder here or in "${dir}"; \`resnext runs\` lists them`);
}

/**
 * All runs in a folder, in the order in which they were begun or gone on with; those that do not tell by name, first.
 *
 * @param named The user named the folder: then it must be there.
 */
async function readRuns(dir: string, named: boolean): Promise<RecordedRun[]> {
  const names = await touching(`read "${dir}"`, async () => {
    try {
      const entries = await Array.fromAsync(Deno.readDir(dir));
      return entries.filter(({ isFile }) => !isFile).map(({ name }) => name);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      if (named) throw new UserError(`Cannot list the runs in "${dir}": no such folder; name the one that holds them`);
      return [];
    }
  });
  const found = await Promise.all(names.map((name) => findRun(join(dir, name)).catch(() => undefined)));
  const key = ({ config, name }: RecordedRun) => `${config?.started ?? ""} ${name}`;
  return found.filter((run) => run !== undefined).sort((a, b) => key(a) < key(b) ? -1 : 1);
}

const about = ({ config, description }: RecordedRun): Partial<CheckpointDescription> => config ?? description ?? {};

/** Seconds of the epochs that tell theirs. */
export function duration({ epochs }: RecordedRun): number | undefined {
  const known = epochs.map(({ seconds }) => seconds).filter((seconds) => seconds !== undefined);
  return known.length > 0 ? known.reduce((sum, seconds) => sum + seconds) : undefined;
}

/** Training images a second in the middle one of the epochs that tell theirs. */
export function usualRate({ epochs }: RecordedRun): string | undefined {
  const rates = epochs.map(({ images_per_second }) => images_per_second).filter((rate) => rate !== undefined);
  if (rates.length === 0) return undefined;
  return groupDigits(Number(rates.sort((a, b) => a - b)[rates.length >> 1].toPrecision(3)));
}

function runsText(runs: readonly RecordedRun[], dir: string): string {
  if (runs.length === 0) return `No runs in "${dir}" yet; make one with: ${commandLine("train")}`;
  const rows = runs.map((run) => {
    const { network, settings } = about(run), best = bestEpoch(run.epochs), seconds = duration(run);
    return [
      run.name,
      network?.arch ?? "?",
      settings?.dataset ?? "?",
      `${run.epochs.length}/${settings?.epochs ?? "?"}`,
      best ? best.test_acc.toFixed(4) : "-",
      best ? String(best.epoch) : "-",
      seconds === undefined ? "-" : formatDuration(seconds),
      formatBytes(run.bytes),
    ];
  });
  const head = ["Run", "Network", "Data", "Epochs", "Best acc", "in", "Time", "Size"];
  return columns([head, ...rows], { left: [0, 1, 2] }).join("\n");
}

function runJson(run: RecordedRun) {
  const best = bestEpoch(run.epochs), { network, input, settings } = about(run);
  return {
    path: run.path,
    network,
    input,
    settings,
    device: run.config?.device,
    started: run.config?.started,
    best_epoch: best?.epoch,
    best_test_acc: best?.test_acc,
    seconds: duration(run),
    bytes: run.bytes,
    epochs: run.epochs,
  };
}

/** What a run is, as lines of two words. */
export function runFacts(run: RecordedRun): [string, string][] {
  const { network, input, settings } = about(run), best = bestEpoch(run.epochs), seconds = duration(run);
  const last = run.epochs.at(-1);
  const facts: [string, unknown][] = [
    ["network", network?.arch],
    ...Object.entries(network ?? {}).filter(([key]) => key !== "arch"),
    ["image_size", input?.image_size],
    // Absent in those that are older than the choice.
    ...Object.entries(settings ? { optimizer: "sgd", ...settings } : {}),
    ["parameters", run.config && groupDigits(run.config.parameters)],
    ["device", run.config?.device],
    ["version", run.config?.version],
    ["epochs done", run.epochs.length],
    ["best test accuracy", best && `${best.test_acc.toFixed(4)} in epoch ${best.epoch}`],
    ["least test loss", best && Math.min(...run.epochs.map(({ test_loss }) => test_loss)).toFixed(4)],
    ["last train loss", last?.train_loss.toFixed(4)],
    ["time", seconds && formatDuration(seconds)],
    ["images a second", usualRate(run)],
    ["size", formatBytes(run.bytes)],
  ];
  return facts.filter(([, value]) => value !== undefined).map(([name, value]) => [name, factText(value)]);
}

/** Two runs side by side: facts, those that differ marked, and accuracy by epoch. */
function compareText(a: RecordedRun, b: RecordedRun): string {
  const left = new Map(runFacts(a)), right = new Map(runFacts(b));
  const names = [...new Set([...left.keys(), ...right.keys()])];
  const facts = names.map((name) => {
    const [x, y] = [left.get(name) ?? "-", right.get(name) ?? "-"];
    return [x === y ? " " : "*", name, x, y];
  });
  const epochs = Array.from({ length: Math.max(a.epochs.length, b.epochs.length) }, (_, i) => i);
  const number = (value?: number) => value === undefined ? "-" : value.toFixed(4);
  const rows = epochs.map((i) => {
    const [x, y] = [a.epochs[i], b.epochs[i]];
    return [
      String(i + 1),
      number(x?.test_loss),
      number(y?.test_loss),
      number(x?.test_acc),
      number(y?.test_acc),
      x && y ? `${y.test_acc >= x.test_acc ? "+" : ""}${number(y.test_acc - x.test_acc)}` : "-",
    ];
  });
  return [
    ...columns([["", "", "A: " + a.name, "B: " + b.name], ...facts], { left: [0, 1, 2, 3] }),
    "",
    ...columns([["Epoch", "Loss A", "Loss B", "Acc A", "Acc B", "B - A"], ...rows], { left: [] }),
  ].join("\n");
}
