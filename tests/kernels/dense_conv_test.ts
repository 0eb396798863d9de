import { assertEquals } from "@std/assert";
import { convFilter, type ConvGeometry, convOutput } from "../../kernels/conv_geometry.ts";
import { denseForward, denseInputGradient, type DenseOptions, denseWeightGradient } from "../../kernels/dense_conv.ts";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import {
  fromHwio,
  fromNhwc,
  storedElements,
  storedFilterElements,
  toHwio,
  toNhwc,
  toPaddedVector,
} from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";
import { referenceConv } from "./reference_conv.ts";

interface Case {
  geometry: ConvGeometry;
  x: Float32Array;
  weight: Float32Array;
  bias?: Float32Array;
  dy: Float32Array;
  y: Float32Array;
  dx: Float32Array;
  dweight: Float32Array;
  dbias?: Float32Array;
}

async function checkCase(device: Device, label: string, c: Case, caps: Capabilities, options: DenseOptions) {
  const { geometry } = c;
  const out = convOutput(geometry), filter = convFilter(geometry);
  const x = operand("x", storedElements(geometry.input)), weight = operand("weight", storedFilterElements(filter));
  const y = operand("y", storedElements(out)), dy = operand("dy", storedElements(out));
  const dx = operand("dx", storedElements(geometry.input)), dweight = operand("dweight", storedFilterElements(filter));
  const bias = c.bias && operand("bias", out.c), dbias = c.bias && operand("dbias", out.c);
  const addend = operand("addend", storedElements(geometry.input));
  const inputs = new Map([
    [x, toNhwc(c.x, geometry.input)],
    [weight, toHwio(c.weight, filter)],
    [dy, toNhwc(c.dy, out)],
    [addend, toNhwc(c.x, geometry.input)],
  ]);
  if (bias) inputs.set(bias, toPaddedVector(c.bias!));
  const dispatches = [
    ...denseForward({ x, weight, bias, y }, geometry, caps, options),
    ...denseInputGradient({ dy, weight, dx, addend }, geometry, caps, options),
    ...denseWeightGradient({ x, dy, dweight, dbias }, geometry, caps, options),
  ];
  const results = (await runOnce(device, dispatches, inputs, [y, dx, dweight, ...(dbias ? [dbias] : [])]))
    .map((bytes) => new Float32Array(bytes));
  assertClose(fromNhwc(results[0], out), c.y, 1e-5, `${label}: y`);
  assertClose(fromNhwc(results[1], geometry.input), c.dx.map((v, i) => v + c.x[i]), 1e-5, `${label}: dx + addend`);
  assertClose(fromHwio(results[2], filter), c.dweight, 1e-5, `${label}: dweight`);
  if (dbias && c.dbias) assertClose(results[3].subarray(0, out.c), c.dbias, 1e-5, `${label}: dbias`);
  assertEquals(toNhwc(fromNhwc(results[0], out), out), results[0], `${label}: padding of y is zero`);
  assertEquals(toHwio(fromHwio(results[2], filter), filter), results[2], `${label}: padding of dweight is zero`);
}

/** What to force: every strategy, on this device's terms and on those of a GPU (where sums are split). */
function variants({ capabilities }: Device): [string, Capabilities, DenseOptions][] {
  const gpu = { ...capabilities, software: false };
  const list: [string, Capabilities, DenseOptions][] = [
    ["chosen", capabilities, {}],
    ["registers", capabilities, { strategy: "registers" }],
    ["shared", capabilities, { strategy: "shared" }],
    ["shared, split", gpu, { strategy: "shared" }],
  ];
  if (capabilities.subgroupSize > 0) list.push(["subgroup, split", gpu, { strategy: "subgroup" }]);
  return list;
}

gpuTest("dense convolution agrees with PyTorch, forward and backward, by every strategy", async (device) => {
  const golden = goldens("conv2d");
  const dense = golden.cases.filter((name) => golden.settings(name).groups === 1);
  assertEquals(dense.length >= 4, true);
  for (const name of dense) {
    const values = (what: string) => golden.values(`${name}.${what}`);
    const [n, c, h, w] = golden.shape(`${name}.x`), [o, , kernelHeight, kernelWidth] = golden.shape(`${name}.weight`);
    const { stride, padding } = golden.settings(name);
    const geometry = { input: { n, h, w, c }, outChannels: o, kernelHeight, kernelWidth, stride, padding, groups: 1 };
    const biased = golden.has(`${name}.bias`);
    const data: Case = {
      geometry,
      x: values("x"),
      weight: values("weight"),
      bias: biased ? values("bias") : undefined,
      dy: values("dy"),
      y: values("y"),
      dx: values("dx"),
      dweight: values("dweight"),
      dbias: biased ? values("dbias") : undefined,
    };
    for (const [variant, caps, options] of variants(device)) {
      await checkCase(device, `${name}, ${variant}`, data, caps, options);
    }
  }
});

gpuTest("dense convolution agrees with its definition at odd shapes", async (device) => {
  const shapes: [number, number, number, number, number, number, number, number][] = [
    // n, h, w, c, out, kernel, stride, padding
    [3, 1, 1, 7, 10, 1, 1, 0],
    [2, 17, 13, 20, 36, 1, 1, 0],
    [1, 9, 6, 6, 5, 1, 3, 0],
    [2, 8, 7, 3, 9, 3, 2, 1],
    [1, 7, 7, 5, 6, 5, 1, 2],
    [5, 6, 6, 132, 140, 1, 1, 0],
    [2, 12, 12, 8, 4, 2, 2, 0],
  ];
  for (const [n, h, w, c, outChannels, kernel, stride, padding] of shapes) {
    const geometry: ConvGeometry = {
      input: { n, h, w, c },
      outChannels,
      kernelHeight: kernel,
      kernelWidth: kernel,
      stride,
      padding,
      groups: 1,
    };
    const out = convOutput(geometry);
    const x = formula(n * c * h * w, 1), weight = formula(outChannels * c * kernel * kernel, 2);
    const bias = formula(outChannels, 3), dy = formula(n * outChannels * out.h * out.w, 4);
    const data = { geometry, x, weight, bias, dy, ...referenceConv(geometry, { x, weight, bias, dy }) };
    for (const [variant, caps, options] of variants(device)) {
      await checkCase(device, `${[n, h, w, c, outChannels, kernel, stride, padding]}, ${variant}`, data, caps, options);
    }
  }
});

gpuTest("a long sum over few outputs is split, and adds up", async (device) => {
  const geometry: ConvGeometry = {
    input: { n: 2, h: 40, w: 37, c: 8 },
    outChannels: 12,
    kernelHeight: 1,
    kernelWidth: 1,
    stride: 1,
    padding: 0,
    groups: 1,
  };
  const x = operand("x", 2 * 40 * 37 * 8), dy = operand("dy", 2 * 40 * 37 * 12), dweight = operand("dweight", 96);
  const gpu = { ...device.capabilities, software: false };
  const labels = denseWeightGradient({ x, dy, dweight }, geometry, gpu).map(({ label }) => label);
  assertEquals(labels, ["conv2d.weight_gradient", "conv2d.weight_gradient.reduce"]);
});
