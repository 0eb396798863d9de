import { assertEquals } from "@std/assert";
import type { RunFolder } from "../../cli/run_folder.ts";
import type { TrainReport } from "../../cli/train_report.ts";
import { type Safety, Saver } from "../../cli/train_safety.ts";
import { SilentReport } from "../../cli/reports.ts";
import { UserError } from "../../kernels/user_error.ts";
import type { Trainer } from "../../nn/trainer.ts";

Deno.test("a checkpoint that was refused is tried again after ten minutes, not at each step", async () => {
  const clock = performance.now, minute = 60_000;
  let now = 0, warnings = 0, full = true;
  const save = () => full ? Promise.reject(new UserError("the disk is full")) : Promise.resolve();
  const folder = { path: ".", save } as unknown as RunFolder;
  const report: TrainReport = Object.assign(new SilentReport(), { unsaved: () => void warnings++ });
  const trainer = { checkpoint: () => Promise.resolve({}) } as unknown as Trainer;
  performance.now = () => now;
  try {
    const saver = new Saver(folder, report, { keepGoing: true } as Safety);
    const due = async (minutes: number) => {
      now = minutes * minute;
      const { due } = saver;
      if (due) await saver.trySave(trainer);
      return due;
    };
    assertEquals([await due(9), await due(10.1), await due(10.2), await due(20)], [false, true, false, false]);
    full = false;
    assertEquals([await due(20.2), await due(20.3), warnings, saver.count], [true, false, 1, 1]);
  } finally {
    performance.now = clock;
  }
});
