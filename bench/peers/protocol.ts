/**
 * How a peer's process talks with the benchmark: it serves tasks by name, a JSON line a request and a line an answer, so
 * that repeats of several processes can take turns. A peer that fails answers so, and the others go on.
 */

/** The network and sizes that every peer runs, the process's first argument as JSON. */
export interface PeerSettings {
  readonly layers: readonly number[];
  readonly channels: readonly number[];
  readonly cardinality: number;
  readonly classes: number;
  readonly imageSize: number;
  readonly batchSize: number;
}

/** Names of tasks: whole steps, and single convolutions (below). */
export type TaskName = "train" | "infer" | "conv1x1" | "grouped3x3";

/** The 1x1 convolution: `[16, 56, 56, 64]` to 256 channels. */
export const CONV_1X1 = { n: 16, size: 56, inChannels: 64, outChannels: 256 } as const;
/** The grouped 3x3 convolution: `[16, 28, 28, 128]`, 32 groups, padding 1. */
export const GROUPED_3X3 = { n: 16, size: 28, channels: 128, groups: 32 } as const;

/** Something made ready: runs itself `times` over, then waits once. */
export type Task = (times: number) => Promise<void>;

/** Tasks to be made ready at first use, or why there is none. */
export type Tasks = Readonly<Record<TaskName, ((settings: PeerSettings) => Promise<Task>) | string>>;

/** Serves requests `{task, times}` from stdin, answering `{ms}`, `{cannot}` or `{error}`, until stdin ends. */
export async function serve(tasks: Tasks): Promise<void> {
  // Libraries write to the console; stdout is for answers alone.
  console.log =
    console.info =
    console.warn =
    console.debug =
      console.error;
  const settings = JSON.parse(Deno.args[0]) as PeerSettings;
  const ready = new Map<string, Task>();
  for await (const line of lines(Deno.stdin.readable)) {
    const { task: name, times } = JSON.parse(line) as { task: TaskName; times: number };
    let answer: object;
    try {
      const make = tasks[name];
      if (typeof make === "string") answer = { cannot: make };
      else {
        let task = ready.get(name);
        if (!task) ready.set(name, task = await make(settings));
        const started = performance.now();
        await task(times);
        answer = { ms: performance.now() - started };
      }
    } catch (error) {
      answer = { error: error instanceof Error ? `${error.name}: ${error.message}` : String(error) };
    }
    await Deno.stdout.write(new TextEncoder().encode(`${JSON.stringify(answer)}\n`));
  }
  Deno.exit(0);
}

/** Text lines of a stream. */
export async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    const pieces = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = pieces.pop()!;
    yield* pieces;
  }
  if (rest) yield rest;
}

/** A convolution of the network: OIHW weight and, with `bias`, a bias. */
export interface ConvSpec {
  readonly name: string;
  readonly o: number;
  readonly i: number;
  readonly k: number;
  readonly stride: number;
  readonly padding: number;
  readonly groups: number;
  readonly bias: boolean;
}

/** A block: its convolutions, each followed by a batch norm; `shortcut` where the width or stride changes. */
export interface BlockSpec {
  readonly conv1: ConvSpec;
  readonly conv2: ConvSpec;
  readonly conv3: ConvSpec;
  readonly shortcut?: ConvSpec;
}

/** The notebook's network, as its layers' sizes. */
export function networkSpec(settings: PeerSettings): { stem: ConvSpec; blocks: BlockSpec[]; width: number } {
  const conv = (name: string, i: number, o: number, k = 1, stride = 1, padding = 0, groups = 1): ConvSpec => //
  ({ name, o, i, k, stride, padding, groups, bias: true });
  const stem = { ...conv("conv1", 3, 64, 7, 2, 3), bias: false };
  const blocks: BlockSpec[] = [];
  let width = 64;
  for (const [stage, depth] of settings.layers.entries()) {
    for (let index = 0; index < depth; index++) {
      const name = `layer${stage + 1}.${index}`, out = settings.channels[stage], mid = out / 4;
      const stride = stage > 0 && index === 0 ? 2 : 1;
      blocks.push({
        conv1: conv(`${name}.conv1`, width, mid),
        conv2: conv(`${name}.conv2`, mid, mid, 3, stride, 1, settings.cardinality),
        conv3: conv(`${name}.conv3`, mid, out),
        ...((stride !== 1 || width !== out) && { shortcut: conv(`${name}.shortcut`, width, out, 1, stride) }),
      });
      width = out;
    }
  }
  return { stem, blocks, width };
}

/** Normal deviates, near enough for speed: sums of uniform ones from a seed. */
export function noise(count: number, scale = 1): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  let state = count | 1;
  const uniform = () => ((state = Math.imul(state, 1664525) + 1013904223 | 0) >>> 0) / 2 ** 32 - 0.5;
  for (let i = 0; i < count; i++) out[i] = (uniform() + uniform() + uniform()) * 2 * scale;
  return out;
}

/** A convolution's weight by Kaiming's rule, OIHW. */
export function convWeight({ o, i, k, groups }: ConvSpec): Float32Array<ArrayBuffer> {
  const fan = i / groups * k * k;
  return noise(o * fan, Math.sqrt(2 / fan));
}
