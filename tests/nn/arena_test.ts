/** Memory that steps share while it grows: other steps run meanwhile, and where there is no room they say so. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { shapes } from "../../data/shapes.ts";
import { type Device, OutOfMemoryError } from "../../kernels/device.ts";
import { BatchSizeError } from "../../nn/batch_size.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { judge } from "../../nn/judge.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { formula, gpuTest, standIn } from "../support.ts";

const narrow = () => resnext50({ layers: [1], channels: [16], cardinality: 4 });
const source = (device: Device, n: number) => FloatSource.create(device, { n, c: 3, h: 32, w: 32 });
const batch = (rows: number): FloatBatch => ({
  images: formula(rows * 3 * 32 * 32, 1),
  labels: Array.from({ length: rows }, (_, i) => i % 10),
});

/** A device that gives slabs of so many bytes together; `asked` is called while it makes one. */
function withRoom(device: Device, room: number, asked: () => void) {
  const held = new Map<GPUBuffer, number>();
  const limited = standIn(device, {
    buffer: async (label, bytes, usage) => {
      if (!label.startsWith("slab")) return await device.buffer(label, bytes, usage);
      await Promise.resolve();
      asked();
      if ([...held.values()].reduce((sum, each) => sum + each, bytes) > room) {
        throw new OutOfMemoryError("no room", bytes);
      }
      const buffer = await device.buffer(label, bytes), destroy = buffer.destroy.bind(buffer);
      held.set(buffer, bytes);
      buffer.destroy = () => void (held.delete(buffer), destroy());
      return buffer;
    },
  });
  return { limited, held };
}

gpuTest("steps run while larger ones are compiled", async (device) => {
  let asked = () => {}, runs = 0;
  const { limited, held } = withRoom(device, Infinity, () => asked());
  const network = await Network.create(limited, narrow(), { seed: 1 });
  const step = await evalStep(network, { source: await source(device, 2) });
  step.run(batch(2));
  const [alone] = await step.collect();
  asked = () => (step.run(batch(2)), runs++);
  for (const rows of [8, 24]) await evalStep(network, { source: await source(device, rows) });
  assert(runs > 2, `${runs} slabs`);
  assertEquals(await step.collect(), Array(runs).fill(alone));
  assertEquals([...held.values()].reduce((sum, each) => sum + each), network.arena.bytes, "smaller slabs are freed");
  network.destroy();
});

gpuTest("a set is judged in batches of several sizes at the same time", async (device) => {
  const network = await Network.create(device, narrow(), { seed: 1 });
  const { test, height, width, mean, std } = shapes({ train: 0, test: 80, seed: 0 });
  const judged = async (batchSize: number) => {
    const predictions: number[] = [];
    for await (const some of judge(network, test, { height, width, mean, std, imageSize: 32 }, batchSize)) {
      predictions.push(...some.map(({ prediction }) => prediction));
    }
    return predictions;
  };
  const alone = await judged(8);
  assertEquals(await Promise.all([8, 8, 80, 20].map(judged)), Array(4).fill(alone));
  network.destroy();
});

gpuTest("a slab that does not fit beside the smaller one takes its place, and steps run afterwards", async (device) => {
  const bytesFor = async (rows: number) => {
    const network = await Network.create(device, narrow());
    await evalStep(network, { source: await source(device, rows) });
    const { bytes } = network.arena;
    network.destroy();
    return bytes;
  };
  let asked = () => {}, runs = 0;
  const most = await bytesFor(24), refusals: string[] = [], { limited, held } = withRoom(device, most, () => asked());
  const network = await Network.create(limited, narrow(), { seed: 1 });
  const step = await evalStep(network, { source: await source(device, 16) });
  step.run(batch(16));
  const wanted = await step.collect();
  asked = () => {
    try {
      step.run(batch(16));
      runs++;
    } catch (error) {
      refusals.push((error as Error).message);
    }
  };
  await evalStep(network, { source: await source(device, 24) });
  step.run(batch(16));
  assertEquals(await step.collect(), Array(runs + 1).fill(wanted[0]));
  const waiting = "Cannot run a step while a larger one takes its memory: wait until that is compiled";
  assertEquals(new Set(refusals), new Set([waiting]));
  assertEquals([...held.values()].reduce((sum, each) => sum + each), most);

  // What does not fit alone either ends the steps before it, not the device; others may be made.
  await assertRejects(async () => await evalStep(network, { source: await source(device, 64) }), BatchSizeError);
  assertThrows(() => step.run(batch(16)), Error, "Cannot run a step whose memory was freed");
  assertEquals(held.size, 0);
  const again = await evalStep(network, { source: await source(device, 16) });
  again.run(batch(16));
  assertEquals(await again.collect(), wanted);
  network.destroy();
  device.check();
});
