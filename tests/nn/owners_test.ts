import { assertEquals } from "@std/assert";
import { operand } from "../../kernels/dispatch.ts";
import { storedElements } from "../../kernels/layout.ts";
import { TYPICAL_GPU } from "../../nn/memory.ts";
import { owners } from "../../nn/owners.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { Counter, type Parameter, type StateBuffer } from "../../nn/state.ts";
import { trainingDispatches, trainingGraph } from "../../nn/step_dispatches.ts";

Deno.test("each of a step's dispatches belongs to the layer whose work it does, whether it binds its weights or not", () => {
  const module = resnext50({ layers: [1, 1], channels: [16, 24], cardinality: 2, numClasses: 7 });
  const input = { n: 4, c: 3, h: 32, w: 32 };
  const places = new Map<Parameter | StateBuffer, ReturnType<typeof operand>>(), gradients = new Map(places);
  const names = new Map<ReturnType<typeof operand>, string>();
  for (const [name, entry] of module.stateEntries()) {
    if (entry instanceof Counter) continue;
    for (const map of [places, gradients]) {
      const place = operand(name, entry.storedElements);
      map.set(entry, place);
      names.set(place, name);
    }
  }
  const [x, labels, settings, metrics] = [storedElements(input), 4, 4, 4].map((size, i) => operand(`${i}`, size));
  const { dispatches } = trainingDispatches(trainingGraph(module, input), { x, labels, settings, metrics }, {
    state: (entry) => places.get(entry)!,
    gradient: (parameter) => gradients.get(parameter)!,
  }, { caps: { ...TYPICAL_GPU, software: true } });
  const owner = owners(dispatches, (operand) => names.get(operand)).map((name) => name?.replace(/\.[^.]*$/, ""));
  const of = (layer: string) => dispatches.filter((_, i) => owner[i] === layer).map(({ label }) => label);
  // None of a norm's dispatches but those that combine binds a weight.
  assertEquals(of("layer2.0.bn2"), [
    "batch_norm.statistics",
    "batch_norm.combine",
    "batch_norm.backward_reduce",
    "batch_norm.backward_combine",
    "batch_norm.backward_apply",
  ]);
  assertEquals(of("layer2.0.conv3"), [
    "batch_norm.normalize",
    "conv2d.forward",
    "conv2d.weight_gradient",
    "conv2d.input_gradient",
  ]);
});
