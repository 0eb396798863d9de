/** Holds the stand-in to the documented behaviour of `@std/cli`'s parseArgs; passes with the real package as well. */

import { assertEquals } from "@std/assert";
import { parseArgs } from "@std/cli";

type Options = Parameters<typeof parseArgs>[1];

function check(name: string, cases: [line: string, options: Options, expected: Record<string, unknown>][]): void {
  Deno.test(name, () => {
    for (const [line, options, expected] of cases) {
      assertEquals<Record<string, unknown>>(parseArgs(line === "" ? [] : line.split(" "), options), expected, line);
    }
  });
}

check("undeclared options take the next word, numbers become numbers", [
  ["", {}, { _: [] }],
  ["--foo --bar=baz ./quux.txt", {}, { foo: true, bar: "baz", _: ["./quux.txt"] }],
  ["--n 5 --x -1.5 -- --y", {}, { n: 5, x: true, 1: 0.5, _: ["--y"] }],
  ["--n=-5 --h=0x1f --e 1e-4 --s 1a 7", {}, { n: -5, h: 31, e: 1e-4, s: "1a", _: [7] }],
  ["--a=b=c", {}, { a: "b=c", _: [] }],
]);

check("string", [
  ["--n 5 --m=007", { string: ["n", "m"] }, { n: "5", m: "007", _: [] }],
  ["--n", { string: "n" }, { n: "", _: [] }],
  ["--n --m", { string: ["n"] }, { n: "", m: true, _: [] }],
  ["7 08", { string: ["_"] }, { _: ["7", "08"] }],
]);

check("boolean", [
  ["", { boolean: ["v"] }, { v: false, _: [] }],
  ["--v word", { boolean: ["v"] }, { v: true, _: ["word"] }],
  ["--v true --w false", { boolean: ["v", "w"] }, { v: true, w: false, _: [] }],
  ["--v=false --w=true", { boolean: ["v", "w"] }, { v: false, w: true, _: [] }],
  ["--v word --w=x", { boolean: true }, { v: true, w: "x", _: ["word"] }],
]);

check("default", [
  ["", { default: { a: 1, b: "x" } }, { a: 1, b: "x", _: [] }],
  ["--a 2", { default: { a: 1 } }, { a: 2, _: [] }],
  ["", { boolean: ["v"], default: { v: true } }, { v: true, _: [] }],
]);

check("alias", [
  ["-h", { boolean: ["help"], alias: { help: "h" } }, { help: true, h: true, _: [] }],
  ["--size 3", { alias: { s: ["size", "sz"] } }, { s: 3, size: 3, sz: 3, _: [] }],
  ["-s 3", { string: ["size"], alias: { size: "s" } }, { s: "3", size: "3", _: [] }],
  ["", { default: { size: 1 }, alias: { size: "s" } }, { s: 1, size: 1, _: [] }],
]);

check("of a name that comes several times the last value counts", [["--a 1 --a 2", {}, { a: 2, _: [] }]]);

check("negatable", [
  ["--no-color", { boolean: ["color"], negatable: ["color"], default: { color: true } }, { color: false, _: [] }],
  ["--no-color", { boolean: ["color"] }, { "color": false, "no-color": true, _: [] }],
  ["--color --no-color", { boolean: ["color"], negatable: ["color"] }, { color: false, _: [] }],
]);

check("single letters cluster, the last may have a value", [
  ["-abc", {}, { a: true, b: true, c: true, _: [] }],
  ["-ab word", {}, { a: true, b: "word", _: [] }],
  ["-n5", {}, { n: 5, _: [] }],
  ["-n=5", {}, { n: 5, _: [] }],
  ["-", {}, { _: ["-"] }],
]);

check("-- ends the options", [
  ["a -- --b c", {}, { _: ["a", "--b", "c"] }],
  ["a -- --b c", { "--": true }, { "_": ["a"], "--": ["--b", "c"] }],
]);

Deno.test("unknown is called with what is not declared, and drops it by returning false", () => {
  const calls: unknown[][] = [];
  const unknown = (...call: unknown[]) => {
    calls.push(call);
    return false;
  };
  const line = ["--a", "1", "--b=2", "-c", "word", "--d", "x"];
  assertEquals<Record<string, unknown>>(parseArgs(line, { string: ["d"], unknown }), { d: "x", _: [] });
  assertEquals(calls, [["--a", "a", "1"], ["--b=2", "b", "2"], ["-c", "c", "word"]]);
});
