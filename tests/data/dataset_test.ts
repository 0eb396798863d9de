import { assertEquals, assertThrows } from "@std/assert";
import { limit } from "../../data/dataset.ts";

Deno.test("limit takes the first images, and no more than there are", () => {
  const set = { count: 3, images: Uint8Array.from([1, 1, 2, 2, 3, 3]), labels: Uint8Array.from([7, 8, 9]) };
  const two = limit(set, 2);
  assertEquals([two.count, [...two.images], [...two.labels]], [2, [1, 1, 2, 2], [7, 8]]);
  assertEquals(limit(set, 99), set);
  assertEquals(limit(set, 0).count, 0);
  assertThrows(() => limit(set, -1), RangeError, "Cannot take -1 images");
});
