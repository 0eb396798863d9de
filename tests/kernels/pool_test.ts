import { assertEquals, assertThrows } from "@std/assert";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { fromNhwc, type Shape, storedElements, toNhwc } from "../../kernels/layout.ts";
import {
  globalAveragePool,
  globalAveragePoolBackward,
  maxPoolBackward,
  maxPoolForward,
  maxPoolIndexElements,
  maxPoolOutput,
  type MaxPoolSpec,
} from "../../kernels/pool.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";

/** Forward, with and without indices, and backward; PyTorch's layouts in and out. */
async function pool(device: Device, spec: MaxPoolSpec, x: Float32Array, dy: Float32Array) {
  const output = maxPoolOutput(spec);
  const at = {
    x: operand("x", storedElements(spec.input)),
    dx: operand("dx", storedElements(spec.input)),
    y: operand("y", storedElements(output)),
    plain: operand("plain", storedElements(output)),
    dy: operand("dy", storedElements(output)),
    indices: operand("indices", maxPoolIndexElements(spec)),
  };
  const results = await runOnce(
    device,
    [
      ...maxPoolForward(at, spec, device.capabilities),
      ...maxPoolForward({ x: at.x, y: at.plain }, spec, device.capabilities),
      ...maxPoolBackward(at, spec, device.capabilities),
    ],
    new Map([[at.x, toNhwc(x, spec.input)], [at.dy, toNhwc(dy, output)]]),
    [at.y, at.plain, at.dx],
  );
  const [y, plain, dx] = results.map((bytes) => new Float32Array(bytes));
  assertEquals(plain, y);
  return { y: fromNhwc(y, output), dx: fromNhwc(dx, spec.input), stored: { y, dx } };
}

/** PyTorch's loop (aten/src/ATen/native/cpu/MaxPoolKernel.cpp), in NCHW. */
function reference(spec: MaxPoolSpec, x: Float32Array, dy: Float32Array) {
  const { input: { n, c, h, w }, kernel, stride, padding } = spec;
  const out = maxPoolOutput(spec);
  const y = new Float32Array(n * c * out.h * out.w), dx = new Float32Array(x.length);
  for (let plane = 0; plane < n * c; plane++) {
    for (let i = 0; i < out.h; i++) {
      for (let j = 0; j < out.w; j++) {
        let best = -1;
        for (let row = Math.max(0, i * stride - padding); row < Math.min(h, i * stride - padding + kernel); row++) {
          for (let k = Math.max(0, j * stride - padding); k < Math.min(w, j * stride - padding + kernel); k++) {
            const at = (plane * h + row) * w + k;
            if (best < 0 || x[at] > x[best] || Number.isNaN(x[at])) best = at;
          }
        }
        const to = (plane * out.h + i) * out.w + j;
        y[to] = x[best];
        dx[best] += dy[to];
      }
    }
  }
  return { y, dx };
}

const golden = goldens("ops");

function shapeOf([n, c, h = 1, w = 1]: number[]): Shape {
  return { n, c, h, w };
}

gpuTest("max pool: PyTorch's case", async (device) => {
  const spec = { input: shapeOf(golden.shape("max_pool.x")), ...golden.settings("max_pool") };
  const { y, dx, stored } = await pool(device, spec, golden.values("max_pool.x"), golden.values("max_pool.dy"));
  assertEquals(y, golden.values("max_pool.y"));
  assertClose(dx, golden.values("max_pool.dx"), 1e-6, "dx");
  // 6 channels are stored as 8.
  for (const values of Object.values(stored)) {
    assertEquals(values.find((value, i) => i % 8 >= 6 && value !== 0), undefined);
  }
});

for (
  const [kernel, stride, padding, h, w] of [[3, 2, 1, 9, 6], [2, 2, 0, 7, 7], [3, 1, 1, 5, 4], [1, 3, 0, 7, 5], [
    5,
    3,
    2,
    8,
    11,
  ]]
) {
  gpuTest(`max pool: kernel ${kernel}, stride ${stride}, padding ${padding}, many ties`, async (device) => {
    const spec = { input: { n: 2, h, w, c: 5 }, kernel, stride, padding };
    // Few distinct values, all negative at places: ties in most windows, padding must not win.
    const x = formula(storedElements(spec.input), 1).slice(0, 2 * h * w * 5).map((value) => Math.round(value * 2) - 1);
    const out = maxPoolOutput(spec);
    const dy = formula(2 * 5 * out.h * out.w, 2);
    const got = await pool(device, spec, x, dy);
    const expected = reference(spec, x, dy);
    assertEquals(got.y, expected.y);
    assertClose(got.dx, expected.dx, 1e-6, "dx");
  });
}

gpuTest("max pool: NaN and infinities pass as in PyTorch", async (device) => {
  const spec = { input: { n: 1, h: 4, w: 4, c: 4 }, kernel: 3, stride: 2, padding: 1 };
  const x = new Float32Array(64).fill(-Infinity);
  x[5] = NaN;
  x[16] = Infinity;
  const dy = formula(16, 3);
  const got = await pool(device, spec, x, dy);
  const expected = reference(spec, x, dy);
  assertEquals(got.y, expected.y);
  assertClose(got.dx, expected.dx, 1e-6, "dx");
});

Deno.test("max pool: what does not fit is refused", () => {
  const at = { x: operand("x", 4), y: operand("y", 4) };
  const input = { n: 1, h: 2, w: 2, c: 4 };
  const caps = {} as Capabilities;
  assertThrows(() => maxPoolForward(at, { input, kernel: 3, stride: 2, padding: 2 }, caps), RangeError, "padding");
  assertThrows(() => maxPoolForward(at, { input, kernel: 3, stride: 2, padding: 0 }, caps), RangeError, "smaller");
  assertThrows(() => maxPoolForward(at, { input, kernel: 16, stride: 2, padding: 0 }, caps), RangeError, "1 to 15");
});

gpuTest("global average pool: PyTorch's case", async (device) => {
  const input = shapeOf(golden.shape("global_avg_pool.x")), output = { ...input, h: 1, w: 1 };
  const at = {
    x: operand("x", storedElements(input)),
    dx: operand("dx", storedElements(input)),
    y: operand("y", storedElements(output)),
    dy: operand("dy", storedElements(output)),
  };
  const results = await runOnce(
    device,
    [
      ...globalAveragePool(at, input, device.capabilities),
      ...globalAveragePoolBackward(at, input, device.capabilities),
    ],
    new Map([
      [at.x, toNhwc(golden.values("global_avg_pool.x"), input)],
      [at.dy, toNhwc(golden.values("global_avg_pool.dy"), output)],
    ]),
    [at.y, at.dx],
  );
  const [y, dx] = results.map((bytes) => new Float32Array(bytes));
  assertClose(fromNhwc(y, output), golden.values("global_avg_pool.y"), 1e-5, "y");
  assertClose(fromNhwc(dx, input), golden.values("global_avg_pool.dx"), 1e-5, "dx");
  for (const values of [y, dx]) assertEquals(values.find((value, i) => i % 12 >= 9 && value !== 0), undefined);
});
