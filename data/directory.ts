/** Where downloaded data sets live. */

import { join, resolve } from "@std/path";
import { UserError } from "../kernels/user_error.ts";

/** The variable that names the data directory where `--data-dir` does not. */
export const DATA_VARIABLE = "RESNEXT_DATA";

/** What decides on the place: the system and its variables. */
export interface Surroundings {
  /** The system. */
  readonly os: typeof Deno.build.os;
  /** Reads an environment variable. */
  readonly variable: (name: string) => string | undefined;
}

/**
 * The data directory, absolute: `explicit`, else $RESNEXT_DATA, else `resnext` in the user's cache directory, which is
 * $XDG_CACHE_HOME or ~/.cache, on macOS ~/Library/Caches, on Windows %LOCALAPPDATA%. It need not exist.
 *
 * @throws {UserError} where nothing names a place.
 */
export function dataDirectory(
  explicit?: string,
  { os, variable }: Surroundings = { os: Deno.build.os, variable: (name) => Deno.env.get(name) },
): string {
  const chosen = explicit || variable(DATA_VARIABLE);
  if (chosen) return resolve(chosen);
  const home = variable("HOME");
  const cache = os === "windows"
    ? variable("LOCALAPPDATA")
    : os === "darwin"
    ? home && join(home, "Library", "Caches")
    : variable("XDG_CACHE_HOME") || (home && join(home, ".cache"));
  if (!cache) {
    const missing = os === "windows" ? "LOCALAPPDATA" : "HOME";
    throw new UserError(
      `Cannot find the data directory: ${missing} is not set; name it with --data-dir DIR or set ${DATA_VARIABLE}`,
    );
  }
  return join(cache, "resnext");
}

/** As {@linkcode dataDirectory}; undefined where nothing names a place, for what can do without. */
export function dataDirectoryIfAny(explicit?: string): string | undefined {
  try {
    return dataDirectory(explicit);
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}
