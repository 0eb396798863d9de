/**
 * What a description of a checkpoint or of a run may say: of what type each field is, and within which bounds. Whoever wrote
 * a file need not be trusted, nor a caller without types.
 */

import { UserError } from "../kernels/user_error.ts";
import { checkAugment } from "./augment.ts";
import type { InputDescription, RunProgress, RunSettings } from "./checkpoint.ts";
import { quoted } from "./json.ts";
import { isBetas, isEps, OPTIMIZERS } from "./optimizers.ts";
import type { RunDescription } from "./run_description.ts";
import { checkSchedule, SCHEDULES } from "./schedule.ts";
import { STEMS } from "./resnext.ts";
import { RING_SLOTS } from "./step.ts";
import { above0, between, type Check, count, list, MAX_FLOAT, number, positive, triple } from "./number_check.ts";

/** A field that is missing, of another type or out of bounds. */
export interface WrongField {
  /** Its path, such as `settings.schedule.kind`. */
  readonly path: string;
  readonly value: unknown;
}

/** A table in a table may be absent. */
interface Fields {
  readonly [name: string]: Check | Fields;
}

const text: Check = (value) => typeof value === "string";
const flag: Check = (value) => typeof value === "boolean";
/** Sizes that a machine could hold: a file must not ask for more work than it is worth. */
const upTo = (most: number): Check => (value) => positive(value) && (value as number) <= most;
const oneOf = (choices: readonly unknown[]): Check => (value) => choices.includes(value);
const optional = (check: Check): Check => (value) => value === undefined || check(value);
function isRecord(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
const fields = (checks: Fields): Check => (value) => wrongField(value, checks, "") === undefined;

const NETWORK: Fields = {
  arch: text,
  num_classes: upTo(1_000_000),
  cardinality: upTo(65536),
  layers: optional(list(upTo(1024), 8)),
  channels: optional(list(upTo(65536), 8)),
  base_width: optional(upTo(65536)),
  stem: optional(oneOf(STEMS)),
};

const INPUT: Fields = {
  image_size: upTo(65536),
  resize_size: optional(upTo(65536)),
  mean: triple(between(-MAX_FLOAT)),
  std: triple(above0()),
};

const SCHEDULE: Fields = {
  kind: oneOf(SCHEDULES),
  by: optional(oneOf(["epoch", "step"])),
  warmup: optional(between(0)),
  warmup_start: optional(above0(1)),
  milestones: optional(list(between(0))),
  gamma: optional(between(0)),
  min_lr: optional(between(0)),
  rise: optional(between(0, 1)),
  div_factor: optional(above0()),
  final_div_factor: optional(above0()),
  anneal: optional(oneOf(["cos", "linear"])),
};

const amount = optional(between(0));
const AUGMENT: Fields = {
  ...{ flip: optional(flag), reflect: optional(flag), crop: optional(count), cutout: optional(count) },
  ...{ erasing: optional(between(0, 1)), brightness: amount, contrast: amount, saturation: amount },
  ...{ hue: optional(between(0, 0.5)), mixup: amount, cutmix: amount },
};

const SETTINGS: Fields = {
  dataset: text,
  batch_size: upTo(2 ** 20),
  accumulate: optional(upTo(RING_SLOTS)),
  precision: optional(oneOf(["f32", "f16"])),
  epochs: count,
  lr: between(0),
  optimizer: optional(oneOf(OPTIMIZERS)),
  momentum: optional(between(0, 1)),
  nesterov: optional(flag),
  betas: optional(isBetas),
  eps: optional(isEps),
  weight_decay: between(0),
  label_smoothing: between(0, 1),
  clip_grad_norm: optional(between(0)),
  seed: count,
  weights: optional(text),
  train_limit: optional(positive),
  test_limit: optional(positive),
  val_split: optional(between(0, 1)),
  frozen: optional(list(text)),
  schedule: SCHEDULE,
  decay_vectors: optional(flag),
  ema_decay: optional((value) => between(0, 1)(value) && value !== 1),
  patience: optional(positive),
  augment: AUGMENT,
};

const EPOCH: Fields = { epoch: positive, train_loss: number, test_loss: number, test_acc: number };

/** What a run's folder tells of an epoch beside. */
const EPOCH_LINE: Fields = {
  ...EPOCH,
  ...{ lr: optional(number), seconds: optional(number), images_per_second: optional(number) },
};

/** What `config.json` holds beside a description. */
const RUN: Fields = {
  ...{ parameters: count, device: text, software: optional(flag), version: text, started: text },
  ...{ options: optional(isRecord), lengthened: optional(flag), train_images: optional(count) },
  test_images: optional(count),
};

const DESCRIPTION: Fields = {
  network: NETWORK,
  input: INPUT,
  class_names: optional(list(text)),
  settings: SETTINGS,
  progress: { epoch: count, step: count, loss_sum: number, rows: count, history: list(fields(EPOCH)) },
};

/**
 * The first field of a description that is wrong; undefined where none is.
 *
 * @param needed Sections that must be there.
 */
export function wrongInDescription(
  description: { readonly [section: string]: unknown },
  needed: readonly ("network" | "input" | "settings")[] = ["network"],
): WrongField | undefined {
  const missing = needed.find((section) => description[section] === undefined);
  if (missing) return { path: missing, value: undefined };
  return wrongField(description, DESCRIPTION, "") ?? wrongSide(description.input as InputDescription | undefined) ??
    (description.settings ? wrongOptimizer(description.settings) : undefined);
}

/** What contradicts itself in a progress, in words; undefined where nothing does. */
export function wrongInProgress({ epoch, history }: RunProgress): string | undefined {
  return history.length === epoch ? undefined : `its run is after epoch ${epoch}, but tells of ${history.length}`;
}

/** Whether a value is a line of a run's epochs. */
export function isEpochLine(value: unknown): boolean {
  return wrongField(value, EPOCH_LINE, "") === undefined;
}

/** Whether a value is what a run wrote of itself. */
export function isRunConfig(value: unknown): boolean {
  return wrongField(value, RUN, "") === undefined &&
    wrongInDescription(value as Record<string, unknown>, ["network", "settings"]) === undefined;
}

/** @throws {UserError} where a description makes no run: callers without types may ask for anything. */
export function checkRun(description: RunDescription): void {
  const wrong = wrongInDescription({ ...description }, ["network", "input", "settings"]), { settings } = description;
  if (wrong) {
    throw new UserError(`Cannot train: "${wrong.path}" cannot be ${quoted(wrong.value)}`, { exitCode: 2 });
  }
  if (settings.schedule) checkSchedule(settings.schedule, settings.epochs);
  if (settings.augment) checkAugment(settings.augment);
}

/** A centre cannot be cut out of less. */
function wrongSide(
  { image_size = 0, resize_size = image_size }: Partial<InputDescription> = {},
): WrongField | undefined {
  return resize_size < image_size ? { path: "input.resize_size", value: resize_size } : undefined;
}

/** Settings of SGD alone, which has all of them, and of AdamW alone, which has defaults. */
const SGD = ["momentum", "nesterov"] as const, ADAMW = ["betas", "eps"] as const;

function wrongOptimizer(settings: Partial<RunSettings>): WrongField | undefined {
  const { optimizer = "sgd" } = settings, given = (name: keyof RunSettings) => settings[name] !== undefined;
  const wrong = optimizer === "adamw" ? SGD.find(given) : SGD.find((name) => !given(name)) ?? ADAMW.find(given);
  return wrong && { path: `settings.${wrong}`, value: settings[wrong] };
}

function wrongField(value: unknown, checks: Fields, before: string): WrongField | undefined {
  if (typeof value !== "object" || value === null) return { path: before + Object.keys(checks)[0], value: undefined };
  for (const [name, check] of Object.entries(checks)) {
    const field = (value as Record<string, unknown>)[name], path = before + name;
    if (typeof check === "function") {
      if (!check(field)) return { path, value: field };
    } else if (field !== undefined) {
      const wrong = wrongField(field, check, `${path}.`);
      if (wrong) return wrong;
    }
  }
}
