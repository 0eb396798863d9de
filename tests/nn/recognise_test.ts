import { assertEquals, assertThrows } from "@std/assert";
import { UserError } from "../../kernels/user_error.ts";
import type { NetworkDescription } from "../../nn/checkpoint.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { fineTuning } from "../../nn/fine_tune.ts";
import { recognise } from "../../nn/recognise.ts";
import { ARCHITECTURES } from "../../nn/resnext.ts";
import { float32Tensor, type TensorData } from "../../nn/safetensors.ts";
import { Counter } from "../../nn/state.ts";

/** Weights of a network by names and shapes; of the values there are none. */
function shapesOf(description: NetworkDescription): Map<string, TensorData> {
  return new Map([...describedNetwork(description).stateEntries()].flatMap(([name, entry]) => {
    return entry instanceof Counter
      ? []
      : [[name, { dtype: "F32" as const, shape: entry.shape, bytes: new Uint8Array() }]];
  }));
}

Deno.test("known networks are recognised, whatever their classes", () => {
  for (const arch of Object.keys(ARCHITECTURES).filter((name) => name !== "resnext")) {
    const { cardinality = 32 } = ARCHITECTURES[arch as "resnext101_64x4d"] as { cardinality?: number };
    const description = { arch, num_classes: 7, cardinality };
    assertEquals(recognise(shapesOf(description), "x"), description);
  }
});

Deno.test("networks of other sizes are told by their shapes", () => {
  for (
    const description of [
      { arch: "resnext50", num_classes: 10, cardinality: 2, layers: [1, 1], channels: [16, 32], stem: "imagenet" },
      { arch: "resnext50", num_classes: 3, cardinality: 8, layers: [2, 1, 4], channels: [64, 128, 256], stem: "cifar" },
      {
        arch: "resnext",
        num_classes: 3,
        cardinality: 16,
        layers: [1, 2],
        channels: [256, 512],
        base_width: 4,
        stem: "imagenet",
      },
    ] as const
  ) assertEquals(recognise(shapesOf(description), "x"), description);
});

Deno.test("what is no ResNeXt is refused by the file's name", () => {
  const state = shapesOf({ arch: "resnext50", num_classes: 10, cardinality: 32 });
  state.set("extra.weight", float32Tensor(new Float32Array(1), [1]));
  assertThrows(() => recognise(state, "some.pth"), UserError, '"some.pth"');
  assertThrows(() => recognise(new Map(), "some.pth"), UserError, "its tensors are of no ResNeXt");
});

Deno.test("what is nearly a known network is refused with the first tensor that is not", () => {
  const description = { arch: "resnext101_64x4d", num_classes: 10, cardinality: 64 };
  const refused = (change: (state: Map<string, TensorData>) => void, why: string) => {
    const state = shapesOf(description);
    change(state);
    assertThrows(
      () => recognise(state, "x"),
      UserError,
      `no ResNeXt that is known; the nearest is resnext101_64x4d${why}`,
    );
  };
  const one = float32Tensor(new Float32Array(1), [1]);
  refused((state) => state.set("layer4.2.bn3.bias", one), ', whose "layer4.2.bn3.bias" has shape [2048], not [1]');
  refused((state) => state.delete("conv1.weight"), ', but "conv1.weight" is missing');
  refused((state) => state.set("a\x1b[31m", one), ', which has no "a\\u001b[31m"');
});

Deno.test("a network without its head is recognised where that is asked for, with the classes of its name", () => {
  for (const [arch, classes] of [["resnext50_32x4d", 1000], ["resnext50", 10]] as const) {
    const state = shapesOf({ arch, num_classes: 7, cardinality: 32 });
    state.delete("fc.weight");
    state.delete("fc.bias");
    assertEquals(recognise(state, "x", { headless: true }), { arch, num_classes: classes, cardinality: 32 });
    assertThrows(() => recognise(state, "x"), UserError, `the nearest is ${arch}, but "fc.weight" is missing`);
  }
  const halved = shapesOf({ arch: "resnext50", num_classes: 10, cardinality: 32 });
  halved.delete("fc.bias");
  assertThrows(() => recognise(halved, "x", { headless: true }), UserError, 'but "fc.bias" is missing');
});

Deno.test("a head of another size is left out, anything else that does not fit refused", () => {
  const description = { arch: "resnext50", num_classes: 10, cardinality: 2, layers: [1], channels: [16] };
  const tensors = new Map([...describedNetwork(description).stateEntries()].flatMap(([name, entry]) => {
    if (entry instanceof Counter) return [];
    return [[name, float32Tensor(new Float32Array(entry.elements).fill(0.5), entry.shape)]];
  }));
  const same = fineTuning(describedNetwork(description), tensors);
  assertEquals([same.replacedClasses, same.state.has("fc.weight")], [undefined, true]);
  const other = fineTuning(describedNetwork({ ...description, num_classes: 3 }), tensors);
  assertEquals([other.replacedClasses, other.state.has("fc.weight"), other.state.has("fc.bias")], [10, false, false]);
  assertEquals(other.state.get("conv1.weight"), tensors.get("conv1.weight"));
  const headless = new Map([...tensors].filter(([name]) => !name.startsWith("fc.")));
  for (const num_classes of [3, 10]) {
    const { state, replacedClasses } = fineTuning(describedNetwork({ ...description, num_classes }), headless);
    assertEquals([replacedClasses, state.size], [0, same.state.size - 2]);
  }
  const wide = describedNetwork({ ...description, channels: [32], num_classes: 3 });
  for (const state of [tensors, headless]) {
    assertThrows(() => fineTuning(wide, state), UserError, "layer1.0.conv1");
  }
});
