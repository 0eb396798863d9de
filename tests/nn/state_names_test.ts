import { assert, assertEquals } from "@std/assert";
import { withoutWrappers } from "../../nn/state_names.ts";

const state = (...names: string[]) => new Map(names.map((name, i) => [name, i]));

for (
  const [prefix, taken] of [
    ["module.", "nn.DataParallel"],
    ["_orig_mod.", "torch.compile"],
    ["module._orig_mod.", "both"],
    ["model._orig_mod.", "Lightning, compiled"],
    ["net.", "Lightning"],
  ]
) {
  Deno.test(`what ${taken} puts before the names is taken off: ${prefix}`, () => {
    const { state: cleaned, notes } = withoutWrappers(state(`${prefix}conv1.weight`, `${prefix}fc.bias`));
    assertEquals([...cleaned], [["conv1.weight", 0], ["fc.bias", 1]]);
    assertEquals(notes, [`took "${prefix}" off the names`]);
  });
}

Deno.test("an average's counter is left out, wherever the average was wrapped", () => {
  const average = withoutWrappers(state("n_averaged", "module._orig_mod.fc.bias"));
  assertEquals([...average.state], [["fc.bias", 1]]);
  assertEquals(average.notes, ['took "module._orig_mod." off the names', 'left out "n_averaged"']);
  const wrapped = withoutWrappers(state("module.n_averaged", "module.module.fc.bias"));
  assertEquals([...wrapped.state], [["fc.bias", 1]]);
  assertEquals(wrapped.notes, ['took "module.module." off the names', 'left out "n_averaged"']);
});

Deno.test("names that do not all begin alike, and a counter alone, are left as they are", () => {
  for (const names of [["module.a", "b"], ["module.a", "model.b"], ["n_averaged"], ["modules.a"], []]) {
    const before = state(...names), after = withoutWrappers(before);
    assert(after.state === before);
    assertEquals(after.notes, []);
  }
});

Deno.test("a name of a million wrappers keeps nobody busy", () => {
  const { notes } = withoutWrappers(state("module.".repeat(1_000_000)));
  assertEquals(notes, [`took "${"module.".repeat(8)}" off the names`]);
});
