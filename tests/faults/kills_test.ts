/**
 * `kill -9` at any moment of training: the newest checkpoint opens, `--resume auto` goes on from it, and the weights at the
 * end are those of a run that was never killed, bit for bit.
 */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { RunFolder } from "../../cli/run_folder.ts";
import { Random } from "../../kernels/random.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { withFolder } from "../support.ts";
import { program, report, runToEnd, SMALL_RUN, trials } from "./support.ts";

/** Two epochs of ten steps, a checkpoint every three. */
const ARGS = [...SMALL_RUN, "--train-limit", "40", "--epochs", "2", "--checkpoint-every", "3", "--resume", "auto"];

/** Where a kill is aimed at. */
const MOMENTS = ["any time", "a step", "a write", "a flush", "a rename"] as const;
type Moment = typeof MOMENTS[number];

/** The system calls of a moment; the process dies on entering the n-th. */
const CALLS: Partial<Record<Moment, string>> = {
  "a write": "write,pwrite64",
  "a flush": "fsync,fdatasync",
  "a rename": "rename,renameat,renameat2",
};

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Whether `strace` may be used: it kills at a system call. Elsewhere such kills come at any time. */
async function canTrace(): Promise<boolean> {
  try {
    return (await new Deno.Command("strace", { args: ["-qq", "true"], stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}

/** Starts the run and kills it; false where it had ended before. */
async function runAndKill(out: string, moment: Moment, random: Random): Promise<boolean> {
  const calls = CALLS[moment];
  if (calls) {
    const inject = `inject=${calls}:signal=KILL:when=${1 + random.below(moment === "a write" ? 40 : 8)}`;
    const under = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${calls}`, "-e", inject];
    const { code, err } = await runToEnd(program([...ARGS, "--out", out], { under }));
    assert(code === 0 || code === 137, err);
    return code !== 0;
  }
  const child = program([...ARGS, "--out", out]).spawn();
  if (moment === "a step") {
    // After some line of the report, and a part of a step.
    const lines = 2 + random.below(12), reader = child.stdout.getReader();
    for (let seen = 0; seen < lines;) {
      const { done, value } = await reader.read();
      if (done) break;
      seen += value.filter((byte) => byte === 10).length;
    }
    await sleep(random.uniform() * 40);
    await kill(child);
    await reader.cancel();
  } else {
    await sleep(random.uniform() * 2500);
    await kill(child);
    await child.stdout.cancel();
  }
  await child.stderr.cancel();
  const { code } = await child.status;
  return code !== 0;
}

function kill(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch {
    // It has ended.
  }
}

/** How far a folder's newest checkpoint has got, in steps; -1 where there is none. Both files must be whole. */
async function reached(out: string): Promise<number> {
  const { newest, damaged } = await RunFolder.newestCheckpoint(out);
  assertEquals(damaged, []);
  if (!newest) return -1;
  const { description: { progress } } = await decodeCheckpoint(await Deno.readFile(newest), newest);
  return progress!.epoch * 10 + progress!.step;
}

Deno.test("kill -9 at any moment: the run goes on to the same bits", async () => {
  await withFolder(async (folder) => {
    const whole = await runToEnd(program([...ARGS, "--out", join(folder, "whole")]));
    assertEquals(whole.code, 0, whole.err);
    const expected = await Deno.readFile(join(folder, "whole", "last.safetensors"));
    const random = new Random(9), traced = await canTrace(), wanted = trials(4, 100);
    const kills = new Map<string, number>();
    let killed = 0, runs = 0;
    for (; killed < wanted; runs++) {
      const out = join(folder, `run${runs}`);
      let before = -1, here = 0;
      // Up to four kills to a run, so that some strike a run that was struck before.
      for (const most = 1 + random.below(4); here < most && killed < wanted;) {
        const aim = MOMENTS[random.below(MOMENTS.length)], moment = CALLS[aim] && !traced ? "any time" : aim;
        if (!await runAndKill(out, moment, random)) break;
        here++;
        killed++;
        kills.set(moment, (kills.get(moment) ?? 0) + 1);
        const now = await reached(out);
        // Nothing that was saved is lost again.
        assert(now >= before, `after a kill at ${moment}: step ${now}, before ${before}`);
        before = now;
      }
      const { code, err, out: said } = await runToEnd(program([...ARGS, "--out", out]));
      assertEquals(code, 0, err + said);
      assertEquals(await Deno.readFile(join(out, "last.safetensors")), expected, `run ${runs}: other bits`);
      const left = [...Deno.readDirSync(out)].map(({ name }) => name).filter((name) => name.endsWith(".part"));
      assertEquals(left, []);
      await Deno.remove(out, { recursive: true });
    }
    const where = [...kills].map(([moment, count]) => `${count} at ${moment}`).join(", ");
    report("kill -9", killed, `${where}; ${runs} runs ended with the bits of the one never killed`);
  });
});
