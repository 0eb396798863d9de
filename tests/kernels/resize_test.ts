import { operand } from "../../kernels/dispatch.ts";
import { fromNhwc, storedElements, toNhwc } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import { resizeBilinear } from "../../kernels/resize.ts";
import { assertClose, goldens, gpuTest } from "../support.ts";

const golden = goldens("ops");
const [n, c, h, w] = golden.shape("resize.x");

for (const size of [224, 64, 20]) {
  gpuTest(`resize: PyTorch's case 32x32 to ${size}x${size}`, async (device) => {
    const input = { n, c, h, w }, output = { n, c, h: size, w: size };
    const x = operand("x", storedElements(input)), y = operand("y", storedElements(output));
    const dispatches = resizeBilinear({ x, y }, { input, height: size, width: size }, device.capabilities);
    const [bytes] = await runOnce(device, dispatches, new Map([[x, toNhwc(golden.values("resize.x"), input)]]), [y]);
    const all = fromNhwc(new Float32Array(bytes), output);
    // The file keeps every 7th row and column of the largest.
    const got = size === 224 ? all.filter((_, i) => i % size % 7 === 0 && Math.floor(i / size) % size % 7 === 0) : all;
    assertClose(got, golden.values(`resize.to${size}`), 1e-5, "y");
  });
}
