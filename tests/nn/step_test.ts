import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { type Device, DeviceLostError } from "../../kernels/device.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { write } from "../../kernels/dispatch.ts";
import { UserError } from "../../kernels/user_error.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { BatchNorm2d, Conv2d, Linear } from "../../nn/layers.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import { globalAvgPool } from "../../nn/ops/pool.ts";
import { relu } from "../../nn/ops/relu.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { RING_SLOTS } from "../../nn/step.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { gradientStep, trainStep, updateStep } from "../../nn/train_step.ts";
import { formulaState } from "../parity/formula_state.ts";
import { assertClose, formula, gpuTest, standIn, trackBuffers } from "../support.ts";

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

gpuTest("whoever collects at the same time gets each result once", async (device) => {
  const { network, source } = await open(device);
  const step = await evalStep(network, { source });
  step.run(batch(4));
  const wanted = await step.evaluations();
  for (let i = 0; i < 2; i++) step.run(batch(4));
  assertEquals((await Promise.all([step.collect(), step.collect()])).map(({ length }) => length), [2, 0]);
  assertEquals(step.pending, 0);
  step.run(batch(4));
  const [first, second] = await Promise.all([step.evaluations(), step.evaluations()]);
  assertEquals([first, second.results, second.predictions.length], [wanted, [], 0]);
  // As full as it may be: what is being read leaves its place to others.
  for (let i = 0; i < RING_SLOTS; i++) step.run(batch(4, i % 3));
  const reading = step.collect();
  for (let i = 0; i < RING_SLOTS; i++) step.run(batch(4));
  const [old, now] = await Promise.all([reading, step.collect()]);
  assertEquals([old.length, new Set(old.map(({ lossSum }) => lossSum)).size], [RING_SLOTS, 3]);
  assertEquals(now, Array.from({ length: RING_SLOTS }, () => wanted.results[0]));
  network.destroy();
});

gpuTest("logits are those of a step: before any has run there are none", async (device) => {
  const { network, source } = await open(device);
  const step = await evalStep(network, { source });
  await assertRejects(() => step.logits(), Error, "before it has run");
  step.run(batch(4));
  assertEquals((await step.logits()).length, 4 * 7);
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
  for (const label of [7, -100, 1.5]) {
    const labels = [0, 1, 2, label], { images } = batch(4);
    const refused = `label ${label}: the classes are 0 to 6`;
    assertThrows(() => train.run({ images, labels }, { learningRate: 0.1 }), RangeError, refused);
    assertThrows(() => evaluate.run({ images, labels }), RangeError, refused);
  }
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

gpuTest("steps are compiled at the same time as well as one after another", async (device) => {
  const compile = async (together: boolean) => {
    const { network, source } = await open(device);
    const one = () => trainStep(network, { source });
    const other = () => trainStep(network, { source, precision: "f16", clipGradNorm: 1 });
    const third = () => evalStep(network, { source });
    const [train, half, evaluate] = together
      ? await Promise.all([one(), other(), third()])
      : [await one(), await other(), await third()];
    const results = [];
    for (const step of [train, half]) {
      step.run(batch(4), { learningRate: 0.02 });
      results.push(...await step.collect());
    }
    evaluate.run(batch(4));
    results.push(...await evaluate.collect());
    const { bytes } = network.weights;
    network.destroy();
    return { results, bytes };
  };
  assertEquals(await compile(true), await compile(false));
});

gpuTest("a layer that is applied twice learns by both, with PyTorch's gradients", async (device) => {
  class Twice extends Module {
    conv = new Conv2d(3, 3, 1);
    bn = new BatchNorm2d(3);
    fc = new Linear(3, 3);
    forward(x: Tensor): Tensor {
      const once = (x: Tensor) => this.bn.forward(this.conv.forward(x));
      return this.fc.forward(globalAvgPool(once(relu(once(x)))));
    }
  }
  const network = await Network.create(device, new Twice());
  network.loadStateDict(formulaState(network.module, 60));
  const source = await FloatSource.create(device, { n: 2, c: 3, h: 4, w: 4 });
  const step = await trainStep(network, { source });
  step.run({ images: formula(2 * 3 * 16, 59), labels: [0, 2] }, { learningRate: 0 });
  await step.collect();
  const gradients = (await network.weights.gradients())!,
    wanted = {
      "conv.weight": [
        ...[-0.05486473, 0.01328738, -0.01623558, 0.02501513, 0.01218608, 0.01822972],
        ...[-0.004660282, -0.03563774, -0.08846211],
      ],
      "bn.weight": [-0.04238107, 0.1003986, 0.1552155],
      "bn.bias": [0.04629382, 0.2510488, -0.1793621],
      "fc.bias": [-0.190735, 0.3220147, -0.1312796],
    };
  for (const [name, values] of Object.entries(wanted)) {
    assertClose(toFloat32(gradients.get(name)!), values, 1e-5, name);
  }
  network.destroy();
});

gpuTest("an image is not taken for logits, and settings that PyTorch refuses are refused", async (device) => {
  const { network, source } = await open(device);
  const image = await Network.create(device, new Sequential(new Conv2d(3, 5, 3)));
  for (const make of [trainStep, evalStep]) {
    await assertRejects(() => make(image, { source }), RangeError, "Cannot take [4, 5, 30, 30] for logits");
  }
  for (const optimizer of [{ momentum: -1 }, { weightDecay: -1e-4 }, { momentum: NaN }, { momentum: Infinity }]) {
    await assertRejects(() => trainStep(network, { source, optimizer }), RangeError, "must be 0 or more");
  }
  for (const clipGradNorm of [-1, Infinity, NaN, 1e39]) {
    const message = `Cannot update with clipGradNorm ${clipGradNorm}: it must be 0 or more and finite`;
    await assertRejects(() => trainStep(network, { source, clipGradNorm }), RangeError, message);
    await assertRejects(() => updateStep(network, { clipGradNorm }), RangeError, message);
  }
  for (const labelSmoothing of [3, -0.1]) {
    await assertRejects(() => trainStep(network, { source, labelSmoothing }), RangeError, "Cannot smooth labels by");
  }
  const train = await trainStep(network, { source }), update = await updateStep(network);
  const gradients = await gradientStep(network, { source });
  // What was looked up in vain is no rate of 0.
  for (const rate of [-0.1, NaN, Infinity, [0.1][1]]) {
    const refused = (name: string) => `Cannot learn with ${name} ${rate}: it must be 0 or more`;
    assertThrows(() => train.run(batch(4), { learningRate: rate }), RangeError, refused("learningRate"));
    assertThrows(() => update.run({ learningRate: rate }), RangeError, refused("learningRate"));
    assertThrows(() => gradients.run(batch(4), { share: rate, first: true }), RangeError, refused("share"));
  }
  assertEquals([train.pending, gradients.pending], [0, 0]);
  for (const each of [network, image]) each.destroy();
});

gpuTest("a step that is refused leaves no buffer behind", async (device) => {
  const { network, source } = await open(device);
  await network.weights.prepareTraining({ accumulate: true });
  using buffers = trackBuffers(device);
  const full = () => Promise.reject(new Error("full"));
  const crowded = Object.create(network, { arena: { value: { add: full } } }) as Network;
  for (const make of [trainStep, gradientStep, evalStep]) {
    await assertRejects(() => make(crowded, { source, detectAnomaly: true }), Error, "full");
  }
  await assertRejects(() => updateStep(network, { optimizer: { momentum: -1 } }), RangeError);
  assertEquals([...buffers.left].map(({ label }) => label), []);
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
    assertEquals(made.length, 2, "one staging buffer a reading");
  } finally {
    gpu.createBuffer = create;
  }
  network.destroy();
});

gpuTest("a batch beyond the device's limits is refused with the size that fits", async (device) => {
  const small = standIn(device, { capabilities: { ...device.capabilities, maxBindingBytes: 2 ** 17 } });
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
      if (!("logits" in step)) continue;
      await step.logits();
      queue.submit = (commands) => void (submissions++ % 2 === 0 || submit(commands));
      step.run(batch(4));
      queue.submit = submit;
      await assertRejects(() => step.logits(), DeviceLostError, "it left out work of a step");
    }
  } finally {
    device.close();
  }
});
