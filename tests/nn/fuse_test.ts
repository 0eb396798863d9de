import { assert, assertEquals } from "@std/assert";
import { fuse } from "../../nn/fuse.ts";
import { type Graph, trace } from "../../nn/graph.ts";
import { BatchNorm2d, Conv2d } from "../../nn/layers.ts";
import { Module } from "../../nn/module.ts";
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
    conv2d: 54,
    batch_norm: 53,
    relu: 49,
    max_pool: 1,
    add: 16,
    global_avg_pool: 1,
  });
  const fused = fuse(graph);
  assertEquals(counts(fused), {
    conv2d: 54,
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
      const fused = await runModule(device, module, { ...input, fused: true });
      const plain = await runModule(device, module, { ...input, fused: false });
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
