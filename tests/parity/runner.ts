/** Runs every case of a folder of golden files and tells how each agrees. */

import { basename, join } from "@std/path";
import type { ElementType } from "../../kernels/dispatch.ts";
import type { Device } from "../../kernels/device.ts";
import { parseSafetensors } from "../../nn/safetensors.ts";
import { UserError } from "../../kernels/user_error.ts";
import { Golden } from "../support.ts";
import { type Form, operationForms } from "./operations.ts";
import { casesOf, type Findings, type ParityCase } from "./parity_case.ts";
import { trainingForms } from "./training.ts";

/** In the order in which they are tried. */
const FORMS: readonly Form[] = [...trainingForms, ...operationForms];

/** How many cases came to what. */
export interface Totals {
  ok: number;
  failed: number;
  skipped: number;
}

/** What {@linkcode runParity} may leave out. */
export interface ParityOptions {
  /** Whether to run a case; default all. */
  readonly selects?: (file: string, name: string) => boolean;
  /** What is computed in. Default `f32`. */
  readonly precision?: ElementType;
}

/**
 * Runs the cases of all golden files directly in a folder, in the order of their names, and prints a line a case.
 *
 * @throws {UserError} when the folder cannot be read.
 */
export async function runParity(
  device: Device,
  directory: string,
  print: (line: string) => void,
  { selects = () => true, precision }: ParityOptions = {},
): Promise<Totals> {
  const totals: Totals = { ok: 0, failed: 0, skipped: 0 };
  const count = (kind: keyof Totals, line: string) => {
    totals[kind]++;
    print(line);
  };
  for (const path of filesOf(directory)) {
    const file = basename(path);
    if (!file.endsWith(".safetensors")) {
      print(`${file}: skipped, no .safetensors file`);
      continue;
    }
    let cases: ParityCase[];
    try {
      cases = casesOf(new Golden(parseSafetensors(Deno.readFileSync(path), file)), precision);
    } catch (error) {
      count("failed", `${file}: FAIL, ${messageOf(error)}`);
      continue;
    }
    const known = cases.map((it) => ({ it, form: FORMS.find((form) => form.matches(it)) }));
    if (!known.some(({ form }) => form)) {
      print(`${file}: skipped, no case of a known form in it`);
      continue;
    }
    const stem = file.slice(0, -".safetensors".length);
    for (const { it, form } of known) {
      const name = `${stem}/${it.name}`.padEnd(38);
      if (!selects(stem, it.name)) continue;
      if (!form) {
        count("skipped", `${name} skipped, of no known form`);
        continue;
      }
      try {
        const findings = await form.check(device, it);
        if (findings.comparisons.length === 0) count("skipped", `${name} skipped, it holds nothing to compare with`);
        else count(findings.ok ? "ok" : "failed", `${name} ${verdict(findings)}`);
      } catch (error) {
        count("failed", `${name} FAIL, ${messageOf(error)}`);
      }
    }
  }
  print(`${totals.ok + totals.failed} cases: ${totals.ok} ok, ${totals.failed} FAIL, ${totals.skipped} skipped`);
  return totals;
}

/** The worst error, of what, and the verdict. */
function verdict(findings: Findings): string {
  const { what, error, tolerance } = findings.worst!;
  const result = findings.ok ? (findings.note ? `ok (${findings.note})` : "ok") : "FAIL";
  const more = findings.ok
    ? ""
    : `, allowed ${tolerance.toExponential(1)}; ${findings.misses} of ${findings.comparisons.length} miss`;
  return `worst relative error ${error.toExponential(1)} (${what})${more}`.padEnd(60) + ` ${result}`;
}

function filesOf(directory: string): string[] {
  try {
    return [...Deno.readDirSync(directory)].filter(({ isDirectory }) => !isDirectory)
      .map(({ name }) => join(directory, name)).sort();
  } catch (error) {
    throw new UserError(
      `Cannot read the folder "${directory}": ${messageOf(error)}; give a folder with golden .safetensors files`,
      { exitCode: 2, cause: error },
    );
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.split("\n", 1)[0] : String(error);
}
