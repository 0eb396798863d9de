import { assertEquals } from "@std/assert";
import { operand } from "../../kernels/dispatch.ts";
import { partialSums } from "../../kernels/partial_sums.ts";
import { runOnce } from "../../kernels/program.ts";
import { asGpu, formula, gpuTest } from "../support.ts";

gpuTest("rows of partial sums are added in order, however many, into one output or several", async (device) => {
  for (const caps of [{ ...device.capabilities, software: true }, asGpu(device)]) {
    // A GPU's invocations share the sums of more than 32 rows.
    const [most, sharers] = caps.software ? [32, 1] : [256, 8];
    for (const sizes of [[12], [8, 4], [140]]) {
      const texts = new Set<string>();
      const columns = sizes.reduce((sum, size) => sum + size, 0);
      for (const rows of [1, 7, 8, 9, 32, 33, 77, 1100]) {
        const values = formula(rows * columns, rows);
        const partial = operand("partial", values.length);
        const outputs = sizes.map((size, i) => ({ operand: operand(`output ${i}`, size), vecs: size / 4 }));
        const dispatches = partialSums(partial, rows, outputs, caps);
        const results = await runOnce(device, dispatches, new Map([[partial, values]]), outputs.map((o) => o.operand));
        const sums = Array.from({ length: columns }, (_, column) => {
          let parts: Float32Array = values.filter((_, i) => i % columns === column);
          do parts = inTurns(parts, most, parts.length > 32 ? sharers : 1); while (parts.length > 1);
          return parts[0];
        });
        const name = `${rows} rows into ${sizes}, software ${caps.software}`;
        assertEquals(results.flatMap((bytes) => [...new Float32Array(bytes)]), sums, name);
        texts.add(dispatches.at(-1)!.source);
      }
      assertEquals(texts.size, caps.software ? 1 : 2, "sums of all sizes share a shader");
    }
  }
});

/** Sums of `most` after `most`, those of each sharer added one by one as float32, then the sharers'. */
function inTurns(values: Float32Array, most: number, sharers: number): Float32Array {
  const add = (all: Iterable<number>) => [...all].reduce((sum, value) => Math.fround(sum + value), 0);
  const groups = Array.from(
    { length: Math.ceil(values.length / most) },
    (_, i) => values.subarray(i * most, i * most + most),
  );
  return Float32Array.from(
    groups,
    (group) => add(Array.from({ length: sharers }, (_, own) => add(group.filter((_, i) => i % sharers === own)))),
  );
}
