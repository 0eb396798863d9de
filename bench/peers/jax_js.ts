/** jax-js on WebGPU: the whole step jitted, parameters and momenta moved in and out. No running statistics are kept. */

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

// Not a constant specifier: nothing but this process may download the library.
const specifier = "npm:@jax-js/jax@0.1.25";
const { init, jit, valueAndGrad, numpy: np, lax, nn, defaultDevice, blockUntilReady } = await import(specifier);
await init("webgpu");
defaultDevice("webgpu");

// deno-lint-ignore no-explicit-any
type Value = any;
type Params = Record<string, Value>;

const array = (data: Float32Array, shape: readonly number[]) => np.array(data).reshape(shape);

function parameters(settings: PeerSettings): Params {
  const { stem, blocks, width } = networkSpec(settings);
  const params: Params = {};
  const conv = (spec: ConvSpec) => {
    const { name, o, i, k, groups, bias } = spec;
    params[`${name}.weight`] = array(convWeight(spec), [o, i / groups, k, k]);
    if (bias) params[`${name}.bias`] = np.zeros([o]);
    params[`${name}.gamma`] = np.ones([o]);
    params[`${name}.beta`] = np.zeros([o]);
  };
  conv(stem);
  for (const block of blocks) for (const spec of Object.values(block)) conv(spec);
  params["fc.weight"] = array(noise(width * settings.classes, Math.sqrt(2 / width)), [width, settings.classes]);
  params["fc.bias"] = np.zeros([settings.classes]);
  return params;
}

const channel = (vector: Value) => vector.reshape([1, -1, 1, 1]);

/** Convolution, bias, and batch norm by the batch's statistics or, at inference, by ones kept (here: 0 and 1). */
function convNorm(p: Params, x: Value, spec: ConvSpec, training: boolean): Value {
  const { name, stride, padding, groups, bias } = spec;
  const pad = [[padding, padding], [padding, padding]];
  // Measured: slower with the 1x1 convolutions as matrix products, alone the faster form.
  let y = lax.convGeneralDilated(x, p[`${name}.weight`].ref, [stride, stride], pad, { featureGroupCount: groups });
  if (bias) y = y.add(channel(p[`${name}.bias`].ref));
  const gamma = p[`${name}.gamma`].ref, beta = p[`${name}.beta`].ref;
  if (!training) return y.mul(channel(gamma)).add(channel(beta));
  const mean = np.mean(y.ref, [0, 2, 3], { keepdims: true });
  const centred = y.sub(mean);
  const variance = np.mean(np.square(centred.ref), [0, 2, 3], { keepdims: true });
  return centred.mul(channel(gamma).div(np.sqrt(variance.add(1e-5)))).add(channel(beta));
}

function forward(settings: PeerSettings, p: Params, x: Value, training: boolean): Value {
  const { stem, blocks } = networkSpec(settings);
  let y = nn.relu(convNorm(p, x, stem, training));
  y = lax.reduceWindow(np.pad(y, [[0, 0], [0, 0], [1, 1], [1, 1]]), np.max, [1, 1, 3, 3], [1, 1, 2, 2]);
  for (const { conv1, conv2, conv3, shortcut } of blocks) {
    const residual = shortcut ? convNorm(p, y.ref, shortcut, training) : y.ref;
    y = nn.relu(convNorm(p, y, conv1, training));
    y = nn.relu(convNorm(p, y, conv2, training));
    y = nn.relu(convNorm(p, y, conv3, training).add(residual));
  }
  return np.matmul(np.mean(y, [2, 3]), p["fc.weight"].ref).add(p["fc.bias"].ref);
}

function batch({ batchSize: n, imageSize: size, classes }: PeerSettings): { x: Value; y: Value } {
  const labels = np.array(Array.from({ length: n }, (_, i) => i % classes), { dtype: np.int32 });
  return { x: array(noise(n * 3 * size * size), [n, 3, size, size]), y: nn.oneHot(labels, classes) };
}

/** References of all values: what a call consumes stays the caller's. */
const refs = (params: Params): Params => Object.fromEntries(Object.entries(params).map(([k, v]) => [k, v.ref]));
const map = (params: Params, f: (value: Value, name: string) => Value): Params =>
  Object.fromEntries(Object.entries(params).map(([name, value]) => [name, f(value, name)]));

/**
 * Runs independent calls again and again. A result that is disposed before anyone waits for it is never computed, so all of
 * them are waited for, some at a time.
 */
function repeat(call: () => Value) {
  return Promise.resolve(async (times: number) => {
    for (let left = times; left > 0; left -= IN_FLIGHT) {
      const results = Array.from({ length: Math.min(left, IN_FLIGHT) }, call);
      await blockUntilReady(results);
      for (const result of results) result.dispose();
    }
  });
}

const IN_FLIGHT = 8;

await serve({
  train: (settings) => {
    const { x, y } = batch(settings);
    let params = parameters(settings), momenta = map(params, (value) => np.zeros(value.shape));
    const loss = (p: Params, x: Value, y: Value) => {
      const logits = nn.logSoftmax(forward(settings, p, x, true));
      const value = np.mean(logits.mul(y).sum(-1)).mul(-1);
      // Every parameter was used through a reference of its own.
      for (const each of Object.values(p)) each.dispose?.();
      return value;
    };
    const step = jit((p: Params, m: Params, x: Value, y: Value) => {
      const [value, gradients] = valueAndGrad(loss)(refs(p), x, y);
      const next = map(m, (value, name) => value.mul(0.9).add(gradients[name]));
      const moved = map(p, (value, name) => value.sub(next[name].ref.mul(1e-4)));
      return [moved, next, value];
    });
    return Promise.resolve(async (times: number) => {
      for (let i = 0; i < times; i++) {
        const [moved, next, value] = step(params, momenta, x.ref, y.ref);
        [params, momenta] = [moved, next];
        if (i === times - 1) await blockUntilReady(params["fc.bias"]);
        value.dispose();
      }
    });
  },
  infer: (settings) => {
    const params = parameters(settings), { x } = batch(settings);
    const step = jit((p: Params, x: Value) => {
      const y = forward(settings, p, x, false);
      for (const each of Object.values(p)) each.dispose?.();
      return y;
    });
    return repeat(() => step(refs(params), x.ref));
  },
  conv1x1: () => {
    const { n, size, inChannels: c, outChannels: o } = CONV_1X1;
    const product = jit((w: Value, x: Value) => np.matmul(w, x));
    const w = array(noise(o * c), [o, c]), x = array(noise(n * c * size * size), [n, c, size * size]);
    return repeat(() => product(w.ref, x.ref));
  },
  grouped3x3: () => {
    const { n, size, channels: c, groups } = GROUPED_3X3;
    const pad = [[1, 1], [1, 1]];
    const conv = jit((x: Value, w: Value) => lax.convGeneralDilated(x, w, [1, 1], pad, { featureGroupCount: groups }));
    const x = array(noise(n * c * size * size), [n, c, size, size]);
    const w = array(noise(c * c / groups * 9), [c, c / groups, 3, 3]);
    return repeat(() => conv(x.ref, w.ref));
  },
});
