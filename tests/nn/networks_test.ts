import { assertEquals, assertThrows } from "@std/assert";
import { Conv2d, Linear } from "../../nn/layers.ts";
import { stepMemory } from "../../nn/memory.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { ARCHITECTURES, resnext } from "../../nn/resnext.ts";
import { KNOWN_NETWORKS } from "../../nn/networks.ts";
import { globalAvgPool } from "../../nn/ops/pool.ts";
import { relu } from "../../nn/ops/relu.ts";
import { summarize } from "../../nn/summary.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { Network } from "../../nn/network.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { formulaState } from "../parity/formula_state.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";

Deno.test("facts are known of every named network", () => {
  assertEquals(KNOWN_NETWORKS as string[], Object.keys(ARCHITECTURES).filter((name) => name !== "resnext"));
});

Deno.test("a general resnext with a named network's sizes is that network", () => {
  const cifar = { layers: [3, 3, 3], cardinality: 8, baseWidth: 64, stem: "cifar", numClasses: 10 } as const;
  assertEquals(resnext("resnext", cifar).parameterCount, resnext("resnext29_8x64d").parameterCount);
  assertEquals(resnext("resnext").parameterCount, resnext("resnext50_32x4d").parameterCount);
});

gpuTest("resnext29_8x64d has PyTorch's logits", async (device) => {
  const golden = goldens("cifar_networks"), name = "resnext29_8x64d";
  const { batch: n, size, stream_base, x_stream } = golden.settings(name);
  const module = resnext(name), network = await Network.create(device, module);
  network.loadStateDict(formulaState(module, stream_base));
  const source = await FloatSource.create(device, { n, c: 3, h: size, w: size });
  const step = await evalStep(network, { source });
  step.run({ images: formula(n * 3 * size * size, x_stream), labels: Array(n).fill(0) });
  assertClose(await step.logits(), golden.values(`${name}.eval_logits`), 1e-4, "logits");
  step.destroy();
  source.destroy();
  network.destroy();
});

Deno.test("the summary names what a module does itself after it, and restores its forward", () => {
  class Twice extends Module {
    conv = new Conv2d(4, 4, 1);
    forward(x: Tensor): Tensor {
      return relu(this.conv.forward(relu(this.conv.forward(x))));
    }
  }
  class Whole extends Module {
    body = new Sequential(new Twice());
    fc = new Linear(4, 3);
    forward(x: Tensor): Tensor {
      return this.fc.forward(globalAvgPool(this.body.forward(x)));
    }
  }
  const whole = new Whole(), { rows, total } = summarize(whole, { n: 2, c: 4, h: 3, w: 5 });
  assertEquals(rows.map(({ name, multiplyAdds }) => [name, multiplyAdds]), [
    ["body.0.conv", 2 * 15 * 16],
    ["body.0.relu", 0],
    ["body.0.conv", 2 * 15 * 16],
    ["body.0.relu", 0],
    ["global_avg_pool", 0],
    ["fc", 2 * 12],
  ]);
  // The convolution is used twice and learned once.
  assertEquals(total.parameters, 20 + 15);
  assertEquals(Object.hasOwn(whole, "forward") || Object.hasOwn(whole.fc, "forward"), false);
  assertThrows(() => summarize(whole, { n: 2, c: 3, h: 3, w: 5 }), RangeError, "Cannot convolve 3 channels");
  assertEquals(Object.hasOwn(whole, "forward"), false);
});

gpuTest("planned memory is what a device's steps take", async (device) => {
  const module = resnext("resnext", { layers: [1, 1], channels: [32, 64], cardinality: 4, baseWidth: 16 });
  const shape = { n: 4, c: 3, h: 32, w: 32 };
  const network = await Network.create(device, module);
  const source = await FloatSource.create(device, shape);
  const step = await evalStep(network, { source });
  const { stateBytes, activationBytes } = stepMemory(module, shape, { training: false, caps: device.capabilities });
  // Weights are aligned one by one; the plan's activations are the same but for logits and results, which have their own places.
  const alignment = Math.max(256, 2 * device.capabilities.storageAlignment), { bytes } = network.weights;
  assertEquals(bytes >= stateBytes && bytes < stateBytes + alignment * 40, true, `${bytes}, ${stateBytes} planned`);
  const planned = step.plan.assignment.slabBytes.reduce((sum, bytes) => sum + bytes, 0);
  const ratio = (activationBytes - shape.n * 32 * 32 * 16) / planned;
  assertEquals(ratio > 0.9 && ratio < 1.1, true, `${activationBytes} planned without a device, ${planned} with one`);
  step.destroy();
  source.destroy();
  network.destroy();
});
