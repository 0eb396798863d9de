import { type Device, openDevice } from "../../kernels/device.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { Network } from "../../nn/network.ts";
import { ResNeXt } from "../../nn/resnext.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { trainStep } from "../../nn/train_step.ts";
import { asGpu, assertClose, formula, gpuTest, testDevice } from "../support.ts";

/** Another opening of the device whose kernels are those of a GPU: workgroup memory, split sums, many workgroups. */
async function openAsGpu(): Promise<Device> {
  const device = await openDevice();
  return Object.defineProperty(device, "capabilities", { value: asGpu(device) });
}

async function train(device: Device): Promise<{ losses: number[]; logits: Float32Array }> {
  const module = new ResNeXt({ layers: [1, 1, 2, 1], channels: [32, 64, 128, 256], cardinality: 8 });
  const network = await Network.create(device, module, { seed: 3 });
  const source = await FloatSource.create(device, { n: 8, c: 3, h: 40, w: 40 });
  const step = await trainStep(network, {
    source,
    optimizer: { momentum: 0.9, weightDecay: 1e-4 },
    labelSmoothing: 0.1,
  });
  const batch = { images: formula(8 * 3 * 40 * 40, 1), labels: [0, 1, 2, 3, 4, 5, 6, 7] };
  for (let i = 0; i < 3; i++) step.run(batch, { learningRate: 1e-3 });
  const losses = (await step.collect()).map(({ lossSum, rows }) => lossSum / rows);
  const evaluation = await evalStep(network, { source });
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
