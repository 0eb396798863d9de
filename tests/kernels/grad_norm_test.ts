import { assert, assertEquals } from "@std/assert";
import type { Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { gradNorm } from "../../kernels/grad_norm.ts";
import { runOnce } from "../../kernels/program.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const SLOTS = 4;

/** Runs the kernels over pieces of gradients. */
async function clip(device: Device, pieces: readonly Float32Array<ArrayBuffer>[], maxNorm?: number, slot = 2) {
  const chunks = pieces.map((piece) => ({ gradients: operand("g", piece.length), elements: piece.length }));
  const norms = operand("norms", SLOTS * 4), settings = stepSettingsOperand();
  const inputs = new Map<typeof norms, ArrayBufferView<ArrayBuffer>>([[settings, encodeStepSettings({ slot })]]);
  pieces.forEach((piece, i) => inputs.set(chunks[i].gradients, piece));
  const dispatches = gradNorm({ chunks, norms, settings }, { maxNorm }, device.capabilities);
  const [ring, ...clipped] = (await runOnce(device, dispatches, inputs, [norms, ...chunks.map((c) => c.gradients)]))
    .map((bytes) => new Float32Array(bytes));
  return { norm: ring[slot * 4], scale: ring[slot * 4 + 1], ring, clipped };
}

gpuTest("grad_norm: the norm of all chunks, gradients scaled down by PyTorch's formula", async (device) => {
  for (const sizes of [[4], [256], [260, 8], [2 ** 16 + 4, 12, 4096]]) {
    const pieces = sizes.map((size, i) => formula(size, i + 1, 3));
    // torch/nn/utils/clip_grad.py, in float64.
    const norm = Math.sqrt(pieces.reduce((sum, piece) => sum + piece.reduce((s, g) => s + g * g, 0), 0));
    for (const maxNorm of [norm / 10, norm * 10]) {
      const got = await clip(device, pieces, maxNorm);
      const scale = Math.min(1, maxNorm / (norm + 1e-6));
      assertClose([got.norm, got.scale], [norm, scale], 1e-5, `norm and scale of ${sizes}`);
      pieces.forEach((piece, i) => assertClose(got.clipped[i], piece.map((g) => g * scale), 1e-5, `chunk ${i}`));
    }
    const unclipped = await clip(device, pieces);
    assertClose([unclipped.norm], [norm], 1e-5, "norm alone");
    assertEquals(unclipped.scale, 1);
    pieces.forEach((piece, i) => assertEquals(unclipped.clipped[i], piece));
  }
});

gpuTest("grad_norm: the same bits each time, in the slot it was told and no other", async (device) => {
  const pieces = [formula(70_000, 1), formula(128, 2)];
  const first = await clip(device, pieces, 0.5, 1), second = await clip(device, pieces, 0.5, 1);
  assertEquals(first, second);
  assertEquals([...first.ring].map((value, i) => Math.floor(i / 4) === 1 || value === 0), Array(SLOTS * 4).fill(true));
});

gpuTest("grad_norm: gradients of zero stay zero, what is not finite shows", async (device) => {
  const zero = await clip(device, [new Float32Array(64)], 1);
  assertEquals([zero.norm, zero.scale], [0, 1]);
  assertEquals(zero.clipped[0], new Float32Array(64));
  // PyTorch's 1e-6 keeps small gradients, which would be multiplied by 2.
  const small = await clip(device, [Float32Array.of(0, 1e-6, 0, 0)], 1.5e-6);
  assertClose([small.norm, small.scale], [1e-6, 0.75], 1e-5, "a norm of 1e-6");
  for (const bad of [NaN, Infinity, 3e38]) {
    const gradients = formula(512, 3);
    gradients[300] = bad;
    const { norm, clipped } = await clip(device, [gradients], 1);
    assert(!Number.isFinite(norm), `norm ${norm} of ${bad}`);
    if (bad !== 3e38) assert(!Number.isFinite(clipped[0][300]));
  }
});
