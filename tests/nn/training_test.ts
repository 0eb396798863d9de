import { assertEquals } from "@std/assert";
import type { Device } from "../../kernels/device.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { Network } from "../../nn/network.ts";
import { ResNeXt } from "../../nn/resnext.ts";
import { type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import { evalStep, type SgdSettings, trainStep } from "../../nn/step.ts";
import { assertClose, type Golden, goldens, gpuTest } from "../support.ts";

/** The tensors under `prefix.`, by the rest of their names. */
function under(golden: Golden, prefix: string): Map<string, TensorData> {
  return new Map(
    [...golden.file.tensors].filter(([key]) => key.startsWith(`${prefix}.`))
      .map(([key, tensor]) => [key.slice(prefix.length + 1), tensor]),
  );
}

async function checkTraining(device: Device, golden: Golden, name: string): Promise<void> {
  const settings = golden.settings(name);
  const optimizer: SgdSettings = {
    momentum: settings.momentum,
    nesterov: settings.nesterov,
    weightDecay: settings.weight_decay,
  };
  const module = new ResNeXt({
    layers: settings.layers,
    channels: settings.channels,
    cardinality: settings.cardinality,
    numClasses: settings.num_classes,
  });
  const network = await Network.create(device, module);
  network.loadStateDict(under(golden, `${name}.before`));
  const [batches, n, c, h, w] = golden.shape(`${name}.x`);
  const source = await FloatSource.create(device, { n, c, h, w });
  const step = await trainStep(network, { source, optimizer });
  const images = golden.values(`${name}.x`), labels = golden.values(`${name}.y`);
  const batch = (index: number) => ({
    images: images.subarray(index * n * c * h * w, (index + 1) * n * c * h * w),
    labels: labels.subarray(index * n, (index + 1) * n),
  });
  for (let i = 0; i < settings.steps; i++) step.run(batch(i % batches), { learningRate: settings.lr });
  const losses = (await step.collect()).map(({ lossSum, rows }) => lossSum / rows);
  assertClose(losses, golden.values(`${name}.losses`), 1e-3, `${name}: losses`);

  const state = await network.stateDict();
  for (const [key, expected] of under(golden, `${name}.after`)) {
    assertEquals(state.get(key)!.dtype, expected.dtype);
    assertClose(toFloat32(state.get(key)!), toFloat32(expected), 5e-3, `${name}: ${key} after training`);
  }
  const evaluation = await evalStep(network, { source });
  evaluation.run(batch(0));
  assertClose(await evaluation.logits(), golden.values(`${name}.eval_logits`), 1e-3, `${name}: logits`);
  network.destroy();
}

for (const name of goldens("narrow_training").cases) {
  gpuTest(
    `eight SGD steps of a narrow ResNeXt are PyTorch's: ${name}`,
    (device) => checkTraining(device, goldens("narrow_training"), name),
  );
}
