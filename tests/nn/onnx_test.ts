/** Exported models, run by onnxruntime. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import protobuf from "protobufjs";
import type { Device } from "../../kernels/device.ts";
import { UserError } from "../../kernels/user_error.ts";
import { FloatSource } from "../../nn/batch_source.ts";
import { BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, MaxPool2d, ReLU } from "../../nn/layers.ts";
import { Module, Sequential } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import { encodeOnnx } from "../../nn/onnx.ts";
import { ONNX_SCHEMA } from "../../nn/onnx_schema.ts";
import { add } from "../../nn/ops/sum.ts";
import { resnext, resnext50 } from "../../nn/resnext.ts";
import { evalStep } from "../../nn/eval_step.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { formulaState } from "../parity/formula_state.ts";
import { assertClose, formula, gpuTest, withFolder } from "../support.ts";

const program = fromFileUrl(new URL("fixtures/onnxruntime.ts", import.meta.url));

async function onnxLogits(model: Uint8Array, images: Float32Array<ArrayBuffer>, dims: number[]): Promise<Float32Array> {
  return await withFolder(async (folder) => {
    const [modelFile, imagesFile, logitsFile] = ["model.onnx", "images", "logits"].map((name) => join(folder, name));
    await Deno.writeFile(modelFile, model);
    await Deno.writeFile(imagesFile, new Uint8Array(images.buffer));
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--no-lock", "--no-config", "--no-check", program]
        .concat(modelFile, imagesFile, JSON.stringify(dims), logitsFile),
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    return new Float32Array((await Deno.readFile(logitsFile)).buffer);
  });
}

async function ownLogits(device: Device, module: Module, images: Float32Array<ArrayBuffer>, [n, c, h, w]: number[]) {
  const network = await Network.create(device, module);
  network.loadStateDict(formulaState(module, 700));
  const source = await FloatSource.create(device, { n, c, h, w });
  const step = await evalStep(network, { source });
  step.run({ images, labels: Array(n).fill(0) });
  const logits = await step.logits();
  step.destroy();
  source.destroy();
  network.destroy();
  return logits;
}

async function agree(device: Device, make: () => Module, dims: number[], imageSize?: number): Promise<void> {
  const images = formula(dims.reduce((a, b) => a * b, 1), 699);
  const own = await ownLogits(device, make(), images, dims);
  for (const fold of [false, true]) {
    const module = make();
    const model = encodeOnnx(module, formulaState(module, 700), { fold, imageSize, channels: dims[1] });
    assertClose(await onnxLogits(model, images, dims), own, 1e-4, fold ? "folded" : "not folded");
  }
}

gpuTest("a narrow network's logits by onnxruntime are ours, folded or not, for any batch and size", async (device) => {
  const make = () => resnext50({ layers: [1, 2], channels: [32, 64], cardinality: 4, numClasses: 7 });
  await agree(device, make, [3, 3, 32, 32]);
  await agree(device, make, [1, 3, 40, 40], 40);
});

gpuTest("the stem for small images, and convolutions without bias", async (device) => {
  const sizes = { layers: [1, 1], channels: [32, 64], cardinality: 2, baseWidth: 16, numClasses: 5 } as const;
  await agree(device, () => resnext("resnext", { ...sizes, stem: "cifar" }), [2, 3, 16, 16]);
});

gpuTest("ResNeXt-50's logits by onnxruntime are ours", async (device) => {
  await agree(device, () => resnext50(), [2, 3, 64, 64]);
});

/** A convolution that two things read, a batch norm without one before, two linear layers. */
class Odd extends Module {
  conv = new Conv2d(4, 8, 3, { padding: 1 });
  bn = new BatchNorm2d(8);
  first = new BatchNorm2d(4);
  pool = new MaxPool2d({ kernel: 2 });
  head = new Sequential(new GlobalAvgPool2d(), new Linear(8, 6), new ReLU(), new Linear(6, 3));
  forward(x: Tensor): Tensor {
    const y = this.conv.forward(this.first.forward(x));
    // The same convolution again, with a batch norm that can take it in.
    const z = this.bn.forward(this.conv.forward(x));
    return this.head.forward(this.pool.forward(add(add(y, this.bn.forward(y)), z)));
  }
}

/** A convolution once before a batch norm that takes it in, then as it is, then before another norm. */
class Reused extends Module {
  conv = new Conv2d(4, 4, 3, { padding: 1 });
  bn = new BatchNorm2d(4);
  other = new BatchNorm2d(4);
  head = new Sequential(new GlobalAvgPool2d(), new Linear(4, 3));
  forward(x: Tensor): Tensor {
    const folded = this.bn.forward(this.conv.forward(x));
    return this.head.forward(add(add(folded, this.conv.forward(x)), this.other.forward(this.conv.forward(x))));
  }
}

gpuTest("graphs of other shapes", async (device) => {
  await agree(device, () => new Odd(), [2, 4, 6, 6]);
  await agree(device, () => new Reused(), [2, 4, 6, 6]);
});

Deno.test("the file says opset 17, an open batch, its metadata; folding leaves no batch norm", () => {
  const module = resnext50({ layers: [1], channels: [32], cardinality: 4 }), state = formulaState(module, 1);
  const type = protobuf.Root.fromJSON(ONNX_SCHEMA).lookupType("ModelProto");
  const decode = (options: Parameters<typeof encodeOnnx>[2]) =>
    // deno-lint-ignore no-explicit-any
    type.toObject(type.decode(encodeOnnx(module, state, options)), { longs: Number }) as any;
  const plain = decode({ metadata: { classes: "a,b" }, imageSize: 32 }), folded = decode({ fold: true });
  assertEquals(plain.opsetImport[0].version, 17);
  assertEquals(plain.metadataProps, [{ key: "classes", value: "a,b" }]);
  assertEquals(plain.graph.input[0].type.tensorType.shape.dim, [
    { dimParam: "batch" },
    { dimValue: 3 },
    { dimValue: 32 },
    { dimValue: 32 },
  ]);
  assertEquals(folded.graph.input[0].type.tensorType.shape.dim[2], { dimParam: "height" });
  assertEquals(plain.graph.output[0].name, "logits");
  const kinds = (model: typeof plain) => model.graph.node.map((node: { opType: string }) => node.opType);
  assertEquals(kinds(plain).filter((kind: string) => kind === "BatchNormalization").length, 5);
  assert(!kinds(folded).includes("BatchNormalization"));
  const names = plain.graph.initializer.map((tensor: { name: string }) => tensor.name);
  assert(names.includes("layer1.0.conv2.weight") && names.includes("fc.bias"));
});

Deno.test("a value that is missing, or of another network, is named", () => {
  const make = (channels = 32) => resnext50({ layers: [1], channels: [channels], cardinality: 4 });
  const module = make(), state = formulaState(module, 1), bias = state.get("fc.bias")!;
  for (const fold of [false, true]) {
    const other = formulaState(make(16), 1);
    assertThrows(() => encodeOnnx(module, other, { fold }), UserError, "has shape [4,64,1,1], this network's is [8,");
  }
  const short = new Map(state).set("fc.bias", { ...bias, bytes: bias.bytes.slice(4) });
  assertThrows(() => encodeOnnx(module, short), UserError, '"fc.bias" of shape [10] needs 40 bytes and has 36');
  assertThrows(() => encodeOnnx(module, state, { imageSize: 1.5 }), RangeError, "with imageSize 1.5");
  state.delete("layer1.0.bn2.running_var");
  assertThrows(() => encodeOnnx(module, state), UserError, '"layer1.0.bn2.running_var" has no value');
});
