/** `resnext doctor`: whether this machine can do the work, how fast, and what to do where it cannot. */

import { join } from "@std/path";
import { digits } from "../bench/measure.ts";
import { measureLimits } from "../bench/limits.ts";
import { type CifarVersion, hasCifar } from "../data/cifar.ts";
import { cifar10 } from "../data/cifar10.ts";
import { cifar100 } from "../data/cifar100.ts";
import { dataDirectory } from "../data/directory.ts";
import { damage, freeBytes, touching, tryWriting } from "../data/files.ts";
import { prepareHalves } from "../kernels/cast.ts";
import type { Device } from "../kernels/device.ts";
import { NoAdapterError, openDevice } from "../kernels/open_device.ts";
import { UserError } from "../kernels/user_error.ts";
import { adapterAdvice, type SystemFacts, systemFacts } from "./advice.ts";
import { defineCommand } from "./command.ts";
import { commandLine, dataDirOption } from "./invocation.ts";
import { formatBytes, ProgressLine } from "./progress.ts";

/** What was found about one thing. */
export interface Finding {
  readonly name: string;
  /** `note`: as good as can be here, though not at its best. */
  readonly verdict: "ok" | "note" | "bad";
  readonly text: string;
  /** Commands or steps that mend it. */
  readonly steps?: readonly string[];
}

/** The first Deno whose WebGPU does what is needed. */
const DENO_NEEDED = [2, 9] as const;
/** Bytes below which a disk is nearly full: a data set, its archive and some checkpoints. */
const ROOM_NEEDED = 2e9;

/** What mends a data directory that cannot be read or written. */
const STEPS_OF_DATA = ["name another data directory with --data-dir, or set RESNEXT_DATA"];
/** As much for where runs go. */
const STEPS_OF_RUNS = ["start it in another folder, or name another one to train into with --out"];

/** The command. */
export const doctorCommand = defineCommand({
  name: "doctor",
  summary: "Check this machine: GPU, its speed, Deno, data sets, disk; say what mends what",
  options: {
    measure: { type: "boolean", default: true, doc: "Measure the GPU's speed" },
    dataDir: dataDirOption,
    json: { type: "boolean", doc: "Print one JSON object instead" },
  },
  examples: ["doctor"],
  run: async ({ options: { measure, dataDir, json } }) => {
    const progress = new ProgressLine();
    const tell = (what: string) => void (Deno.stderr.isTerminal() && !json && progress.update(what));
    const system = await systemFacts();
    const findings = [denoFinding(Deno.version.deno)];
    findings.push(...await deviceFindings(system, measure, tell));
    progress.clear();
    tell("Checking the data sets ...");
    findings.push(...await dataFindings(dataDir));
    progress.clear();
    findings.push(await diskFinding("Disk here", ".", await unwritable("runs", "bad", STEPS_OF_RUNS)));
    if (json) console.log(JSON.stringify({ system, findings }));
    else console.log(doctorText(findings));
    return findings.some(({ verdict }) => verdict === "bad") ? 1 : 0;
  },
});

/** Whether Deno is new enough. */
export function denoFinding(version: string): Finding {
  const [major, minor] = version.split(".").map(Number);
  const enough = major > DENO_NEEDED[0] || (major === DENO_NEEDED[0] && minor >= DENO_NEEDED[1]);
  const text = `${version}, ${Deno.build.os} ${Deno.build.arch}`;
  return enough
    ? { name: "Deno", verdict: "ok", text }
    : { name: "Deno", verdict: "bad", text: `${text}; ${DENO_NEEDED.join(".")} is needed`, steps: ["deno upgrade"] };
}

async function deviceFindings(system: SystemFacts, measure: boolean, tell: (what: string) => void): Promise<Finding[]> {
  tell("Opening the GPU ...");
  let device;
  try {
    device = await openDevice();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    if (!(error instanceof NoAdapterError)) {
      const steps = ["end other programs that use it, update its driver, or restart the machine"];
      return [{ name: "GPU", verdict: "bad", text: error.message, steps }];
    }
    const { state, steps } = adapterAdvice(system, false);
    return [{ name: "GPU", verdict: "bad", text: `none found: ${state}`, steps }];
  }
  try {
    const { software, subgroupSize, timestamps, maxBindingBytes, maxBufferBytes } = device.capabilities;
    const { maxWorkgroupStorageBytes, maxInvocationsPerWorkgroup } = device.capabilities;
    const advice = software ? adapterAdvice(system, true) : undefined;
    const findings: Finding[] = [
      advice
        ? {
          name: "GPU",
          verdict: "note",
          text: `${device.name}, which is software: right and slow; ${advice.state}`,
          steps: advice.steps,
        }
        : { name: "GPU", verdict: "ok", text: device.name },
    ];
    const driver = driverText(device.gpu.adapterInfo);
    if (driver) findings.push({ name: "Driver", verdict: "ok", text: driver });
    findings.push({
      name: "Features",
      verdict: "ok",
      text: [
        subgroupSize > 0 ? `subgroups of ${subgroupSize}` : "no subgroups",
        timestamps ? "timestamps" : "no timestamps",
        await takesHalves(device) ? "--precision f16" : "no --precision f16",
      ].join(", "),
    }, {
      name: "Limits",
      verdict: "ok",
      text: `binding ${formatBytes(maxBindingBytes)}, buffer ${formatBytes(maxBufferBytes)}, workgroup ` +
        `${maxInvocationsPerWorkgroup} invocations and ${formatBytes(maxWorkgroupStorageBytes)}`,
    });
    const promised = device.gpu.limits.maxBufferSize;
    if (maxBufferBytes < promised) findings.push(bufferFinding(maxBufferBytes, promised));
    if (measure) {
      tell("Measuring the GPU ...");
      const { flopsPerSecond, bytesPerSecond, dispatchMs, latencyMs } = await measureLimits(device, 200);
      findings.push({
        name: "Speed",
        verdict: "ok",
        text:
          `${digits(flopsPerSecond / 1e9)} GFLOP/s of multiply-adds, ${digits(bytesPerSecond / 1e9)} GB/s of memory, ` +
          `${digits(dispatchMs * 1000)} us a dispatch, ${digits(latencyMs)} ms to wait for nothing`,
      });
    }
    return findings;
  } finally {
    device.close();
  }
}

/** That a device promises larger buffers than it gives. */
export function bufferFinding(given: number, promised: number): Finding {
  return {
    name: "Buffers",
    verdict: "note",
    text:
      `${formatBytes(given)} at most, not ${formatBytes(promised)}: large batches and networks are refused early; ` +
      "either the memory is taken, or the computer sees a part of it only (denoland/deno#35195)",
    steps: ["end other programs that use it, or turn on Resizable BAR (Above 4G Decoding) in the computer's setup"],
  };
}

/** PCI's and Khronos's numbers of makers. */
const MAKERS: Readonly<Record<number, string>> = {
  0x10de: "NVIDIA",
  0x1002: "AMD",
  0x8086: "Intel",
  0x106b: "Apple",
  0x13b5: "Arm",
  0x5143: "Qualcomm",
  0x1414: "Microsoft",
  0x10005: "Mesa",
};

/** What WebGPU tells of the adapter's maker, kind and number. */
export function driverText(
  info?: { readonly vendor?: string; readonly architecture?: string; readonly device?: string },
) {
  const maker = info?.vendor && (MAKERS[Number(info.vendor)] ?? info.vendor);
  const number = info?.device && Number(info.device) ? `device 0x${Number(info.device).toString(16)}` : info?.device;
  return [maker, info?.architecture, number === "0" ? "" : number].filter(Boolean).join(", ");
}

/** Whether the adapter rounds to halves as training in f16 needs it. */
async function takesHalves(device: Device): Promise<boolean> {
  try {
    await prepareHalves(device);
    return true;
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

async function dataFindings(dataDir?: string): Promise<Finding[]> {
  let directory: string;
  try {
    directory = dataDirectory(dataDir);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return [{ name: "Data", verdict: "note", text: error.message }];
  }
  const findings: Finding[] = [];
  try {
    for (const version of [cifar10, cifar100]) findings.push(await dataFinding(version, directory));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return [{ name: "Data", verdict: "bad", text: error.message, steps: STEPS_OF_DATA }];
  }
  // What others have downloaded is of use where one may not write, too.
  const verdict = findings.some(({ verdict }) => verdict === "ok") ? "note" : "bad";
  return [
    ...findings,
    await diskFinding("Disk of data", directory, await unwritable(directory, verdict, STEPS_OF_DATA)),
  ];
}

/** Whether a data set is there and whole. */
export async function dataFinding(version: CifarVersion, directory: string): Promise<Finding> {
  const { name, folder, trainFiles, testFiles } = version;
  const place = join(directory, folder), command = commandLine("download", name);
  if (!await hasCifar(version, directory)) {
    const some = await Deno.stat(place).then(() => true, () => false);
    return some
      ? { name, verdict: "bad", text: `files are missing in ${place}`, steps: [command] }
      : { name, verdict: "note", text: `not downloaded (${place})`, steps: [command] };
  }
  for (const file of [...trainFiles, ...testFiles]) {
    const harm = await damage(join(place, file.name), file);
    if (harm) return { name, verdict: "bad", text: `${join(place, file.name)} ${harm}`, steps: [command] };
  }
  return { name, verdict: "ok", text: `found and verified in ${place}` };
}

/** That a folder takes no files, or could not be made, if it is so. */
async function unwritable(folder: string, verdict: Finding["verdict"], steps: readonly string[]) {
  try {
    await touching(`write into "${folder}"`, () => tryWriting(folder));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { verdict, text: error.message, steps };
  }
}

/** Room on the disk that a path is on. @param unwritable What is worse than to have little. */
async function diskFinding(name: string, path: string, unwritable?: Omit<Finding, "name">): Promise<Finding> {
  if (unwritable) return { name, ...unwritable };
  const free = await freeBytes(path);
  if (free === undefined) return { name, verdict: "note", text: `its free room is not known (${path})` };
  const text = `${formatBytes(free)} free (${path})`;
  return free >= ROOM_NEEDED
    ? { name, verdict: "ok", text }
    : { name, verdict: "note", text: `${text}: little`, steps: ["make room, or choose another folder"] };
}

/** The findings for people. */
export function doctorText(findings: readonly Finding[]): string {
  const marks = { ok: "ok  ", note: "note", bad: "BAD " };
  const width = Math.max(...findings.map(({ name }) => name.length));
  const lines = findings.flatMap(({ name, verdict, text, steps = [] }) => [
    `${marks[verdict]}  ${name.padEnd(width)}  ${text}`,
    ...steps.map((step) => `${" ".repeat(width + 8)}-> ${step}`),
  ]);
  const bad = findings.filter(({ verdict }) => verdict === "bad").length;
  const end = bad === 0 ? "This machine is ready." : `${bad === 1 ? "One thing needs" : `${bad} things need`} mending.`;
  return [...lines, "", end].join("\n");
}
