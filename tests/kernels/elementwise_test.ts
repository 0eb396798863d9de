import { assertEquals } from "@std/assert";
import type { Dispatch, Operand } from "../../kernels/dispatch.ts";
import { operand } from "../../kernels/dispatch.ts";
import { add, clearPadding, relu, reluBackward } from "../../kernels/elementwise.ts";
import { padded, storedElements } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import type { Capabilities, Device } from "../../kernels/device.ts";
import { formula, gpuTest } from "../support.ts";

/** Runs an operation of operands `a`, `b` (given) and `out` (starting as `a`) for software's and hardware's sizes. */
async function check(
  device: Device,
  elements: number,
  build: (at: Record<"a" | "b" | "out", Operand>, caps: Capabilities) => Dispatch[],
  expected: (a: number, b: number) => number,
): Promise<void> {
  const a = formula(elements, 1), b = formula(elements, 2);
  for (const software of [true, false]) {
    const at = { a: operand("a", elements), b: operand("b", elements), out: operand("out", elements) };
    const dispatches = build(at, { ...device.capabilities, software });
    const [out] = await runOnce(device, dispatches, new Map([[at.a, a], [at.b, b], [at.out, a]]), [at.out]);
    const got = new Float32Array(out);
    const wrong = got.findIndex((value, i) => value !== Math.fround(expected(a[i], b[i])));
    assertEquals([got.length, wrong], [elements, -1]);
  }
}

for (const elements of [4, 36, 8 * 1024 * 4 + 52, 2 ** 21 + 12]) {
  gpuTest(`elementwise: ${elements} elements`, async (device) => {
    await check(device, elements, ({ a: x, out: y }, caps) => relu({ x, y }, elements, caps), (a) => Math.max(a, 0));
    await check(
      device,
      elements,
      ({ a: y, b: dy, out: dx }, caps) => reluBackward({ y, dy, dx }, elements, caps),
      (a, b) => a > 0 ? b : 0,
    );
    await check(device, elements, ({ a, b, out: y }, caps) => add({ a, b, y }, elements, caps), (a, b) => a + b);
    await check(
      device,
      elements,
      ({ a, b, out: y }, caps) => add({ a, b, y }, elements, caps, { relu: true }),
      (a, b) => Math.max(a + b, 0),
    );
  });
}

gpuTest("elementwise: more workgroups than one dimension holds", async (device) => {
  const elements = 4096;
  await check(
    device,
    elements,
    ({ a, b, out: y }, caps) => add({ a, b, y }, elements, { ...caps, maxWorkgroupsPerDimension: 3 }),
    (a, b) => a + b,
  );
});

/** Zero by zero: -0 is another number than 0. */
function assertSame(actual: Float32Array, expected: readonly number[]): void {
  const same = expected.map((value, i) => Object.is(actual[i], value));
  assertEquals(same, expected.map(() => true), `${actual.join()}, expected ${expected.join()}`);
}

gpuTest("ReLU keeps NaN, drops -0 and the infinity below; so does its gradient", async (device) => {
  const x = operand("x", 8), y = operand("y", 8);
  const values = new Float32Array([NaN, -NaN, Infinity, -Infinity, -0, 0, 1e-30, -1e-30]);
  const [out] = await runOnce(device, relu({ x, y }, 8, device.capabilities), new Map([[x, values]]), [y]);
  assertSame(new Float32Array(out), [NaN, NaN, Infinity, 0, 0, 0, Math.fround(1e-30), 0]);
  const dy = operand("dy", 8), dx = operand("dx", 8), gradients = new Float32Array([1, 2, 3, 4, 5, 6, NaN, NaN]);
  const dispatches = reluBackward({ y, dy, dx }, 8, device.capabilities);
  const [back] = await runOnce(device, dispatches, new Map([[y, values], [dy, gradients]]), [dx]);
  assertSame(new Float32Array(back), [1, 2, 3, 0, 0, 0, NaN, 0]);
});

gpuTest("padding is cleared of whatever is there, and nothing else", async (device) => {
  for (const c of [1, 2, 3, 5, 70, 99]) {
    const shape = { n: 3, h: 5, w: 7, c }, elements = storedElements(shape);
    const isPadding = (i: number) => i % padded(c) >= c;
    const values = formula(elements, c).map((value, i) => isPadding(i) && i % 3 === 0 ? NaN : value);
    for (const software of [true, false]) {
      const x = operand("x", elements), caps = { ...device.capabilities, software };
      const [out] = await runOnce(device, clearPadding(x, shape, caps), new Map([[x, values]]), [x]);
      assertEquals(new Float32Array(out), values.map((value, i) => isPadding(i) ? 0 : value), `${c} channels`);
    }
  }
});
