/** TensorFlow.js on WebGPU. It has no grouped convolution: inputs are split and outputs joined by hand. */

import {
  CONV_1X1,
  type ConvSpec,
  convWeight,
  GROUPED_3X3,
  networkSpec,
  noise,
  type PeerSettings,
  serve,
} from "./protocol.ts";

// Not constant specifiers: nothing but this process may download the library.
const [library, backend] = ["npm:@tensorflow/tfjs@4.22.0", "npm:@tensorflow/tfjs-backend-webgpu@4.22.0"];

// It looks for these at once.
Object.assign(globalThis, { GPUCanvasContext: globalThis.GPUCanvasContext ?? class {} });
await import(backend);
const tf = await import(library);
if (!await tf.setBackend("webgpu")) throw new Error("tfjs cannot open the WebGPU adapter");
await tf.ready();
tf.env().set("WEBGPU_CPU_FORWARD", false);

// deno-lint-ignore no-explicit-any
type Value = any;
type Params = Record<string, Value>;

/** Submits what the backend still holds back, and waits. */
async function done(): Promise<void> {
  if (tf.backend().commandEncoder) {
    tf.backend().endComputePassEncoder();
    tf.backend().submitQueue();
  }
  await tf.backend().queue.onSubmittedWorkDone();
}

/** OIHW to the library's HWIO. */
function filter(spec: ConvSpec): Value {
  const { o, i, k, groups } = spec;
  return tf.tidy(() => tf.transpose(tf.tensor4d(convWeight(spec), [o, i / groups, k, k]), [2, 3, 1, 0]));
}

function convolve(x: Value, weight: Value, { stride, padding, groups }: ConvSpec): Value {
  const conv = (x: Value, w: Value) => tf.conv2d(x, w, stride, padding, "NHWC", undefined, "floor");
  if (groups === 1) return conv(x, weight);
  const filters = tf.split(weight, groups, 3);
  return tf.concat(tf.split(x, groups, 3).map((part: Value, group: number) => conv(part, filters[group])), 3);
}

function parameters(settings: PeerSettings): Params {
  const { stem, blocks, width } = networkSpec(settings), params: Params = {};
  const add = (name: string, value: Value) => params[name] = tf.variable(value);
  const conv = (spec: ConvSpec) => {
    add(`${spec.name}.weight`, filter(spec));
    if (spec.bias) add(`${spec.name}.bias`, tf.zeros([spec.o]));
    add(`${spec.name}.gamma`, tf.ones([spec.o]));
    add(`${spec.name}.beta`, tf.zeros([spec.o]));
  };
  conv(stem);
  for (const block of blocks) for (const spec of Object.values(block)) conv(spec);
  add("fc.weight", tf.tensor2d(noise(width * settings.classes, 0.03), [width, settings.classes]));
  add("fc.bias", tf.zeros([settings.classes]));
  return params;
}

function convNorm(p: Params, x: Value, spec: ConvSpec, training: boolean): Value {
  const { name, bias } = spec;
  let y = convolve(x, p[`${name}.weight`], spec);
  if (bias) y = tf.add(y, p[`${name}.bias`]);
  const gamma = p[`${name}.gamma`], beta = p[`${name}.beta`];
  if (training) {
    const { mean, variance } = tf.moments(y, [0, 1, 2]);
    return tf.batchNorm(y, mean, variance, beta, gamma, 1e-5);
  }
  return tf.batchNorm(y, tf.zerosLike(beta), tf.onesLike(gamma), beta, gamma, 1e-5);
}

function forward(settings: PeerSettings, p: Params, x: Value, training: boolean): Value {
  const { stem, blocks } = networkSpec(settings);
  let y = tf.maxPool(tf.relu(convNorm(p, x, stem, training)), 3, 2, 1, "floor");
  for (const { conv1, conv2, conv3, shortcut } of blocks) {
    const residual = shortcut ? convNorm(p, y, shortcut, training) : y;
    y = tf.relu(convNorm(p, y, conv1, training));
    y = tf.relu(convNorm(p, y, conv2, training));
    y = tf.relu(tf.add(convNorm(p, y, conv3, training), residual));
  }
  return tf.add(tf.matMul(tf.mean(y, [1, 2]), p["fc.weight"]), p["fc.bias"]);
}

function images({ batchSize: n, imageSize: size }: PeerSettings): Value {
  return tf.tensor4d(noise(n * size * size * 3), [n, size, size, 3]);
}

/** Runs a function again and again, then waits. */
function repeat(run: () => Value) {
  return Promise.resolve(async (times: number) => {
    for (let i = 0; i < times; i++) tf.dispose(tf.tidy(run));
    await done();
  });
}

await serve({
  train: (settings) => {
    const params = parameters(settings), x = images(settings), { batchSize, classes } = settings;
    const labels = tf.tensor1d(Array.from({ length: batchSize }, (_, i) => i % classes), "int32");
    const y = tf.oneHot(labels, classes);
    const optimizer = tf.train.momentum(1e-4, 0.9);
    return repeat(() =>
      optimizer.minimize(() => {
        const logits = tf.logSoftmax(forward(settings, params, x, true));
        return tf.neg(tf.mean(tf.sum(tf.mul(y, logits), -1)));
      }, true)
    );
  },
  infer: (settings) => {
    const params = parameters(settings), x = images(settings);
    return repeat(() => forward(settings, params, x, false));
  },
  conv1x1: () => {
    const { n, size, inChannels: i, outChannels: o } = CONV_1X1;
    const x = tf.randomNormal([n, size, size, i]), w = tf.randomNormal([1, 1, i, o]);
    return repeat(() => tf.conv2d(x, w, 1, 0));
  },
  grouped3x3: () => {
    const { n, size, channels: c, groups } = GROUPED_3X3;
    const spec = { name: "conv", o: c, i: c, k: 3, stride: 1, padding: 1, groups, bias: false };
    const x = tf.randomNormal([n, size, size, c]), w = filter(spec);
    return repeat(() => convolve(x, w, spec));
  },
});
