/** The list of commands. */

import type { ListedCommand } from "./program.ts";

/** The commands; each module exports its `command`, of which stands here again what help and completion need of all, so that they load none. */
export const commands: readonly ListedCommand[] = [
  {
    name: "download",
    summary: "Download a data set or weights, or check what is there",
    load: async () => (await import("./download.ts")).downloadCommand,
  },
  {
    name: "bench",
    summary: "Measure throughput, memory and what bounds them",
    load: async () => (await import("./bench.ts")).benchCommand,
  },
  {
    name: "train",
    summary: "Train a network on CIFAR, on a folder of pictures, or on images drawn by the program itself",
    config: true,
    load: async () => (await import("./train.ts")).trainCommand,
  },
  {
    name: "eval",
    summary: "Test a checkpoint: loss, accuracy, and which class is taken for which",
    load: async () => (await import("./eval.ts")).evalCommand,
  },
  {
    name: "predict",
    summary: "Name what is on pictures",
    load: async () => (await import("./predict.ts")).predictCommand,
  },
  {
    name: "serve",
    summary: "Name what is on pictures that come by HTTP",
    load: async () => (await import("./serve.ts")).serveCommand,
  },
  {
    name: "runs",
    summary: "List the runs, or put two side by side",
    load: async () => (await import("./runs.ts")).runsCommand,
  },
  {
    name: "report",
    summary: "Make an HTML file of a run: curves, confusion, the most wrong pictures, filters, settings",
    load: async () => (await import("./report.ts")).reportCommand,
  },
  {
    name: "checkpoint",
    summary: "Show, convert and check checkpoints",
    load: async () => (await import("./checkpoint.ts")).checkpointCommand,
  },
  {
    name: "networks",
    summary: "List the networks: size, cost, memory, published accuracy and weights",
    load: async () => (await import("./networks.ts")).networksCommand,
  },
  {
    name: "summary",
    summary: "Show a network's layers: output shape, parameters, multiply-adds, memory",
    load: async () => (await import("./summary.ts")).summaryCommand,
  },
  {
    name: "tune",
    summary: "Measure the variants of a network's kernels on this adapter and remember the fastest",
    load: async () => (await import("./tune.ts")).tuneCommand,
  },
  {
    name: "augment",
    summary: "Write a sheet of augmented images, to check them by eye",
    config: true,
    load: async () => (await import("./augment.ts")).augmentCommand,
  },
  {
    name: "doctor",
    summary: "Check this machine: GPU, its speed, Deno, data sets, disk; say what mends what",
    load: async () => (await import("./doctor.ts")).doctorCommand,
  },
  {
    name: "completions",
    summary: "Print a script that completes commands in a shell",
    load: async () => (await import("./completions.ts")).completionsCommand(commands),
  },
  {
    name: "schema",
    summary: "Print the JSON schema of a command's --config file, for editors",
    load: async () => (await import("./completions.ts")).schemaCommand(commands),
  },
];
