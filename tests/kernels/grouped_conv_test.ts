import { assert, assertEquals, assertThrows } from "@std/assert";
import type { ConvGeometry } from "../../kernels/conv_geometry.ts";
import type { Capabilities } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import {
  groupedForward,
  groupedInputGradient,
  groupedSupports,
  groupedWeightGradient,
} from "../../kernels/grouped_conv.ts";
import { type Choice, ForcedVariant } from "../../kernels/tuning.ts";
import { asGpu, goldens, gpuTest } from "../support.ts";
import {
  capabilityVariants,
  checkConv,
  choicesOf,
  type ConvKernels,
  goldenConv,
  referenceConv,
} from "./conv_support.ts";

const KERNELS: ConvKernels = {
  forward: groupedForward,
  inputGradient: groupedInputGradient,
  weightGradient: groupedWeightGradient,
};

interface Settings {
  n?: number;
  h: number;
  w: number;
  groups: number;
  width: number;
  outWidth?: number;
  kernel?: number | [number, number];
  stride?: number;
  padding?: number;
}

function geometry(settings: Settings): ConvGeometry {
  const { n = 2, h, w, groups, width, outWidth = width, kernel = 3, stride = 1, padding = 1 } = settings;
  const [kernelHeight, kernelWidth] = typeof kernel === "number" ? [kernel, kernel] : kernel;
  return {
    input: { n, h, w, c: groups * width },
    outChannels: groups * outWidth,
    kernelHeight,
    kernelWidth,
    stride,
    padding,
    groups,
  };
}

/** Each stands for something a tiling could get wrong. */
const CASES: Record<string, Settings> = {
  "width 1": { n: 3, h: 9, w: 11, groups: 8, width: 1 },
  "width 1, stride 2": { h: 10, w: 7, groups: 4, width: 1, stride: 2 },
  "width 2": { n: 1, h: 13, w: 17, groups: 6, width: 2 },
  "width 2, stride 2": { n: 3, h: 8, w: 8, groups: 32, width: 2, stride: 2 },
  "width 4, not square": { n: 3, h: 5, w: 19, groups: 3, width: 4 },
  "width 4, long rows": { n: 1, h: 3, w: 61, groups: 2, width: 4 },
  "width 4, stride 2": { h: 19, w: 22, groups: 8, width: 4, stride: 2 },
  "width 4, stride 3": { h: 17, w: 20, groups: 4, width: 4, stride: 3 },
  "width 4, stride 3, kernel 1 leaves pixels out": {
    h: 11,
    w: 7,
    groups: 4,
    width: 4,
    kernel: 1,
    stride: 3,
    padding: 0,
  },
  "width 4, 5x5": { h: 12, w: 9, groups: 3, width: 4, kernel: 5, padding: 2 },
  "width 4, 5x5, stride 2": { n: 1, h: 13, w: 21, groups: 2, width: 4, kernel: 5, stride: 2, padding: 2 },
  "width 4, 1x3 kernel, padding 2": { h: 6, w: 10, groups: 3, width: 4, kernel: [1, 3], padding: 2 },
  "width 4, no padding": { h: 9, w: 12, groups: 3, width: 4, padding: 0 },
  "width 8": { n: 1, h: 11, w: 13, groups: 4, width: 8 },
  "width 8, stride 2 to 2x2": { n: 3, h: 4, w: 4, groups: 8, width: 8, stride: 2 },
  "width 16, 2x2 map": { n: 5, h: 2, w: 2, groups: 4, width: 16 },
  "width 16, stride 2 to 1x1": { n: 3, h: 2, w: 2, groups: 4, width: 16, stride: 2 },
  "width 16, 1x1 map, images not whole tiles": { n: 19, h: 1, w: 1, groups: 4, width: 16 },
  "width 16, several tiles a share": { n: 6, h: 26, w: 26, groups: 4, width: 16 },
  "width 32": { h: 7, w: 5, groups: 2, width: 32 },
  "widths 8 to 4": { h: 7, w: 9, groups: 3, width: 8, outWidth: 4 },
  "widths 4 to 12, stride 2": { h: 7, w: 9, groups: 3, width: 4, outWidth: 12, stride: 2 },
};

for (const [name, settings] of Object.entries(CASES)) {
  gpuTest(`grouped convolution, ${name}, is the definition's`, async (device) => {
    const wanted = referenceConv(geometry(settings));
    for (const [label, caps] of capabilityVariants(device.capabilities)) {
      await checkConv(device, KERNELS, wanted, caps, label);
    }
  });

  if (settings.width < 4) continue;
  gpuTest(`grouped convolution, ${name}, is the same bits by every variant`, async (device) => {
    const wanted = referenceConv(geometry(settings)), caps = asGpu(device);
    const byRule = await checkConv(device, KERNELS, wanted, caps, "by rule");
    const names = new Set(choices(wanted.geometry, caps).flatMap(({ variants }) => [...variants.keys()]));
    for (const name of names) {
      const found = await checkConv(device, KERNELS, wanted, { ...caps, tuning: new ForcedVariant(name) }, name);
      assertEquals(found, byRule, name);
    }
  });
}

gpuTest("a GPU's grouped kernels leave no compiler the choice which of two products it rounds", (device) => {
  const [x, y, weight] = ["x", "y", "weight"].map((label) => operand(label, 4));
  const shape = geometry({ h: 7, w: 9, groups: 3, width: 8, outWidth: 4 });
  const texts = choicesOf((noting) => {
    groupedForward({ x, weight, y }, shape, noting);
    groupedInputGradient({ dy: y, weight, dx: x }, shape, noting);
    groupedWeightGradient({ x, dy: y, dweight: weight }, shape, noting);
  }, asGpu(device)).flatMap(({ variants }) =>
    [...variants.values()].flatMap((make) => make().map(({ source }) => source))
  );
  assert(texts.length > 2);
  for (const text of texts) {
    assert(text.includes("= fma(vec4f("), text);
    assert(!/\+= [^;]*\*/.test(text), text);
  }
  return Promise.resolve();
});

/** Of all three passes. */
function choices(geometry: ConvGeometry, caps: Capabilities): readonly Choice[] {
  const [x, y, weight] = ["x", "y", "weight"].map((label) => operand(label, 4));
  return choicesOf((noting) => {
    groupedForward({ x, weight, y }, geometry, noting);
    groupedInputGradient({ dy: y, weight, dx: x }, geometry, noting);
    groupedWeightGradient({ x, dy: y, dweight: weight }, geometry, noting);
  }, caps);
}

gpuTest(
  "passes have variants on a GPU, where groups are whole vec4s and what they load can be staged",
  (device) => {
    const gpu = { ...asGpu(device), maxWorkgroupStorageBytes: 16384 };
    const named = (settings: Settings, caps: Capabilities = gpu) =>
      choices(geometry(settings), caps).map(({ key, variants }) => [key, ...variants.keys()].join(", "));
    const shape = { h: 14, w: 14, groups: 4, width: 16 };
    assertEquals(named(shape), [
      "grouped forward 2x14x14x64 to 64 of 4 groups kernel 3x3 stride 1 padding 1, direct 1x7, staged 1x7, staged 1x14",
      "grouped dx 2x14x14x64 to 64 of 4 groups kernel 3x3 stride 1 padding 1, staged 1x14, direct 1x14, staged 1x7",
      "grouped dweight 2x14x14x64 to 64 of 4 groups kernel 3x3 stride 1 padding 1, staged, direct",
    ]);
    assertEquals(named({ ...shape, width: 2 }), []);
    assertEquals(named(shape, { ...gpu, software: true }), [], "workgroup memory is not for software");
    // Nine taps of four rows, and one vec4 more, take 592 bytes a target vec4.
    assertEquals(named(shape, { ...gpu, maxWorkgroupStorageBytes: 592 }).length, 2, "a share's pixels take more");
    assertEquals(named(shape, { ...gpu, maxWorkgroupStorageBytes: 591 }), []);
    return Promise.resolve();
  },
);

const golden = goldens("conv2d");
for (const name of golden.cases) {
  const wanted = goldenConv(golden, name);
  if (wanted.geometry.groups === 1 || !groupedSupports(wanted.geometry)) continue;
  gpuTest(`grouped convolution is PyTorch's: ${name}`, async (device) => {
    for (const [label, caps] of capabilityVariants(device.capabilities)) {
      await checkConv(device, KERNELS, wanted, caps, label);
    }
  });
}

gpuTest("grouped weight gradient of many chunks adds them in several rounds", async (device) => {
  const wanted = referenceConv(geometry({ n: 6, h: 26, w: 26, groups: 1, width: 4 }));
  const caps = asGpu(device);
  const { x, dy, dweight } = { x: operand("x", 1), dy: operand("dy", 1), dweight: operand("dweight", 144) };
  assert(groupedWeightGradient({ x, dy, dweight }, wanted.geometry, caps).length > 2);
  await checkConv(device, KERNELS, wanted, caps, "gpu");
});

gpuTest("grouped convolution folds a grid past the limit of one dimension", async (device) => {
  const wanted = referenceConv(geometry({ n: 3, h: 9, w: 9, groups: 8, width: 4 }));
  const caps = { ...device.capabilities, software: false, maxWorkgroupsPerDimension: 2 };
  await checkConv(device, KERNELS, wanted, caps, "folded");
});

Deno.test("grouped kernels say which groupings they take", () => {
  const takes = (settings: Partial<Settings>) =>
    groupedSupports(geometry({ h: 4, w: 4, groups: 4, width: 4, ...settings }));
  for (const width of [1, 2, 4, 8, 12, 16, 32]) assertEquals(takes({ width }), true, `width ${width}`);
  assertEquals(takes({ width: 3 }), false);
  assertEquals(takes({ width: 6 }), false);
  assertEquals(takes({ width: 1, outWidth: 2 }), false);
  assertEquals(takes({ width: 4, outWidth: 6 }), false);
  assertEquals(takes({ groups: 3, width: 2 }), false);
  assertEquals(takes({ h: 1, kernel: 1, stride: 2 }), false, "both rows of the output see padding alone");
  assertEquals(takes({ h: 2, kernel: 1, stride: 2 }), true);
});

gpuTest("a grouping the kernels do not take is refused", (device) => {
  const { x, y, weight } = { x: operand("x", 4), y: operand("y", 4), weight: operand("weight", 4) };
  const wrong = geometry({ h: 4, w: 4, groups: 4, width: 3 });
  assertThrows(
    () => groupedForward({ x, weight, y }, wrong, device.capabilities),
    Error,
    "No grouped kernel for 12 -> 12",
  );
  return Promise.resolve();
});
