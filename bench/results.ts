/** Results kept in the repository: one file a device, the last run of each command in it. */

import { fromFileUrl, join } from "@std/path";

/** What one measurement gave, as it is printed with `--json`. */
export interface Result {
  readonly kind: string;
}

/** One run of a command. */
interface Run {
  readonly command: string;
  readonly date: string;
  readonly deno: string;
  /**
   * The machine's load average over a minute, at the end: above the run's own part others were at work. Absent where a run
   * was put in from what it had printed.
   */
  readonly load?: number;
  readonly results: readonly Result[];
}

/** Writes a run into the device's file, in place of an earlier one of the same command. Returns the file's path. */
export function saveResults(device: string, command: readonly string[], results: readonly Result[]): string {
  const directory = fromFileUrl(new URL("results", import.meta.url));
  Deno.mkdirSync(directory, { recursive: true });
  const path = join(directory, `${fileName(device)}.json`);
  const run: Run = {
    command: command.join(" "),
    date: new Date().toISOString(),
    deno: Deno.version.deno,
    load: Deno.loadavg()[0],
    results,
  };
  const others = earlier(path).filter(({ command }) => command !== run.command);
  const rounded = (_: string, value: unknown) => typeof value === "number" ? Number(value.toPrecision(6)) : value;
  Deno.writeTextFileSync(path, `${JSON.stringify({ device, runs: [...others, run] }, rounded, 2)}\n`);
  return path;
}

function earlier(path: string): Run[] {
  try {
    return JSON.parse(Deno.readTextFileSync(path)).runs;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** Such as `nvidia-h100-80gb-hbm3`. */
export function fileName(device: string): string {
  return device.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
}
