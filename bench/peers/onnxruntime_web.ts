/** onnxruntime-web on WebGPU: inference of an ONNX graph, inputs and outputs kept on the device. It cannot train. */

import { OnnxModel } from "./onnx_model.ts";
import { CONV_1X1, type ConvSpec, convWeight, GROUPED_3X3, networkSpec, noise, serve, type Task } from "./protocol.ts";

// Not a constant specifier: nothing but this process may download the library.
const specifier = "npm:onnxruntime-web@1.30.0/webgpu";
const ort = await import(specifier);

/** A session over a model with one input `x`, run again and again. */
async function session(model: Uint8Array, shape: readonly number[]): Promise<Task> {
  const network = await ort.InferenceSession.create(model, {
    executionProviders: ["webgpu"],
    preferredOutputLocation: "gpu-buffer",
    graphOptimizationLevel: "all",
  });
  const device: GPUDevice = await ort.env.webgpu.device;
  const data = noise(shape.reduce((product, size) => product * size, 1));
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({ size: data.byteLength, usage });
  device.queue.writeBuffer(buffer, 0, data);
  const x = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: shape });
  return async (times) => {
    for (let i = 0; i < times; i++) {
      for (const output of Object.values(await network.run({ x })) as { dispose(): void }[]) output.dispose();
    }
    await device.queue.onSubmittedWorkDone();
  };
}

function conv(model: OnnxModel, x: string, spec: ConvSpec, bias: boolean): string {
  const { name, o, i, k, stride, padding, groups } = spec;
  const inputs = [x, model.constant(`${name}.weight`, [o, i / groups, k, k], convWeight(spec))];
  if (bias) inputs.push(model.constant(`${name}.bias`, [o], new Float32Array(o)));
  const pads = [padding, padding, padding, padding];
  return model.node("Conv", inputs, { kernel_shape: [k, k], strides: [stride, stride], pads, group: groups });
}

await serve({
  train: "cannot train",
  infer: async (settings) => {
    const model = new OnnxModel(), { stem, blocks, width } = networkSpec(settings);
    const convNorm = (x: string, spec: ConvSpec) => {
      const vector = (what: string, value: number) =>
        model.constant(`${spec.name}.${what}`, [spec.o], new Float32Array(spec.o).fill(value));
      const state = [vector("gamma", 1), vector("beta", 0), vector("mean", 0), vector("variance", 1)];
      return model.node("BatchNormalization", [conv(model, x, spec, spec.bias), ...state]);
    };
    const relu = (x: string) => model.node("Relu", [x]);
    const pool = { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] };
    let y = model.node("MaxPool", [relu(convNorm("x", stem))], pool);
    for (const { conv1, conv2, conv3, shortcut } of blocks) {
      const residual = shortcut ? convNorm(y, shortcut) : y;
      y = convNorm(relu(convNorm(relu(convNorm(y, conv1)), conv2)), conv3);
      y = relu(model.node("Add", [y, residual]));
    }
    y = model.node("Flatten", [model.node("GlobalAveragePool", [y])], { axis: 1 });
    const weight = model.constant("fc.weight", [width, settings.classes], noise(width * settings.classes, 0.03));
    y = model.node("Gemm", [
      y,
      weight,
      model.constant("fc.bias", [settings.classes], new Float32Array(settings.classes)),
    ]);
    const { batchSize: n, imageSize: size } = settings, input = [n, 3, size, size];
    return await session(model.encode(input, y, [n, settings.classes]), input);
  },
  conv1x1: async () => {
    const { n, size, inChannels: i, outChannels: o } = CONV_1X1, model = new OnnxModel();
    const spec = { name: "conv", o, i, k: 1, stride: 1, padding: 0, groups: 1, bias: false };
    const input = [n, i, size, size];
    return await session(model.encode(input, conv(model, "x", spec, false), [n, o, size, size]), input);
  },
  grouped3x3: async () => {
    const { n, size, channels: c, groups } = GROUPED_3X3, model = new OnnxModel();
    const spec = { name: "conv", o: c, i: c, k: 3, stride: 1, padding: 1, groups, bias: false };
    const input = [n, c, size, size];
    return await session(model.encode(input, conv(model, "x", spec, false), input), input);
  },
});
