import { assert, assertEquals } from "@std/assert";
import { deferNorms, fuse, fuseForEvaluation } from "../../nn/fuse.ts";
import { type Graph, trace } from "../../nn/graph.ts";
import { BatchNorm2d, Conv2d } from "../../nn/layers.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { BatchNormOperation } from "../../nn/ops/batch_norm.ts";
import { maxPool } from "../../nn/ops/pool.ts";
import { relu } from "../../nn/ops/relu.ts";
import { add } from "../../nn/ops/sum.ts";
import { resnext50, ResNeXtBlock } from "../../nn/resnext.ts";
import { toFloat32 } from "../../nn/safetensors.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { formulaState } from "../parity/formula_state.ts";
import { runModule } from "../parity/run_module.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const SHAPE = { n: 2, c: 8, h: 6, w: 5 };

function counts({ nodes }: Graph): Record<string, number> {
  const found: Record<string, number> = {};
  for (const { operation: { name } } of nodes) found[name] = (found[name] ?? 0) + 1;
  return found;
}

Deno.test("resnext50: every ReLU and every sum becomes part of a batch norm", () => {
  const graph = trace(resnext50(), { n: 1, c: 3, h: 32, w: 32 });
  // 16 blocks of 3 convolutions, 4 shortcuts, the stem and the linear layer.
  assertEquals(counts(graph), {
    conv2d: 53,
    linear: 1,
    batch_norm: 53,
    relu: 49,
    max_pool: 1,
    add: 16,
    global_avg_pool: 1,
  });
  const fused = fuse(graph);
  assertEquals(counts(fused), {
    conv2d: 53,
    linear: 1,
    "batch_norm+relu": 33,
    "batch_norm+add+relu": 16,
    batch_norm: 4,
    max_pool: 1,
    global_avg_pool: 1,
  });
  assert(fused.nodes.some(({ output }) => output === graph.output), "the output is the same tensor");
});

/** Uses a value twice after its batch norm, so that it must stay. */
class Shared extends Module {
  conv = new Conv2d(8, 8, 1);
  bn = new BatchNorm2d(8);
  forward(x: Tensor): Tensor {
    const y = this.bn.forward(this.conv.forward(x));
    return add(relu(y), y);
  }
}

/** A sum of a batch norm with itself has one producer for both. */
class Doubled extends Module {
  bn = new BatchNorm2d(8);
  forward(x: Tensor): Tensor {
    const y = this.bn.forward(x);
    return relu(add(y, y));
  }
}

/** A chain of sums: the second is of a fused one. */
class Sums extends Module {
  bn1 = new BatchNorm2d(8);
  bn2 = new BatchNorm2d(8);
  forward(x: Tensor): Tensor {
    return relu(add(add(this.bn1.forward(x), x), relu(this.bn2.forward(x))));
  }
}

/** Its output is a batch norm's, and a ReLU of it would change it. */
class Ends extends Module {
  bn = new BatchNorm2d(8);
  forward(x: Tensor): Tensor {
    return this.bn.forward(relu(x));
  }
}

const MODULES: Record<string, () => Module> = {
  "identity block": () => new ResNeXtBlock({ inChannels: 8, bottleneckChannels: 8, outChannels: 8, cardinality: 2 }),
  "block with a shortcut": () =>
    new ResNeXtBlock({ inChannels: 8, bottleneckChannels: 8, outChannels: 12, cardinality: 4, stride: 2 }),
  "shared value": () => new Shared(),
  "doubled value": () => new Doubled(),
  "sum of sums": () => new Sums(),
  "batch norm last": () => new Ends(),
};

for (const [name, make] of Object.entries(MODULES)) {
  gpuTest(`fused and plain give the same values and gradients: ${name}`, async (device) => {
    const module = make(), state = formulaState(module, 300);
    const { output } = trace(module, SHAPE);
    const x = formula(2 * 8 * 6 * 5, 1),
      dy = formula(output.shape.n * output.shape.c * output.shape.h * output.shape.w, 2);
    for (const training of [true, false]) {
      const input = { state, shape: SHAPE, x, training, ...(training && { dy }) };
      const fused = await runModule(device, module, { ...input, rewrite: fuse });
      const plain = await runModule(device, module, { ...input, rewrite: (graph) => graph });
      assertClose(fused.y, plain.y, 1e-6, "y");
      if (!training) continue;
      assertClose(fused.dx!, plain.dx!, 1e-6, "dx");
      for (const [key, gradient] of plain.gradients) {
        // A bias before a batch norm has no gradient but rounding.
        if (/conv\d?\.bias|shortcut\.0\.bias/.test(key)) continue;
        assertClose(toFloat32(fused.gradients.get(key)!), toFloat32(gradient), 1e-6, key);
      }
      for (const [key, entry] of plain.state) {
        assertClose(toFloat32(fused.state.get(key)!), toFloat32(entry), 1e-6, key);
      }
    }
  });
}

/** All that normalizes what it loads: a max pool, grouped and dense convolutions, strided ones among them, a sum. */
class Normalized extends Module {
  conv1 = new Conv2d(8, 8, 1);
  bn1 = new BatchNorm2d(8);
  conv2 = new Conv2d(8, 16, 3, { padding: 1, groups: 2 });
  bn2 = new BatchNorm2d(16);
  conv3 = new Conv2d(16, 12, 1);
  bn3 = new BatchNorm2d(12);
  conv4 = new Conv2d(12, 10, 3, { padding: 1 });
  bn4 = new BatchNorm2d(10);
  conv5 = new Conv2d(10, 8, 1, { stride: 2 });
  bn5 = new BatchNorm2d(8);
  conv6 = new Conv2d(8, 4, 3, { padding: 1 });
  bn6 = new BatchNorm2d(4);
  conv7 = new Conv2d(8, 4, 1);
  bn7 = new BatchNorm2d(4);
  forward(x: Tensor): Tensor {
    const { bn1, bn2, bn3, bn4, bn5 } = this;
    const pooled = maxPool(relu(bn1.forward(this.conv1.forward(x))), { kernel: 3, stride: 1, padding: 1 });
    const grouped = relu(bn2.forward(this.conv2.forward(pooled)));
    const dense = bn3.forward(this.conv3.forward(grouped));
    const windows = relu(bn4.forward(this.conv4.forward(dense)));
    const strided = relu(bn5.forward(this.conv5.forward(windows)));
    return add(this.bn6.forward(this.conv6.forward(strided)), this.bn7.forward(this.conv7.forward(strided)));
  }
}

gpuTest("norms at the next operation's load give the bits of norms that are written", async (device) => {
  const module = new Normalized(), shape = { n: 3, c: 8, h: 7, w: 6 };
  const deferred = deferNorms(fuse(trace(module, shape)));
  const count = deferred.nodes.filter(({ operation }) => operation instanceof BatchNormOperation && operation.deferred);
  assertEquals(count.length, 5);
  const x = formula(3 * 8 * 7 * 6, 1), dy = formula(3 * 4 * 4 * 3, 2);
  for (const software of [true, false]) {
    const caps = { ...device.capabilities, software };
    const input = { state: formulaState(module, 300), shape, x, dy, caps };
    const written = await runModule(device, module, { ...input, rewrite: fuse });
    const loaded = await runModule(device, module, { ...input, rewrite: (graph) => deferNorms(fuse(graph)) });
    assertEquals(loaded.y, written.y);
    assertEquals(loaded.dx, written.dx);
    assertEquals(loaded.gradients, written.gradients);
    assertEquals(loaded.state, written.state);
  }
});

Deno.test("resnext50: what is normalized at the next load", () => {
  const graph = deferNorms(fuse(trace(resnext50(), { n: 2, c: 3, h: 32, w: 32 })));
  const norms = graph.nodes.map(({ operation }) => operation).filter((each) => each instanceof BatchNormOperation);
  // Two of each block, the stem's and the shortcuts'; only the sums are written.
  assertEquals(norms.filter(({ deferred }) => deferred).length, 37);
  assert(norms.every(({ deferred, residual }) => deferred !== residual));
});

gpuTest("evaluation: norms in the convolutions before them give what they give alone", async (device) => {
  const module = new Normalized(), shape = { n: 3, c: 8, h: 7, w: 6 };
  const x = formula(3 * 8 * 7 * 6, 1);
  for (const software of [true, false]) {
    const caps = { ...device.capabilities, software };
    const input = { state: formulaState(module, 300), shape, x, training: false, caps };
    const rewrite = (graph: Graph) => fuseForEvaluation(fuse(graph), caps);
    assertEquals(counts(rewrite(trace(module, shape))), {
      "conv2d+batch_norm+relu": 4,
      "conv2d+batch_norm": 2,
      "conv2d+batch_norm+add": 1,
      max_pool: 1,
    });
    const fused = await runModule(device, module, { ...input, rewrite });
    const plain = await runModule(device, module, { ...input, rewrite: (graph) => graph });
    assertClose(fused.y, plain.y, 1e-6, "y");
  }
});

/** Blocks in a row: a gradient is completed by the next block's first convolution, that of a shortcut's norm too. */
gpuTest("norms summed by the products around them give the gradients of norms that sum themselves", async (device) => {
  const block = (inChannels: number, stride: number) =>
    new ResNeXtBlock({ inChannels, bottleneckChannels: 16, outChannels: 32, cardinality: 4, stride });
  const module = new Sequential(block(8, 1), block(32, 1), block(32, 2), block(32, 1));
  const shape = { n: 3, c: 8, h: 9, w: 10 };
  const input = {
    state: formulaState(module, 300),
    shape,
    x: formula(3 * 8 * 9 * 10, 1),
    dy: formula(3 * 32 * 5 * 5, 2),
  };
  // Only a GPU's products take sums.
  const [alone, summed] = await Promise.all(
    [true, false].map((software) =>
      runModule(device, module, { ...input, caps: { ...device.capabilities, software } })
    ),
  );
  assertClose(summed.y, alone.y, 1e-5, "y");
  assertClose(summed.dx!, alone.dx!, 1e-5, "dx");
  for (const [key, gradient] of alone.gradients) {
    if (/conv\d?\.bias|shortcut\.0\.bias/.test(key)) continue;
    assertClose(toFloat32(summed.gradients.get(key)!), toFloat32(gradient), 1e-5, key);
  }
  for (const [key, entry] of alone.state) {
    assertClose(toFloat32(summed.state.get(key)!), toFloat32(entry), 1e-5, key);
  }
});
