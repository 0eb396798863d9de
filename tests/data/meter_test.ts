import { assertEquals } from "@std/assert";
import { Meter, type Progress } from "../../data/meter.ts";

Deno.test("speed and time left come from the last seconds, at most ten reports a second", () => {
  const seen: Progress[] = [];
  let time = 0;
  const meter = new Meter((progress) => seen.push(progress), () => time);
  meter.start(1000, 101_000);
  for (time = 10; time <= 10_000; time += 10) meter.update(1000 + time);
  assertEquals(seen.length, 100);
  assertEquals(seen.at(-1), { bytes: 11_000, total: 101_000, bytesPerSecond: 1000, secondsLeft: 90 });
});

Deno.test("nothing is promised where the total or the speed is not known", () => {
  const seen: Progress[] = [];
  const meter = new Meter((progress) => seen.push(progress), () => 0);
  meter.start(0);
  meter.finish(5);
  assertEquals(seen, [{ bytes: 5, total: undefined, bytesPerSecond: 0, secondsLeft: undefined }]);
});
