import { assert, assertEquals } from "@std/assert";
import { openDevice } from "../../kernels/open_device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { relu } from "../../kernels/elementwise.ts";
import { Program } from "../../kernels/program.ts";
import { passTimes, tickNanoseconds } from "../../kernels/timestamps.ts";
import { standIn, testDevice } from "../support.ts";

const device = await testDevice();

/** A test of the device's clock, where it has one. */
function clockTest(name: string, fn: () => Promise<void>): void {
  const ignore = !device.capabilities.timestamps;
  Deno.test({ name, ignore, sanitizeOps: false, sanitizeResources: false, fn });
}

clockTest("passes are timed by the device's clock: ten times the work takes longer", async () => {
  const elements = 2 ** 20, [x, y] = ["x", "y"].map((label) => operand(label, elements));
  const buffers = new Map([[x, await device.buffer("x", x.byteLength)], [y, await device.buffer("y", y.byteLength)]]);
  const dispatches = relu({ x, y }, elements, device.capabilities);
  const program = await Program.create(device, dispatches, (operand) => ({ buffer: buffers.get(operand)!, offset: 0 }));
  try {
    const times = Array.from({ length: 5 }, () => [1, 10]).flat();
    const passes = times.map((each) => (encoder: GPUCommandEncoder, stamps: GPUComputePassTimestampWrites) =>
      program.encode(encoder, each, stamps)
    );
    // The first run may compile.
    await passTimes(device, passes);
    let ms: number[] | undefined;
    // The machine may be too busy for the two clocks to agree at once.
    for (let attempt = 0; !ms && attempt < 20; attempt++) ms = await passTimes(device, passes);
    assert(ms);
    assertEquals(ms.length, times.length);
    const least = (wanted: number) => Math.min(...ms.filter((_, i) => times[i] === wanted));
    assert(least(1) > 0 && least(10) > least(1), `${ms}`);
  } finally {
    program.destroy();
    for (const buffer of buffers.values()) buffer.destroy();
  }
});

clockTest("a device whose stamps are ticks of its own is timed in milliseconds all the same", async () => {
  const device = await openDevice();
  try {
    /** With a clock of its own to measure. */
    const stamped = (ticksOf: (stamp: bigint) => bigint) =>
      standIn(device, {
        gpu: standIn(device.gpu, {}),
        read: async (...args) => BigUint64Array.from(new BigUint64Array(await device.read(...args)), ticksOf).buffer,
      });
    assertEquals(await tickNanoseconds(stamped((stamp) => stamp)), 1);
    // A clock that stands still is not believed elsewhere; here it must do no harm.
    assertEquals(await tickNanoseconds(stamped(() => 7n)), 1);
    const slow = stamped((stamp) => stamp / 40n), tick = await tickNanoseconds(slow);
    assert(tick > 20 && tick < 80, `${tick}`);
    assertEquals(await tickNanoseconds(slow), tick);
  } finally {
    device.close();
  }
});
