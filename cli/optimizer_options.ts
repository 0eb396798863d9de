/** The options of `train` that say how the weights follow their gradients. */

import { LEAST_EPS } from "../kernels/adamw.ts";
import type { RunSettings } from "../nn/checkpoint.ts";
import { ADAMW, isBeta, type OptimizerKind, OPTIMIZERS } from "../nn/optimizers.ts";
import { flagName, type OptionSpec, type OptionSpecs, readNumbers, usageError } from "./command.ts";
import { datasetNames, DATASETS, type RunDefaults } from "./dataset.ts";

/** PyTorch's rate of AdamW, whatever the images. */
const ADAMW_RATE = 0.001;

/** Of the optimizer. */
export const optimizerOptions = {
  optimizer: { type: "choice", choices: OPTIMIZERS, default: "sgd", doc: "What updates the weights" },
  lr: {
    type: "number",
    min: 0,
    otherwise: `${ADAMW_RATE} with adamw, else ${
      datasetNames.map((name) => `${DATASETS[name].defaults.lr} for ${name}`).join(", ")
    }`,
    doc: "Learning rate",
  },
  momentum: {
    type: "number",
    min: 0,
    below: 1,
    default: 0.9,
    onlyWith: ["optimizer", "sgd"],
    doc: "Momentum of sgd",
  },
  nesterov: { type: "boolean", onlyWith: ["optimizer", "sgd"], doc: "Nesterov's momentum, of sgd" },
  betas: {
    type: "string",
    placeholder: "X,X",
    items: "number",
    default: ADAMW.betas.join(),
    onlyWith: ["optimizer", "adamw"],
    doc: "What adamw keeps of its averages of gradients and of their squares at each step",
  },
  eps: {
    type: "number",
    min: LEAST_EPS,
    default: ADAMW.eps,
    onlyWith: ["optimizer", "adamw"],
    doc: "What adamw adds to the root that it divides by",
  },
  weightDecay: {
    type: "number",
    min: 0,
    otherwise: `0; ${ADAMW.weightDecay} with adamw`,
    doc: "Weight decay: with sgd L2, added to the gradient; with adamw decoupled from it",
  },
} as const satisfies OptionSpecs;

/** Values of {@linkcode optimizerOptions}. */
export interface OptimizerOptionValues {
  readonly optimizer: OptimizerKind;
  readonly lr?: number;
  readonly momentum: number;
  readonly nesterov: boolean;
  readonly betas: string;
  readonly eps: number;
  readonly weightDecay?: number;
}

/** Names for people. */
export const OPTIMIZER_NAMES: Readonly<Record<OptimizerKind, string>> = { sgd: "SGD", adamw: "AdamW" };

/**
 * The settings that such options make.
 *
 * @param standard What holds where the options do not say.
 * @throws {UserError} with exit code 2.
 */
export function optimizerOfOptions(
  { options, given }: { readonly options: OptimizerOptionValues; readonly given: ReadonlySet<string> },
  standard: Pick<RunDefaults, "lr">,
  path: string,
): Pick<RunSettings, "optimizer" | "lr" | "momentum" | "nesterov" | "betas" | "eps" | "weight_decay"> {
  const { optimizer, momentum, nesterov, eps } = options;
  for (const [key, spec] of Object.entries<OptionSpec>(optimizerOptions)) {
    const of = spec.onlyWith?.[1] ?? optimizer;
    if (of !== optimizer && given.has(key)) {
      throw usageError(`Option --${flagName(key)} has no use without --optimizer ${of}`, path);
    }
  }
  if (optimizer === "adamw") {
    const { lr = ADAMW_RATE, weightDecay = ADAMW.weightDecay } = options;
    return { optimizer, lr, betas: readBetas(options.betas, path), eps, weight_decay: weightDecay };
  }
  const { lr = standard.lr, weightDecay = 0 } = options;
  if (nesterov && momentum === 0) throw usageError("Option --nesterov needs a momentum above 0", path);
  return { lr, momentum, weight_decay: weightDecay, nesterov };
}

function readBetas(text: string, path: string): readonly [number, number] {
  const wanted = { kind: "two numbers from 0 to below 1", allowed: isBeta, count: 2 };
  const [first, second] = readNumbers("betas", text, wanted, path);
  return [first, second];
}

/** What such options would have been for a run, by key: for comparing with what a user gives to one that goes on. */
export function optimizerOptionsOf(settings: RunSettings): Record<keyof typeof optimizerOptions, unknown> {
  return {
    optimizer: settings.optimizer ?? "sgd",
    lr: settings.lr,
    momentum: settings.momentum,
    nesterov: settings.nesterov ?? false,
    betas: settings.betas?.join(),
    eps: settings.eps,
    weightDecay: settings.weight_decay,
  };
}

/** In words, for the head of a run: its name, and `lr 0.001, betas 0.9, 0.999`. */
export function optimizerText(settings: RunSettings): [name: string, settings: string] {
  const { optimizer = "sgd", lr, momentum, nesterov, betas = ADAMW.betas, eps = ADAMW.eps } = settings;
  const { weight_decay: decay, decay_vectors: vectors } = settings;
  const adamw = optimizer === "adamw";
  return [
    OPTIMIZER_NAMES[optimizer],
    [
      `lr ${lr}`,
      adamw ? `betas ${betas.join(" and ")}` : `momentum ${momentum}${nesterov ? " (Nesterov)" : ""}`,
      adamw && eps !== ADAMW.eps && `eps ${eps}`,
      decay > 0 && `weight decay ${decay}${vectors === false ? " of matrices alone" : ""}`,
    ].filter(Boolean).join(", "),
  ];
}
