import { assert, assertEquals } from "@std/assert";
import { bar, Display, displayLines, type DisplayState, rateText, sparkline } from "../../cli/display.ts";

const state: DisplayState = {
  epoch: 2,
  epochs: 10,
  step: 50,
  steps: 100,
  losses: Array.from({ length: 300 }, (_, i) => 2 - i / 300),
  learningRate: 0.0125,
  imagesPerSecond: 1234,
  secondsLeft: 3725,
  accuracy: 0.5,
  best: { accuracy: 0.625, epoch: 1 },
  bytes: 1.3e9,
};

Deno.test("no line is wider than the terminal, whatever is shown", () => {
  for (const columns of [10, 40, 79, 80, 81, 120, 200, 400]) {
    for (
      const each of [state, { ...state, testing: { done: 5, images: 10000 } }, {
        ...state,
        losses: [],
        best: undefined,
      }]
    ) {
      for (const line of displayLines(each, columns)) assert([...line].length < columns, `${columns}: ${line}`);
    }
  }
});

Deno.test("80 columns show all of it", () => {
  const lines = displayLines(state, 80);
  const bars = lines.slice(0, 2);
  assertEquals(bars.map((line) => line.replace(/[█▏▎▍▌▋▊▉░]+/, "BAR")), [
    "Epoch   2/10   BAR  15 %  1h 02m left",
    "Step   50/100  BAR  50 %  1234 img/s",
  ]);
  const width = (line: string) => [...line.matchAll(/[█▏▎▍▌▋▊▉░]/g)].length;
  assertEquals(width(bars[0]), width(bars[1]));
  assertEquals(lines[2], "loss 1.0033  lr 0.0125  acc 0.5000  best 0.6250 in 1  GPU 1.3 GB");
  assertEquals([[...lines[3]].length, lines[3][0], lines[3].at(-1)], [79, "█", "▁"]);
  assertEquals(displayLines(state, 200).length, 3, "a wide terminal has the curve behind the facts");
});

Deno.test("testing has a bar of its own", () => {
  const [, line] = displayLines({ ...state, testing: { done: 250, images: 1000 } }, 80);
  assert(/^Test {3}250\/1000 {2}█+░+ {2}25 % {2}testing$/.test(line.replace(/[▏▎▍▌▋▊▉]/, "█")), line);
});

Deno.test("bars and curves", () => {
  assertEquals([0, 0.5, 1, 2, -1].map((share) => bar(share, 4)), ["░░░░", "██░░", "████", "████", "░░░░"]);
  assertEquals(bar(0.15625, 4), "▋░░░");
  assertEquals(sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8), "▁▂▃▄▅▆▇█");
  assertEquals(sparkline([0, 0, 7, 7, NaN], 2), "▁█");
  assertEquals([sparkline([], 5), sparkline([3, 3], 5)], ["", "▁▁"]);
  assertEquals([0.01, 3.21e-5, 0, 0.123456].map(rateText), ["0.01", "3.2e-5", "0", "0.123"]);
});

Deno.test("the display draws ten times a second at most, and at once after it was taken off", () => {
  const drawn: string[] = [];
  let now = 0;
  const draw = Object.assign((text: string) => void drawn.push(text), {
    clear: () => void drawn.push("clear"),
    done: () => void drawn.push("done"),
  });
  const display = new Display({ draw, columns: () => 80 }, () => now);
  for (; now < 250; now += 10) display.update(state);
  assertEquals(drawn.length, 3);
  display.clear();
  display.update(state);
  display.close();
  assertEquals(drawn.slice(3).map((text) => text.split(" ")[0]), ["clear", "Epoch", "clear", "done"]);
});
