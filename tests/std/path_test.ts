/** Holds the stand-in to the documented behaviour of `@std/path`; passes with the real package as well. */

import { assertEquals, assertThrows } from "@std/assert";
import { basename, dirname, fromFileUrl, join, relative, resolve, SEPARATOR, toFileUrl } from "@std/path";

/** Written with slashes here, with the system's separators there. */
const local = (path: string) => path.replaceAll("/", SEPARATOR);

Deno.test("parts of a path", () => {
  assertEquals(basename("/a/b.tar.gz"), "b.tar.gz");
  assertEquals(basename("/a/b.tar.gz", ".gz"), "b.tar");
  assertEquals(dirname("/a/b/c"), "/a/b");
});

Deno.test("paths made of others", () => {
  assertEquals(join("a", "..", "b", "./c"), local("b/c"));
  assertEquals(resolve("a", "b"), join(Deno.cwd(), "a", "b"));
  assertEquals(relative(resolve("a/b"), resolve("a/c")), local("../c"));
});

Deno.test("file URLs there and back", () => {
  const path = resolve("a folder", "50% é#?.ts");
  assertEquals(fromFileUrl(toFileUrl(path)), path);
  assertEquals(toFileUrl(path).href.endsWith("/a%20folder/50%25%20%C3%A9%23%3F.ts"), true);
  assertEquals(basename(new URL("file:///x/a%20b.ts")), "a b.ts");
  assertThrows(() => fromFileUrl("https://deno.com/a"), TypeError);
  assertThrows(() => toFileUrl("a/b"), TypeError);
});
