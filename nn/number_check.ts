/** Which numbers settings may be: one meaning for what files say (`description_check.ts`) and for what callers ask. */

import { quoted } from "./json.ts";

/** Whether a value is one that a field may have. */
export type Check = (value: unknown) => boolean;

/** The largest float32. */
export const MAX_FLOAT = 3.4028234e38;

/** A finite number. */
export const number: Check = (value) => typeof value === "number" && Number.isFinite(value);
/** A whole number from 0 on. */
export const count: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
/** A whole number from 1 on. */
export const positive: Check = (value) => count(value) && (value as number) > 0;
/** A number within bounds, both included. */
export const between = (least: number, most = MAX_FLOAT): Check => (value) =>
  number(value) && (value as number) >= least && (value as number) <= most;
/** A number above 0. */
export const above0 = (most = MAX_FLOAT): Check => (value) => between(0, most)(value) && value !== 0;
/** A list of such values. */
export const list = (item: Check, most = Infinity): Check => (value) =>
  Array.isArray(value) && value.length <= most && value.every(item);
/** Three such values. */
export const triple = (item: Check): Check => (value) => list(item)(value) && (value as unknown[]).length === 3;

/** What a setting may be, and how a message says it. */
export interface Allowed {
  readonly check: Check;
  readonly words: string;
}

/** A size. */
export const SIZE: Allowed = { check: positive, words: "a positive whole number" };
/** How often something was done. */
export const COUNT: Allowed = { check: count, words: "a whole number from 0 on" };
/** A rate or a weight. */
export const AMOUNT: Allowed = { check: between(0), words: "0 or more and finite" };

/**
 * Refuses settings that callers without types, or with a slip, may give.
 *
 * @param doing For the message, such as `update`.
 * @throws {RangeError} naming the first setting that is not allowed.
 */
export function checkSettings(doing: string, settings: Readonly<Record<string, unknown>>, allowed: Allowed): void {
  const wrong = Object.entries(settings).find(([, value]) => !allowed.check(value));
  if (!wrong) return;
  throw new RangeError(`Cannot ${doing} with ${wrong[0]} ${quoted(wrong[1])}: it must be ${allowed.words}`);
}

/**
 * Refuses colours' statistics that images cannot be normalized by.
 *
 * @throws {RangeError} naming what is wrong.
 */
export function checkNormalization({ mean, std }: { readonly mean: unknown; readonly std: unknown }): void {
  checkSettings("normalize images", { mean }, {
    check: triple(between(-MAX_FLOAT)),
    words: "three finite numbers",
  });
  checkSettings("normalize images", { std }, { check: triple(above0()), words: "three finite numbers above 0" });
}
