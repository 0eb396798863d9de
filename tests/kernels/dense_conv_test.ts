import { assert, assertEquals } from "@std/assert";
import type { ConvGeometry } from "../../kernels/conv_geometry.ts";
import { denseForward, denseInputGradient, type DenseOptions, denseWeightGradient } from "../../kernels/dense_conv.ts";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { chooseStrategy } from "../../kernels/gemm.ts";
import type { Gemm } from "../../kernels/gemm_problem.ts";
import { sharedVariants } from "../../kernels/gemm_shared.ts";
import { asGpu, goldens, gpuTest } from "../support.ts";
import { checkConv, type ConvKernels, goldenConv, POINTWISE, referenceConv } from "./conv_support.ts";

/** What to force: every strategy, on this device's terms and on those of a GPU (where sums are split). */
function variants(device: Device): [string, Capabilities, DenseOptions][] {
  const { capabilities } = device, gpu = asGpu(device);
  const list: [string, Capabilities, DenseOptions][] = [
    ["chosen", capabilities, {}],
    ["registers", capabilities, { variant: { strategy: "registers", rows: 8, columns4: 2 } }],
    ["shared, split", gpu, {}],
    ["shared 8x2, split", gpu, { variant: { strategy: "shared", rows: 8, columns4: 2 } }],
    ["shared 8x1, split", gpu, { variant: { strategy: "shared", rows: 8, columns4: 1 } }],
  ];
  const { subgroupSize } = capabilities;
  if (subgroupSize > 0) {
    const rows = Math.max(16, subgroupSize);
    list.push(["subgroup, split", gpu, { variant: { strategy: "subgroup", rows, columns4: 2 } }]);
  }
  return list;
}

function dense(options: DenseOptions): ConvKernels {
  return {
    forward: (operands, geometry, caps) => denseForward(operands, geometry, caps, options),
    inputGradient: (operands, geometry, caps) => denseInputGradient(operands, geometry, caps, options),
    weightGradient: (operands, geometry, caps) => denseWeightGradient(operands, geometry, caps, options),
  };
}

for (const name of goldens("conv2d").cases.filter((name) => goldens("conv2d").settings(name).groups === 1)) {
  gpuTest(`dense convolution is PyTorch's, by every strategy: ${name}`, async (device) => {
    const wanted = goldenConv(goldens("conv2d"), name);
    for (const [variant, caps, options] of variants(device)) {
      await checkConv(device, dense(options), wanted, caps, `${name}, ${variant}:`);
    }
  });
}

/** n, h, w, c, out, kernel, stride, padding */
const SHAPES: [number, number, number, number, number, number, number, number][] = [
  [3, 1, 1, 7, 10, 1, 1, 0],
  [2, 17, 13, 20, 36, 1, 1, 0],
  [1, 9, 6, 6, 5, 1, 3, 0],
  [2, 8, 7, 3, 9, 3, 2, 1],
  [1, 7, 7, 5, 6, 5, 1, 2],
  [5, 6, 6, 132, 140, 1, 1, 0],
  [2, 12, 12, 8, 4, 2, 2, 0],
  // Sums of whole tiles, in all passes.
  [2, 8, 10, 32, 96, 1, 1, 0],
  [1, 8, 8, 32, 64, 3, 1, 1],
];

for (const [n, h, w, c, outChannels, kernel, stride, padding] of SHAPES) {
  const title = `[${n}, ${c}, ${h}, ${w}] to ${outChannels}, ${kernel}x${kernel}, stride ${stride}, padding ${padding}`;
  gpuTest(`dense convolution is the definition's, by every strategy: ${title}`, async (device) => {
    const size = { kernelHeight: kernel, kernelWidth: kernel, stride, padding, groups: 1 };
    const wanted = referenceConv({ input: { n, h, w, c }, outChannels, ...size });
    for (const [variant, caps, options] of variants(device)) {
      await checkConv(device, dense(options), wanted, caps, `${variant}:`);
    }
  });
}

// Of 128 rows and 64 columns, or of 64 and 128.
for (const [c, channels, tiles] of [[4, 8, 129], [4, 68, 257], [132, 68, 257], [128, 68, 257]]) {
  gpuTest(`large products take large shared tiles, and agree: sums of ${c}, ${channels} columns`, async (device) => {
    const pixels = 128 * 128 + 5;
    const wanted = referenceConv({ input: { n: 1, h: 1, w: pixels, c }, outChannels: channels, ...POINTWISE });
    const gpu = asGpu(device);
    const [x, weight, y] = [operand("x", pixels * c), operand("w", c * channels), operand("y", pixels * channels)];
    const [{ workgroups }] = denseForward({ x, weight, y }, wanted.geometry, gpu);
    assertEquals(workgroups[0] * workgroups[1], tiles);
    await checkConv(device, dense({}), wanted, gpu, "large tiles:");
  });
}

Deno.test("input gradients with short sums take small shared tiles by rule, all other large products large ones", () => {
  const rule = (along: "k" | "n", k: number) => {
    const [{ rows, columns4 }] = sharedVariants({ m: 200704, n: 256, k, b: { along } } as Gemm, 1);
    return `${rows}x${columns4}`;
  };
  assertEquals([rule("k", 64), rule("k", 128), rule("k", 144)], ["4x1", "4x1", "8x2"]);
  assertEquals([rule("n", 64), rule("n", 128), rule("n", 144)], ["8x2", "8x2", "8x2"]);
});

gpuTest("a long sum over few outputs is split on a GPU, and never in software", (device) => {
  const geometry: ConvGeometry = { input: { n: 2, h: 40, w: 37, c: 8 }, outChannels: 12, ...POINTWISE };
  const operands = {
    x: operand("x", 2 * 40 * 37 * 8),
    dy: operand("dy", 2 * 40 * 37 * 12),
    dweight: operand("dweight", 96),
  };
  const labels = (software: boolean) =>
    denseWeightGradient(operands, geometry, { ...device.capabilities, software }).map(({ label }) => label);
  assertEquals(labels(false), ["conv2d.weight_gradient", "partial_sums"]);
  assertEquals(labels(true), ["conv2d.weight_gradient"]);
  return Promise.resolve();
});

gpuTest(
  "every weight gradient of a ResNeXt-50's 1x1 convolutions makes enough workgroups for a large GPU",
  (device) => {
    const gpu = asGpu(device), found: number[] = [];
    const count = (c: number, outChannels: number, side: number) => {
      const pixels = 64 * side ** 2, input = { n: 64, h: side, w: side, c };
      const geometry = { input, outChannels, ...POINTWISE };
      const operands = {
        x: operand("x", pixels * c),
        dy: operand("dy", pixels * outChannels),
        dweight: operand("dweight", c * outChannels),
      };
      const [{ workgroups: [x, y, z] }] = denseWeightGradient(operands, geometry, gpu);
      assert(x * y * z >= 128, `${c} to ${outChannels} of ${side}: ${x * y * z}`);
      found.push(x * y * z);
    };
    // 64 images of 224x224; each stage narrows, widens, and has a shortcut.
    for (const [stage, side] of [56, 28, 14, 7].entries()) {
      for (const width of [64, 128].map((width) => width * 2 ** stage)) {
        const wide = 256 * 2 ** stage;
        for (const into of [wide / 4, wide / 2, wide]) count(into, width, side);
        count(width, wide, side);
        count(wide / 2, wide, side);
      }
    }
    assertEquals(found.length, 40);
    return Promise.resolve();
  },
);

gpuTest("the strategy follows the adapter", ({ capabilities }) => {
  const strategy = (change: Partial<Capabilities>) => chooseStrategy({ ...capabilities, ...change });
  assertEquals(strategy({ software: false, subgroupSize: 32 }), "shared");
  assertEquals(strategy({ software: true, subgroupSize: 8 }), "subgroup");
  assertEquals(strategy({ software: true, subgroupSize: 0 }), "registers");
  return Promise.resolve();
});
