import { assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { limit, permutation } from "../../data/dataset.ts";

Deno.test("limit takes the first images, and no more than there are", () => {
  const set = { count: 3, images: Uint8Array.from([1, 1, 2, 2, 3, 3]), labels: Uint8Array.from([7, 8, 9]) };
  const two = limit(set, 2);
  assertEquals([two.count, [...two.images], [...two.labels]], [2, [1, 1, 2, 2], [7, 8]]);
  assertEquals(limit(set, 99), set);
  assertEquals(limit(set, 0).count, 0);
  assertThrows(() => limit(set, -1), RangeError, "Cannot take -1 images");
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
