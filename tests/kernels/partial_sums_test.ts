import { assertEquals } from "@std/assert";
import { operand } from "../../kernels/dispatch.ts";
import { partialSums } from "../../kernels/partial_sums.ts";
import { runOnce } from "../../kernels/program.ts";
import { gpuTest } from "../support.ts";

gpuTest("rows of partial sums are added, however many, into one output or several", async (device) => {
  for (const sizes of [[12], [8, 4]]) {
    const columns = sizes.reduce((sum, size) => sum + size, 0);
    for (const rows of [1, 7, 8, 9, 32, 33, 77, 1100]) {
      // Integers, whose sums are exact.
      const values = Float32Array.from({ length: rows * columns }, (_, i) => i * 7919 % 1013 - 500);
      const partial = operand("partial", values.length);
      const outputs = sizes.map((size, i) => ({ operand: operand(`output ${i}`, size), vecs: size / 4 }));
      const dispatches = partialSums(partial, rows, outputs, device.capabilities);
      const results = await runOnce(device, dispatches, new Map([[partial, values]]), outputs.map((o) => o.operand));
      const sums = Array.from({ length: columns }, (_, column) => {
        let sum = 0;
        for (let row = 0; row < rows; row++) sum += values[row * columns + column];
        return sum;
      });
      assertEquals(results.flatMap((bytes) => [...new Float32Array(bytes)]), sums, `${rows} rows into ${sizes}`);
    }
  }
});
