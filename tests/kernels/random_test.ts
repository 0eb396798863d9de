import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { permutation, Random } from "../../kernels/random.ts";

Deno.test("the generator gives the published sequence of xoshiro128**", () => {
  const random = Random.fromState([1, 2, 3, 4]);
  const values = Array.from({ length: 10 }, () => random.nextUint32());
  assertEquals(values, [
    11520,
    0,
    5927040,
    70819200,
    2031721883,
    1637235492,
    1287239034,
    3734860849,
    3729100597,
    4258142804,
  ]);
});

Deno.test("a generator depends on its seed and its stream, in all their bits", () => {
  const first = (seed: number, stream?: number) => {
    const random = new Random(seed, stream);
    return [random.nextUint32(), random.nextUint32()];
  };
  assertEquals(first(7), first(7, 0));
  const all = [[0, 0], [1, 0], [0, 1], [1, 1], [2 ** 32, 0], [0, 2 ** 32], [2 ** 32, 2 ** 32], [2 ** 53 - 1, 0]];
  const seen = new Set(all.map(([seed, stream]) => first(seed, stream).join()));
  assertEquals(seen.size, all.length);
  assertNotEquals(first(3, 5), first(5, 3));
});

Deno.test("seeds and bounds out of range are refused", () => {
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) assertThrows(() => new Random(seed), RangeError, "seed");
  assertThrows(() => new Random(0, -1), RangeError, "stream");
  for (const n of [0, -1, 1.5, 2 ** 32 + 1]) assertThrows(() => new Random(0).below(n), RangeError, "below");
});

Deno.test("uniform deviates fill [0, 1) evenly", () => {
  const random = new Random(11), count = 100_000, bins = new Array(10).fill(0);
  for (let i = 0; i < count; i++) {
    const value = random.uniform();
    assert(value >= 0 && value < 1);
    bins[Math.floor(value * 10)]++;
  }
  // Five standard deviations of a binomial count.
  for (const n of bins) assert(Math.abs(n - count / 10) < 5 * Math.sqrt(count * 0.09), `${bins}`);
});

Deno.test("integers below n are all drawn, and none beyond", () => {
  const random = new Random(12), seen = new Set<number>();
  for (let i = 0; i < 200; i++) seen.add(random.below(7));
  assertEquals([...seen].sort(), [0, 1, 2, 3, 4, 5, 6]);
  assertEquals(random.below(1), 0);
});

Deno.test("normal deviates have the moments of the normal distribution", () => {
  const random = new Random(13), count = 100_000;
  const sums = [0, 0, 0, 0];
  for (let i = 0; i < count; i++) {
    const value = random.normal();
    for (let power = 0; power < 4; power++) sums[power] += value ** (power + 1) / count;
  }
  // Within five standard errors: the k-th moment's variance is E[x^2k] - E[x^k]^2.
  [0, 1, 0, 3].forEach((expected, i) => {
    const error = Math.sqrt([1, 2, 15, 96][i] / count);
    assert(Math.abs(sums[i] - expected) < 5 * error, `moment ${i + 1}: ${sums[i]}`);
  });
});

Deno.test("a permutation holds every index once and depends on seed and epoch alone", () => {
  const order = permutation(1000, 5, 1);
  assertEquals([...order].sort((a, b) => a - b), Array.from({ length: 1000 }, (_, i) => i));
  assertEquals(order, permutation(1000, 5, 1));
  assertNotEquals(order, permutation(1000, 5, 2));
  assertNotEquals(order, permutation(1000, 6, 1));
  assertEquals(permutation(0, 1, 1).length, 0);
});

Deno.test("the permutation of a seed and an epoch never changes: runs are resumed by it", () => {
  assertEquals([...permutation(10, 1, 1)], [1, 9, 0, 4, 8, 2, 5, 7, 6, 3]);
});

Deno.test("every permutation is as likely as any other", () => {
  const counts = new Map<string, number>();
  for (let epoch = 0; epoch < 6000; epoch++) {
    const key = permutation(3, 9, epoch).join();
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  assertEquals(counts.size, 6);
  // Five standard deviations of a binomial count with p = 1/6.
  for (const [key, n] of counts) assertEquals(Math.abs(n - 1000) < 5 * Math.sqrt(6000 * 5 / 36), true, `${key}: ${n}`);
});
