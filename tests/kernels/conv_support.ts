/** What the tests of convolution kernels share: a plain reference, the cases of PyTorch, a way to run all three passes. */

import { convFilter, type ConvGeometry, convOutput } from "../../kernels/conv_geometry.ts";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../../kernels/dispatch.ts";
import {
  fromHwio,
  fromNhwc,
  padded,
  storedElements,
  storedFilterElements,
  toHwio,
  toNhwc,
  toPaddedVector,
} from "../../kernels/layout.ts";
import type { GemmVariant } from "../../kernels/gemm_problem.ts";
import { runOnce } from "../../kernels/program.ts";
import { type Choice, Tuning } from "../../kernels/tuning.ts";
import { assertClose, formula, type Golden } from "../support.ts";

/** The three passes of one implementation. */
export interface ConvKernels {
  forward(
    operands: { x: Operand; weight: Operand; bias?: Operand; y: Operand },
    geometry: ConvGeometry,
    caps: Capabilities,
  ): Dispatch[];
  inputGradient(
    operands: { dy: Operand; weight: Operand; dx: Operand; addend?: Operand },
    geometry: ConvGeometry,
    caps: Capabilities,
  ): Dispatch[];
  weightGradient(
    operands: { x: Operand; dy: Operand; dweight: Operand; dbias?: Operand },
    geometry: ConvGeometry,
    caps: Capabilities,
  ): Dispatch[];
}

/** What makes a convolution a product of matrices. */
export const POINTWISE = { kernelHeight: 1, kernelWidth: 1, stride: 1, padding: 0, groups: 1 } as const;

/** 2 x 9 x 23 pixels are 414 rows, no whole number of tiles or chunks; nor are 20 and 36 channels. */
export const RAGGED_POINTWISE: ConvGeometry = {
  input: { n: 2, h: 9, w: 23, c: 20 },
  outChannels: 36,
  ...POINTWISE,
};

/** So large that every variant of a product has a use. */
export const LARGE_POINTWISE: ConvGeometry = {
  input: { n: 1, h: 32, w: 32, c: 1024 },
  outChannels: 1024,
  ...POINTWISE,
};

/** The choices that dispatches are made by. */
export function choicesOf(make: (caps: Capabilities) => unknown, caps: Capabilities): readonly Choice[] {
  const tuning = new Tuning();
  make({ ...caps, tuning });
  return tuning.unknown;
}

/** A product's variant, such as `shared 8x2`. */
export function gemmVariant(name: string): GemmVariant {
  const [, strategy, rows, columns4] = /^(\w+) (\d+)x(\d+)$/.exec(name)!;
  return { strategy: strategy as GemmVariant["strategy"], rows: Number(rows), columns4: Number(columns4) };
}

/** Values in PyTorch's layouts: inputs and what they should give. */
export interface ConvCase {
  readonly geometry: ConvGeometry;
  readonly x: Float32Array<ArrayBuffer>;
  readonly weight: Float32Array<ArrayBuffer>;
  readonly bias?: Float32Array<ArrayBuffer>;
  readonly dy: Float32Array<ArrayBuffer>;
  /** Added to `dx` when given. */
  readonly addend?: Float32Array<ArrayBuffer>;
  readonly y: ArrayLike<number>;
  readonly dx: ArrayLike<number>;
  readonly dweight: ArrayLike<number>;
  readonly dbias?: ArrayLike<number>;
}

/** A case of `tests/goldens/conv2d.safetensors`. */
export function goldenConv(golden: Golden, name: string): ConvCase {
  const { stride, padding, groups } = golden.settings(name);
  const [n, c, h, w] = golden.shape(`${name}.x`);
  const [outChannels, , kernelHeight, kernelWidth] = golden.shape(`${name}.weight`);
  const values = (what: string) => golden.values(`${name}.${what}`);
  const biased = golden.has(`${name}.bias`);
  return {
    geometry: { input: { n, h, w, c }, outChannels, kernelHeight, kernelWidth, stride, padding, groups },
    x: values("x"),
    weight: values("weight"),
    dy: values("dy"),
    y: values("y"),
    dx: values("dx"),
    dweight: values("dweight"),
    ...(biased && { bias: values("bias"), dbias: values("dbias") }),
  };
}

/** A case of seeded values, its results computed here in float64 by the definition. */
export function referenceConv(geometry: ConvGeometry): ConvCase {
  const { input, stride, padding, groups } = geometry;
  const filter = convFilter(geometry), output = convOutput(geometry);
  const x = formula(input.n * input.c * input.h * input.w, 1);
  const weight = formula(filter.o * filter.i * filter.h * filter.w, 2);
  const bias = formula(filter.o, 3);
  const dy = formula(output.n * output.c * output.h * output.w, 4);
  const addend = formula(x.length, 5);
  const y = new Float64Array(dy.length), dx = Float64Array.from(addend);
  const dweight = new Float64Array(weight.length), dbias = new Float64Array(filter.o);
  const outsPerGroup = filter.o / groups;
  for (let n = 0; n < output.n; n++) {
    for (let o = 0; o < filter.o; o++) {
      const firstChannel = Math.floor(o / outsPerGroup) * filter.i;
      for (let oh = 0; oh < output.h; oh++) {
        for (let ow = 0; ow < output.w; ow++) {
          const at = ((n * filter.o + o) * output.h + oh) * output.w + ow;
          y[at] += bias[o];
          dbias[o] += dy[at];
          for (let i = 0; i < filter.i; i++) {
            for (let kh = 0; kh < filter.h; kh++) {
              for (let kw = 0; kw < filter.w; kw++) {
                const h = oh * stride + kh - padding, w = ow * stride + kw - padding;
                if (h < 0 || h >= input.h || w < 0 || w >= input.w) continue;
                const from = ((n * input.c + firstChannel + i) * input.h + h) * input.w + w;
                const tap = ((o * filter.i + i) * filter.h + kh) * filter.w + kw;
                y[at] += x[from] * weight[tap];
                dx[from] += dy[at] * weight[tap];
                dweight[tap] += dy[at] * x[from];
              }
            }
          }
        }
      }
    }
  }
  return { geometry, x, weight, bias, dy, addend, y, dx, dweight, dbias };
}

/** Runs all three passes and compares them with what the case expects; padding must come out zero. Gives y, dx, dweight. */
export async function checkConv(
  device: Device,
  kernels: ConvKernels,
  wanted: ConvCase,
  caps: Capabilities,
  what: string,
): Promise<Float32Array[]> {
  const { geometry } = wanted;
  const output = convOutput(geometry), filter = convFilter(geometry);
  const place = (label: string, elements: number) => operand(label, elements);
  const x = place("x", storedElements(geometry.input)), dx = place("dx", storedElements(geometry.input));
  const y = place("y", storedElements(output)), dy = place("dy", storedElements(output));
  const weight = place("weight", storedFilterElements(filter)), dweight = place("dw", storedFilterElements(filter));
  const bias = wanted.bias && place("bias", padded(filter.o)), dbias = wanted.bias && place("db", padded(filter.o));
  const addend = wanted.addend && place("addend", storedElements(geometry.input));
  const inputs = new Map<Operand, Float32Array<ArrayBuffer>>([
    [x, toNhwc(wanted.x, geometry.input)],
    [weight, toHwio(wanted.weight, filter)],
    [dy, toNhwc(wanted.dy, output)],
  ]);
  if (bias) inputs.set(bias, toPaddedVector(wanted.bias!));
  if (addend) inputs.set(addend, toNhwc(wanted.addend!, geometry.input));
  // What is to be written starts as garbage, so that an element left out shows.
  for (const written of [y, dx, dweight, dbias]) {
    if (written) inputs.set(written, new Float32Array(written.byteLength / 4).fill(1e6));
  }
  const results = await runOnce(
    device,
    [
      ...kernels.forward({ x, weight, bias, y }, geometry, caps),
      ...kernels.inputGradient({ dy, weight, dx, addend }, geometry, caps),
      ...kernels.weightGradient({ x, dy, dweight, dbias }, geometry, caps),
    ],
    inputs,
    [y, dx, dweight, ...(dbias ? [dbias] : [])],
  );
  const [gotY, gotDx, gotDweight, gotDbias] = results.map((bytes) => new Float32Array(bytes));
  assertStored(gotY, toNhwc(Float32Array.from(wanted.y), output), `${what} y`);
  assertStored(gotDx, toNhwc(Float32Array.from(wanted.dx), geometry.input), `${what} dx`);
  assertStored(gotDweight, toHwio(Float32Array.from(wanted.dweight), filter), `${what} dweight`);
  if (dbias) assertStored(gotDbias, toPaddedVector(Float32Array.from(wanted.dbias!)), `${what} dbias`);
  assertClose(fromNhwc(gotY, output), wanted.y, 1e-4, `${what} y, as PyTorch lays it`);
  assertClose(fromHwio(gotDweight, filter), wanted.dweight, 1e-4, `${what} dweight, as PyTorch lays it`);
  return [gotY, gotDx, gotDweight];
}

/** Compares as stored, so that padding which is not zero shows. */
function assertStored(actual: Float32Array, expected: Float32Array, what: string): void {
  assertClose(actual.subarray(0, expected.length), expected, 1e-4, what);
}

/** The capabilities to test with: the device's own, without subgroups, and as if it were a GPU. */
export function capabilityVariants(caps: Capabilities): [string, Capabilities][] {
  return [
    ["own", caps],
    ["no subgroups", { ...caps, subgroupSize: 0 }],
    ["gpu", { ...caps, software: false, subgroupSize: 0 }],
  ];
}
