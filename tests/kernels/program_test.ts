import { assertEquals } from "@std/assert";
import { type Dispatch, operand } from "../../kernels/dispatch.ts";
import { Program } from "../../kernels/program.ts";
import { gpuTest } from "../support.ts";

const LITTLE = { flops: 1, bytes: 8 };
/** More than half of what a submission may come to, each in its own measure. */
const MUCH = { flops: 6e10, bytes: 8 }, FAR = { flops: 1, bytes: 6e9 };
const TOO_MUCH = { flops: 1e12, bytes: 8 };

gpuTest(
  "a program is cut into submissions of bounded work, and what goes around it runs around all of it",
  async (device) => {
    const y = operand("y", 4);
    // y = 2 y + 1: a run left out, doubled or out of its turn shows in y.
    const next = (work: { readonly flops: number; readonly bytes: number }): Dispatch => ({
      label: "next",
      bindings: { y: { operand: y, access: "read_write", type: "array<f32>" } },
      source: "@compute @workgroup_size(1) fn main() { y[0] = 2.0 * y[0] + 1.0; }",
      workgroups: [1, 1, 1],
      ...work,
    });
    const buffer = await device.buffer("y", y.byteLength), kept = await device.buffer("kept", y.byteLength);
    for (
      const [works, expected] of [
        [[LITTLE, LITTLE, LITTLE, LITTLE], 1],
        [[MUCH, MUCH, LITTLE, LITTLE], 2],
        [[FAR, MUCH, FAR], 3],
        [[LITTLE, TOO_MUCH, LITTLE], 3],
        [[TOO_MUCH], 1],
      ] as const
    ) {
      const program = await Program.create(device, works.map(next), () => ({ buffer, offset: 0 }));
      const { queue } = device.gpu, submit = queue.submit;
      let submissions = 0;
      queue.submit = (commands) => {
        submissions++;
        submit.call(queue, commands);
      };
      try {
        device.write(buffer, 0, new Float32Array([1000]));
        program.submit(device, {
          before: (encoder) => encoder.clearBuffer(buffer),
          after: (encoder) => encoder.copyBufferToBuffer(buffer, 0, kept, 0, y.byteLength),
        });
      } finally {
        queue.submit = submit;
      }
      assertEquals(submissions, expected);
      const [value] = new Float32Array(await device.read(kept, 0, y.byteLength));
      assertEquals(value, 2 ** works.length - 1);
      program.destroy();
    }
    buffer.destroy();
    kept.destroy();
  },
);
