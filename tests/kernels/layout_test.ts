import { assertEquals } from "@std/assert";
import {
  fromHwio,
  fromNhwc,
  padded,
  storedElements,
  storedFilterElements,
  toHwio,
  toNhwc,
  toPaddedVector,
} from "../../kernels/layout.ts";
import { formula } from "../support.ts";

Deno.test("channels are stored in whole vectors", () => {
  assertEquals([1, 4, 5, 64].map(padded), [4, 4, 8, 64]);
});

Deno.test("NCHW becomes NHWC, padded with zeros", () => {
  const shape = { n: 1, c: 3, h: 1, w: 2 };
  // Two pixels of three channels.
  assertEquals([...toNhwc(Float32Array.of(1, 2, 3, 4, 5, 6), shape)], [1, 3, 5, 0, 2, 4, 6, 0]);
});

Deno.test("OIHW becomes HWIO: a dense weight pads both channel axes, a grouped one the output's alone", () => {
  const dense = { o: 2, i: 1, h: 1, w: 2, groups: 1 };
  const stored = [...toHwio(Float32Array.of(1, 2, 3, 4), dense)];
  assertEquals(stored, [[1, 3, 0, 0], Array(12).fill(0), [2, 4, 0, 0], Array(12).fill(0)].flat());
  const grouped = { o: 2, i: 1, h: 1, w: 2, groups: 2 };
  assertEquals([...toHwio(Float32Array.of(1, 2, 3, 4), grouped)], [1, 3, 0, 0, 2, 4, 0, 0]);
});

Deno.test("any activation and any weight comes back as it was", () => {
  for (const [n, c, h, w] of [[1, 1, 1, 1], [2, 3, 5, 4], [3, 8, 2, 1], [2, 17, 3, 3]]) {
    const shape = { n, c, h, w }, values = formula(n * c * h * w, 1), stored = toNhwc(values, shape);
    assertEquals(stored.length, storedElements(shape));
    assertEquals(fromNhwc(stored, shape), values);
  }
  for (const [o, i, h, w, groups] of [[1, 1, 1, 1, 1], [10, 3, 7, 7, 1], [18, 4, 3, 3, 3], [6, 5, 1, 2, 2]]) {
    const shape = { o, i, h, w, groups }, values = formula(o * i * h * w, 2), stored = toHwio(values, shape);
    assertEquals(stored.length, storedFilterElements(shape));
    assertEquals(fromHwio(stored, shape), values);
  }
});

Deno.test("vectors are padded with zeros", () => {
  assertEquals([...toPaddedVector(Float32Array.of(1, 2, 3, 4, 5))], [1, 2, 3, 4, 5, 0, 0, 0]);
});
