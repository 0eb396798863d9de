/**
 * Kernels whose memory holds halves, beside the same kernels in float32 on the same values: what a half cannot hold of a
 * result is all that may differ.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  batchNormApply,
  batchNormInference,
  batchNormStatistics,
  statisticsElements,
} from "../../kernels/batch_norm.ts";
import { batchNormBackward, needsOutput } from "../../kernels/batch_norm_backward.ts";
import { cast, prepareHalves } from "../../kernels/cast.ts";
import { convFilter, type ConvGeometry, convOutput } from "../../kernels/conv_geometry.ts";
import { convKernels } from "../../kernels/conv2d.ts";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { type Dispatch, type Operand, operand } from "../../kernels/dispatch.ts";
import { add, relu, reluBackward } from "../../kernels/elementwise.ts";
import { findNonFinite } from "../../kernels/finite.ts";
import { padded, type Shape, storedElements, storedFilterElements, toHwio, toNhwc } from "../../kernels/layout.ts";
import {
  globalAveragePool,
  globalAveragePoolBackward,
  maxPoolBackward,
  maxPoolForward,
  maxPoolIndexElements,
  maxPoolOutput,
} from "../../kernels/pool.ts";
import { runOnce } from "../../kernels/program.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { UserError } from "../../kernels/user_error.ts";
import { formula, gpuTest, standIn } from "../support.ts";
import { capabilityVariants, POINTWISE } from "./conv_support.ts";

/** A test of a device that stores halves as IEEE 754 says. */
function halfTest(name: string, run: (device: Device) => Promise<void>): void {
  gpuTest(name, async (device) => {
    await prepareHalves(device);
    await run(device);
  });
}

/** An operand of a case: halves where the case is run in half precision, if `half`. */
interface Place {
  readonly elements: number;
  readonly half: boolean;
  /** As stored. Absent: written. */
  readonly values?: Float32Array<ArrayBuffer>;
}

type Places = Readonly<Record<string, Place>>;

const half = (values: Float32Array<ArrayBuffer>): Place => ({ elements: values.length, half: true, values });
const full = (values: Float32Array<ArrayBuffer>): Place => ({ elements: values.length, half: false, values });
const halfOut = (elements: number): Place => ({ elements, half: true });
const fullOut = (elements: number): Place => ({ elements, half: false });

/** Runs kernels in one precision: what they wrote, widened. Inputs that may be halves are rounded either way. */
async function run<P extends Places>(
  device: Device,
  places: P,
  type: "f32" | "f16",
  build: (at: Record<keyof P, Operand>) => Dispatch[],
): Promise<Record<string, Float32Array>> {
  const all = Object.entries(places);
  const at = Object.fromEntries(
    all.map(([name, { elements, half }]) => [name, operand(name, elements, half ? type : "f32")]),
  ) as Record<keyof P, Operand>;
  const inputs = new Map<Operand, ArrayBufferView<ArrayBuffer>>();
  for (const [name, { elements, half, values }] of all) {
    // What is written starts as garbage, so that an element left out shows.
    const rounded = Float16Array.from(values ?? new Float32Array(elements).fill(1e4));
    if (half) inputs.set(at[name], type === "f16" ? rounded : Float32Array.from(rounded));
    else inputs.set(at[name], values ?? new Float32Array(elements).fill(1e4));
  }
  const written = all.filter(([, { values }]) => !values);
  const results = await runOnce(device, build(at), inputs, written.map(([name]) => at[name]));
  return Object.fromEntries(written.map(([name, { elements, half }], i) => [
    name,
    Float32Array.from(
      half && type === "f16" ? new Float16Array(results[i]) : new Float32Array(results[i]),
    ).subarray(0, elements),
  ]));
}

/**
 * Runs kernels in both precisions and compares: halves may differ by half a unit in their last place, float32 by the order
 * of sums. `roundings`: of values that were halves on their way, relative to the largest.
 */
async function check<P extends Places>(
  device: Device,
  what: string,
  places: P,
  build: (at: Record<keyof P, Operand>) => Dispatch[],
  roundings: Partial<Record<keyof P, number>> = {},
): Promise<void> {
  const wanted = await run(device, places, "f32", build), got = await run(device, places, "f16", build);
  for (const [name, values] of Object.entries(wanted)) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const own = places[name].half ? 2 ** -11 : 0,
      common = largest * (2e-6 + (roundings[name] ?? 0) * 2 ** -11) + 2 ** -24;
    const wrong = values.findIndex((value, i) => !(Math.abs(got[name][i] - value) <= Math.abs(value) * own + common));
    assert(wrong < 0, `${what} ${name}[${wrong}]: ${got[name][wrong]}, in float32 ${values[wrong]}`);
    // As stored, padding too.
    assertEquals(values.findIndex((value, i) => value === 0 && got[name][i] !== 0 && places[name].half), -1, what);
  }
}

/** Values of an activation as stored. */
function activation(shape: Shape, stream: number): Float32Array<ArrayBuffer> {
  return toNhwc(formula(shape.n * shape.h * shape.w * shape.c, stream), shape);
}

const CONVOLUTIONS: Record<string, Partial<ConvGeometry> & { input: Shape; outChannels: number }> = {
  "1x1": { input: { n: 2, h: 5, w: 7, c: 40 }, outChannels: 72 },
  "1x1, odd channels": { input: { n: 3, h: 3, w: 3, c: 10 }, outChannels: 6 },
  "1x1, stride 2": { input: { n: 2, h: 7, w: 8, c: 24 }, outChannels: 16, stride: 2 },
  "7x7, three channels": {
    ...{ input: { n: 1, h: 13, w: 15, c: 3 }, outChannels: 12 },
    ...{ kernelHeight: 7, kernelWidth: 7, stride: 2, padding: 3 },
  },
  "3x3 dense": { input: { n: 1, h: 6, w: 6, c: 12 }, outChannels: 8, kernelHeight: 3, kernelWidth: 3, padding: 1 },
  "linear": { input: { n: 5, h: 1, w: 1, c: 64 }, outChannels: 10 },
  ...Object.fromEntries([[1, 1], [2, 1], [4, 1], [4, 2], [8, 2]].map(([width, stride]) => [
    `grouped, ${width} channels a group, stride ${stride}`,
    {
      ...{ input: { n: 2, h: 9, w: 7, c: width * 8 }, outChannels: width * 8, groups: 8 },
      ...{ kernelHeight: 3, kernelWidth: 3, padding: 1, stride },
    },
  ])),
  "direct, odd groups": {
    ...{ input: { n: 2, h: 5, w: 6, c: 9 }, outChannels: 6, groups: 3 },
    ...{ kernelHeight: 3, kernelWidth: 3, padding: 1, stride: 2 },
  },
};

for (const [name, sizes] of Object.entries(CONVOLUTIONS)) {
  halfTest(`half precision: convolution ${name}`, async (device) => {
    const geometry = { ...POINTWISE, ...sizes };
    const { input, groups } = geometry, output = convOutput(geometry), filter = convFilter(geometry);
    const weight = toHwio(formula(filter.o * filter.i * filter.h * filter.w, 2), filter);
    assertEquals(weight.length, storedFilterElements(filter));
    const bias = new Float32Array(padded(filter.o));
    bias.set(formula(filter.o, 3));
    const places = {
      ...{ x: half(activation(input, 1)), weight: half(weight), bias: full(bias), dy: half(activation(output, 4)) },
      ...{ addend: half(activation(input, 5)), y: halfOut(storedElements(output)) },
      ...{ plain: halfOut(storedElements(input)), dx: halfOut(storedElements(input)) },
      ...{ dweight: fullOut(weight.length), dbias: fullOut(bias.length) },
    };
    const kernels = convKernels(geometry);
    // Windows of dense convolutions take long to compile; how they load is the same for all.
    const variants = capabilityVariants(device.capabilities).filter(([kind], i) =>
      groups > 1 ? kind !== "no subgroups" : geometry.kernelHeight === 1 || i === 0
    );
    for (const [variant, caps] of variants) {
      await check(
        device,
        `${name}, ${variant}:`,
        places,
        ({ x, weight, bias, dy, addend, y, plain, dx, dweight, dbias }) => [
          ...kernels.forward({ x, weight, bias, y }, geometry, caps),
          ...kernels.inputGradient({ dy, weight, dx: plain }, geometry, caps),
          ...kernels.inputGradient({ dy, weight, dx, addend }, geometry, caps),
          ...kernels.weightGradient({ x, dy, dweight, dbias }, geometry, caps),
        ],
        // The gradient of a strided product is a half before it is spread and the addend comes to it.
        { dx: 2 },
      );
    }
  });
}

halfTest("half precision: an input or output that is float32 beside weights that are not", async (device) => {
  const geometry: ConvGeometry = {
    ...{ input: { n: 2, h: 6, w: 6, c: 3 }, outChannels: 8, kernelHeight: 3, kernelWidth: 3 },
    ...{ stride: 2, padding: 1, groups: 1 },
  };
  const output = convOutput(geometry), filter = convFilter(geometry), kernels = convKernels(geometry);
  const weight = toHwio(formula(filter.o * filter.i * 9, 2), filter);
  for (const [variant, caps] of capabilityVariants(device.capabilities)) {
    await check(device, `float32 x, ${variant}:`, {
      ...{ x: full(activation(geometry.input, 1)), weight: half(weight), dy: half(activation(output, 4)) },
      ...{ y: halfOut(storedElements(output)), dweight: fullOut(weight.length) },
    }, ({ x, weight, dy, y, dweight }) => [
      ...kernels.forward({ x, weight, y }, geometry, caps),
      ...kernels.weightGradient({ x, dy, dweight }, geometry, caps),
    ]);
    const linear: ConvGeometry = { input: { n: 5, h: 1, w: 1, c: 64 }, outChannels: 10, ...POINTWISE };
    const head = toHwio(formula(640, 6), convFilter(linear)), logits = convOutput(linear);
    await check(device, `float32 y, ${variant}:`, {
      ...{ x: half(activation(linear.input, 1)), weight: half(head), dy: full(activation(logits, 4)) },
      ...{ y: fullOut(storedElements(logits)), dx: halfOut(5 * 64), dweight: fullOut(head.length) },
    }, ({ x, weight, dy, y, dx, dweight }) => [
      ...convKernels(linear).forward({ x, weight, y }, linear, caps),
      ...convKernels(linear).inputGradient({ dy, weight, dx }, linear, caps),
      ...convKernels(linear).weightGradient({ x, dy, dweight }, linear, caps),
    ]);
  }
});

for (const [rows, channels] of [[2, 3], [130, 20], [1031, 64]]) {
  for (
    const [kind, withRelu, residual] of [["plain", false, false], ["ReLU", true, false], [
      "residual, ReLU",
      true,
      true,
    ]] as const
  ) {
    halfTest(`half precision: batch norm of [${rows}, ${channels}], ${kind}`, async (device) => {
      const shape = { n: rows, h: 1, w: 1, c: channels }, stored = padded(channels);
      const spec = { rows, channels, eps: 1e-5, momentum: 0.1, relu: withRelu };
      const vector = (stream: number, scale: number, shift: number) => {
        const values = new Float32Array(stored);
        values.set(formula(channels, stream, scale).map((value) => value + shift));
        return full(values);
      };
      const matrix = rows * stored;
      const places = {
        ...{ x: half(activation(shape, 1)), dy: half(activation(shape, 2)), weight: vector(3, 0.5, 1) },
        ...{ bias: vector(4, 0.5, 0), residual: half(activation(shape, 5)), mean: vector(6, 1, 0) },
        ...{ variance: vector(7, 0.4, 1), runningMean: fullOut(stored), runningVar: fullOut(stored) },
        ...{ statistics: fullOut(statisticsElements(channels)), y: halfOut(matrix), inferred: halfOut(matrix) },
        ...{ dx: halfOut(matrix), dweight: fullOut(stored), dbias: fullOut(stored) },
        ...(residual && { dresidual: halfOut(matrix) }),
      };
      for (const software of [true, false]) {
        const caps: Capabilities = { ...device.capabilities, software };
        await check(device, `${kind}, software ${software}:`, places as Places, (at) => {
          const { x, weight, bias, statistics, y, dy, dx, dweight, dbias, dresidual } = at;
          const added = residual ? { residual: at.residual } : {};
          return [
            ...batchNormStatistics({ ...at, x, weight, bias, statistics } as never, spec, caps),
            ...batchNormApply({ x, statistics, y, ...added }, spec, caps),
            ...batchNormInference(
              { x, weight, bias, runningMean: at.mean, runningVar: at.variance, y: at.inferred, ...added },
              spec,
              caps,
            ),
            ...batchNormBackward(
              { x, y: needsOutput(spec, residual) ? y : undefined, dy, statistics, dx, dweight, dbias, dresidual },
              spec,
              caps,
            ),
          ];
        });
      }
    });
  }
}

halfTest("half precision: pools", async (device) => {
  for (const input of [{ n: 2, h: 7, w: 9, c: 6 }, { n: 1, h: 8, w: 8, c: 64 }]) {
    const spec = { input, kernel: 3, stride: 2, padding: 1 }, output = maxPoolOutput(spec);
    const mean = { ...input, h: 1, w: 1 };
    for (const software of [true, false]) {
      const caps = { ...device.capabilities, software };
      await check(device, `pools, software ${software}:`, {
        ...{ x: half(activation(input, 1)), dy: half(activation(output, 2)), dmean: half(activation(mean, 3)) },
        ...{ y: halfOut(storedElements(output)), dx: halfOut(storedElements(input)) },
        ...{ mean: halfOut(storedElements(mean)), dall: halfOut(storedElements(input)) },
      }, ({ x, dy, dmean, y, dx, mean, dall }) => {
        const indices = operand("indices", maxPoolIndexElements(spec));
        return [
          ...maxPoolForward({ x, y, indices }, spec, caps),
          ...maxPoolBackward({ dy, indices, dx }, spec, caps),
          ...globalAveragePool({ x, y: mean }, input, caps),
          ...globalAveragePoolBackward({ dy: dmean, dx: dall }, input, caps),
        ];
      });
    }
  }
});

halfTest("half precision: element by element", async (device) => {
  for (const elements of [4, 36, 8 * 1024 * 4 + 52]) {
    for (const software of [true, false]) {
      const caps = { ...device.capabilities, software };
      await check(device, `${elements} elements, software ${software}:`, {
        ...{ a: half(formula(elements, 1)), b: half(formula(elements, 2)), positive: halfOut(elements) },
        ...{ gradient: halfOut(elements), sum: halfOut(elements), both: halfOut(elements) },
      }, ({ a, b, positive, gradient, sum, both }) => [
        ...relu({ x: a, y: positive }, elements, caps),
        ...reluBackward({ y: a, dy: b, dx: gradient }, elements, caps),
        ...add({ a, b, y: sum }, elements, caps),
        ...add({ a, b, y: both }, elements, caps, { relu: true }),
      ]);
    }
  }
});

/** 0 to the largest, powers, ties, what is too small and too large for a half, and no numbers. */
const CORNERS = [
  ...[0, -0, 1, -1, 0.1, 1 / 3, 65504, -65504, 65519.99, 2048, 2049, 2051, 1 + 2 ** -11, 1 + 3 * 2 ** -11],
  ...[2 ** -14, 2 ** -24, -(2 ** -24), 3 * 2 ** -25, Infinity, -Infinity, NaN, 65520, 1e30, -1e30],
];

halfTest("half precision: casts round to nearest, and keep what is no number", async (device) => {
  const values = Float32Array.from(CORNERS), elements = values.length;
  const x = operand("x", elements), y = operand("y", elements, "f16"), back = operand("back", elements);
  const caps = device.capabilities;
  const [halves, widened] = await runOnce(
    device,
    [...cast({ x, y }, elements, caps), ...cast({ x: y, y: back }, elements, caps)],
    new Map([[x, values]]),
    [y, back],
  );
  assertEquals([...new Float16Array(halves)], [...Float16Array.from(values)]);
  assertEquals([...new Float32Array(widened)], [...Float16Array.from(values)]);
});

halfTest("half precision: what is not finite is found among halves", async (device) => {
  for (const [at, value, found] of [[0, 65504, 0], [1, Infinity, 5], [2, -Infinity, 5], [4099, NaN, 5], [0, 0, 0]]) {
    const values = new Float16Array(4100).fill(-65504);
    values[at] = value;
    const x = operand("x", values.length, "f16"), findings = operand("found", 4), settings = stepSettingsOperand();
    const [bytes] = await runOnce(
      device,
      [findNonFinite({ x, found: findings, settings }, 5, device.capabilities)],
      new Map<Operand, ArrayBufferView<ArrayBuffer>>([[x, values], [settings, encodeStepSettings({ slot: 2 })]]),
      [findings],
    );
    assertEquals([...new Uint32Array(bytes)], [0, 0, found, 0]);
  }
});

Deno.test("half precision: kernels that round by bits make the halves of IEEE 754", async () => {
  // Every half, what lies in the middle between two, and the floats beside it.
  const numbers = new Float16Array(Uint16Array.from({ length: 0x10000 }, (_, i) => i).buffer);
  const values = [...CORNERS];
  for (let i = 0; i < numbers.length; i++) {
    const middle = (numbers[i] + (numbers[i + 1] ?? 0)) / 2;
    values.push(numbers[i], middle, middle * (1 + 2 ** -23), middle * (1 - 2 ** -24));
  }
  const device = await openDevice();
  try {
    device.roundHalvesByBits();
    const elements = values.length, x = operand("x", elements), y = operand("y", elements, "f16");
    const dispatches = cast({ x, y }, elements, device.capabilities);
    const [bytes] = await runOnce(device, dispatches, new Map([[x, Float32Array.from(values)]]), [y]);
    const halves = new Float16Array(bytes), wanted = Float16Array.from(Float32Array.from(values));
    const wrong = wanted.findIndex((half, i) => !Object.is(half, halves[i]));
    assertEquals(wrong, -1, `${values[wrong]} becomes ${halves[wrong]}`);
  } finally {
    device.close();
  }
});

/** One number of the twelve that are tried, as a device might turn it into a half or back. */
interface Wrong {
  readonly kind: "halves" | "widened";
  readonly at: number;
  readonly value: number;
  readonly named: string;
}

const WRONG: readonly Wrong[] = [
  // Saturated; rounded towards zero; the smallest flushed; NaN as infinity.
  { kind: "halves", at: 5, value: 0x7bff, named: "1000000" },
  { kind: "halves", at: 2, value: 0x6801, named: "2051" },
  { kind: "halves", at: 7, value: 0, named: String(2 ** -24) },
  { kind: "halves", at: 11, value: 0x7c00, named: "NaN" },
  // The smallest flushed on the way back; infinity as a number.
  { kind: "widened", at: 7, value: 0, named: String(2 ** -24) },
  { kind: "widened", at: 4, value: 65536, named: "65520" },
];

/** The device, but that it is wrong `times` times; and how often it was told to round. */
function altered(device: Device, { kind, at, value }: Omit<Wrong, "named">, times: number) {
  const told = { roundings: 0 };
  const proxy = standIn(device, {
    roundHalvesByBits: () => void told.roundings++,
    read: async (...args) => {
      const bytes = await device.read(...args);
      const numbers = kind === "halves" ? new Uint16Array(bytes) : new Float32Array(bytes);
      if (numbers.length === 12 && times-- > 0) numbers[at] = value;
      return bytes;
    },
  });
  return { proxy, told };
}

gpuTest("half precision: where the driver rounds otherwise, kernels round by bits", async (device) => {
  const { proxy, told } = altered(device, { kind: "halves", at: 0, value: 0x3e00 }, 1);
  await prepareHalves(proxy);
  assertEquals(told.roundings, 0);
  for (const wrong of WRONG) {
    const { proxy, told } = altered(device, wrong, 1);
    await prepareHalves(proxy);
    assertEquals(told.roundings, 1);
  }
});

gpuTest("half precision: an adapter whose halves are wrong either way is refused", async (device) => {
  for (const wrong of WRONG) {
    await assertRejects(
      () => prepareHalves(altered(device, wrong, 2).proxy),
      UserError,
      `turns ${wrong.named} into another half than IEEE 754; use precision f32`,
    );
  }
});
