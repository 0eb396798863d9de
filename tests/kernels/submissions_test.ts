import { assertEquals } from "@std/assert";
import { type Dispatch, operand, write } from "../../kernels/dispatch.ts";
import { Program } from "../../kernels/program.ts";
import { stepSettingsOperand } from "../../kernels/step_settings.ts";
import { countSubmission, inSubmissions } from "../../kernels/submissions.ts";
import { gpuTest } from "../support.ts";

const LITTLE = { flops: 1, bytes: 8 }, TOO_MUCH = { flops: 1e12, bytes: 8 };
/** More than half of what a submission may come to, each in its own measure. */
const MUCH = { flops: 6e10, bytes: 8 }, FAR = { flops: 1, bytes: 6e9 };

gpuTest(
  "work is submitted in bounded parts that are counted, and what goes around it goes around all",
  async (device) => {
    const y = operand("y", 4), counts = operand("counts", 4), settings = stepSettingsOperand();
    // y = 2 y + 1: a run left out, doubled or out of its turn shows in y.
    const next = (work: { readonly flops: number; readonly bytes: number }): Dispatch => ({
      label: "next",
      bindings: { y: write(y, "array<f32>") },
      source: "@compute @workgroup_size(1) fn main() { y[0] = 2.0 * y[0] + 1.0; }",
      workgroups: [1, 1, 1],
      ...work,
    });
    const buffers = new Map<unknown, GPUBuffer>();
    for (const each of [y, counts, settings]) buffers.set(each, await device.buffer(each.label, each.byteLength));
    const kept = await device.buffer("kept", y.byteLength + counts.byteLength);
    for (
      const [works, expected] of [
        [[LITTLE, LITTLE, LITTLE, LITTLE], 1],
        [[MUCH, MUCH, LITTLE, LITTLE], 2],
        [[FAR, MUCH, FAR], 3],
        [[LITTLE, TOO_MUCH, LITTLE], 3],
        [[TOO_MUCH], 1],
      ] as const
    ) {
      const dispatches = inSubmissions(works.map(next), countSubmission({ counts, settings }));
      const program = await Program.create(device, dispatches, (each) => ({ buffer: buffers.get(each)!, offset: 0 }));
      const { queue } = device.gpu, submit = queue.submit;
      let submissions = 0;
      queue.submit = (commands) => {
        submissions++;
        submit.call(queue, commands);
      };
      try {
        device.write(buffers.get(y)!, 0, new Float32Array([1000]));
        program.submit(device, {
          before: (encoder) => [y, counts].forEach((each) => encoder.clearBuffer(buffers.get(each)!)),
          after: (encoder) =>
            [y, counts].forEach((each, i) =>
              encoder.copyBufferToBuffer(buffers.get(each)!, 0, kept, i * y.byteLength, each.byteLength)
            ),
        });
      } finally {
        queue.submit = submit;
      }
      const bytes = await device.read(kept, 0, kept.size);
      assertEquals(new Float32Array(bytes)[0], 2 ** works.length - 1);
      assertEquals([submissions, new Uint32Array(bytes)[y.byteLength / 4]], [expected, expected]);
      program.destroy();
    }
    for (const buffer of [...buffers.values(), kept]) buffer.destroy();
  },
);
