/** The optimizers: what each is set to, what it keeps of a network's training, and its dispatches. */

import { adamw, type Betas, countStep, LEAST_EPS } from "../kernels/adamw.ts";
import type { Capabilities } from "../kernels/device.ts";
import type { Dispatch, Operand } from "../kernels/dispatch.ts";
import { checkNesterov, sgd } from "../kernels/sgd.ts";
import {
  type Allowed,
  AMOUNT,
  between,
  type Check,
  checkOptions,
  checkSettings,
  list,
  SWITCH,
} from "./number_check.ts";
import type { OptimizerChunk } from "./training_memory.ts";

/** All optimizers. */
export const OPTIMIZERS = ["sgd", "adamw"] as const;

/** A name of {@linkcode OPTIMIZERS}. */
export type OptimizerKind = typeof OPTIMIZERS[number];

/** PyTorch's SGD. */
export interface SgdSettings {
  /** Default `sgd`. */
  readonly kind?: "sgd";
  /** 0 or more. Default 0.9. */
  readonly momentum?: number;
  /** L2, added to the gradient; 0 or more. Default 0. */
  readonly weightDecay?: number;
  /** Whether batch norm's parameters and biases decay too, as PyTorch's do unless told otherwise. Default true. */
  readonly decayVectors?: boolean;
  /** Default false. */
  readonly nesterov?: boolean;
}

/** PyTorch's AdamW, without `amsgrad`; defaults as there. */
export interface AdamWSettings {
  /** Which optimizer it is. */
  readonly kind: "adamw";
  /** What is kept of the averages of gradients and of their squares at each step, from 0 to below 1. Default 0.9, 0.999. */
  readonly betas?: readonly [first: number, second: number];
  /** Added to the root that gradients are divided by, at least 1e-30. Default 1e-8. */
  readonly eps?: number;
  /** The share of a parameter that a step takes off, times the learning rate; 0 or more. Default 0.01. */
  readonly weightDecay?: number;
  /** As SGD's. Default true. */
  readonly decayVectors?: boolean;
}

/** How parameters follow their gradients. */
export type OptimizerSettings = SgdSettings | AdamWSettings;

/** What an optimizer keeps of each parameter from step to step, named as in a checkpoint's file. */
export type Moment = "momentum" | "exp_avg" | "exp_avg_sq";

/** @internal What each optimizer keeps: as many buffers like that of the parameters. */
export const MOMENTS: Readonly<Record<OptimizerKind, readonly Moment[]>> = {
  sgd: ["momentum"],
  adamw: ["exp_avg", "exp_avg_sq"],
};

/** @internal Defaults of {@linkcode AdamWSettings}. */
export const ADAMW = { betas: [0.9, 0.999] as Betas, eps: 1e-8, weightDecay: 0.01 } as const;

/** @internal Whether a value is a decay of an average. */
export const isBeta: Check = (value) => between(0, 1)(value) && value !== 1;
/** @internal Whether a value is AdamW's two. */
export const isBetas: Check = (value) => list(isBeta, 2)(value) && (value as unknown[]).length === 2;
/** @internal Whether a value is an `eps`. */
export const isEps: Check = between(LEAST_EPS);

/** @internal What an optimizer's kernels bind beside the chunks. */
export interface OptimizerOperands {
  /** See `kernels/step_settings.ts`. */
  readonly settings: Operand;
  /** What the gradients were multiplied by, if they were. */
  readonly lossScale?: Operand;
}

/** @internal An optimizer that was asked for. */
export interface Optimizer {
  readonly kind: OptimizerKind;
  /** One step over all chunks, for which room was made for this kind. */
  dispatches(chunks: readonly OptimizerChunk[], operands: OptimizerOperands, caps: Capabilities): Dispatch[];
}

const KIND: Allowed = { check: (value) => OPTIMIZERS.some((kind) => kind === value), words: OPTIMIZERS.join(" or ") };
const COMMON = { kind: KIND, weightDecay: AMOUNT, decayVectors: SWITCH };

/**
 * @internal Makes an optimizer.
 *
 * @throws {RangeError} for settings out of bounds, and an unknown optimizer.
 * @throws {TypeError} for settings that it does not have.
 * @throws {UserError} for Nesterov's momentum without a momentum.
 */
export function optimizerOf(settings: OptimizerSettings = {}): Optimizer {
  const { kind = "sgd" } = settings;
  checkSettings("update", { kind }, KIND);
  return settings.kind === "adamw" ? adamwOf(settings) : sgdOf(settings);
}

function sgdOf(settings: SgdSettings): Optimizer {
  checkOptions("update", settings, { ...COMMON, momentum: AMOUNT, nesterov: SWITCH });
  const { momentum = 0.9, weightDecay = 0, decayVectors = true, nesterov = false } = settings;
  if (nesterov) checkNesterov(momentum);
  return {
    kind: "sgd",
    dispatches: (chunks, operands, caps) =>
      chunks.flatMap(({ elements, matrixElements, parameters, gradients, moments }) => {
        const decayed = decayVectors ? elements : matrixElements;
        return sgd(
          { parameters, gradients, momentumBuffer: moments.momentum, ...operands },
          { elements, momentum, weightDecay, decayed, nesterov },
          caps,
        );
      }),
  };
}

function adamwOf(settings: AdamWSettings): Optimizer {
  checkOptions("update", settings, {
    ...COMMON,
    betas: { check: isBetas, words: "two numbers from 0 to below 1" },
    eps: { check: isEps, words: `at least ${LEAST_EPS} and finite` },
  });
  const { betas = ADAMW.betas, eps = ADAMW.eps, weightDecay = ADAMW.weightDecay, decayVectors = true } = settings;
  return {
    kind: "adamw",
    dispatches: (chunks, operands, caps) => [
      ...countStep({ steps: chunks[0].steps!, ...operands }, betas),
      ...chunks.flatMap(({ elements, matrixElements, parameters, gradients, moments, steps }) => {
        const decayed = decayVectors ? elements : matrixElements;
        const { exp_avg, exp_avg_sq } = moments;
        return adamw(
          { parameters, gradients, expAvg: exp_avg!, expAvgSq: exp_avg_sq!, steps: steps!, ...operands },
          { elements, betas, eps, weightDecay, decayed },
          caps,
        );
      }),
    ],
  };
}
