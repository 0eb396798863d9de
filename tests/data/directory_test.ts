import { assertEquals, assertThrows } from "@std/assert";
import { join, resolve } from "@std/path";
import { dataDirectory } from "../../data/directory.ts";
import { UserError } from "../../kernels/user_error.ts";

const surroundings = (os: typeof Deno.build.os, variables: Record<string, string>) => ({
  os,
  variable: (name: string): string | undefined => variables[name],
});

Deno.test("the data directory: what is said, else the variable, else the user's cache", () => {
  const linux = { HOME: "/home/ada", XDG_CACHE_HOME: "/cache", RESNEXT_DATA: "/data" };
  assertEquals(dataDirectory("/said", surroundings("linux", linux)), resolve("/said"));
  assertEquals(dataDirectory("said", surroundings("linux", linux)), resolve("said"));
  assertEquals(dataDirectory(undefined, surroundings("linux", linux)), resolve("/data"));
  const places: [typeof Deno.build.os, Record<string, string>, string][] = [
    ["linux", { HOME: "/home/ada", XDG_CACHE_HOME: "/cache" }, join("/cache", "resnext")],
    ["linux", { HOME: "/home/ada" }, join("/home/ada", ".cache", "resnext")],
    ["darwin", { HOME: "/Users/ada" }, join("/Users/ada", "Library", "Caches", "resnext")],
    ["windows", { LOCALAPPDATA: "C:\\Local" }, join("C:\\Local", "resnext")],
  ];
  for (const [os, variables, place] of places) {
    assertEquals(dataDirectory(undefined, surroundings(os, variables)), place);
  }
});

Deno.test("where nothing names a place, the error says how to name one", () => {
  for (const os of ["linux", "darwin", "windows"] as const) {
    assertThrows(() => dataDirectory(undefined, surroundings(os, {})), UserError, "--data-dir");
  }
});
