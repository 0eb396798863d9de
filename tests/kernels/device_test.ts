/** What the device says when things go wrong. Each test opens a device of its own, and loses it. */

import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { type Device, DeviceLostError, directives, OutOfMemoryError } from "../../kernels/device.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { type Dispatch, type Operand, operand, read, write } from "../../kernels/dispatch.ts";
import { Program, runOnce } from "../../kernels/program.ts";
import { UserError } from "../../kernels/user_error.ts";
import { trackBuffers } from "../support.ts";

function withDevice(name: string, run: (device: Device) => Promise<void>): void {
  const fn = async () => {
    const device = await openDevice();
    try {
      await run(device);
    } finally {
      device.close();
    }
  };
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn });
}

withDevice("of several buffers none stays where there is no room for all", async (device) => {
  using tracked = trackBuffers(device);
  const { maxBufferBytes } = device.capabilities;
  const fitting = { label: "one", byteLength: 64 }, large = { label: "too large", byteLength: maxBufferBytes + 4 };
  await assertRejects(() => device.buffers([fitting, fitting, large]), UserError, "for too large");
  assertEquals([tracked.made, tracked.left.size], [2, 0]);
  assertEquals((await device.buffers([fitting, fitting])).map(({ size }) => size), [64, 64]);
  assertEquals(tracked.left.size, 2);
});

/** `y = 2 x`, one vec4 a workgroup. */
function double(label: string, x: Operand, y: Operand, workgroups = 1): Dispatch {
  return {
    label,
    bindings: { x: read(x), y: write(y) },
    source: "@compute @workgroup_size(1) fn main() { y[0] = 2.0 * x[0]; }",
    workgroups: [workgroups, 1, 1],
    flops: 4,
    bytes: 32,
  };
}

withDevice("device: a kernel that cannot be launched is named before anything runs", async (device) => {
  const [a, b, c] = ["a", "b", "c"].map((label) => operand(label, 4));
  const tooMany = device.capabilities.maxWorkgroupsPerDimension + 1;
  const dispatches = [double("fine", a, b), double("too large", b, c, tooMany)];
  const error = await assertRejects(() => runOnce(device, dispatches, new Map(), [c]), Error);
  assertStringIncludes(error.message, 'WebGPU refuses kernel "too large"');
  device.check();
});

withDevice("device: a kernel that does not compile is named, with its text", async (device) => {
  const [a, b] = ["a", "b"].map((label) => operand(label, 4));
  const wrong = { ...double("wrong", a, b), source: "fn main() { y[0] = nothing; }" };
  const error = await assertRejects(() => runOnce(device, [wrong], new Map(), [b]), Error);
  assertStringIncludes(error.message, 'Cannot compile kernel "wrong"');
  assertStringIncludes(error.message, "nothing");
});

withDevice(
  "device: an error at run time ends the run with the kernel's name, and no result is given",
  async (device) => {
    const [a, b, c] = ["a", "b", "c"].map((label) => operand(label, 4));
    const places = new Map<Operand, GPUBuffer>();
    for (const each of [a, b, c]) places.set(each, await device.buffer(each.label, each.byteLength));
    const program = await Program.create(device, [double("first", a, b), double("second", b, c)], (each) => ({
      buffer: places.get(each)!,
      offset: 0,
    }));
    places.get(c)!.destroy();
    program.submit(device);
    const error = await assertRejects(() => device.read(places.get(b)!, 0, 16), Error);
    assertStringIncludes(error.message, 'WebGPU refuses kernel "second"');
    assertThrows(() => device.check(), Error, "second");
  },
);

withDevice("device: the loss of the device is told as such, whatever is being done", async (device) => {
  const buffer = await device.buffer("kept", 64);
  device.gpu.destroy();
  await assertRejects(() => device.read(buffer, 0, 64), DeviceLostError, "The GPU device was lost");
  assertThrows(() => device.check(), DeviceLostError);
  const [a, b] = ["a", "b"].map((label) => operand(label, 4));
  await assertRejects(() => runOnce(device, [double("late", a, b)], new Map(), [b]), DeviceLostError);
});

withDevice("device: its loss is told where error scopes are lost with it, as in a browser", async (device) => {
  const dropped = new DOMException("Instance dropped in popErrorScope", "OperationError");
  device.gpu.popErrorScope = () => Promise.reject(dropped);
  assertEquals(await assertRejects(() => device.buffer("early", 64)), dropped);
  device.gpu.destroy();
  await assertRejects(() => device.buffer("late", 64), DeviceLostError, "The GPU device was lost");
});

withDevice("device: one that was closed says so, and is not lost", async (device) => {
  const buffer = await device.buffer("kept", 64), closed = "Cannot use the device: it was closed";
  device.close();
  await device.gpu.lost;
  const uses = [
    () => device.check(),
    () => device.buffer("late", 64),
    () => device.write(buffer, 0, new Uint8Array(4)),
    () => device.read(buffer, 0, 64),
    () => device.submit(device.gpu.createCommandEncoder()),
  ];
  for (const use of uses) {
    const error = await assertRejects(async () => await use(), Error, closed);
    assertEquals(error instanceof DeviceLostError, false);
  }
  device.close();
});

withDevice(
  "device: what is read is of one moment, whatever is written meanwhile, and passes piece by piece",
  async (device) => {
    const bytes = 2 ** 26, buffer = await device.buffer("large", bytes), other = await device.buffer("other", 16);
    const filled = (value: number) => new Uint8Array(bytes).fill(value);
    device.write(buffer, 0, filled(1));
    const { gpu } = device, create = gpu.createBuffer.bind(gpu), staged: number[] = [];
    gpu.createBuffer = (descriptor) => (staged.push(descriptor.size), create(descriptor));
    const quiet = device.read(buffer, 0, bytes);
    assertEquals(staged, [2 ** 24], "a piece at a time, where nothing changes");
    await quiet;
    staged.length = 0;
    const before = device.read(buffer, 0, bytes);
    device.write(buffer, 0, filled(2));
    const encoder = device.gpu.createCommandEncoder(), after = device.read(buffer, 0, bytes);
    encoder.clearBuffer(buffer);
    device.submit(encoder);
    for (const [reading, value] of [[before, 1], [after, 2], [device.read(buffer, 0, bytes), 0]] as const) {
      assertEquals(new Uint8Array(await reading).findIndex((each) => each !== value), -1, `${value}`);
    }
    assertEquals(staged, Array(12).fill(2 ** 24));
    // Small ones share a piece.
    staged.length = 0;
    device.write(other, 0, new Uint32Array([1, 2, 3, 4]));
    const some = [[8, 8], [0, 4]].map(([offset, byteLength]) => ({ buffer: other, offset, byteLength }));
    const [first, second] = await device.readAll([...some, { buffer, offset: 0, byteLength: 2 ** 24 }]);
    assertEquals([[...new Uint32Array(first)], [...new Uint32Array(second)]], [[3, 4], [1]]);
    assertEquals(staged, [2 ** 24, 12]);
  },
);

/** Has a device refuse buffers that `take` refuses, and tells `free` of those that are freed. None takes any room. */
function ration({ gpu }: Device, take: (bytes: number) => boolean, free = (_bytes: number) => {}): void {
  const createBuffer = gpu.createBuffer.bind(gpu);
  let refusal: GPUError | null = null;
  gpu.createBuffer = (descriptor) => {
    refusal = take(descriptor.size) ? null : new GPUOutOfMemoryError("no room");
    const buffer = createBuffer({ ...descriptor, size: 4 });
    if (!refusal) buffer.destroy = () => void free(descriptor.size);
    return buffer;
  };
  gpu.popErrorScope = () => Promise.resolve(refusal);
}

withDevice("device: no room is told with what was asked; room is measured", async (device) => {
  const tooLarge = device.capabilities.maxBufferBytes + 4;
  await assertRejects(() => device.buffer("weights", tooLarge), UserError, "for weights: a buffer of");
  // A device of 100 MB, as software adapters promise any amount.
  let left = 100e6;
  ration(device, (bytes) => bytes <= left && (left -= bytes, true), (bytes) => void (left += bytes));
  const error = await assertRejects(() => device.buffer("slab", 200e6), OutOfMemoryError);
  assertEquals(error.byteLength, 200e6);
  assertStringIncludes(error.message, "Cannot allocate 191 MiB for slab");
  const room = await device.roomFor(1e9);
  assert(room > 100e6 - 2 ** 24 && room <= 100e6, `${room} of 100 MB`);
  assertEquals(left, 100e6);
  assertEquals(await device.roomFor(30e6), 30e6);
});

withDevice("device: where it gives no large buffers, the limits say so", async (device) => {
  const before = device.capabilities, { maxBufferBytes: _, ...withoutBuffers } = before;
  // As Deno 2.9 does on a GPU of which the host sees 256 MiB.
  let given = 240 * 2 ** 20;
  ration(device, (bytes) => bytes <= given);
  await device.findLargestBuffer();
  const { maxBufferBytes, ...others } = device.capabilities;
  assert(maxBufferBytes > 200 * 2 ** 20 && maxBufferBytes < given, `${maxBufferBytes}`);
  assertEquals(others, { ...withoutBuffers, maxBindingBytes: Math.min(maxBufferBytes, before.maxBindingBytes) });
  await assertRejects(() => device.buffer("weights", maxBufferBytes + 4), UserError, "a buffer of");
  // One that gives nothing at all is no reason to plan for nothing.
  given = 0;
  const lowered = device.capabilities;
  await device.findLargestBuffer();
  assertEquals(device.capabilities, lowered);
});

withDevice("device: a device that gives large buffers keeps its limits", async (device) => {
  const before = device.capabilities;
  await device.findLargestBuffer();
  assertEquals(device.capabilities, before);
});

withDevice("device: what is larger than a piece is written and read whole", async (device) => {
  const bytes = 2 ** 26 + 20, values = new Uint32Array(bytes / 4 + 3);
  for (let i = 0; i < values.length; i++) values[i] = Math.imul(i, 2654435761);
  const buffer = await device.buffer("large", bytes + 16);
  device.write(buffer, 16, values.subarray(3));
  const read = new Uint32Array(await device.read(buffer, 16, bytes));
  assertEquals(read.length, bytes / 4);
  assertEquals(read.findIndex((value, i) => value !== values[i + 3]), -1);
});

withDevice("device: a lack of memory that shows late is told as such", (device) => {
  const event = new Event("uncapturederror");
  Object.defineProperty(event, "error", { value: new GPUOutOfMemoryError("no room") });
  device.gpu.dispatchEvent(event);
  const error = assertThrows(() => device.check(), OutOfMemoryError);
  assertStringIncludes(error.message, "is out of memory; use a smaller batch");
  return Promise.resolve();
});

Deno.test("shaders that use subgroups say so first in browsers, and not in Deno", () => {
  const code = "fn f() -> f32 { return subgroupBroadcast(1.0, 0u); }";
  assertEquals(directives(code, false), "enable subgroups;\n");
  assertEquals(directives(code, true), "");
  assertEquals(directives("fn f() {} // no subgroups", false), "");
});
