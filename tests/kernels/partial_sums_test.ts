import { assertEquals } from "@std/assert";
import { operand } from "../../kernels/dispatch.ts";
import { partialSums } from "../../kernels/partial_sums.ts";
import { runOnce } from "../../kernels/program.ts";
import { formula, gpuTest } from "../support.ts";

gpuTest("rows of partial sums are added in order, however many, into one output or several", async (device) => {
  for (const sizes of [[12], [8, 4]]) {
    const texts = new Set<string>();
    const columns = sizes.reduce((sum, size) => sum + size, 0);
    for (const rows of [1, 7, 8, 9, 32, 33, 77, 1100]) {
      const values = formula(rows * columns, rows);
      const partial = operand("partial", values.length);
      const outputs = sizes.map((size, i) => ({ operand: operand(`output ${i}`, size), vecs: size / 4 }));
      const dispatches = partialSums(partial, rows, outputs, device.capabilities);
      const results = await runOnce(device, dispatches, new Map([[partial, values]]), outputs.map((o) => o.operand));
      const sums = Array.from({ length: columns }, (_, column) => {
        const own = values.filter((_, i) => i % columns === column);
        let parts = [...own];
        do parts = inThirtyTwos(parts); while (parts.length > 1);
        return parts[0];
      });
      assertEquals(results.flatMap((bytes) => [...new Float32Array(bytes)]), sums, `${rows} rows into ${sizes}`);
      texts.add(dispatches.at(-1)!.source);
    }
    assertEquals(texts.size, 1, "sums of all sizes share a shader");
  }
});

/** Sums of 32 after 32, added one by one as float32. */
function inThirtyTwos(values: readonly number[]): number[] {
  const groups = Array.from({ length: Math.ceil(values.length / 32) }, (_, i) => values.slice(i * 32, i * 32 + 32));
  return groups.map((group) => group.reduce((sum, value) => Math.fround(sum + value), 0));
}
