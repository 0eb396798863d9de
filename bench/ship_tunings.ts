/**
 * Puts what `tune` has found on this machine into the table that comes with the program, `cli/tunings.json`:
 *
 *     deno run -A bench/ship_tunings.ts [TUNING.json ...]
 *
 * Without a file it takes the one of the data directory. Of operations that the table knows already, the file's variant
 * counts.
 */

import { dataDirectory } from "../data/directory.ts";
import { readTunings, shippedTunings, tuningFile, type Tunings, tuningsText } from "../cli/tuning.ts";

/** One table of two; what `more` knows counts for more. */
export function mergeTunings(tunings: Tunings, more: Tunings): Tunings {
  const merged = Object.entries(more).map(([key, entries]) => [key, { ...tunings[key], ...entries }]);
  return { ...tunings, ...Object.fromEntries(merged) };
}

if (import.meta.main) {
  const files = Deno.args.length > 0 ? Deno.args : [tuningFile(dataDirectory())];
  let table = shippedTunings;
  for (const file of files) {
    const own = await readTunings(file);
    if (Object.keys(own).length === 0) throw new Error(`${file} has no tunings`);
    table = mergeTunings(table, own);
  }
  await Deno.writeTextFile(new URL("../cli/tunings.json", import.meta.url), tuningsText(table));
  for (const [key, entries] of Object.entries(table)) console.log(`${key}: ${Object.keys(entries).length} operations`);
}
