/** `resnext bench`: how fast this machine runs the networks, and what bounds it. */

import { measureIdle } from "../bench/idle.ts";
import { measureLimits } from "../bench/limits.ts";
import { interleave, timed } from "../bench/measure.ts";
import { comparePeers, findPeers, ownConvolution, PEERS } from "../bench/peers.ts";
import { profileOperations, profilePlan } from "../bench/profile.ts";
import {
  idleText,
  limitsText,
  memoryTable,
  operationsTable,
  peersTable,
  profileText,
  throughputTable,
} from "../bench/report.ts";
import { type Result, saveResults } from "../bench/results.ts";
import { type Mode, openWorkload, stepsFor, throughput, type Workload } from "../bench/throughput.ts";
import { openDevice } from "../kernels/open_device.ts";
import { ARCHITECTURES, type ResNeXtOptions } from "../nn/resnext.ts";
import { defineCommand, flagName, usageError } from "./command.ts";
import { architectureNames, describedByOptions, networkDescription, networkOptions } from "./network_options.ts";
import { trainPrecisionOption } from "./precision.ts";
import { knownTuneOption, useKnownTuning } from "./tuning.ts";

const REPEAT_MS = 1000;
/** Of a peer's or our repeat when they take turns. */
const PEER_REPEAT_MS = 700;
const NOTEBOOKS: readonly string[] = ["resnext50", "resnext101"];
const PATH = "resnext bench";

/** The command. */
export const benchCommand = defineCommand({
  name: "bench",
  summary: "Measure throughput, memory and what bounds them",
  details: "Training steps and inference on images resident on the device, with random weights. Each repeat submits " +
    "several steps and waits once; repeats of training and inference take turns.\n\n" +
    "`bench ops` measures each distinct operation of a step by itself.",
  positionals: [{ name: "what", doc: "Single operations instead of whole steps", choices: ["ops"], optional: true }],
  options: {
    arch: { type: "choice", doc: "The network", choices: architectureNames, default: "resnext50" },
    ...networkOptions,
    imageSize: { type: "integer", doc: "Height and width of the input", min: 1, max: 4096, default: 32 },
    batchSize: { type: "integer", doc: "Images of a step", min: 1, max: 65536, default: 16 },
    precision: trainPrecisionOption,
    mode: { type: "choice", doc: "What to measure", choices: ["train", "infer", "both"], default: "both" },
    repeats: { type: "integer", doc: "Repeats of each measurement", min: 1, default: 5 },
    steps: { type: "integer", doc: "Steps of a repeat", min: 1, otherwise: "as many as take a second" },
    profile: {
      type: "boolean",
      doc: "Also tell where the time goes, by operation, layer and shape, and how long the device waits",
    },
    peers: {
      type: "boolean",
      doc: "Also run jax-js, onnxruntime-web, tfjs and PyTorch, downloading what is not there",
    },
    only: {
      type: "string",
      doc: "Peers to run, by the beginning of their names",
      placeholder: "NAME,...",
      items: "string",
      otherwise: "all",
    },
    tune: knownTuneOption,
    save: { type: "boolean", doc: "Keep the results in bench/results, in the device's file" },
    json: { type: "boolean", doc: "One JSON object a line instead of tables" },
  },
  examples: ["bench", "bench --image-size 224 --batch-size 64 --mode train --profile", "bench --peers", "bench ops"],
  run: async ({ options, args }) => {
    const { arch, imageSize, batchSize, precision, repeats, json } = options;
    const standard: ResNeXtOptions = ARCHITECTURES[arch];
    const network = networkDescription(arch, standard.numClasses ?? 10, options, PATH);
    if (options.peers && !(NOTEBOOKS.includes(arch) && !options.baseWidth && !options.stem)) {
      const known = `${NOTEBOOKS.join(" and ")} without --base-width and --stem`;
      throw usageError(`Cannot run the peers on ${arch}: they know ${known}`, PATH);
    }
    const only = peersChosen(options);
    const modes: Mode[] = options.mode !== "both"
      ? [options.mode]
      : args.what === "ops"
      ? ["train"]
      : ["train", "infer"];
    const modules = modes.map(() => describedByOptions(network, PATH));
    const results: Result[] = [];
    const tell = (kind: string, value: object, text: string) => {
      const result = { kind, ...value };
      results.push(result);
      console.log(json ? JSON.stringify(result) : `${text}\n`);
    };
    const device = await openDevice();
    const workloads: Workload[] = [];
    try {
      const sizes = { ...network, imageSize, batchSize, precision };
      const chosen = Object.entries(options).filter(([key, value]) => key in networkOptions && value !== undefined);
      const job = [
        ...[arch, ...chosen.map(([key, value]) => `${flagName(key)} ${value}`)],
        ...[`${imageSize}x${imageSize}`, `batch ${batchSize}`, ...(precision === "f32" ? [] : [precision])],
      ];
      tell(
        "device",
        { name: device.name, capabilities: device.capabilities, deno: Deno.version.deno, ...sizes },
        `${device.name}, Deno ${Deno.version.deno}; ${job.join(", ")}`,
      );
      await useKnownTuning(device, { mode: options.tune });
      for (const [i, mode] of modes.entries()) {
        workloads.push(await openWorkload(device, modules[i], { mode, imageSize, batchSize, precision }));
      }
      if (args.what !== "ops") {
        const steps: number[] = [];
        for (const workload of workloads) steps.push(options.steps ?? await stepsFor(workload, REPEAT_MS));
        const runs = await interleave(
          workloads.map((workload, i) => () => timed(() => workload.run(steps[i]))),
          repeats,
        );
        const measured = workloads.map((workload, i) => throughput(workload, runs[i], steps[i]));
        tell("throughput", { measured }, `${throughputTable(measured)}\n\n${memoryTable(measured)}`);
      }
      const limits = await measureLimits(device, Math.min(400, repeats * 100));
      tell("limits", limits, limitsText(limits));
      for (const workload of workloads) {
        const { mode, plan } = workload;
        if (args.what === "ops") {
          const operations = await profileOperations(device, plan, limits);
          tell("operations", { mode, operations }, operationsTable(operations));
        }
        if (options.profile) {
          const profile = await profilePlan(device, plan, limits);
          const idle = await measureIdle(device, workload, {
            dispatchesMs: profile.totalMs,
            latencyMs: limits.latencyMs,
          });
          tell("profile", { mode, ...profile, idle }, `${profileText(mode, profile)}\n\n${idleText(idle)}`);
        }
      }
      if (options.peers) {
        const { layers = standard.layers!, cardinality } = network;
        const settings = {
          layers,
          channels: network.channels ?? layers.map((_, stage) => 256 << stage),
          cardinality,
          classes: 10,
          imageSize,
          batchSize,
        };
        const peers = await findPeers(settings, only);
        const singles = [await ownConvolution(device, "conv1x1"), await ownConvolution(device, "grouped3x3")];
        const own = [
          ...workloads.map(({ mode, run }) => ({ name: mode, task: mode, run })),
          ...singles.flatMap(({ tasks }) => tasks),
        ];
        const onProgress = (text: string) => console.error(`making ready ${text}`);
        const compared = await comparePeers(peers, own, { repeats, targetMs: PEER_REPEAT_MS, onProgress });
        tell("peers", { compared }, peersTable(compared, batchSize));
        for (const single of singles) single.destroy();
      }
      if (options.save) {
        const path = saveResults(device.name, ["bench", ...Deno.args.slice(Deno.args.indexOf("bench") + 1)], results);
        console.error(`Saved ${path}`);
      }
    } finally {
      for (const workload of workloads) workload.destroy();
      device.close();
    }
  },
});

/** The words of `--only`. @throws {UserError} where no peer is called so, or no peers are to run. */
function peersChosen({ peers, only }: { readonly peers: boolean; readonly only?: string }): string[] | undefined {
  if (only === undefined) return undefined;
  if (!peers) throw usageError("Option --only needs --peers", PATH);
  const words = only.split(",");
  for (const word of words) {
    const begins = (name: string) => name.startsWith(word.toLowerCase()) || word.toLowerCase().startsWith(name);
    if (word === "" || !PEERS.some((name) => begins(name.toLowerCase()))) {
      throw usageError(`Option --only: no peer is named "${word}"; they are ${PEERS.join(", ")}`, PATH);
    }
  }
  return words;
}
