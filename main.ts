/**
 * The command line: `deno run -A main.ts COMMAND`.
 *
 * @module
 */

import config from "./deno.json" with { type: "json" };
import { commands } from "./cli/commands.ts";
import { mendConsole } from "./cli/print.ts";
import { runProgram } from "./cli/program.ts";
import { preferVulkan } from "./cli/vulkan.ts";

if (import.meta.main) {
  mendConsole();
  preferVulkan();
  Deno.exit(
    await runProgram({
      name: "resnext",
      version: config.version,
      summary: "Trains and evaluates ResNeXt image classifiers on the GPU",
      commands,
      examples: ["train", "train --epochs 2 --out runs/first", "eval runs/first/best.safetensors"],
    }, Deno.args),
  );
}
