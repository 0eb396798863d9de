/** The options of `train` that say how the learning rate moves, what weight decay is for, and what is done to images. */

import { type AugmentSettings, checkAugment, isAugmented } from "../nn/augment.ts";
import type { RunSettings } from "../nn/checkpoint.ts";
import { checkSchedule, type ScheduleKind, SCHEDULES, type ScheduleSettings } from "../nn/schedule.ts";
import { counted } from "./columns.ts";
import { isPictures, type RunDefaults } from "./dataset.ts";
import { flagName, type OptionSpecs, readNumbers, usageError } from "./command.ts";

/** Of schedules, weight decay, averaging and early stopping. */
export const scheduleOptions = {
  schedule: {
    type: "choice",
    choices: SCHEDULES,
    otherwise: "cosine for shapes, else constant",
    doc: "How the learning rate moves; one-cycle leaves momentum alone (PyTorch's cycle_momentum=False)",
  },
  scheduleBy: {
    type: "choice",
    choices: ["epoch", "step"],
    otherwise: "epoch; step for one-cycle",
    doc: "When it moves",
  },
  warmup: { type: "number", min: 0, default: 0, doc: "Epochs in which the rate rises to its height, linearly" },
  warmupStart: {
    type: "number",
    above: 0,
    max: 1,
    default: 0.01,
    doc: "The share of the rate that warm-up begins with",
  },
  milestones: {
    type: "string",
    placeholder: "N,N,...",
    items: "number",
    otherwise: "multistep needs them",
    doc: "Epochs after which multistep multiplies the rate by gamma",
  },
  gamma: { type: "number", above: 0, default: 0.1, doc: "Of multistep" },
  minLr: { type: "number", min: 0, default: 0, doc: "The rate that cosine ends at" },
  vectorDecay: { type: "boolean", default: true, doc: "Weight decay of batch norm and biases too" },
  ema: {
    type: "number",
    min: 0,
    below: 1,
    otherwise: "no average",
    doc: "Test and keep a moving average of the weights, of which a step keeps so much, such as 0.999",
  },
  patience: { type: "integer", min: 1, otherwise: "all epochs", doc: "Stop after so many epochs without a better one" },
} as const satisfies OptionSpecs;

/** Of augmentation. */
export const augmentOptions = {
  flip: { type: "boolean", doc: "Mirror half of the training images; a folder's are mirrored unless --no-flip" },
  crop: { type: "integer", min: 0, max: 1024, default: 0, doc: "Pad by so many pixels and crop at random" },
  reflect: { type: "boolean", doc: "Pad with the image's mirror image instead of black" },
  cutout: { type: "integer", min: 0, max: 4096, default: 0, doc: "Cut out a square of so many pixels" },
  erasing: { type: "number", min: 0, max: 1, default: 0, doc: "The probability of erasing a rectangle" },
  jitter: { type: "number", min: 0, default: 0, doc: "Change brightness, contrast and saturation by up to this share" },
  hue: { type: "number", min: 0, max: 0.5, default: 0, doc: "Turn the hue by up to so many turns" },
  mixup: { type: "number", min: 0, default: 0, doc: "Mix two images, with this alpha, such as 0.2" },
  cutmix: { type: "number", min: 0, default: 0, doc: "Paste a rectangle of another image, with this alpha, such as 1" },
} as const satisfies OptionSpecs;

/** Values of {@linkcode scheduleOptions}. */
export interface ScheduleOptionValues {
  readonly schedule?: ScheduleKind;
  readonly scheduleBy?: "epoch" | "step";
  readonly warmup: number;
  readonly warmupStart: number;
  readonly milestones?: string;
  readonly gamma: number;
  readonly minLr: number;
  readonly vectorDecay: boolean;
  readonly ema?: number;
  readonly patience?: number;
}

/** Values of {@linkcode augmentOptions}. */
export interface AugmentOptionValues {
  readonly flip: boolean;
  readonly crop: number;
  readonly reflect: boolean;
  readonly cutout: number;
  readonly erasing: number;
  readonly jitter: number;
  readonly hue: number;
  readonly mixup: number;
  readonly cutmix: number;
}

/**
 * The settings that such options make; what is not asked for is absent.
 *
 * @param standard What holds where the options do not say.
 * @throws {UserError} with exit code 2.
 */
export function recipeSettings(
  { options, given }: {
    readonly options: ScheduleOptionValues & AugmentOptionValues;
    readonly given: ReadonlySet<string>;
  },
  epochs: number,
  standard: Pick<RunDefaults, "schedule" | "flip">,
  path: string,
): Pick<RunSettings, "schedule" | "decay_vectors" | "ema_decay" | "patience" | "augment"> {
  const { schedule: kind = standard.schedule ?? "constant", scheduleBy, warmup, warmupStart, gamma, minLr } = options;
  const epochNumbers = { kind: "numbers of epochs", allowed: (value: number) => Number.isFinite(value) && value > 0 };
  const milestones = options.milestones && readNumbers("milestones", options.milestones, epochNumbers, path);
  const schedule: ScheduleSettings = {
    kind,
    ...(scheduleBy && { by: scheduleBy }),
    ...(warmup > 0 && { warmup, warmup_start: warmupStart }),
    ...(milestones && { milestones }),
    ...(kind === "multistep" && { gamma }),
    ...(kind === "cosine" && minLr > 0 && { min_lr: minLr }),
  };
  const scheduled = kind !== "constant" || warmup > 0;
  const meant: Partial<Record<keyof ScheduleOptionValues, readonly [used: boolean, by: string]>> = {
    gamma: [kind === "multistep", "--schedule multistep"],
    minLr: [kind === "cosine", "--schedule cosine"],
    warmupStart: [warmup > 0, "--warmup"],
    scheduleBy: [scheduled, "a --schedule other than constant, or --warmup"],
  };
  for (const [key, [used, by]] of Object.entries(meant)) {
    if (given.has(key) && !used) throw usageError(`Option --${flagName(key)} has no use without ${by}`, path);
  }
  if (scheduled || milestones) checkSchedule(schedule, epochs);
  // Later ones may be meant for when the run is made longer.
  if (milestones && milestones[0] >= epochs) {
    throw usageError(
      `Option --milestones has no use in ${counted(epochs, "epoch")}: the first must be below that`,
      path,
    );
  }
  const chosen = augmentSettings(options);
  const augment = standard.flip && given.has("flip") && !options.flip ? { ...chosen, flip: false } : chosen;
  return {
    ...(scheduled && { schedule }),
    ...(!options.vectorDecay && { decay_vectors: false }),
    ...(options.ema !== undefined && { ema_decay: options.ema }),
    ...(options.patience !== undefined && { patience: options.patience }),
    ...(augment && { augment }),
  };
}

/** What is done to images; undefined where nothing is. @throws {UserError} with exit code 2. */
export function augmentSettings(options: AugmentOptionValues): AugmentSettings | undefined {
  const { flip, crop, reflect, cutout, erasing, jitter, hue, mixup, cutmix } = options;
  const all: AugmentSettings = {
    ...{ flip, crop, reflect, cutout, erasing, hue, mixup, cutmix },
    ...{ brightness: jitter, contrast: jitter, saturation: jitter },
  };
  checkAugment(all);
  // Only what is switched on is kept, so that a checkpoint tells it in few words.
  const used = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== false && value !== 0));
  return isAugmented(used) ? used : undefined;
}

/** What such options would have been for a run, by key: for comparing with what a user gives to one that goes on. */
export function recipeOf(
  { dataset, schedule, decay_vectors = true, ema_decay, augment = {} }: RunSettings,
): Record<Exclude<keyof typeof scheduleOptions, "patience"> | keyof typeof augmentOptions, unknown> {
  const { flip = isPictures(dataset), crop = 0, reflect = false, cutout = 0, erasing = 0, brightness = 0 } = augment;
  const { hue = 0, mixup = 0, cutmix = 0 } = augment;
  return {
    schedule: schedule?.kind ?? "constant",
    scheduleBy: schedule?.by,
    warmup: schedule?.warmup ?? 0,
    warmupStart: schedule?.warmup_start ?? 0.01,
    milestones: schedule?.milestones?.join(),
    gamma: schedule?.gamma ?? 0.1,
    minLr: schedule?.min_lr ?? 0,
    vectorDecay: decay_vectors,
    ema: ema_decay,
    ...{ flip, crop, reflect, cutout, erasing, jitter: brightness, hue, mixup, cutmix },
  };
}

/** In words, for the head of a run: `cosine after 2 epochs of warm-up`; empty for a rate that stays. */
export function scheduleText(schedule: ScheduleSettings | undefined): string {
  if (!schedule) return "";
  const { kind, by, warmup = 0, milestones, gamma } = schedule;
  return [
    kind,
    milestones && `x ${gamma ?? 0.1} after epochs ${milestones.join(", ")}`,
    by === "step" && "by step",
    warmup > 0 && `after warm-up of ${counted(warmup, "epoch")}`,
  ].filter(Boolean).join(" ");
}

/** In words: `flip, crop 4, mixup 0.2`; `no flip`. */
export function augmentText(augment: AugmentSettings): string {
  const words = (name: string, value: boolean | number) =>
    typeof value === "number" ? `${name} ${value}` : value ? name : `no ${name}`;
  return Object.entries(augment).map(([name, value]) => words(name, value)).join(", ");
}
