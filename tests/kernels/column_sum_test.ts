import { columnSum } from "../../kernels/column_sum.ts";
import { operand } from "../../kernels/dispatch.ts";
import { padded, toNhwc } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";

for (const [rows, channels] of [[1, 1], [7, 10], [1000, 65], [16500, 3], [70, 515]]) {
  gpuTest(`column sum: ${rows} rows of ${channels} channels`, async (device) => {
    const values = formula(rows * channels, 1).map((value) => value + 0.5);
    const expected = new Float64Array(padded(channels));
    values.forEach((value, i) => expected[i % channels] += value);
    for (const software of [true, false]) {
      const x = operand("x", rows * padded(channels)), sums = operand("sums", padded(channels));
      const dispatches = columnSum({ x, sums }, { rows, channels }, { ...device.capabilities, software });
      const stored = toNhwc(values, { n: rows, h: 1, w: 1, c: channels });
      const [got] = await runOnce(device, dispatches, new Map([[x, stored]]), [sums]);
      assertClose(new Float32Array(got), expected, 1e-5, "sums");
    }
  });
}

gpuTest("column sum: the bias gradient of PyTorch's linear layer", async (device) => {
  const golden = goldens("ops");
  const [rows, channels] = golden.shape("linear.dy");
  const x = operand("dy", rows * padded(channels)), sums = operand("dbias", padded(channels));
  const stored = toNhwc(golden.values("linear.dy"), { n: rows, h: 1, w: 1, c: channels });
  const [got] = await runOnce(
    device,
    columnSum({ x, sums }, { rows, channels }, device.capabilities),
    new Map([[x, stored]]),
    [sums],
  );
  assertClose(new Float32Array(got, 0, channels), golden.values("linear.dbias"), 1e-5, "dbias");
});
