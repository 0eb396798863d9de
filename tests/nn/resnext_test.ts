import { assertEquals, assertThrows } from "@std/assert";
import { trace } from "../../nn/graph.ts";
import { Conv2dOperation } from "../../nn/ops/conv2d.ts";
import { type Architecture, resnext, resnext50 } from "../../nn/resnext.ts";
import { Counter } from "../../nn/state.ts";

const PARAMETERS: Record<Exclude<Architecture, "resnext">, number> = {
  resnext50: 12_591_434,
  resnext101: 21_896_010,
  resnext50_32x4d: 25_028_904,
  resnext101_32x4d: 44_177_704,
  resnext101_32x8d: 88_791_336,
  resnext101_64x4d: 83_455_272,
  resnext29_8x64d: 34_426_698,
  resnext29_16x64d: 68_155_210,
};

for (const name of Object.keys(PARAMETERS) as (keyof typeof PARAMETERS)[]) {
  Deno.test(`${name} has PyTorch's state_dict: names, shapes, order`, () => {
    const text = Deno.readTextFileSync(new URL(`../goldens/${name}.keys.json`, import.meta.url));
    const expected = Object.entries(JSON.parse(text) as Record<string, number[]>);
    const actual = [...resnext(name).stateEntries()]
      .map(([key, entry]) => [key, entry instanceof Counter ? [] : [...entry.shape]]);
    assertEquals(actual, expected);
    assertEquals(resnext(name).parameterCount, PARAMETERS[name]);
  });
}

Deno.test("resnext50 at 224x224 takes 2.295 G multiply-adds", () => {
  const { nodes } = trace(resnext50(), { n: 1, c: 3, h: 224, w: 224 });
  const flops = nodes.filter(({ operation }) => operation instanceof Conv2dOperation)
    .reduce((sum, { operation, inputs, output }) => sum + operation.flops(inputs, output.shape), 0);
  assertEquals((flops / 2 / 1e9).toFixed(3), "2.295");
});

Deno.test("sizes that make no network are refused", () => {
  assertThrows(() => resnext50({ layers: [1, 1], channels: [64] }), RangeError, "2 stages have 1 widths");
  assertThrows(() => resnext50({ cardinality: 24 }), RangeError, "groups");
  // The least width that is told is one.
  const narrow = (width: number) => resnext("resnext50_32x4d", { layers: [1], channels: [width] });
  assertThrows(() => narrow(32), RangeError, "has no bottleneck of 32 groups; its width must be at least 64");
  assertEquals(narrow(64).stages.length, 1);
  assertThrows(() => resnext50({ layers: [1], channels: [3], cardinality: 1 }), RangeError, "must be at least 4");
  assertThrows(() => resnext50({ numClasses: 0 }), RangeError, "positive");
  assertThrows(() => resnext50({ inChannels: 0 }), RangeError, "positive");
  assertThrows(() => resnext("resnext18" as Architecture), RangeError, 'Cannot build "resnext18"');
});

Deno.test("what is undefined stays as the network's name says", () => {
  const options = { numClasses: undefined, bias: undefined, baseWidth: undefined, shortcutName: undefined };
  assertEquals(resnext("resnext50_32x4d", options).parameterCount, PARAMETERS.resnext50_32x4d);
});
