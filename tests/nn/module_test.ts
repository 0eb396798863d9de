import { assertEquals, assertThrows } from "@std/assert";
import { trace } from "../../nn/graph.ts";
import { BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, MaxPool2d, ReLU } from "../../nn/layers.ts";
import { stepMemory } from "../../nn/memory.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { batchNorm } from "../../nn/ops/batch_norm.ts";
import { conv2d } from "../../nn/ops/conv2d.ts";
import { maxPool } from "../../nn/ops/pool.ts";
import { relu, ReluOperation } from "../../nn/ops/relu.ts";
import { add } from "../../nn/ops/sum.ts";
import { Parameter } from "../../nn/state.ts";
import { apply, Tensor } from "../../nn/tensor.ts";

const SHAPE = { n: 2, c: 4, h: 9, w: 7 };

/** The size a module gives for an input's. */
function outputOf(module: Module, shape = SHAPE): number[] {
  const { n, c, h, w } = trace(module, shape).output.shape;
  return [n, c, h, w];
}

class Net extends Module {
  first = new Conv2d(4, 8, 3, { padding: 1, bias: false });
  readonly notAModule = "first";
  body = new Sequential(new BatchNorm2d(8), new ReLU(), new Sequential(new Conv2d(8, 8, 1)));
  forward(x: Tensor): Tensor {
    return this.body.forward(this.first.forward(x));
  }
}

Deno.test("state entries are PyTorch's names in the order of the fields", () => {
  assertEquals([...new Net().stateEntries()].map(([name]) => name), [
    "first.weight",
    "body.0.weight",
    "body.0.bias",
    "body.0.running_mean",
    "body.0.running_var",
    "body.0.num_batches_tracked",
    "body.2.0.weight",
    "body.2.0.bias",
  ]);
  assertEquals(new Net().parameterCount, 8 * 4 * 9 + 8 + 8 + 8 * 8 + 8);
});

Deno.test("a module under two names has entries by both, and its numbers count once", () => {
  class Tied extends Module {
    a = new Conv2d(4, 4, 1);
    b = this.a;
    forward(x: Tensor): Tensor {
      return this.b.forward(this.a.forward(x));
    }
  }
  const tied = new Tied();
  assertEquals([...tied.stateEntries()].map(([name]) => name), ["a.weight", "a.bias", "b.weight", "b.bias"]);
  assertEquals(tied.parameterCount, 20);
  assertEquals(stepMemory(tied, { n: 1, c: 4, h: 1, w: 1 }, { training: false }).stateBytes, 20 * 4);
});

Deno.test("layers give PyTorch's sizes", () => {
  assertEquals(outputOf(new Conv2d(4, 6, 3, { stride: 2, padding: 1, groups: 2 })), [2, 6, 5, 4]);
  assertEquals(outputOf(new Conv2d(4, 6, 7)), [2, 6, 3, 1]);
  assertEquals(outputOf(new MaxPool2d({ kernel: 3, stride: 2, padding: 1 })), [2, 4, 5, 4]);
  assertEquals(outputOf(new MaxPool2d({ kernel: 2 })), [2, 4, 4, 3]);
  assertEquals(outputOf(new GlobalAvgPool2d()), [2, 4, 1, 1]);
  assertEquals(outputOf(new Sequential(new GlobalAvgPool2d(), new Linear(4, 10))), [2, 10, 1, 1]);
  assertEquals(outputOf(new Sequential()), [2, 4, 9, 7]);
});

Deno.test("layers that do not fit their input say so", () => {
  assertThrows(() => outputOf(new Conv2d(5, 6, 3)), RangeError, "Cannot convolve 4 channels: the weight takes 5");
  assertThrows(() => outputOf(new Conv2d(4, 6, 9)), RangeError, "nothing is left");
  assertThrows(() => new Conv2d(4, 6, 3, { groups: 4 }), RangeError, "into 4 groups");
  for (const name of ["weight", "bias", "running_mean", "running_var"] as const) {
    const norm = new BatchNorm2d(4);
    Object.assign(norm, { [name]: new BatchNorm2d(5)[name] });
    const refused = `Cannot normalize 4 channels: the batch norm's ${name} has 5`;
    assertThrows(() => outputOf(norm), RangeError, refused);
  }
  assertThrows(() => outputOf(new Linear(4, 10)), RangeError, "9x7 pixels: pool them first");
  assertThrows(() => outputOf(new MaxPool2d({ kernel: 8 })), RangeError, "Cannot pool 9x7 with kernel 8");
});

Deno.test("sizes and settings that make no layer are refused", () => {
  const x = new Tensor(SHAPE), weight = new Parameter([6, 4, 3, 3], { constant: 0 });
  for (const stride of [0, 1.5, -1]) {
    const message = "a stride is a whole number from 1 on";
    assertThrows(() => conv2d(x, weight, undefined, { stride }), RangeError, message);
    assertThrows(() => new Conv2d(4, 6, 3, { stride }), RangeError, `stride ${stride}: it must be a positive whole`);
  }
  for (const padding of [-1, 0.5]) {
    assertThrows(() => conv2d(x, weight, undefined, { padding }), RangeError, "a padding is a whole number");
    assertThrows(() => new Conv2d(4, 6, 3, { padding }), RangeError, `padding ${padding}: it must be a whole number`);
  }
  for (const make of [() => new Conv2d(4, -6, 3), () => new Conv2d(4, 6, 2.5), () => new Linear(0, 3)]) {
    assertThrows(make, RangeError, "it must be a positive whole number");
  }
  assertThrows(() => maxPool(x, { kernel: 2.5 }), RangeError, "whole numbers");
  for (const eps of [0, -1e-5, 1e-46, NaN]) {
    assertThrows(() => new BatchNorm2d(4, { eps }), RangeError, `eps ${eps}`);
    assertThrows(() => batchNorm(x, new BatchNorm2d(4), { eps }), RangeError, `eps ${eps}`);
  }
});

Deno.test("a weight is convolved with by as many groups as it was made for, a bias by its outputs", () => {
  const x = new Tensor({ n: 1, c: 8, h: 4, w: 4 }), initial = { constant: 0 };
  const weight = new Parameter([8, 2, 3, 3], initial, 4);
  assertEquals(conv2d(x, weight, new Parameter([8], initial), { groups: 4 }).shape.c, 8);
  const plain = new Parameter([8, 2, 3, 3], initial);
  assertThrows(() => conv2d(x, plain, undefined, { groups: 4 }), RangeError, "4 groups: the weight was made for 1");
  assertThrows(() => conv2d(x, weight), RangeError, "the weight was made for 4");
  const few = new Parameter([4], initial);
  assertThrows(() => conv2d(x, weight, few, { groups: 4 }), RangeError, "a bias of [4] for 8 outputs");
  assertThrows(() => new Parameter([6, 2, 3, 3], initial, 4), RangeError, "6 outputs of a weight into 4 groups");
});

Deno.test("only tensors of one size are added", () => {
  class Uneven extends Module {
    pool = new MaxPool2d({ kernel: 2 });
    forward(x: Tensor): Tensor {
      return add(x, this.pool.forward(x));
    }
  }
  assertThrows(() => outputOf(new Uneven()), RangeError, "[2, 4, 9, 7] and [2, 4, 4, 3]");
});

Deno.test("a graph holds what the output needs, once, inputs first", () => {
  class Diamond extends Module {
    forward(x: Tensor): Tensor {
      const y = relu(x);
      relu(y);
      return add(relu(y), y);
    }
  }
  const { nodes, input, output } = trace(new Diamond(), SHAPE);
  assertEquals(nodes.map(({ operation }) => operation.name), ["relu", "relu", "add"]);
  const known = new Set([input]);
  for (const node of nodes) {
    for (const each of node.inputs) assertEquals(known.has(each), true);
    known.add(node.output);
  }
  assertEquals(nodes.at(-1)!.output, output);
});

Deno.test("a network deeper than the call stack is traced", () => {
  class Deep extends Module {
    forward(x: Tensor): Tensor {
      for (let i = 0; i < 50_000; i++) x = relu(x);
      return x;
    }
  }
  assertEquals(trace(new Deep(), SHAPE).nodes.length, 50_000);
});

Deno.test("an output that comes of another tensor is refused", () => {
  class Foreign extends Module {
    other = new Tensor(SHAPE);
    forward(): Tensor {
      return relu(this.other);
    }
  }
  assertThrows(() => trace(new Foreign(), SHAPE), Error, "not the input");
});

Deno.test("a forward that returns no tensor is told by its module, inside others too", () => {
  class None extends Module {
    forward(x: Tensor): Tensor {
      relu(x);
      return undefined as unknown as Tensor;
    }
  }
  class Later extends Module {
    forward(x: Tensor): Tensor {
      return Promise.resolve(x) as unknown as Tensor;
    }
  }
  assertThrows(() => trace(new None(), SHAPE), TypeError, "Cannot use None: its forward returned nothing");
  const sequence = new Sequential(new None(), new ReLU());
  assertThrows(() => trace(sequence, SHAPE), TypeError, "Cannot use None: its forward returned nothing");
  assertThrows(() => trace(new Later(), SHAPE), TypeError, "Cannot use Later: its forward returned a promise");
  class Lost extends Module {
    forward(x: Tensor): Tensor {
      return apply(new ReluOperation(), [undefined as unknown as Tensor], x.shape);
    }
  }
  assertThrows(() => trace(new Lost(), SHAPE), TypeError, 'undefined is an input of operation "relu"');
});

Deno.test("layers refuse options that they do not have, and values that none may be", () => {
  // As callers without types would give them, PyTorch's names and habits.
  // deno-lint-ignore no-explicit-any
  const any = (value: unknown) => value as any;
  const refused: [make: () => unknown, error: new (message: string) => Error, message: string][] = [
    [() => new BatchNorm2d(4, any({ momentum: null })), RangeError, "momentum null: it must be a number from 0 to 1"],
    [() => new BatchNorm2d(4, { momentum: NaN }), RangeError, "momentum NaN"],
    [() => new BatchNorm2d(4, { eps: 0 }), RangeError, "Cannot make a BatchNorm2d with eps 0: it must be positive"],
    [
      () => new BatchNorm2d(4, any({ affine: false })),
      TypeError,
      "affine: there is no such option, only eps, momentum",
    ],
    [() => new BatchNorm2d(any(undefined)), RangeError, "channels undefined"],
    [() => new Conv2d(4, 4, 3, any({ dilation: 2 })), TypeError, "Cannot make a Conv2d with dilation"],
    [() => new Conv2d(4, 4, 3, any({ padding: "same" })), RangeError, 'padding "same": it must be a whole number'],
    [() => new Conv2d(4, 4, 3, any({ bias: 0 })), RangeError, "bias 0: it must be true or false"],
    [() => new Conv2d(4, 4, any([3, 3])), RangeError, "kernelSize [3,3]: it must be a positive whole number"],
    [() => new Conv2d(4, 4, 3, any(2)), TypeError, "with 2: give an object of stride, padding, groups, bias"],
    [() => new Linear(4, NaN), RangeError, "Cannot make a Linear with outFeatures NaN"],
    [() => new MaxPool2d(any(3)), TypeError, "with 3: give an object of kernel, stride, padding"],
    [() => new MaxPool2d(any({})), RangeError, "Cannot make a MaxPool2d with kernel undefined"],
    [() => new MaxPool2d(any({ kernel: 3, ceil_mode: true })), TypeError, "ceil_mode: there is no such option"],
    [() => new Sequential(any([new ReLU()])), TypeError, "argument 0 is no module, but an array"],
  ];
  for (const [make, error, message] of refused) assertThrows(make, error, message);
  // What is undefined is not given.
  assertEquals(outputOf(new Conv2d(4, 6, 3, { stride: undefined, bias: undefined })), [2, 6, 7, 5]);
  assertEquals(outputOf(new BatchNorm2d(4, { momentum: 0, eps: undefined })), [2, 4, 9, 7]);
});
