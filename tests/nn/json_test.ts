import { assertEquals, assertThrows } from "@std/assert";
import { parseStrictJson, quoted } from "../../nn/json.ts";

Deno.test("JSON with one meaning is parsed as ever", () => {
  for (
    const text of ["1", '"a\\"b:{"', "[]", '{"a":{"b":1},"c":[{"b":2},{"b":3}],"":null}', ' { "a" : [ 1 , "a" ] } ']
  ) {
    assertEquals(parseStrictJson(text), JSON.parse(text));
  }
});

Deno.test("a key that is there twice is refused, however it is written", () => {
  for (const text of ['{"a":1,"a":2}', '{"x":{"a":1,"b":2,"\\u0061":1}}', '[{"a":[],"a":[]}]']) {
    assertThrows(() => parseStrictJson(text), SyntaxError, 'has the key "a" twice');
  }
});

Deno.test("what is no JSON, and what has no bottom, is refused", () => {
  for (const text of ["", "{", '{"a":NaN}', "'a'", '{"a":1}}']) {
    assertThrows(() => parseStrictJson(text), SyntaxError, "is not JSON");
  }
  for (const text of ["[".repeat(1_000_000), '{"a":'.repeat(65) + "1" + "}".repeat(65)]) {
    assertThrows(() => parseStrictJson(text), SyntaxError, "nested too deep");
  }
});

Deno.test("what a file says is short in a message, and steers no terminal", () => {
  assertEquals(quoted("conv1.weight"), '"conv1.weight"');
  assertEquals(quoted("\x1b[2J\u009b1A\u202e"), '"\\u001b[2J\u{fffd}1A\u{fffd}"');
  assertEquals(quoted("x".repeat(1000)).length, 82);
  assertEquals([quoted([1, 2, [3]]), quoted({ a: 1 }), quoted(null), quoted(1e300)], [
    "[1,2,...]",
    "an object",
    "null",
    "1e+300",
  ]);
});
