import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Device } from "../../kernels/device.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { float32Tensor, toFloat32 } from "../../nn/safetensors.ts";
import { trainStep, type TrainStepOptions } from "../../nn/train_step.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const SHAPE = { n: 4, c: 3, h: 32, w: 32 };
const BATCH = { images: formula(4 * 3 * 32 * 32, 1), labels: [0, 1, 2, 3] };

async function open(device: Device, options: Omit<TrainStepOptions<unknown>, "source">) {
  const module = resnext50({ layers: [1, 1], channels: [16, 24], cardinality: 2, numClasses: 7 });
  const network = await Network.create(device, module, { seed: 3 });
  const source = await FloatSource.create(device, SHAPE);
  return { network, step: await trainStep(network, { source, ...options }) };
}

/** Spoils one value of an entry. */
async function spoil(network: Network, name: string, value: number): Promise<void> {
  const state = await network.stateDict();
  const values = toFloat32(state.get(name)!);
  values[values.length - 1] = value;
  network.loadStateDict(state.set(name, float32Tensor(values, state.get(name)!.shape)));
}

gpuTest("a healthy run has no anomaly, and the same bits with the watch as without", async (device) => {
  const losses: number[][] = [];
  for (const detectAnomaly of [false, true]) {
    const { network, step } = await open(device, { detectAnomaly, clipGradNorm: 1 });
    for (let i = 0; i < 5; i++) step.run(BATCH, { learningRate: 0.05 });
    const results = await step.collect();
    assertEquals(results.map(({ anomaly }) => anomaly), Array(5).fill(undefined));
    losses.push(results.map(({ lossSum }) => lossSum));
    step.destroy();
    network.destroy();
  }
  assertEquals(losses[0], losses[1]);
});

gpuTest("an anomaly is traced to the first layer and kernel, in the step where it arose", async (device) => {
  for (
    const [name, value, place] of [
      ["layer2.0.conv2.weight", NaN, /^layer2\.0\.conv2 in the forward pass \(kernel ".*conv/],
      ["layer1.0.bn3.weight", Infinity, /^layer1\.0\.bn3 in the forward pass \(kernel "batch_norm/],
      ["fc.bias", -Infinity, /^fc in the forward pass/],
    ] as const
  ) {
    const { network, step } = await open(device, { detectAnomaly: true });
    step.run(BATCH, { learningRate: 0.05 });
    await spoil(network, name, value);
    step.run(BATCH, { learningRate: 0.05 });
    const [before, after] = await step.collect();
    assertEquals(before.anomaly, undefined);
    assertMatch(after.anomaly ?? "nothing", place);
    step.destroy();
    network.destroy();
  }
});

gpuTest("a learning rate without measure is caught where the numbers leave the floats", async (device) => {
  const { network, step } = await open(device, { detectAnomaly: true });
  for (let i = 0; i < 3; i++) step.run(BATCH, { learningRate: 1e38 });
  const results = await step.collect();
  const first = results.find(({ anomaly }) => anomaly !== undefined);
  assert(first);
  assertMatch(first.anomaly!, /in the (forward|backward) pass \(kernel "/);
  step.destroy();
  network.destroy();
});

gpuTest("gradients are clipped to the norm, which is told", async (device) => {
  const gradients = async (clipGradNorm?: number) => {
    const { network, step } = await open(device, { clipGradNorm });
    step.run(BATCH, { learningRate: 0.05 });
    const [{ gradientNorm }] = await step.collect();
    const all = [...(await network.weights.gradients())!.values()].flatMap((tensor) => [...toFloat32(tensor)]);
    step.destroy();
    network.destroy();
    return { gradientNorm, all };
  };
  const free = await gradients();
  assertEquals(free.gradientNorm, undefined);
  const norm = Math.hypot(...free.all);
  const clipped = await gradients(norm / 3), wide = await gradients(norm * 3);
  assertClose([clipped.gradientNorm!, wide.gradientNorm!], [norm, norm], 1e-5, "norm");
  assertClose(clipped.all, free.all.map((g) => g / 3), 1e-5, "clipped");
  assertEquals(wide.all, free.all);
});
