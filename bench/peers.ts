/**
 * Other libraries beside ours, in one run: each peer is a process of its own that answers requests, repeats take turns, and
 * what is told is ratios of medians. Only here are the peers' packages downloaded.
 */

import { fromFileUrl } from "@std/path";
import { convFilter, type ConvGeometry, convOutput } from "../kernels/conv_geometry.ts";
import { convFlops } from "../kernels/conv_geometry.ts";
import { convKernels } from "../kernels/conv2d.ts";
import type { Device } from "../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../kernels/dispatch.ts";
import { storedElements, storedFilterElements } from "../kernels/layout.ts";
import { Program } from "../kernels/program.ts";
import { submit } from "./limits.ts";
import { type Spread, spread, timed } from "./measure.ts";
import { CONV_1X1, GROUPED_3X3, lines, type PeerSettings, type Task, type TaskName } from "./peers/protocol.ts";

/** A peer: how it is called, and the command that serves its tasks. */
export interface Peer {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
}

/** One row of the comparison. */
export interface PeerResult {
  readonly peer: string;
  readonly task: string;
  /** Milliseconds of one step or convolution; absent where the peer cannot. */
  readonly ms?: Spread;
  /** Why there is no figure. */
  readonly cannot?: string;
  /** Of PyTorch on CUDA. */
  readonly peakBytes?: number;
}

/** Something of ours that takes turns with the peers. */
export interface OwnTask {
  /** As in the results, such as `grouped3x3 dW`. */
  readonly name: string;
  /** The peers' task beside it. */
  readonly task: TaskName;
  readonly run: Task;
}

const TASKS: readonly TaskName[] = ["train", "infer", "conv1x1", "grouped3x3"];
const FIRST_ANSWER_MS = 300_000;

/** What the peers' names begin with. */
export const PEERS: readonly string[] = ["jax-js", "onnxruntime-web", "tfjs", "PyTorch"];

/** The peers that this machine can try; PyTorch where some python3 has it. */
export async function findPeers(settings: PeerSettings, only?: readonly string[]): Promise<Peer[]> {
  const json = JSON.stringify(settings);
  const script = (file: string) => fromFileUrl(new URL(`peers/${file}`, import.meta.url));
  const deno = (name: string, file: string): Peer => ({
    name,
    command: Deno.execPath(),
    args: ["run", "-A", "--no-lock", "--no-config", script(file), json],
  });
  const peers = [deno("jax-js", "jax_js.ts"), deno("onnxruntime-web", "onnxruntime_web.ts"), deno("tfjs", "tfjs.ts")];
  const python = await findPython();
  if (python) {
    for (const mode of python.cuda ? ["f32", "tf32"] : ["f32"]) {
      const name = `PyTorch ${python.version} ${python.cuda ? `CUDA ${mode}` : `CPU, threads: ${python.threads}`}`;
      peers.push({ name, command: python.path, args: [script("pytorch.py"), json, mode] });
    }
  }
  return peers.filter(({ name }) => !only || only.some((word) => name.toLowerCase().startsWith(word.toLowerCase())));
}

async function findPython(): Promise<{ path: string; version: string; cuda: boolean; threads: string } | undefined> {
  const probe = "import torch; print(torch.__version__, int(torch.cuda.is_available()), torch.get_num_threads())";
  for (const path of ["python3", "/usr/bin/python3", "/usr/local/bin/python3", "python"]) {
    try {
      const { success, stdout } = await new Deno.Command(path, { args: ["-c", probe], stderr: "null" }).output();
      const [version, cuda, threads] = new TextDecoder().decode(stdout).trim().split(" ");
      if (success && version) return { path, version, cuda: cuda === "1", threads };
    } catch {
      // There is no such program.
    }
  }
}

interface Answer {
  readonly ms?: number;
  readonly cannot?: string;
  readonly error?: string;
  readonly peakBytes?: number;
}

/** A running peer. */
class PeerProcess {
  readonly #child: Deno.ChildProcess;
  readonly #requests: WritableStreamDefaultWriter<Uint8Array>;
  readonly #answers: AsyncGenerator<string>;
  readonly #stderr: Promise<string>;

  constructor({ command, args }: Peer) {
    this.#child = new Deno.Command(command, {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: { XDG_RUNTIME_DIR: Deno.env.get("XDG_RUNTIME_DIR") ?? "/tmp", NO_COLOR: "1" },
    }).spawn();
    this.#requests = this.#child.stdin.getWriter();
    this.#answers = lines(this.#child.stdout);
    this.#stderr = lastLine(this.#child.stderr);
  }

  async ask(task: TaskName, times: number): Promise<Answer> {
    const timeout = Promise.withResolvers<"timeout">();
    const timer = setTimeout(() => timeout.resolve("timeout"), FIRST_ANSWER_MS);
    try {
      await this.#requests.write(new TextEncoder().encode(`${JSON.stringify({ task, times })}\n`));
      const line = await Promise.race([this.#answers.next(), timeout.promise]);
      if (line === "timeout") {
        this.#child.kill();
        return { error: `no answer within ${FIRST_ANSWER_MS / 1000} s` };
      }
      if (!line.done) return JSON.parse(line.value);
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe || error instanceof TypeError)) throw error;
    } finally {
      clearTimeout(timer);
    }
    return { error: `it ended: ${await this.#stderr}` };
  }

  async close(): Promise<void> {
    await this.#requests.close().catch(() => {});
    await this.#answers.return(undefined);
    try {
      this.#child.kill();
    } catch {
      // It has ended.
    }
    await this.#child.status;
  }
}

async function lastLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  let last = "without a word";
  for await (const line of lines(stream)) if (line.trim()) last = line.trim();
  return last;
}

/** A task of anyone's, once its first run is done. */
interface Entry {
  readonly peer: string;
  readonly name: string;
  readonly times: number;
  run(times: number): Promise<Answer>;
  readonly samples: number[];
  failure?: string;
  peakBytes?: number;
}

/**
 * Runs our tasks and the peers', task by task, repeats in turns.
 *
 * @param onProgress Is told what is being made ready.
 */
export async function comparePeers(
  peers: readonly Peer[],
  own: readonly OwnTask[],
  { repeats, targetMs, onProgress }: { repeats: number; targetMs: number; onProgress?: (text: string) => void },
): Promise<PeerResult[]> {
  const processes = peers.map((peer) => ({ peer, process: new PeerProcess(peer) }));
  const results: PeerResult[] = [];
  try {
    for (const task of TASKS) {
      const mine = own.filter((each) => each.task === task);
      if (mine.length === 0) continue;
      const entries: Entry[] = [];
      for (const { name, run } of mine) {
        const answer = async (times: number) => ({ ms: await timed(() => run(times)) });
        entries.push(await prepare("ours", name, answer, targetMs));
      }
      for (const { peer, process } of processes) {
        onProgress?.(`${peer.name}: ${task}`);
        entries.push(await prepare(peer.name, task, (times) => process.ask(task, times), targetMs));
      }
      for (let repeat = 0; repeat < repeats; repeat++) {
        for (const entry of entries) {
          if (!entry.failure) take(entry, await entry.run(entry.times), entry.times);
        }
      }
      for (const { peer, name, samples, failure, peakBytes } of entries) {
        results.push({
          peer,
          task: name,
          ...(failure ? { cannot: failure } : { ms: spread(samples) }),
          ...(peakBytes && { peakBytes }),
        });
      }
    }
  } finally {
    for (const { process } of processes) await process.close();
  }
  return results;
}

/** The first run, which compiles, then one to see how many make a repeat. */
async function prepare(
  peer: string,
  name: string,
  run: (times: number) => Promise<Answer>,
  targetMs: number,
): Promise<Entry> {
  const samples: number[] = [];
  const first = await run(2);
  const second = first.ms === undefined ? first : await run(3);
  const times = Math.max(1, Math.min(1000, Math.round(targetMs / ((second.ms ?? 1) / 3))));
  const entry: Entry = { peer, name, times, run, samples };
  if (second.ms === undefined) entry.failure = second.cannot ?? second.error ?? "no answer";
  return entry;
}

function take(entry: Entry, answer: Answer, times: number): void {
  if (answer.ms === undefined) entry.failure = answer.error ?? "no answer";
  else entry.samples.push(answer.ms / times);
  if (answer.peakBytes) entry.peakBytes = answer.peakBytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Our convolutions
// ---------------------------------------------------------------------------------------------------------------------

/** The single convolutions that the peers run. */
export const CONVOLUTIONS: Readonly<Record<"conv1x1" | "grouped3x3", ConvGeometry>> = {
  conv1x1: {
    input: { n: CONV_1X1.n, h: CONV_1X1.size, w: CONV_1X1.size, c: CONV_1X1.inChannels },
    outChannels: CONV_1X1.outChannels,
    kernelHeight: 1,
    kernelWidth: 1,
    stride: 1,
    padding: 0,
    groups: 1,
  },
  grouped3x3: {
    input: { n: GROUPED_3X3.n, h: GROUPED_3X3.size, w: GROUPED_3X3.size, c: GROUPED_3X3.channels },
    outChannels: GROUPED_3X3.channels,
    kernelHeight: 3,
    kernelWidth: 3,
    stride: 1,
    padding: 1,
    groups: GROUPED_3X3.groups,
  },
};

/** Floating-point operations of a single convolution, by its task's name. */
export function taskFlops(task: string): number | undefined {
  return task in CONVOLUTIONS ? convFlops(CONVOLUTIONS[task as keyof typeof CONVOLUTIONS]) : undefined;
}

/** Our kernels for a convolution: forward and both gradients. */
export async function ownConvolution(
  device: Device,
  task: "conv1x1" | "grouped3x3",
): Promise<{ tasks: OwnTask[]; destroy(): void }> {
  const geometry = CONVOLUTIONS[task], kernels = convKernels(geometry), caps = device.capabilities;
  const input = storedElements(geometry.input), output = storedElements(convOutput(geometry));
  const filter = storedFilterElements(convFilter(geometry)), o = geometry.outChannels;
  const x = operand("x", input), dx = operand("dx", input), y = operand("y", output), dy = operand("dy", output);
  const weight = operand("weight", filter), dweight = operand("dweight", filter), dbias = operand("dbias", o);
  const buffers = new Map<Operand, GPUBuffer>();
  const ready = async (name: string, dispatches: Dispatch[]): Promise<OwnTask> => {
    for (const dispatch of dispatches) {
      for (const { operand } of Object.values(dispatch.bindings)) {
        if (!buffers.has(operand)) buffers.set(operand, await device.buffer(operand.label, operand.byteLength));
      }
    }
    const program = await Program.create(device, dispatches, (o) => ({ buffer: buffers.get(o)!, offset: 0 }));
    const run = (times: number) =>
      submit(device, (encoder) => {
        for (let i = 0; i < times; i++) program.encode(encoder);
      });
    return { name, task, run };
  };
  return {
    tasks: [
      await ready(task, kernels.forward({ x, weight, y }, geometry, caps)),
      await ready(`${task} dX`, kernels.inputGradient({ dy, weight, dx }, geometry, caps)),
      await ready(`${task} dW`, kernels.weightGradient({ x, dy, dweight, dbias }, geometry, caps)),
    ],
    destroy() {
      for (const buffer of buffers.values()) buffer.destroy();
    },
  };
}
