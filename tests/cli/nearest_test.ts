import { assertEquals } from "@std/assert";
import { editDistance, nearest } from "../../cli/nearest.ts";

Deno.test("editDistance counts insertions, deletions, substitutions and swaps", () => {
  assertEquals(editDistance("", "abc"), 3);
  assertEquals(editDistance("abc", "abc"), 0);
  assertEquals(editDistance("kitten", "sitting"), 3);
  assertEquals(editDistance("trian", "train"), 1);
});

Deno.test("nearest finds what was meant, and nothing where nothing is near", () => {
  const names = ["train", "eval", "download", "batch-size"];
  assertEquals(nearest("trian", names), "train");
  assertEquals(nearest("batchsize", names), "batch-size");
  assertEquals(nearest("down", names), "download");
  assertEquals(nearest("e", names), undefined);
  assertEquals(nearest("shapes", names), undefined);
  assertEquals(["9", "99"].map((name) => nearest(name, ["1", "91"])), [undefined, "91"]);
});
