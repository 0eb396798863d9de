import { assertEquals } from "@std/assert";
import type { Device } from "../../kernels/device.ts";
import { openDevice } from "../../kernels/open_device.ts";
import type { ElementType } from "../../kernels/dispatch.ts";
import { type Choice, ForcedVariant, type Tuning } from "../../kernels/tuning.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { Network } from "../../nn/network.ts";
import { ResNeXt } from "../../nn/resnext.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { trainStep } from "../../nn/train_step.ts";
import { asGpu, assertClose, formula, gpuTest, testDevice } from "../support.ts";

/** Another opening of the device whose kernels are those of a GPU: workgroup memory, split sums, many workgroups. */
async function openAsGpu(tuning?: Tuning): Promise<Device> {
  const device = await openDevice();
  return Object.defineProperty(device, "capabilities", { value: { ...asGpu(device), tuning } });
}

async function train(
  device: Device,
  { precision, cardinality = 8 }: { precision?: ElementType; cardinality?: number } = {},
): Promise<{ losses: number[]; logits: Float32Array }> {
  const module = new ResNeXt({ layers: [1, 1, 2, 1], channels: [32, 64, 128, 256], cardinality });
  const network = await Network.create(device, module, { seed: 3 });
  const source = await FloatSource.create(device, { n: 8, c: 3, h: 40, w: 40 });
  const step = await trainStep(network, {
    source,
    optimizer: { momentum: 0.9, weightDecay: 1e-4 },
    labelSmoothing: 0.1,
    precision,
  });
  const batch = { images: formula(8 * 3 * 40 * 40, 1), labels: [0, 1, 2, 3, 4, 5, 6, 7] };
  for (let i = 0; i < 3; i++) step.run(batch, { learningRate: 1e-3 });
  const losses = (await step.collect()).map(({ lossSum, rows }) => lossSum / rows);
  const evaluation = await evalStep(network, { source, precision });
  evaluation.run(batch);
  const logits = await evaluation.logits();
  network.destroy();
  return { losses, logits };
}

gpuTest("the kernels that a GPU takes train and evaluate like those of this adapter", async () => {
  const gpu = await openAsGpu();
  const [own, other] = [await train(await testDevice()), await train(gpu)];
  assertClose(other.losses, own.losses, 1e-4, "losses");
  assertClose(other.logits, own.logits, 1e-3, "logits");
  gpu.close();
});

/** Says which variants of a kind it chose. */
class Watched extends ForcedVariant {
  readonly chosen = new Set<string>();

  override choose(choice: Choice): string | undefined {
    const name = super.choose(choice);
    if (name !== undefined) this.chosen.add(`${choice.key.split(" ").slice(0, 2).join(" ")}: ${name}`);
    return name;
  }
}

gpuTest("grouped convolutions that stage their weights train and evaluate to the same bits", async () => {
  const staging = new Watched("staged");
  for (const precision of ["f32", "f16"] as const) {
    const options = { precision, cardinality: 4 };
    const [direct, staged] = [await openAsGpu(new ForcedVariant("direct")), await openAsGpu(staging)];
    assertEquals(await train(staged, options), await train(direct, options), precision);
    for (const device of [direct, staged]) device.close();
  }
  assertEquals([...staging.chosen].sort(), [
    "grouped dweight: staged",
    ...["2x3", "2x5", "2x6", "3x3"].map((size) => `grouped dx: staged ${size}`),
    ...["2x2x2", "2x3"].map((size) => `grouped forward: staged ${size}`),
  ]);
});
