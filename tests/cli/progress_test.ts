import { assertEquals } from "@std/assert";
import { formatBytes, formatDuration, formatRate, ProgressLine, type ProgressOutput } from "../../cli/progress.ts";

function recorder(isTerminal: boolean, columns = 80) {
  const written: string[] = [];
  let time = 0;
  const output: ProgressOutput = { isTerminal, write: (text) => written.push(text), columns: () => columns };
  return { written, line: new ProgressLine({ output, now: () => time }), pass: (ms: number) => time += ms };
}

Deno.test("on a terminal the line is redrawn in place, at most ten times a second", () => {
  const { written, line, pass } = recorder(true);
  line.update("a");
  pass(50);
  line.update("b");
  pass(50);
  line.update("c");
  assertEquals(written, ["\ra\x1b[K", "\rc\x1b[K"]);
});

Deno.test("on a terminal the line is clipped to the columns, its last one left free", () => {
  const { written, line } = recorder(true, 6);
  line.update("12345678");
  assertEquals(written, ["\r12345\x1b[K"]);
});

Deno.test("clearing takes the line off once, and the next update shows at once", () => {
  const { written, line } = recorder(true);
  line.clear();
  line.update("a");
  line.clear();
  line.clear();
  line.update("b");
  assertEquals(written, ["\ra\x1b[K", "\r\x1b[2K", "\rb\x1b[K"]);
});

Deno.test("elsewhere whole lines appear, at most one in five seconds, also across clears", () => {
  const { written, line, pass } = recorder(false, 3);
  line.update("first");
  line.clear();
  pass(4999);
  line.update("too soon");
  pass(1);
  line.update("second");
  assertEquals(written, ["first\n", "second\n"]);
});

Deno.test("formatDuration", () => {
  const cases: [number, string][] = [
    [0, "0s"],
    [59.4, "59s"],
    [59.6, "1m 00s"],
    [65, "1m 05s"],
    [3599, "59m 59s"],
    [7380, "2h 03m"],
    [90000, "1d 01h"],
    [Infinity, "?"],
    [NaN, "?"],
    [-1, "?"],
  ];
  for (const [seconds, text] of cases) assertEquals(formatDuration(seconds), text);
});

Deno.test("formatBytes", () => {
  const cases: [number, string][] = [
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 kB"],
    [999_960, "1.0 MB"],
    [12_345_678, "12.3 MB"],
    [170_498_071, "170.5 MB"],
    [5e12, "5.0 TB"],
    [5e15, "5000.0 TB"],
  ];
  for (const [bytes, text] of cases) assertEquals(formatBytes(bytes), text);
});

Deno.test("formatRate", () => {
  assertEquals(formatRate(1.234, "img"), "1.23 img/s");
  assertEquals(formatRate(45.67, "img"), "45.7 img/s");
  assertEquals(formatRate(99.96, "img"), "100 img/s");
  assertEquals(formatRate(1234.4, "img"), "1234 img/s");
  assertEquals(formatRate(Infinity, "img"), "? img/s");
});
