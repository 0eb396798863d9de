import { assertEquals } from "@std/assert";
import type { ConvGeometry } from "../../kernels/conv_geometry.ts";
import { denseForward, denseForwardChunkRows, denseInputGradient } from "../../kernels/dense_conv.ts";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { type Operand, operand } from "../../kernels/dispatch.ts";
import { gemmChunkRows } from "../../kernels/gemm.ts";
import { type GemmVariant, variantName } from "../../kernels/gemm_problem.ts";
import { runOnce } from "../../kernels/program.ts";
import { type GradientSums, type RowChunks, rowChunks } from "../../kernels/row_sums.ts";
import { asGpu, assertClose, formula, gpuTest } from "../support.ts";
import { choicesOf, gemmVariant, LARGE_POINTWISE, RAGGED_POINTWISE } from "./conv_support.ts";

const ROWS = 2 * 9 * 23; // Software takes no row sums: all of this is with a GPU's kernels.

async function run(device: Device, dispatches: Parameters<typeof runOnce>[1], given: Given, wanted: Operand[]) {
  return (await runOnce(device, dispatches, given, wanted)).map((bytes) => new Float32Array(bytes));
}
type Given = Map<Operand, Float32Array<ArrayBuffer>>;

/** Values of an operand, seeded; a mean beside the deviation, as activations have. */
function values({ byteLength }: Operand, stream: number, mean = 0.3): Float32Array<ArrayBuffer> {
  return formula(byteLength / 4, stream).map((value) => value + mean);
}

/** Sum of `term(row, column)` over a chunk's rows, in float64. */
function sumOf(chunk: number, { chunkRows }: RowChunks, term: (row: number) => number): { sum: number; rows: number } {
  let sum = 0, rows = 0;
  for (let row = chunk * chunkRows; row < Math.min(ROWS, (chunk + 1) * chunkRows); row++, rows++) sum += term(row);
  return { sum, rows };
}

gpuTest("a forward pass writes its output's moments, whatever the variant", async (device) => {
  const { outChannels: columns } = RAGGED_POINTWISE;
  const caps = asGpu(device);
  const x = operand("x", ROWS * 20), weight = operand("weight", 20 * columns), bias = operand("bias", columns);
  const y = operand("y", ROWS * columns);
  const given: Given = new Map([[x, values(x, 1)], [weight, values(weight, 2, 0)], [bias, values(bias, 3, 10)]]);
  const moments = rowChunks("moments", ROWS, columns, denseForwardChunkRows(RAGGED_POINTWISE, bias, caps));
  const first: Float32Array[] = [];
  const make = (geometry: ConvGeometry, caps: Capabilities, variant?: GemmVariant) =>
    denseForward({ x, weight, bias, y }, geometry, caps, { moments, variant });
  for (const variant of variantsOf(make, caps)) {
    const dispatches = make(RAGGED_POINTWISE, caps, variant);
    const [out, sums] = await run(device, dispatches, given, [y, moments.partials]);
    const mean: number[] = [], squares: number[] = [];
    for (let chunk = 0; chunk < moments.chunks; chunk++) {
      for (let column = 0; column < columns; column++) {
        const value = (row: number) => out[row * columns + column];
        const { sum, rows } = sumOf(chunk, moments, value);
        mean.push(sum / rows);
        squares.push(sumOf(chunk, moments, (row) => (value(row) - sum / rows) ** 2).sum);
      }
    }
    const name = variantName(variant);
    assertClose(sums.subarray(0, mean.length), mean, 1e-6, `${name}: means`);
    assertClose(sums.subarray(mean.length), squares, 1e-5, `${name}: squares`);
    if (first.length === 0) first.push(out, sums);
    else assertEquals([out, sums], first, `${name} has other bits`);
  }
});

gpuTest("an input gradient is masked and summed for the norm before it, whatever the variant", async (device) => {
  const { input: { c: columns }, outChannels } = RAGGED_POINTWISE;
  const caps = asGpu(device);
  const dy = operand("dy", ROWS * outChannels), weight = operand("weight", columns * outChannels);
  const [dx, addend, x, y] = ["dx", "addend", "x", "y"].map((label) => operand(label, ROWS * columns));
  const statistics = operand("statistics", 5 * columns);
  const given: Given = new Map([
    [dy, values(dy, 1)],
    [weight, values(weight, 2, 0)],
    [addend, values(addend, 3)],
    [x, values(x, 4)],
    [y, values(y, 5, 0)],
    [statistics, values(statistics, 6)],
  ]);
  const [plain] = await run(device, denseInputGradient({ dy, weight, dx, addend }, RAGGED_POINTWISE, caps), given, [
    dx,
  ]);
  const of = (operand: Operand, row: number, column: number) => given.get(operand)![row * columns + column];
  const part = (index: number, column: number) => given.get(statistics)![index * columns + column];
  const open: [GradientSums["mask"], (row: number, column: number) => boolean][] = [
    ["none", () => true],
    [y, (row, column) => of(y, row, column) > 0],
    ["recomputed", (row, c) => Math.fround(of(x, row, c) - part(0, c)) * part(2, c) + part(3, c) > 0],
  ];
  for (const [mask, isOpen] of open) {
    const chunkRows = gemmChunkRows({ m: ROWS, n: columns, k: outChannels }, caps);
    const sums = { norm: { x, statistics, mask }, chunks: rowChunks("sums", ROWS, columns, chunkRows) };
    const make = (geometry: ConvGeometry, caps: Capabilities, variant?: GemmVariant) =>
      denseInputGradient({ dy, weight, dx, addend }, geometry, caps, { sums, variant });
    const first: Float32Array[] = [];
    // Compiling is slow: all variants for the mask that uses most.
    const variants = variantsOf(make, caps);
    for (const variant of mask === "recomputed" ? variants : variants.slice(0, 1)) {
      const [out, found] = await run(device, make(RAGGED_POINTWISE, caps, variant), given, [dx, sums.chunks.partials]);
      const name = `${variantName(variant)}, mask ${typeof mask === "string" ? mask : "given"}`;
      const expected = plain.map((value, at) => isOpen(Math.floor(at / columns), at % columns) ? value : 0);
      assertEquals(out, expected, name);
      const terms: number[][] = [[], []];
      for (let chunk = 0; chunk < sums.chunks.chunks; chunk++) {
        for (let column = 0; column < columns; column++) {
          const g = (row: number) => expected[row * columns + column];
          terms[0].push(sumOf(chunk, sums.chunks, g).sum);
          terms[1].push(sumOf(chunk, sums.chunks, (row) => g(row) * (of(x, row, column) - part(0, column))).sum);
        }
      }
      assertClose(found, terms.flat(), 1e-5, name);
      if (first.length === 0) first.push(out, found);
      else assertEquals([out, found], first, `${name} has other bits`);
    }
  }
});

/** The variants of a product that takes row sums: those of a large one, whose tiles reach far beyond a small result. */
function variantsOf(make: (geometry: ConvGeometry, caps: Capabilities) => unknown, caps: Capabilities): GemmVariant[] {
  const [{ variants }] = choicesOf((noting) => make(LARGE_POINTWISE, noting), caps);
  assertEquals(variants.size > 1, true, "one variant shows nothing");
  return [...variants.keys()].map(gemmVariant);
}

gpuTest(
  "sums are left to a pass of their own where a product is split, and in software",
  (device) => {
    const product = { m: 64, n: 64, k: 4096 }, gpu = asGpu(device);
    assertEquals(gemmChunkRows(product, gpu), 0);
    assertEquals(gemmChunkRows({ ...product, m: 64 * 1024 }, gpu), 64);
    assertEquals(gemmChunkRows({ ...product, m: 64 * 1024 }, { ...gpu, software: true }), 0);
    return Promise.resolve();
  },
);
