import { assertEquals } from "@std/assert";
import { compareCodePoints } from "../../data/code_points.ts";

Deno.test("names are in Python's order: by code points", () => {
  // What Python's sorted() makes of them.
  const sorted = [
    "",
    "Zebra",
    "_x",
    "a",
    "ab",
    "a\u{ff21}",
    "a😀",
    "b10",
    "b9",
    "änt",
    "\u{e000}",
    "Ａ",
    "😀",
    "😁",
    "😁a",
  ];
  assertEquals(sorted.toReversed().sort(compareCodePoints), sorted);
  assertEquals(sorted.toSorted(compareCodePoints), sorted);
  assertEquals(compareCodePoints("a😀", "a😀"), 0);
});
