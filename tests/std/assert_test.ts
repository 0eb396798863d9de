/** Holds the stand-in to the documented behaviour of `@std/assert`; passes with the real package as well. */

import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  AssertionError,
  assertLess,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
  equal,
} from "@std/assert";

/** Whether the assertion fails, told by a plain `try`: the assertions under test judge no other here. */
function fails(assertion: () => unknown): boolean {
  try {
    assertion();
    return false;
  } catch (error) {
    if (error instanceof AssertionError) return true;
    throw error;
  }
}

function check(name: string, passing: (() => unknown)[], failing: (() => unknown)[]): void {
  Deno.test(name, () => {
    for (const assertion of passing) if (fails(assertion)) throw new Error(`Failed: ${assertion}`);
    for (const assertion of failing) if (!fails(assertion)) throw new Error(`Did not fail: ${assertion}`);
  });
}

const loop: unknown[] = [1], otherLoop: unknown[] = [1];
loop.push(loop);
otherLoop.push(otherLoop);

const same: [unknown, unknown][] = [
  [1, 1],
  [NaN, NaN],
  [0, -0],
  [[1, [2]], [1, [2]]],
  [{ a: 1, b: { c: [] } }, { b: { c: [] }, a: 1 }],
  [new Float32Array([1, -0, NaN]), new Float32Array([1, 0, NaN])],
  [new Map([["a", [1]]]), new Map([["a", [1]]])],
  [new Set([1, 2]), new Set([2, 1])],
  [new Date(5), new Date(5)],
  [/a/g, /a/g],
  [Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
  [loop, otherLoop],
];
const different: [unknown, unknown][] = [
  [1, "1"],
  [null, undefined],
  [[1, 2], [1]],
  [{ a: undefined }, {}],
  [{ a: undefined }, { b: undefined }],
  [new Float32Array([1]), new Float64Array([1])],
  [new Float32Array([1]), new Float32Array([2])],
  [new Map([["a", 1]]), new Map([["a", 2]])],
  [new Set([1]), new Set([2])],
  [new Date(5), new Date(6)],
  [/a/g, /a/],
  [[1], { 0: 1 }],
];
check(
  "assertEquals and assertNotEquals compare deeply",
  [...same.map(([a, b]) => () => assertEquals(a, b)), ...different.map(([a, b]) => () => assertNotEquals(a, b))],
  [...same.map(([a, b]) => () => assertNotEquals(a, b)), ...different.map(([a, b]) => () => assertEquals(a, b))],
);
Deno.test("equal tells the same without throwing", () => {
  for (const [a, b] of same) assert(equal(a, b));
  for (const [a, b] of different) assert(!equal(a, b));
});

check("assert takes any value", [() => assert("x")], [() => assert("")]);
check("assertInstanceOf", [() => assertInstanceOf(new TypeError(), Error)], [() => assertInstanceOf({}, Error)]);
check("assertAlmostEquals allows 1e-7 of the expected value, or the tolerance given", [
  () => assertAlmostEquals(100.000009, 100),
  () => assertAlmostEquals(5e-8, 0, 1e-7),
  () => assertAlmostEquals(1.1, 1, 0.2),
  () => assertAlmostEquals(Infinity, Infinity),
  () => assertAlmostEquals(NaN, NaN),
], [
  () => assertAlmostEquals(100.00002, 100),
  () => assertAlmostEquals(5e-8, 0),
  () => assertAlmostEquals(1.3, 1, 0.2),
  () => assertAlmostEquals(NaN, 1),
  () => assertAlmostEquals(1, NaN),
  () => assertAlmostEquals(1, Infinity),
]);
check("the order of numbers", [
  () => assertGreater(2, 1),
  () => assertLess(1, 2),
], [
  () => assertGreater(1, 1),
  () => assertGreater(NaN, 1),
  () => assertLess(1, 1),
]);
check("texts", [
  () => assertStringIncludes("abc", "bc"),
  () => assertMatch("abc", /b/),
], [
  () => assertStringIncludes("abc", "ac"),
  () => assertMatch("abc", /d/),
]);

const bang = () => {
  throw new TypeError("it went bang");
};
check("assertThrows looks at the class and the message", [
  () => assertThrows(bang),
  () => assertThrows(bang, "a message"),
  () => assertThrows(bang, Error, "bang"),
  () => assertThrows(bang, TypeError, "bang"),
], [
  () => assertThrows(() => 1),
  () => assertThrows(bang, RangeError),
  () => assertThrows(bang, TypeError, "boom"),
]);

Deno.test("assertThrows and assertRejects give the error back", async () => {
  const error: TypeError = assertThrows(bang, TypeError);
  assertEquals(error.message, "it went bang");
  const rejected: TypeError = await assertRejects(() => Promise.reject(new TypeError("late")), TypeError, "late");
  assertEquals(rejected.message, "late");
});

Deno.test("assertRejects refuses a promise that resolves, another error, and a function that throws at once", async () => {
  const calls = [
    () => assertRejects(() => Promise.resolve(1)),
    () => assertRejects(() => Promise.reject(new TypeError("x")), RangeError),
    () => assertRejects(() => Promise.reject(new TypeError("x")), TypeError, "y"),
    () => assertRejects(bang as () => Promise<unknown>),
  ];
  for (const call of calls) {
    const outcome = await call().then(() => undefined, (error) => error);
    assert(outcome instanceof AssertionError, `${call}`);
  }
});

Deno.test("a failure shows both values and the message given", () => {
  const { message } = assertThrows(() => assertEquals([1], [2], "sizes"), AssertionError);
  for (const text of ["1", "2", "sizes"]) assertStringIncludes(message, text);
});
