import { assert, assertEquals } from "@std/assert";
import { accumulate } from "../../kernels/accumulate.ts";
import { operand } from "../../kernels/dispatch.ts";
import { runOnce } from "../../kernels/program.ts";
import { formula, gpuTest } from "../support.ts";

gpuTest("accumulate: sums grow by the gradients, in float32, whatever their number; NaN stays", async (device) => {
  for (const elements of [4, 100, 8 * 16 * 512 + 12]) {
    const sums = formula(elements, 1), gradients = formula(elements, 2, 1e-3);
    gradients[elements - 1] = NaN;
    const at = { sums: operand("sums", elements), gradients: operand("gradients", elements) };
    const inputs = new Map([[at.sums, sums], [at.gradients, gradients]]);
    const dispatches = accumulate(at, elements, device.capabilities);
    const [bytes] = await runOnce(device, dispatches, inputs, [at.sums]);
    const got = new Float32Array(bytes), last = elements - 1;
    assert(Number.isNaN(got[last]), `${elements}`);
    const wanted = sums.map((value, i) => value + gradients[i]);
    assertEquals(got.subarray(0, last), wanted.subarray(0, last), `${elements}`);
  }
});
