/** Signals, closed pipes, two runs in one folder: the program as a process among others. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { Random } from "../../kernels/random.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { withFolder } from "../support.ts";
import { program, report, runToEnd, SMALL_RUN, trials } from "./support.ts";

const ARGS = [...SMALL_RUN, "--train-limit", "40", "--epochs", "2"];
/** Longer than any test waits. */
const ENDLESS = [...SMALL_RUN, "--train-limit", "40", "--epochs", "100000"];

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Waits until the child has printed a line with the text; what comes back reads on, and gives all that was printed. */
async function printed(child: Deno.ChildProcess, text: string): Promise<() => Promise<string>> {
  const [ours, rest] = child.stdout.pipeThrough(new TextDecoderStream()).tee();
  const reader = ours.getReader();
  let seen = "";
  while (!seen.includes(text)) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`The child ended without ${JSON.stringify(text)}: ${seen}`);
    seen += value;
  }
  // Nothing may wait for a reader that has gone.
  const draining = rest.pipeTo(new WritableStream()).catch(() => {});
  const drained = (async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return seen;
      seen += value;
    }
  })();
  return async () => (await Promise.all([drained, draining]))[0];
}

/** Windows has no signals, and pipes of another kind. */
function processTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: Deno.build.os === "windows", fn });
}

/** The checkpoint at the path must be whole, if there is one. */
async function whole(path: string): Promise<void> {
  const bytes = await Deno.readFile(path).catch(() => undefined);
  if (bytes) await decodeCheckpoint(bytes, path);
}

processTest("SIGINT and SIGTERM save and exit 130 and 143; what was saved goes on to the same bits", async () => {
  await withFolder(async (folder) => {
    const whole = await runToEnd(program([...ARGS, "--out", join(folder, "whole")]));
    assertEquals(whole.code, 0, whole.err);
    const files = ["last.safetensors", "best.safetensors"];
    const random = new Random(4), count = trials(2, 20);
    let tried = 0;
    for (let midway = 0; midway < count; tried++) {
      assert(tried < 10 * count, "runs end before they are stopped");
      const out = join(folder, `run${tried}`);
      const [signal, code] = midway % 2 ? ["SIGINT", 130] as const : ["SIGTERM", 143] as const;
      const child = program([...ARGS, "--out", out]).spawn();
      const drained = await printed(child, '"type":"step"');
      // Sooner where runs have ended before.
      await sleep(random.uniform() * 400 / (1 + tried - midway));
      try {
        child.kill(signal);
      } catch {
        // It has ended.
      }
      const [status, err, said] = await Promise.all([child.status, new Response(child.stderr).text(), drained()]);
      assert(status.code === code || status.code === 0, `${signal}: exit code ${status.code}: ${err}`);
      const { type, resume } = JSON.parse(said.trim().split("\n").at(-1)!);
      // Whoever has said that all is done does not hear the signal any more.
      if (status.code === code && type !== "end") {
        midway++;
        assertEquals([type, resume], ["interrupted", join(out, "last.safetensors")]);
        const { code, err } = await runToEnd(program([...ARGS, "--out", out, "--resume", "auto"]));
        assertEquals(code, 0, err);
      }
      for (const name of files) {
        assertEquals(await Deno.readFile(join(out, name)), await Deno.readFile(join(folder, "whole", name)), name);
      }
    }
    report("SIGINT and SIGTERM", tried, `${count} stopped midway and went on`);
  });
});

processTest("a second signal ends the program at once", async () => {
  await withFolder(async (folder) => {
    const count = trials(1, 10);
    for (let i = 0; i < count; i++) {
      const out = join(folder, `run${i}`);
      const child = program([...ENDLESS, "--out", out]).spawn();
      const drained = await printed(child, '"type":"step"');
      const started = performance.now();
      child.kill("SIGINT");
      await sleep(5);
      try {
        child.kill("SIGINT");
      } catch {
        // The first one was enough.
      }
      const [status] = await Promise.all([child.status, child.stderr.cancel(), drained()]);
      assert([130, 137].includes(status.code), `exit code ${status.code}`);
      assert(performance.now() - started < 5000);
      await whole(join(out, "last.safetensors"));
    }
    report("a second signal", count);
  });
});

processTest("a closed pipe ends the program quietly", async () => {
  await withFolder(async (folder) => {
    const commands = [
      [...ENDLESS, "--out", join(folder, "json")],
      [...ENDLESS.filter((word) => word !== "--json"), "--out", join(folder, "text")],
      ["networks"],
      ["--help"],
    ];
    for (const args of commands) {
      const child = program(args).spawn();
      const reader = child.stdout.getReader();
      for (let chunks = 1; chunks <= (args[0] === "train" ? 5 : 1); chunks++) await reader.read();
      await reader.cancel();
      const [status, err] = await Promise.all([child.status, new Response(child.stderr).text()]);
      assert(
        status.code === 0 || status.signal === "SIGPIPE" || status.code === 141,
        `${args[0]}: ${status.code}: ${err}`,
      );
      // Progress lines are not what is piped.
      assert(!/error|Error|at file:/.test(err), err);
      if (args[0] === "train") await whole(join(args[args.length - 1], "last.safetensors"));
    }
    report("a closed pipe", commands.length);
  });
});

processTest(
  "two runs in one folder: the second refuses and names the first; a dead one's lock is taken over",
  async () => {
    await withFolder(async (folder) => {
      const count = trials(1, 10);
      for (let i = 0; i < count; i++) {
        const out = join(folder, `run${i}`);
        const child = program([...ENDLESS, "--out", out]).spawn();
        const drained = await printed(child, '"type":"checkpoint"');
        for (const more of [[], ["--resume", "auto"], ["--resume", join(out, "last.safetensors")]]) {
          const second = await runToEnd(program([...ENDLESS, "--out", out, ...more]));
          assertEquals(second.code, 1, second.err);
          assertStringIncludes(
            second.err,
            `process ${child.pid} on "${Deno.hostname()}" has been training into it since`,
          );
          assertEquals(second.err.trim().split("\n").length, 1, second.err);
        }
        child.kill("SIGKILL");
        await Promise.all([child.status, child.stderr.cancel(), drained()]);
        const { code, err } = await runToEnd(program([...ENDLESS, "--epochs", "1", "--out", out, "--resume", "auto"]));
        // It may be that the first epoch was done.
        assertEquals(code, 0, err);
        if (err) assertMatch(err, /Nothing to do/);
      }
      report("two runs in one folder", count);
    });
  },
);
