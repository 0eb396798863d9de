/** What a step asks of a device and of a browser: found in its dispatches, without running them. */

import { assert, assertEquals } from "@std/assert";
import { accumulate } from "../../kernels/accumulate.ts";
import { stepsOperand } from "../../kernels/adamw.ts";
import type { Capabilities } from "../../kernels/device.ts";
import { type Dispatch, type ElementType, operand, shaderText } from "../../kernels/dispatch.ts";
import { type Shape, storedElements } from "../../kernels/layout.ts";
import { lossScaleOperand } from "../../kernels/loss_scale.ts";
import { stepSettingsOperand } from "../../kernels/step_settings.ts";
import { ForcedVariant } from "../../kernels/tuning.ts";
import { watch } from "../../nn/anomaly.ts";
import type { StatePlaces } from "../../nn/lowering.ts";
import { TYPICAL_GPU } from "../../nn/memory.ts";
import type { Module } from "../../nn/module.ts";
import { type Architecture, resnext } from "../../nn/resnext.ts";
import { evaluationDispatches, trainingDispatches, trainingGraph } from "../../nn/step_dispatches.ts";
import { updateDispatches, updateOf } from "../../nn/update.ts";

/** WebGPU's default limits: what every device has. */
const LEAST_GPU: Capabilities = {
  ...TYPICAL_GPU,
  maxBindingBytes: 2 ** 27,
  maxBufferBytes: 2 ** 28,
  maxWorkgroupStorageBytes: 16384,
  maxInvocationsPerWorkgroup: 256,
  storageAlignment: 256,
  maxStorageBuffers: 8,
};
const ADAPTERS: Readonly<Record<string, Capabilities>> = {
  GPU: LEAST_GPU,
  software: { ...LEAST_GPU, software: true, subgroupSize: 8 },
  "GPU, weights staged": { ...LEAST_GPU, tuning: new ForcedVariant("staged") },
  "software without subgroups": { ...LEAST_GPU, software: true, subgroupSize: 0 },
};

/** All that steps run which train (in one part or two, with clipping and with a watch) and evaluate. */
function stepDispatches(module: Module, input: Shape, caps: Capabilities, precision: ElementType): Dispatch[] {
  const places = new Map<unknown, ReturnType<typeof operand>>();
  const place = (entry: { readonly storedElements: number }, type: ElementType, label: string) => {
    const key = `${label} ${[...module.stateEntries()].findIndex(([, other]) => other === entry)}`;
    const found = places.get(key) ?? operand(label, entry.storedElements, type);
    places.set(key, found);
    return found;
  };
  const state: StatePlaces = {
    state: (entry) => place(entry, "f32", "state"),
    gradient: (parameter) => place(parameter, "f32", "gradient"),
    half: (parameter) => place(parameter, "f16", "half"),
  };
  const settings = stepSettingsOperand(), lossScale = precision === "f16" ? lossScaleOperand() : undefined;
  const [metrics, norms, found] = ["metrics", "norms", "found"].map((label) => operand(label, 1024));
  const [labels, predictions] = ["labels", "predictions"].map((label) => operand(label, input.n));
  const given = { x: operand("x", storedElements(input)), labels, settings, metrics };
  const mixes = operand("mixes", input.n * 4), elements = 1024;
  const [parameters, gradients, momentum, exp_avg, exp_avg_sq, sums] = Array.from(
    { length: 6 },
    () => operand("of the parameters' layout", elements),
  );
  const moments = { momentum, exp_avg, exp_avg_sq }, steps = stepsOperand();
  const chunk = { elements, matrixElements: elements / 2, parameters, gradients, moments, steps };
  const decays = { weightDecay: 0.1, decayVectors: false };
  const updates = [{ ...decays, momentum: 0.9, nesterov: true }, { ...decays, kind: "adamw" }] as const;
  const dispatches = [
    ...trainingDispatches(trainingGraph(module, input), { ...given, mixes, lossScale }, state, { caps, precision })
      .dispatches,
    ...accumulate({ sums, gradients }, elements, caps),
    ...updates.flatMap((optimizer) =>
      updateDispatches([chunk], { norms, settings, lossScale }, updateOf({ optimizer, clipGradNorm: 1 }), caps)
    ),
    ...evaluationDispatches(module, input, { ...given, predictions }, state, { caps, precision }).dispatches,
  ];
  return [...watch(dispatches, { found, settings, names: new Map(), caps }).dispatches];
}

const NETWORKS: readonly (readonly [Architecture, number])[] = [
  ["resnext50", 96],
  ["resnext50_32x4d", 224],
  ["resnext29_8x64d", 32],
];

/** Bytes of workgroup memory. */
function sharedBytes(source: string): number {
  const size: Readonly<Record<string, number>> = { f32: 4, Best: 8, vec4f: 16 };
  const declared = [...source.matchAll(/var<workgroup> \w+: array<(?:(\w+)|array<(\w+), (\d+)u?>), (\d+)u?>/g)];
  assertEquals(declared.length, source.split("var<workgroup>").length - 1, "workgroup memory of a form not known here");
  return declared.reduce(
    (bytes, [, plain, nested, inner, length]) => bytes + size[plain ?? nested] * Number(inner ?? 1) * Number(length),
    0,
  );
}

for (const [adapter, caps] of Object.entries(ADAPTERS)) {
  Deno.test(`a step stays within what every device has: ${adapter}`, () => {
    for (const [arch, side] of NETWORKS) {
      for (const precision of ["f32", "f16"] as const) {
        const all = stepDispatches(resnext(arch), { n: 4, c: 3, h: side, w: side }, caps, precision);
        assert(all.length > 100, "a whole step");
        for (const dispatch of all) {
          const name = `${arch} ${precision}: ${dispatch.label}`, bound = Object.values(dispatch.bindings);
          assert(bound.length <= caps.maxStorageBuffers, `${name} binds ${Object.keys(dispatch.bindings)}`);
          assertEquals(new Set(bound.map(({ operand }) => operand)).size, bound.length, `${name} binds one twice`);
          const most = Math.max(...dispatch.workgroups), least = Math.min(...dispatch.workgroups);
          assert(
            least >= 1 && most <= caps.maxWorkgroupsPerDimension,
            `${name} takes ${dispatch.workgroups} workgroups`,
          );
          const size = /@workgroup_size\(([^)]*)\)/.exec(dispatch.source)![1].split(",").map(Number);
          const threads = size.reduce((product, each) => product * each, 1);
          assert(threads <= caps.maxInvocationsPerWorkgroup, `${name} has ${size} invocations a workgroup`);
          const shared = sharedBytes(dispatch.source);
          assert(shared <= caps.maxWorkgroupStorageBytes, `${name} shares ${shared} bytes`);
        }
      }
    }
  });
}

Deno.test("every variant of a product or grouped convolution stays within the workgroup memory that every device has", () => {
  const found = new Set<string>();
  for (const name of ["shared 8x2", "shared 8x1", "shared 4x1", "staged"]) {
    const caps = { ...LEAST_GPU, tuning: new ForcedVariant(name) };
    for (const { label, source } of stepDispatches(resnext("resnext50"), { n: 4, c: 3, h: 96, w: 96 }, caps, "f32")) {
      assert(
        sharedBytes(source) <= caps.maxWorkgroupStorageBytes,
        `${label} by ${name} shares ${sharedBytes(source)} bytes`,
      );
      if (label === "conv2d.forward") found.add(source.match(/tile_a: .*/)![0] + source.match(/tile_b: .*/)![0]);
      const [weights] = source.match(/tile_w: .*/) ?? [];
      if (weights) found.add(weights);
    }
  }
  assert(found.size >= 4, "a tile of each");
});

/** The shaders of all networks' training steps, each once. */
function stepTexts(caps: Capabilities): string[] {
  const texts = NETWORKS.flatMap(([arch, side]) =>
    stepDispatches(resnext(arch), { n: 4, c: 3, h: side, w: side }, caps, "f32").map((dispatch) => shaderText(dispatch))
  );
  return [...new Set(texts)];
}

Deno.test("where there are barriers, no control flow hangs on a private variable: browsers refuse such shaders", () => {
  const texts = [LEAST_GPU, ADAPTERS["GPU, weights staged"]].flatMap(stepTexts).filter((text) =>
    text.includes("workgroupBarrier")
  );
  assert(texts.length > 10, `${texts.length} shaders with barriers`);
  for (const text of texts) {
    const main = text.slice(text.indexOf("fn main(")).replaceAll(/\/\/.*/g, "");
    for (const [, name] of text.matchAll(/var<private> (\w+)/g)) {
      const reads = [...main.matchAll(new RegExp(`\\b${name}\\b(?!\\s*=[^=])`, "g"))];
      assertEquals(reads.length, 0, `main reads the private variable "${name}":\n${text}`);
    }
  }
});

Deno.test("what is loaded at a border hangs on no branch: compilers would make one of each `&&`", () => {
  for (const caps of Object.values(ADAPTERS)) {
    const selects = stepTexts(caps).flatMap((text) => text.match(/select\(vec4f\(\), .*\);/g) ?? []);
    assert(selects.some((text) => text.includes(") & (")));
    assertEquals(selects.filter((text) => text.includes("&&")), []);
  }
});
