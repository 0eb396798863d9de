import { assertEquals } from "@std/assert";
import { RING_SLOTS } from "../../nn/step.ts";
import { TrainingClock } from "../../nn/training_clock.ts";

/** A clock that stands still but for what is told. */
function stopped() {
  let time = 1000;
  const clock = new TrainingClock(() => time);
  return { clock, pass: (seconds: number) => time += seconds * 1000 };
}

Deno.test("speed is of steps alone: without first ones, which compile, and without pauses", () => {
  const { clock, pass } = stopped();
  assertEquals([clock.imagesPerSecond, clock.stepsPerCollect, clock.justMeasured()], [0, 1, false]);
  pass(10);
  clock.count(1, 16, true);
  assertEquals([clock.imagesPerSecond, clock.stepsPerCollect, clock.justMeasured()], [1.6, 1, false]);
  pass(0.125);
  clock.count(1, 16, false);
  assertEquals([clock.imagesPerSecond, clock.stepsPerCollect, clock.justMeasured()], [128, 1, false]);
  pass(100);
  clock.restart();
  pass(0.25);
  clock.count(2, 32, false);
  assertEquals([clock.imagesPerSecond, clock.stepsPerCollect], [128, 4], "half a second's");
  assertEquals([clock.justMeasured(), clock.justMeasured()], [true, false], "once");
});

Deno.test("between two reads at least one step is queued, and no more than half a ring", () => {
  for (const [seconds, steps] of [[3, 1], [1e-6, RING_SLOTS / 2]]) {
    const { clock, pass } = stopped();
    pass(seconds * 3);
    clock.count(3, 3, false);
    assertEquals(clock.stepsPerCollect, steps);
  }
});

Deno.test("where steps are slow one tells how long the others take, the first one where it is very slow", () => {
  for (
    const [seconds, cold, told] of [[6, false, true], [6, true, false], [61, true, true], [4, false, false]] as const
  ) {
    const { clock, pass } = stopped();
    pass(seconds);
    clock.count(1, 16, cold);
    assertEquals(clock.justMeasured(), told, `${seconds} s`);
  }
});
