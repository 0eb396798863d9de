/** What the fault tests share: seeds, mutations, counts, the program as a process. `deno task faults` runs them at length. */

import { fromFileUrl } from "@std/path";
import type { Random } from "../../kernels/random.ts";
import { concatenate } from "../data/archive_support.ts";

/** Whether the long versions run. */
export const LONG = Deno.args.includes("--long");

/** A number for the short and one for the long version. */
export function trials(short: number, long: number): number {
  return LONG ? long : short;
}

/** Prints what was tried: at the end of a test, so that all was survived. */
export function report(what: string, tried: number, more = ""): void {
  console.log(`${what}: tried ${tried} and survived${more && `; ${more}`}`);
}

// ---------------------------------------------------------------------------------------------------------------------
// Mutations
// ---------------------------------------------------------------------------------------------------------------------

/** Numbers that break readers. */
const HARD_NUMBERS = [
  0,
  1,
  -1,
  0.5,
  7,
  255,
  256,
  65536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32,
  1e15,
  2 ** 53,
  2 ** 63,
  1e300,
  -1e15,
];
/** Values that break readers; `JSON.stringify` writes what is no number as null. */
const hardValues = (random: Random): unknown[] => [
  HARD_NUMBERS[random.below(HARD_NUMBERS.length)],
  null,
  true,
  "",
  "NaN",
  "\x1b[2J\x00",
  [],
  {},
  [[[[]]]],
  [HARD_NUMBERS[random.below(HARD_NUMBERS.length)], HARD_NUMBERS[random.below(HARD_NUMBERS.length)]],
  "x".repeat(2000),
];

/** One to three changes: bits, cuts, runs of zeros or noise, pieces twice, removed or swapped, bytes added. */
export function mutateBytes(original: Uint8Array<ArrayBuffer>, random: Random, hot = original.length) {
  let bytes = original.slice();
  for (let n = 1 + random.below(3); n > 0; n--) {
    if (bytes.length === 0) return bytes;
    // Half of them where it hurts: in the first bytes.
    const at = random.below(random.below(2) === 0 ? Math.min(hot, bytes.length) : bytes.length);
    const length = Math.min(1 + random.below(64), bytes.length - at);
    switch (random.below(8)) {
      case 0:
      case 1:
        bytes[at] ^= 1 << random.below(8);
        break;
      case 2:
        bytes = bytes.slice(0, at);
        break;
      case 3:
        bytes.fill(random.below(256), at, at + length);
        break;
      case 4:
        bytes.set(Uint8Array.from({ length }, () => random.below(256)), at);
        break;
      case 5:
        bytes = concatenate([bytes.subarray(0, at + length), bytes.subarray(at)]);
        break;
      case 6:
        bytes = concatenate([bytes.subarray(0, at), bytes.subarray(at + length)]);
        break;
      case 7:
        bytes = concatenate([bytes, bytes.subarray(at, at + length)]);
    }
  }
  return bytes;
}

/** JSON with one place changed: a value made hard, a key renamed, removed or there twice, depth, a number beyond JSON's. */
export function mutateJson(json: string, random: Random): string {
  const value = JSON.parse(json);
  const places: { holder: Record<string, unknown>; key: string }[] = [];
  const visit = (holder: Record<string, unknown>) => {
    for (const key of Object.keys(holder)) {
      places.push({ holder, key });
      if (typeof holder[key] === "object" && holder[key] !== null) visit(holder[key] as Record<string, unknown>);
    }
  };
  visit(value);
  const { holder, key } = places[random.below(places.length)], other = places[random.below(places.length)];
  const values = hardValues(random);
  switch (random.below(8)) {
    case 0:
      delete holder[key];
      break;
    case 1:
      holder[key + "x"] = holder[key];
      if (!Array.isArray(holder)) delete holder[key];
      break;
    case 2:
      [holder[key], other.holder[other.key]] = [other.holder[other.key], holder[key]];
      return safely(() => JSON.stringify(value)) ?? "{";
    case 3:
      return JSON.stringify(value).replace(/\{/, () => `{${JSON.stringify(key)}:${JSON.stringify(holder[key])},`);
    case 4:
      holder[key] = "DEEP";
      return JSON.stringify(value).replace('"DEEP"', () => "[".repeat(50_000) + "]".repeat(50_000));
    case 5:
      holder[key] = "RAW";
      return JSON.stringify(value).replace('"RAW"', () => ["NaN", "1e999", "-Infinity", "01", "'x'"][random.below(5)]);
    default:
      holder[key] = values[random.below(values.length)];
  }
  return JSON.stringify(value);
}

function safely<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch {
    // A value within itself.
    return undefined;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The program as a process
// ---------------------------------------------------------------------------------------------------------------------

/** The repository's root. */
export const ROOT = fromFileUrl(new URL("../../", import.meta.url));

/** A narrow network, small images: a step takes milliseconds. */
export const SMALL_RUN: readonly string[] = [
  ...["train", "--dataset", "shapes", "--layers", "1,1,1,1", "--channels", "32,64,128,256", "--cardinality", "8"],
  ...["--image-size", "16", "--batch-size", "4", "--test-limit", "8", "--json"],
];

/** How a process ended. */
export interface Ended {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly out: string;
  readonly err: string;
}

/** Deno's arguments for the program; `entry` stands for main.ts. */
function programArgs(args: readonly string[], entry = `${ROOT}main.ts`): string[] {
  return ["run", "-A", "--quiet", "--v8-flags=--expose-gc", "--config", `${ROOT}deno.json`, entry, ...args];
}

/** The program's command line; `under` is a command that runs it, such as `strace`. */
export function program(
  args: readonly string[],
  options: { entry?: string; env?: Record<string, string>; under?: readonly string[] } = {},
): Deno.Command {
  const [first, ...rest] = [...(options.under ?? []), Deno.execPath(), ...programArgs(args, options.entry)];
  return new Deno.Command(first, {
    args: rest,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { XDG_RUNTIME_DIR: "/tmp", NO_COLOR: "1", ...options.env },
  });
}

/** Runs the program to its end; `during` may do something to it meanwhile. */
export async function runToEnd(
  command: Deno.Command,
  during?: (child: Deno.ChildProcess) => Promise<void>,
): Promise<Ended> {
  const child = command.spawn();
  const text = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => await new Response(stream).text();
  const [out, err, { code, signal }] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    child.status,
    during?.(child),
  ]);
  return { code, signal, out, err };
}
