import { assertEquals } from "@std/assert";
import { join } from "@std/path";
import { METRICS_FILE, readEpochs } from "../../cli/run_files.ts";
import { RunRecorder } from "../../cli/run_recorder.ts";
import type { TrainPlan } from "../../cli/train_plan.ts";
import type { Device } from "../../kernels/device.ts";
import { withFolder } from "../support.ts";

const metrics = (epoch: number) => ({ epoch, train_loss: 1 / epoch, test_loss: 2 / epoch, test_acc: 0.5 });
const device = { name: "a device", capabilities: { software: true } } as Device;

/** A run that goes on from a checkpoint of a folder, after so many epochs. */
function goingOn(folder: string, epochs: number): TrainPlan {
  const history = Array.from({ length: epochs }, (_, i) => metrics(i + 1));
  return {
    description: {},
    data: { classNames: ["a"], train: { count: 1 }, test: { count: 1 } },
    from: { description: { progress: { history } } },
    resumed: join(folder, "last.safetensors"),
  } as unknown as TrainPlan;
}

const finished = (epoch: number) => ({ type: "epoch", metrics: metrics(epoch), seconds: 9, best: false }) as const;

Deno.test("lines of a run that moves go along; a line that was cut off costs no other", async () => {
  await withFolder(async (folder) => {
    const [from, to] = [join(folder, "from"), join(folder, "to")];
    for (const path of [from, to]) await Deno.mkdir(path);
    const lines = [1, 2].map((epoch) => JSON.stringify({ ...metrics(epoch), seconds: epoch }));
    await Deno.writeTextFile(join(from, METRICS_FILE), [...lines, '{"epoch": 3, "tr'].join("\n"));
    const recorder = new RunRecorder();
    recorder.start(goingOn(from, 2), device, to);
    recorder.saved();
    recorder.event(finished(3));
    assertEquals((await readEpochs(to)).map(({ epoch, seconds }) => [epoch, seconds]), [[1, 1], [2, 2], [3, 9]]);
  });
});

Deno.test("after a line that the disk refused in its middle the next one stands by itself", async () => {
  await withFolder(async (folder) => {
    const file = join(folder, METRICS_FILE);
    const recorder = new RunRecorder();
    recorder.start(goingOn(folder, 1), device, folder);
    recorder.saved();
    // What a full disk does to a line, in two steps.
    const lines = await Deno.readTextFile(file);
    await Deno.remove(file);
    await Deno.mkdir(file);
    recorder.event(finished(2));
    await Deno.remove(file);
    await Deno.writeTextFile(file, `${lines}{"epoch": 2, "tr`);
    recorder.event(finished(3));
    recorder.event(finished(4));
    assertEquals((await readEpochs(folder)).map(({ epoch }) => epoch), [1, 3, 4]);
  });
});
