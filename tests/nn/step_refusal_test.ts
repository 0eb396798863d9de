/** What no step is compiled of: said before memory is made. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { AugmentedSource } from "../../nn/augment.ts";
import { type BatchSource, FloatSource } from "../../nn/batch_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { DeviceImages, ImageSource } from "../../nn/image_source.ts";
import { Conv2d, GlobalAvgPool2d, ReLU } from "../../nn/layers.ts";
import { Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { gradientStep, trainStep, updateStep } from "../../nn/train_step.ts";
import { gpuTest, trackBuffers } from "../support.ts";

const SHAPE = { n: 4, c: 3, h: 32, w: 32 };

async function open(device: Device) {
  const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 2 }));
  return { network, source: await FloatSource.create(device, SHAPE) };
}

gpuTest("a training that means nothing is refused before memory is made for it", async (device) => {
  const { network, source } = await open(device);
  const image = await Network.create(device, new Sequential(new Conv2d(3, 5, 3)));
  const still = await Network.create(device, new Sequential(new ReLU(), new GlobalAvgPool2d()));
  using buffers = trackBuffers(device);
  const nesterov = { momentum: 0, nesterov: true }, names = ["fc.weight"] as unknown as () => boolean;
  const refused: [make: () => Promise<unknown>, error: new (message: string) => Error, message: string][] = [
    [() => trainStep(network, { source, optimizer: nesterov }), UserError, "Cannot use Nesterov's momentum"],
    [() => updateStep(network, { optimizer: nesterov }), UserError, "Cannot use Nesterov's momentum"],
    [() => trainStep(image, { source }), RangeError, "for logits"],
    [() => trainStep(network, { source, frozen: names }), TypeError, 'Cannot freeze ["fc.weight"]: give a function'],
    [() => trainStep(network, { source, frozen: () => true }), UserError, "all parameters are frozen"],
    [() => trainStep(still, { source }), UserError, "Cannot train: the network has no parameters"],
    [() => updateStep(still), UserError, "Cannot train: the network has no parameters"],
    [() => gradientStep(network, {} as { source: FloatSource }), TypeError, "without a source of batches"],
  ];
  for (const [make, error, message] of refused) await assertRejects(make, error, message);
  assertEquals([...buffers.left].map(({ label }) => label), []);
  assert((await evalStep(still, { source })).classes === 3, "it can be evaluated");
  for (const each of [network, image, still]) each.destroy();
  source.destroy();
});

gpuTest("a source on another device is refused in words, whatever it wraps", async (device) => {
  const { network } = await open(device), other = await openDevice();
  const elsewhere = await FloatSource.create(other, SHAPE);
  const wrapped = await AugmentedSource.create(device, elsewhere, { flip: true }, { mean: [0, 0, 0], std: [1, 1, 1] });
  const images = await DeviceImages.create(other, shapes({ train: 4, test: 0, seed: 1 }).train);
  const input = { height: 32, width: 32, mean: [0, 0, 0], std: [1, 1, 1], imageSize: 32 } as const;
  const resident = await ImageSource.create(images, input, 4);
  for (const source of [elsewhere, wrapped, resident] as BatchSource<unknown>[]) {
    for (const make of [trainStep, gradientStep, evalStep]) {
      await assertRejects(
        () => make(network, { source }),
        Error,
        "Cannot take batches from a source on another device",
      );
    }
  }
  device.check();
  other.close();
  network.destroy();
});
