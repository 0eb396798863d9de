/** `deno task parity DIR`: compares this project's kernels and networks with PyTorch's values. */

import { openDevice } from "../../kernels/device.ts";
import { ForcedVariant } from "../../kernels/tuning.ts";
import { UserError } from "../../kernels/user_error.ts";
import { runParity } from "./runner.ts";

const USAGE = `Usage: deno task parity DIR [--variant NAME]

Runs every golden .safetensors file in DIR (see tests/goldens/README.md) and prints a line a case.
--variant forces one way to multiply matrices wherever a product has it, such as "shared 8x2" (see \`resnext tune\`).
Exit code: 0 when all agree, 1 when one does not, 2 for a wrong call.

Example: deno task parity tests/goldens`;

async function main(args: readonly string[]): Promise<number> {
  if (args.includes("--help") || args.includes("-h")) {
    console.log(USAGE);
    return 0;
  }
  const [directory, flag, variant] = args;
  const forced = args.length === 3 && flag === "--variant";
  if ((args.length !== 1 && !forced) || directory.startsWith("-")) {
    console.error(USAGE);
    return 2;
  }
  try {
    const device = await openDevice();
    if (forced) device.useTuning(new ForcedVariant(variant));
    const { failed } = await runParity(device, directory, console.log);
    return failed > 0 ? 1 : 0;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    console.error(error.message);
    return error.exitCode;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
