import type { ConvGeometry } from "../../kernels/conv_geometry.ts";
import { directForward, directInputGradient, directWeightGradient } from "../../kernels/direct_conv.ts";
import { goldens, gpuTest } from "../support.ts";
import { capabilityVariants, checkConv, type ConvKernels, goldenConv, referenceConv } from "./conv_support.ts";

const KERNELS: ConvKernels = {
  forward: directForward,
  inputGradient: directInputGradient,
  weightGradient: directWeightGradient,
};

const golden = goldens("conv2d");
for (const name of golden.cases) {
  gpuTest(`direct convolution is PyTorch's: ${name}`, async (device) => {
    const wanted = goldenConv(golden, name);
    for (const [label, caps] of capabilityVariants(device.capabilities)) {
      await checkConv(device, KERNELS, wanted, caps, label);
    }
  });
}

/** Each has a grouping the faster kernels refuse, or a geometry with a corner. */
const CASES: Record<string, ConvGeometry> = {
  "depthwise with a multiplier of 3": {
    input: { n: 3, h: 7, w: 5, c: 6 },
    outChannels: 18,
    kernelHeight: 3,
    kernelWidth: 3,
    stride: 1,
    padding: 1,
    groups: 6,
  },
  "groups of 5 to 3 channels, stride 3, 5x3 kernel": {
    input: { n: 1, h: 17, w: 10, c: 15 },
    outChannels: 9,
    kernelHeight: 5,
    kernelWidth: 3,
    stride: 3,
    padding: 2,
    groups: 3,
  },
  "kernel 1, stride 2 that leaves pixels out": {
    input: { n: 2, h: 6, w: 4, c: 7 },
    outChannels: 2,
    kernelHeight: 1,
    kernelWidth: 1,
    stride: 2,
    padding: 0,
    groups: 1,
  },
  "nothing but padding in reach": {
    input: { n: 2, h: 1, w: 1, c: 16 },
    outChannels: 16,
    kernelHeight: 1,
    kernelWidth: 1,
    stride: 2,
    padding: 1,
    groups: 2,
  },
  "more padding than the map has pixels": {
    input: { n: 5, h: 1, w: 2, c: 4 },
    outChannels: 6,
    kernelHeight: 5,
    kernelWidth: 5,
    stride: 2,
    padding: 3,
    groups: 2,
  },
};

for (const [name, geometry] of Object.entries(CASES)) {
  gpuTest(`direct convolution, ${name}, is the definition's`, async (device) => {
    const wanted = referenceConv(geometry);
    for (const [label, caps] of capabilityVariants(device.capabilities)) {
      await checkConv(device, KERNELS, wanted, caps, label);
    }
  });
}

gpuTest("direct convolution folds a grid past the limit of one dimension", async (device) => {
  const wanted = referenceConv(CASES["depthwise with a multiplier of 3"]);
  const caps = { ...device.capabilities, software: false, maxWorkgroupsPerDimension: 2 };
  await checkConv(device, KERNELS, wanted, caps, "folded");
});
