import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Device } from "../../kernels/device.ts";
import { type Operand, read, write } from "../../kernels/dispatch.ts";
import { each } from "../../kernels/elementwise.ts";
import { type Shape, storedElements } from "../../kernels/layout.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { BatchNorm2d, Conv2d, Linear } from "../../nn/layers.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import { globalAvgPool } from "../../nn/ops/pool.ts";
import { add, addToGradient } from "../../nn/ops/sum.ts";
import { float32Tensor, toFloat32 } from "../../nn/safetensors.ts";
import { Parameter } from "../../nn/state.ts";
import { apply, type Backward, type Lowering, type Operation, type Tensor } from "../../nn/tensor.ts";
import { trainStep } from "../../nn/train_step.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const SHAPE = { n: 4, c: 3, h: 5, w: 7 };
const BATCH = { images: formula(4 * 3 * 35, 1), labels: [0, 1, 2, 3] };

/** What an operation here does otherwise than it should. */
type Slip =
  | "no result"
  | "no backward"
  | "no gradient"
  | "two gradients"
  | "parameter not listed"
  | "parameter's gradient not asked for"
  | "parameter's gradient asked for too early"
  | "parameter's gradient not written"
  | "a tensor of others";

/** y = x + w[0], by someone who knows nothing of padding: neither y nor the gradient of x has zeros there. */
class Shift implements Operation {
  readonly name = "shift";
  readonly parameters: readonly Parameter[];

  constructor(readonly weight: Parameter, readonly slip?: Slip, readonly other?: Tensor) {
    this.parameters = slip === "parameter not listed" ? [] : [weight];
  }

  forward(lowering: Lowering, [input]: readonly Tensor[], y: Operand): Backward {
    const { caps } = lowering, elements = storedElements(input.shape), { slip, weight, other } = this;
    const x = lowering.value(other ?? input), w = lowering.state(weight);
    if (slip === "parameter's gradient asked for too early") lowering.parameterGradient(weight);
    if (slip !== "no result") {
      lowering.emit([each("shift", { x: read(x), w: read(w), y: write(y) }, {
        load: (k) => `let x${k} = get_x(at${k});`,
        use: (k) => `set_y(at${k}, x${k} + get_w(0u).x);`,
      }, { elements, flops: elements, caps })]);
    }
    if (slip === "no backward") return undefined as unknown as Backward;
    return (dy) => {
      if (slip !== "parameter's gradient not asked for") {
        const dw = lowering.parameterGradient(weight);
        // No gradient of a sum here: the test does not train it.
        if (slip !== "parameter's gradient not written") {
          lowering.emit([each("shift.dw", { dw: write(dw) }, {
            load: () => "",
            use: (k) => `set_dw(at${k}, vec4f());`,
          }, { elements: 4, flops: 0, caps })]);
        }
      }
      const dx = lowering.activation("shift.dx", input.shape);
      // Of five and six channels these are the last two of their padding.
      const dirt = input.shape.c > 4 ? (k: number) => `vec4f(0.0, 0.0, 7.0, 7.0) * f32(at${k} % 2u)` : () => "vec4f()";
      if (slip !== "no gradient" && lowering.needsGradient(input)) {
        lowering.emit([each("shift.dx", { dy: read(dy), dx: write(dx) }, {
          load: (k) => `let dy${k} = get_dy(at${k});`,
          use: (k) => `set_dx(at${k}, dy${k} + ${dirt(k)});`,
        }, { elements, flops: 0, caps })]);
        addToGradient(lowering, input, dx);
      }
      if (slip === "two gradients") addToGradient(lowering, input, dx);
    };
  }

  flops(_: readonly Tensor[], output: Shape): number {
    return storedElements(output);
  }
}

/** Convolutions with channels that leave padding, each followed by a shift, or by none. */
class Net extends Module {
  conv1 = new Conv2d(3, 5, 3, { padding: 1 });
  conv2 = new Conv2d(5, 6, 3, { padding: 1 });
  fc = new Linear(6, 4);
  shift = new Parameter([1], { constant: 1 });

  constructor(readonly shifts: boolean) {
    super();
  }

  forward(x: Tensor): Tensor {
    const shifted = (y: Tensor) => this.shifts ? apply(new Shift(this.shift), [y], y.shape) : y;
    const y = shifted(this.conv2.forward(shifted(this.conv1.forward(x))));
    return this.fc.forward(globalAvgPool(y));
  }
}

for (const precision of ["f32", "f16"] as const) {
  gpuTest(`an operation that writes into the padding trains as one that does not, ${precision}`, async (device) => {
    const source = await FloatSource.create(device, SHAPE);
    const train = async (shifts: boolean) => {
      const network = await Network.create(device, new Net(shifts), { seed: 2 });
      if (!shifts) {
        // The same function: what is added comes of the biases.
        const state = await network.stateDict();
        for (const name of ["conv1.bias", "conv2.bias"]) {
          const bias = toFloat32(state.get(name)!).map((value) => value + 1);
          state.set(name, float32Tensor(bias, [bias.length]));
        }
        network.loadStateDict(state);
      }
      const step = await trainStep(network, { source, precision });
      for (let i = 0; i < 8; i++) step.run(BATCH, { learningRate: 0.2 });
      const evaluate = await evalStep(network, { source, precision });
      evaluate.run(BATCH);
      const losses = (await step.collect()).map(({ lossSum }) => lossSum), logits = await evaluate.logits();
      network.destroy();
      return { losses, logits };
    };
    const expected = await train(false), found = await train(true);
    assert(Math.abs(expected.losses[7] - expected.losses[0]) > 0.05, "the weights move");
    const tolerance = precision === "f32" ? 1e-4 : 2e-2;
    assertClose(found.losses, expected.losses, tolerance, "losses");
    assertClose(found.logits, expected.logits, tolerance, "logits");
    source.destroy();
  });
}

/** An input of the operation has another use, so that it gets some gradient whatever the operation does. */
class Slipping extends Module {
  bn = new BatchNorm2d(3);
  fc = new Linear(3, 4);
  weight = new Parameter([1], { constant: 1 });

  constructor(readonly slip: Slip | undefined, readonly residual: boolean) {
    super();
  }

  forward(x: Tensor): Tensor {
    const z = this.bn.forward(x), other = this.slip === "a tensor of others" ? x : undefined;
    const y = apply(new Shift(this.weight, this.slip, other), [z], z.shape);
    return this.fc.forward(globalAvgPool(this.residual ? add(z, y) : y));
  }
}

async function compile(device: Device, module: Module): Promise<void> {
  const network = await Network.create(device, module), source = await FloatSource.create(device, SHAPE);
  try {
    (await trainStep(network, { source })).destroy();
  } finally {
    network.destroy();
    source.destroy();
  }
}

gpuTest("what an operation forgets is an error with its name", async (device) => {
  const slips: Record<Slip, string> = {
    "no result": "its forward writes no result",
    "no backward": "its forward returns undefined: return the function",
    "no gradient": "its backward adds no gradient to input 0, [4, 3, 5, 7], where 1 is due",
    "two gradients": "its backward adds 2 gradients to input 0",
    "parameter not listed": 'it uses "weight", which its `parameters` do not list',
    "parameter's gradient not asked for": 'its backward does not ask for the gradient of "weight"',
    "parameter's gradient asked for too early": 'its forward asks for the gradient of "weight"',
    "parameter's gradient not written": 'its backward does not write the gradient of "weight"',
    "a tensor of others": "it asks for a tensor that is not one of its inputs",
  };
  for (const residual of [false, true]) {
    await compile(device, new Slipping(undefined, residual));
    for (const [slip, message] of Object.entries(slips)) {
      const refused = `Cannot use operation "shift": ${message}`;
      await assertRejects(() => compile(device, new Slipping(slip as Slip, residual)), Error, refused);
    }
  }
});

gpuTest("an operation may leave out the gradient of what does not learn", async (device) => {
  class First extends Module {
    weight = new Parameter([1], { constant: 1 });
    fc = new Linear(3, 4);
    forward(x: Tensor): Tensor {
      return this.fc.forward(globalAvgPool(apply(new Shift(this.weight, "no gradient"), [x], x.shape)));
    }
  }
  await compile(device, new First());
  // Frozen, it does not go back at all.
  const network = await Network.create(device, new Sequential(new First()));
  const source = await FloatSource.create(device, SHAPE);
  const step = await trainStep(network, { source, frozen: (name) => name === "0.weight" });
  assertEquals(step.plan.dispatches.some(({ label }) => label === "shift.dw"), false);
  network.destroy();
  source.destroy();
});
