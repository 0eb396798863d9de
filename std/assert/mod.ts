/**
 * A stand-in for `jsr:@std/assert`: the functions this project uses, with the same names and behaviour, so that the
 * tests run on a machine that reaches no JSR. deno.json's `links` puts it in the real package's place; without that line
 * the real one is used and nothing else changes.
 *
 * @module
 */

import { inspect, isDeepStrictEqual } from "node:util";

/** What a failed assertion throws. */
export class AssertionError extends Error {
  override name = "AssertionError";
}

// deno-lint-ignore no-explicit-any
type ErrorClass<E extends Error> = abstract new (...args: any[]) => E;

function failure(what: string, message?: string): AssertionError {
  return new AssertionError(message === undefined ? what : `${what}: ${message}`);
}

/** Shows a value whole, as no difference may hide behind an ellipsis. */
function show(value: unknown): string {
  return inspect(value, { depth: Infinity, maxArrayLength: 64, sorted: true });
}

/** Fails unless `expression` is truthy. */
export function assert(expression: unknown, message = ""): asserts expression {
  if (!expression) throw new AssertionError(message);
}

/** Whether two values are deeply equal: classes and keys the same (an undefined one counts), 0 is -0, NaN is NaN. */
export function equal(a: unknown, b: unknown): boolean {
  return compare(a, b, new Map());
}

function compare(a: unknown, b: unknown, seen: Map<unknown, unknown>): boolean {
  if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const type = a.constructor ?? Object;
  if (type !== (b.constructor ?? Object)) return false;
  if (seen.get(a) === b) return true;
  seen.set(a, b);
  if (type !== Object && !Array.isArray(a) && !(ArrayBuffer.isView(a) && !(a instanceof DataView))) {
    return isDeepStrictEqual(a, b);
  }
  const left = a as Record<string, unknown>, right = b as Record<string, unknown>;
  const keys = Object.keys(left);
  if (keys.length !== Object.keys(right).length) return false;
  return keys.every((key) => Object.hasOwn(right, key) && compare(left[key], right[key], seen));
}

/** Fails unless the two are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, message?: string): void {
  if (!equal(actual, expected)) {
    throw failure(`Values are not equal\n  actual:   ${show(actual)}\n  expected: ${show(expected)}`, message);
  }
}

/** Fails if the two are deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, message?: string): void {
  if (equal(actual, expected)) throw failure(`Expected values that differ, both are ${show(actual)}`, message);
}

/** Fails unless `actual` was made by `type`. */
// deno-lint-ignore no-explicit-any
export function assertInstanceOf<T extends abstract new (...args: any[]) => any>(
  actual: unknown,
  type: T,
  message?: string,
): asserts actual is InstanceType<T> {
  if (!(actual instanceof type)) throw failure(`Expected an instance of ${type.name}, found ${show(actual)}`, message);
}

/** Fails unless the two differ by at most `tolerance`: by default 1e-7 of `expected`. */
export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, message?: string): void {
  if (Object.is(actual, expected)) return;
  const allowed = tolerance ?? (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  if (!(Math.abs(expected - actual) <= allowed)) {
    throw failure(`Expected ${actual} to be within ${allowed} of ${expected}`, message);
  }
}

/** Fails unless `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, message?: string): void {
  if (!(actual > expected)) throw failure(`Expected ${show(actual)} > ${show(expected)}`, message);
}

/** Fails unless `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, message?: string): void {
  if (!(actual < expected)) throw failure(`Expected ${show(actual)} < ${show(expected)}`, message);
}

/** Fails unless `actual` contains `expected`. */
export function assertStringIncludes(actual: string, expected: string, message?: string): void {
  if (!actual.includes(expected)) throw failure(`Expected ${show(actual)} to contain ${show(expected)}`, message);
}

/** Fails unless `expected` is found in `actual`. */
export function assertMatch(actual: string, expected: RegExp, message?: string): void {
  if (actual.search(expected) < 0) throw failure(`Expected ${show(actual)} to match ${expected}`, message);
}

/** Fails unless `error` is of the class (when given) and its message holds the text (when given). */
function assertIsError<E extends Error = Error>(
  error: unknown,
  type?: ErrorClass<E>,
  includes?: string,
  message?: string,
): asserts error is E {
  if (!(error instanceof Error)) throw failure(`Expected an Error, found ${show(error)}`, message);
  if (type && !(error instanceof type)) {
    throw failure(`Expected an error of class ${type.name}, found ${error.name}: ${error.message}`, message);
  }
  if (includes !== undefined && !error.message.includes(includes)) {
    throw failure(`Expected an error with ${show(includes)}, found ${show(error.message)}`, message);
  }
}

/** Fails unless `fn` throws; with a class and a text, an error of that class whose message holds the text. Returns it. */
export function assertThrows(fn: () => unknown, message?: string): unknown;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  type: ErrorClass<E>,
  includes?: string,
  message?: string,
): E;
export function assertThrows<E extends Error>(
  fn: () => unknown,
  typeOrMessage?: ErrorClass<E> | string,
  includes?: string,
  message?: string,
): unknown {
  try {
    fn();
  } catch (error) {
    if (typeof typeOrMessage === "function") assertIsError(error, typeOrMessage, includes, message);
    return error;
  }
  throw failure("Expected the function to throw", typeof typeOrMessage === "string" ? typeOrMessage : message);
}

/** Fails unless the promise of `fn` is rejected (a synchronous throw is none); else as {@linkcode assertThrows}. */
export function assertRejects(fn: () => PromiseLike<unknown>, message?: string): Promise<unknown>;
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  type: ErrorClass<E>,
  includes?: string,
  message?: string,
): Promise<E>;
export async function assertRejects<E extends Error>(
  fn: () => PromiseLike<unknown>,
  typeOrMessage?: ErrorClass<E> | string,
  includes?: string,
  message?: string,
): Promise<unknown> {
  let promise: PromiseLike<unknown>;
  try {
    promise = fn();
  } catch (error) {
    throw failure(`Expected a rejected promise, the function threw ${show(error)}`, message);
  }
  try {
    await promise;
  } catch (error) {
    if (typeof typeOrMessage === "function") assertIsError(error, typeOrMessage, includes, message);
    return error;
  }
  throw failure("Expected the promise to reject", typeof typeOrMessage === "string" ? typeOrMessage : message);
}
