/** What the tests of the commands share: the program as a process, and a checkpoint that needs no training. */

import { fromFileUrl, join } from "@std/path";
import { Random } from "../../kernels/random.ts";
import { type Checkpoint, encodeCheckpoint, type NetworkDescription } from "../../nn/checkpoint.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { float32Tensor, int64Scalar, type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import { Counter, Parameter } from "../../nn/state.ts";
import { shapeNames } from "../../data/shapes.ts";

/** What a process printed, and its exit code. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const MAIN = fromFileUrl(new URL("../../main.ts", import.meta.url));

/** The program, called with arguments, not started yet. */
export function program(args: readonly string[], env: Record<string, string> = {}, cwd?: string): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", MAIN, ...args],
    cwd,
    env: { XDG_RUNTIME_DIR: "/tmp", ...env },
    stdout: "piped",
    stderr: "piped",
  });
}

/** Runs the program. */
export async function resnext(args: readonly string[], env?: Record<string, string>, cwd?: string): Promise<Outcome> {
  const { code, stdout, stderr } = await program(args, env, cwd).output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** What this process itself prints on a stream meanwhile. */
export async function printedOn(
  stream: typeof Deno.stdout | typeof Deno.stderr,
  work: () => void | Promise<void>,
): Promise<string> {
  const { writeSync } = stream;
  let text = "";
  stream.writeSync = (bytes) => {
    text += new TextDecoder().decode(bytes);
    return bytes.length;
  };
  try {
    await work();
  } finally {
    stream.writeSync = writeSync;
  }
  return text;
}

/** A network that compiles and trains in a moment. */
export const NARROW = ["--layers", "1,1", "--channels", "16,32", "--cardinality", "2"];

/** The same network in a checkpoint's words. */
export const NARROW_NETWORK: NetworkDescription = {
  arch: "resnext50",
  num_classes: 10,
  cardinality: 2,
  layers: [1, 1],
  channels: [16, 32],
};

/** A narrow network's checkpoint as a run on shapes makes it before its first step. */
export function narrowCheckpoint(changes: Partial<Checkpoint["description"]> = {}): Checkpoint {
  const state = new Map<string, TensorData>(), momenta = new Map<string, TensorData>();
  const network = changes.network ?? NARROW_NETWORK;
  for (const [index, [name, entry]] of [...describedNetwork(network).stateEntries()].entries()) {
    if (entry instanceof Counter) {
      state.set(name, int64Scalar(0));
    } else {
      state.set(name, float32Tensor(entry.initialValues(new Random(1, index)), entry.shape));
      if (entry instanceof Parameter) {
        momenta.set(name, float32Tensor(new Float32Array(entry.elements), entry.shape));
      }
    }
  }
  const description = {
    network,
    input: { image_size: 32, mean: [0.3, 0.3, 0.3], std: [0.25, 0.25, 0.25] },
    class_names: shapeNames,
    settings: {
      dataset: "shapes",
      batch_size: 16,
      epochs: 2,
      lr: 0.01,
      momentum: 0.9,
      weight_decay: 0,
      nesterov: false,
      label_smoothing: 0,
      seed: 0,
      train_limit: 32,
      test_limit: 20,
    },
    progress: { epoch: 0, step: 0, loss_sum: 0, rows: 0, history: [] },
    ...changes,
  } as const;
  return { description, state, momenta };
}

/** Writes one whose weights no training can have meant, and gives its path. */
export async function writeSpoilt(folder: string): Promise<string> {
  const spoilt = narrowCheckpoint(), path = join(folder, "spoilt.safetensors"), bias = spoilt.state.get("fc.bias")!;
  const values = toFloat32(bias);
  values[3] = NaN;
  const state = new Map(spoilt.state).set("fc.bias", float32Tensor(values, bias.shape));
  await Deno.writeFile(path, await encodeCheckpoint({ ...spoilt, state }));
  return path;
}

/** Writes one whose weights are finite, and whose logits are not. */
export async function writeOverflowing(
  folder: string,
  name = "best.safetensors",
  changes?: Partial<Checkpoint["description"]>,
): Promise<string> {
  const checkpoint = narrowCheckpoint(changes), state = new Map(checkpoint.state), path = join(folder, name);
  const { shape } = state.get("layer1.0.bn3.running_mean")!;
  state.set("layer1.0.bn3.running_mean", float32Tensor(new Float32Array(shape[0]).fill(-3e38), shape));
  state.set("layer1.0.bn3.running_var", float32Tensor(new Float32Array(shape[0]).fill(1e-3), shape));
  await Deno.writeFile(path, await encodeCheckpoint({ ...checkpoint, state }));
  return path;
}

/** Writes a folder of pictures of two classes, `a` and `b`, two to train on and one to test on; gives its path. */
export async function writePictures(folder: string, name: string): Promise<string> {
  const picture = fromFileUrl(new URL("../fixtures/pictures/small.png", import.meta.url)),
    pictures = join(folder, name);
  for (const path of ["train/a", "train/b", "val/a"]) {
    await Deno.mkdir(join(pictures, path), { recursive: true });
    await Deno.copyFile(picture, join(pictures, path, "1.png"));
  }
  return pictures;
}

/** Writes it, and gives its path. */
export async function writeNarrow(
  folder: string,
  name = "last.safetensors",
  changes?: Partial<Checkpoint["description"]>,
): Promise<string> {
  const path = join(folder, name);
  await Deno.writeFile(path, await encodeCheckpoint(narrowCheckpoint(changes)));
  return path;
}
