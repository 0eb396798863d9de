/** `deno task parity DIR`: compares this project's kernels and networks with PyTorch's values. */

import { parseArgs } from "@std/cli";
import { openDevice } from "../../kernels/open_device.ts";
import type { ElementType } from "../../kernels/dispatch.ts";
import { ForcedVariant } from "../../kernels/tuning.ts";
import { UserError } from "../../kernels/user_error.ts";
import { runParity } from "./runner.ts";

const USAGE = `Usage: deno task parity DIR [--precision f32|f16] [--variant NAME]

Runs every golden .safetensors file in DIR (see tests/goldens/README.md) and prints a line a case.
--precision says what is computed in; half precision is held to tolerances of its own.
--variant forces one kernel, or the first of a kind, wherever there is a choice (see \`resnext tune\`): such as "shared 8x2"
for products, "staged" for grouped convolutions.
Exit code: 0 when all agree, 1 when one does not, 2 for a wrong call.

Example: deno task parity tests/goldens`;

async function main(args: readonly string[]): Promise<number> {
  let unknown = false;
  const { help, precision = "f32", variant, _: [directory, ...more] } = parseArgs([...args], {
    boolean: ["help"],
    string: ["precision", "variant", "_"],
    alias: { help: "h" },
    unknown: (_, key) => {
      unknown ||= key !== undefined;
      return key === undefined;
    },
  });
  if (help) {
    console.log(USAGE);
    return 0;
  }
  if (unknown || directory === undefined || more.length > 0 || !["f32", "f16"].includes(precision) || variant === "") {
    console.error(USAGE);
    return 2;
  }
  try {
    const device = await openDevice();
    if (variant !== undefined) device.useTuning(new ForcedVariant(variant));
    const { failed } = await runParity(device, String(directory), console.log, { precision: precision as ElementType });
    return failed > 0 ? 1 : 0;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    console.error(error.message);
    return error.exitCode;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
