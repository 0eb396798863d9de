import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { type Device, DeviceLostError, openDevice } from "../../kernels/device.ts";
import { write } from "../../kernels/dispatch.ts";
import { UserError } from "../../kernels/user_error.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { RING_SLOTS } from "../../nn/step.ts";
import { trainStep } from "../../nn/train_step.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const SHAPE = { n: 4, c: 3, h: 32, w: 32 };
const IMAGE = 3 * 32 * 32;

function narrow() {
  return resnext50({ layers: [1, 1], channels: [16, 24], cardinality: 2, numClasses: 7 });
}

function batch(rows: number, stream = 1): FloatBatch {
  return {
    images: formula(rows * IMAGE, stream),
    labels: Array.from({ length: rows }, (_, i) => (i * 3 + stream) % 7),
  };
}

/** A network with a source; `seed` draws the weights. */
async function open(device: Device, seed = 1) {
  const network = await Network.create(device, narrow(), { seed });
  return { network, source: await FloatSource.create(device, SHAPE) };
}

async function bytes(network: Network): Promise<string[]> {
  return [...await network.stateDict()].map(([name, tensor]) => `${name} ${tensor.bytes.toHex()}`);
}

gpuTest("a smaller last batch counts its own rows alone", async (device) => {
  const { network, source } = await open(device);
  const step = await evalStep(network, { source });
  const few = batch(2);
  step.run({ images: formula(4 * IMAGE, 9).map((value) => value * 50), labels: [0, 1, 2, 3] });
  step.run(few);
  const { results: [, result], predictions } = await step.evaluations();
  const logits = (await step.logits()).subarray(0, 14);
  assertEquals([result.rows, predictions.length], [2, 6]);
  let lossSum = 0, correct = 0;
  for (let row = 0; row < 2; row++) {
    const z = [...logits.subarray(row * 7, row * 7 + 7)];
    lossSum += Math.log(z.reduce((sum, value) => sum + Math.exp(value), 0)) - z[few.labels[row]];
    assertEquals(predictions[4 + row], z.indexOf(Math.max(...z)));
    if (predictions[4 + row] === few.labels[row]) correct++;
  }
  assertClose([result.lossSum], [lossSum], 1e-5, "loss");
  assertEquals(result.correct, correct);
  // The same two rows, in a batch with others.
  const all = batch(4);
  step.run({ images: all.images, labels: all.labels });
  assertClose((await step.logits()).subarray(0, 14), logits, 1e-5, "logits");
  step.destroy();
  network.destroy();
});

gpuTest("steps submitted while results are read are not lost", async (device) => {
  const { network, source } = await open(device);
  const step = await evalStep(network, { source });
  step.run(batch(4, 1));
  const reading = step.evaluations();
  step.run(batch(3, 2));
  const first = await reading, second = await step.evaluations();
  assertEquals([first.results.length, first.predictions.length], [1, 4]);
  assertEquals([second.results.length, second.predictions.length], [1, 3]);
  // What is collected alone leaves no predictions behind.
  step.run(batch(4, 1));
  assertEquals(await step.collect(), first.results);
  step.run(batch(3, 2));
  assertEquals(await step.evaluations(), second);
  network.destroy();
});

gpuTest("evaluation changes nothing", async (device) => {
  const { network, source } = await open(device);
  const before = await bytes(network);
  const step = await evalStep(network, { source });
  step.run(batch(4));
  const [first] = await step.collect();
  step.run(batch(4));
  assertEquals((await step.collect())[0], first);
  assertEquals(await bytes(network), before);
  network.destroy();
});

gpuTest("training takes whole batches alone, evaluation up to its size", async (device) => {
  const { network, source } = await open(device);
  const train = await trainStep(network, { source }), evaluate = await evalStep(network, { source });
  const before = await bytes(network);
  assertThrows(
    () => train.run(batch(3), { learningRate: 0.1 }),
    RangeError,
    "Cannot train on 3 rows: this step is for 4",
  );
  assertThrows(() => evaluate.run(batch(5)), RangeError, "5 labels");
  assertThrows(() => evaluate.run({ images: new Float32Array(7), labels: [1] }), RangeError, "7 values");
  assertThrows(() => evaluate.run({ images: new Float32Array(0), labels: [] }), RangeError);
  assertEquals([train.pending, evaluate.pending], [0, 0]);
  assertEquals(await bytes(network), before, "a refused batch is not trained on");
  network.destroy();
});

gpuTest("results wait in a ring, in order, and it does not overflow unseen", async (device) => {
  const network = await Network.create(
    device,
    resnext50({ layers: [1], channels: [8], cardinality: 1, numClasses: 3 }),
  );
  const source = await FloatSource.create(device, { n: 1, c: 3, h: 4, w: 4 });
  const step = await evalStep(network, { source });
  const image = (i: number) => ({ images: formula(48, i), labels: [i % 3] });
  for (let i = 0; i < 10; i++) step.run(image(i));
  const first = await step.collect();
  assertEquals(first.length, 10);
  assertEquals(await step.collect(), []);
  // Over the end of the ring and on from its start.
  for (let i = 0; i < RING_SLOTS; i++) step.run(image(i));
  assertEquals(step.pending, RING_SLOTS);
  assertThrows(() => step.run(image(0)), Error, `Collect the results at least every ${RING_SLOTS} steps`);
  const second = await step.collect();
  assertEquals(second.length, RING_SLOTS);
  assertEquals(second.slice(0, 10), first);
  assertEquals(new Set(second.map(({ lossSum }) => lossSum)).size > 200, true);
  step.run(image(4));
  assertEquals((await step.collect())[0], first[4]);
  network.destroy();
});

gpuTest("the same seed gives the same bits, another seed others", async (device) => {
  const train = async (seed: number) => {
    const { network, source } = await open(device, seed);
    const step = await trainStep(network, {
      source,
      optimizer: { weightDecay: 1e-3, nesterov: true },
      labelSmoothing: 0.1,
    });
    for (let i = 0; i < 4; i++) step.run(batch(4, i % 2), { learningRate: 0.05 });
    const losses = (await step.collect()).map(({ lossSum }) => lossSum);
    const state = await bytes(network);
    step.destroy();
    source.destroy();
    network.destroy();
    return { losses, state };
  };
  const first = await train(1);
  assert(first.losses.every(Number.isFinite));
  assertEquals(await train(1), first);
  assertNotEquals((await train(2)).losses, first.losses);
});

gpuTest("training learns a batch by heart", async (device) => {
  const { network, source } = await open(device);
  const step = await trainStep(network, { source });
  for (let i = 0; i < 40; i++) step.run(batch(4), { learningRate: 0.02 });
  const results = await step.collect();
  assert(results[0].lossSum / 4 > 1, `${results[0].lossSum}`);
  assert(results[39].lossSum / 4 < 0.1, `${results[39].lossSum}`);
  assertEquals(results[39].correct, 4);
  const counters = [...await network.stateDict()].filter(([name]) => name.endsWith("num_batches_tracked"));
  assertEquals(new Set(counters.map(([, tensor]) => toFloat32(tensor)[0])), new Set([40]));
  network.destroy();
});

gpuTest("a training and an evaluation step share memory, whichever comes first and goes first", async (device) => {
  const expected = await (async () => {
    const { network, source } = await open(device);
    const step = await trainStep(network, { source });
    for (let i = 0; i < 2; i++) step.run(batch(4), { learningRate: 0.02 });
    return await step.collect();
  })();
  const { network, source } = await open(device);
  const evaluate = await evalStep(network, { source });
  evaluate.run(batch(4));
  const [before] = await evaluate.collect();
  const small = network.arena.bytes;
  const train = await trainStep(network, { source });
  assert(network.arena.bytes > small, "training needs more than evaluation");
  evaluate.run(batch(4));
  assertEquals((await evaluate.collect())[0], before, "evaluation works on slabs that have grown");
  evaluate.destroy();
  train.run(batch(4), { learningRate: 0.02 });
  const again = await evalStep(network, { source });
  again.run(batch(4));
  assertNotEquals((await again.collect())[0], before);
  train.run(batch(4), { learningRate: 0.02 });
  assertEquals(await train.collect(), expected, "evaluation in between changes nothing");
  network.destroy();
});

gpuTest("memory is flat: steps make no buffer", async (device) => {
  const { network, source } = await open(device);
  const step = await trainStep(network, { source }), evaluate = await evalStep(network, { source });
  const { gpu } = device, create = gpu.createBuffer;
  const made: GPUBufferDescriptor[] = [];
  gpu.createBuffer = (descriptor) => {
    made.push(descriptor);
    return create.call(gpu, descriptor);
  };
  try {
    for (let i = 0; i < 50; i++) {
      step.run(batch(4, i % 3), { learningRate: 0.01 });
      evaluate.run(batch(4, i % 3));
    }
    assertEquals(made, []);
    await step.collect();
    await evaluate.evaluations();
    assert(made.every(({ usage }) => usage === (GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST)));
    assertEquals(made.length, 3, "one staging buffer a reading");
  } finally {
    gpu.createBuffer = create;
  }
  network.destroy();
});

gpuTest("a batch beyond the device's limits is refused with the size that fits", async (device) => {
  const small = Object.create(device, {
    capabilities: { value: { ...device.capabilities, maxBindingBytes: 2 ** 17 } },
  }) as Device;
  const { network } = await open(device);
  const limited = Object.create(network, { device: { value: small } }) as Network;
  const source = await FloatSource.create(device, { ...SHAPE, n: 4 });
  await assertRejects(() => trainStep(limited, { source }), UserError, "Cannot run batches of 4:");
  await assertRejects(() => evalStep(limited, { source }), UserError, "use a batch size of");
  network.destroy();
});

Deno.test("a step, or a part of one, that the device leaves out is a lost device, not a result", async () => {
  const device = await openDevice();
  try {
    const { network, source } = await open(device), { queue } = device.gpu;
    // As on large images: making the batch is a submission, the rest another.
    source.dispatches = () => [{
      label: "batch",
      bindings: { x: write(source.x) },
      source: "@compute @workgroup_size(1) fn main() { x[0] = x[0]; }",
      workgroups: [1, 1, 1],
      flops: 1e12,
      bytes: 32,
    }];
    for (const [make, left] of [[trainStep, [0]], [trainStep, [1]], [evalStep, [0, 1]]] as const) {
      const step = await make(network, { source });
      // The ring has been filled once: what an earlier step left lies in every slot.
      for (let i = 0; i < RING_SLOTS; i++) step.run(batch(4), { learningRate: 0 });
      assertEquals((await step.collect()).length, RING_SLOTS);
      step.run(batch(4), { learningRate: 0 });
      const submit = queue.submit.bind(queue);
      let submissions = 0;
      queue.submit = (commands) => {
        if (!left.some((part) => part === submissions)) submit(commands);
        submissions++;
      };
      step.run(batch(4), { learningRate: 0 });
      queue.submit = submit;
      assertEquals(submissions, 2);
      step.run(batch(4), { learningRate: 0 });
      await assertRejects(() => step.collect(), DeviceLostError, "it left out work of a step");
    }
  } finally {
    device.close();
  }
});
