/**
 * Disks that are full, read-only or gone while a run writes its checkpoints: one clear line, the old checkpoint whole,
 * exit code 1; with `--keep-going` the run goes on and saves when the fault has passed. Needs root, for `mount`.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { Random } from "../../kernels/random.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { NARROW_NETWORK, writeNarrow, writePictures } from "../cli/support.ts";
import { withFolder } from "../support.ts";
import { LONG, program, report, runToEnd, SMALL_RUN, trials } from "./support.ts";

const ARGS = [...SMALL_RUN, "--train-limit", "40", "--epochs", "3", "--checkpoint-every", "3"];

async function system(command: string, ...args: string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}

/** Runs with a small file system in memory; false where none may be mounted. */
async function withSmallDisk(bytes: number, run: (folder: string) => Promise<void>): Promise<boolean> {
  return await withFolder(async (folder) => {
    if (!await system("mount", "-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", folder)) return false;
    try {
      await run(folder);
    } finally {
      await system("umount", "--lazy", "--recursive", folder);
    }
    return true;
  });
}

const canMount = await withSmallDisk(4096, () => Promise.resolve());

/** A test that mounts disks. */
function diskTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: !canMount, fn });
}

/** Without warnings: files beside the checkpoints are of use and not of need. */
function errorsOf(err: string): string {
  return err.split("\n").filter((line) => !line.startsWith("warning: ")).join("\n");
}

/** A checkpoint's size here, and a page beyond. */
const CHECKPOINT = 827_900;

/** The checkpoint at the path must be whole. */
async function whole(path: string): Promise<void> {
  await decodeCheckpoint(await Deno.readFile(path), path);
}

/** A child's lines as they come. */
function lines(child: Deno.ChildProcess): ReadableStreamDefaultReader<string> {
  let rest = "";
  return child.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(
    new TransformStream<string, string>({
      transform(chunk, controller) {
        const parts = (rest + chunk).split("\n");
        rest = parts.pop()!;
        for (const part of parts) controller.enqueue(part);
      },
    }),
  ).getReader();
}

async function until(reader: ReadableStreamDefaultReader<string>, text: string, times = 1): Promise<boolean> {
  for (let seen = 0; seen < times;) {
    const { done, value } = await reader.read();
    if (done) return false;
    if (value.includes(text)) seen++;
  }
  return true;
}

diskTest("a disk that is full at any byte of a checkpoint: one line, exit 1, the old checkpoint whole", async () => {
  const random = new Random(8), count = trials(2, 30);
  for (let i = 0; i < count; i++) {
    // Room for the first checkpoint and a part of the next one, or of the best one.
    const room = CHECKPOINT + 4096 * (8 + random.below(Math.floor(CHECKPOINT / 2048) - 8));
    await withSmallDisk(room, async (disk) => {
      const out = join(disk, "run");
      // With --keep-going it trains to the end, and tries the last checkpoint for some seconds.
      const keepGoing = i % 2 === 1, text = ARGS.filter((word) => word !== "--json");
      const { code, err, out: said } = await runToEnd(
        program([...text, "--out", out, ...(keepGoing ? ["--keep-going"] : [])]),
      );
      assertEquals(code, 1, err);
      assertMatch(err, /^error: Cannot save ".*": the disk is full; make room or choose another directory\n$/m);
      assertEquals(said.includes("Epoch  3/3 |"), keepGoing);
      assertEquals(
        /^warning: Cannot save .*: the disk is full; .*training goes on and tries again$/m.test(err),
        keepGoing,
      );
      await whole(join(out, "last.safetensors"));
      const left = [...Deno.readDirSync(out)].map(({ name }) => name).filter((name) => name.endsWith(".part"));
      assertEquals(left, []);
    });
  }
  report("a full disk while saving", count, "with --keep-going and without");
});

diskTest("a folder that takes no checkpoint is found out before the first step", async () => {
  await withSmallDisk(CHECKPOINT / 2, async (disk) => {
    const { code, out, err } = await runToEnd(program([...ARGS, "--out", join(disk, "run")]));
    assertEquals(code, 1, err);
    assertMatch(errorsOf(err), /^error: Cannot save .*the disk is full.*\n$/);
    assert(!out.includes('"type":"step"'));
    assertEquals([...Deno.readDirSync(disk)], []);
  });
  await withSmallDisk(4 * CHECKPOINT, async (disk) => {
    await system("mount", "-o", "remount,ro", disk);
    for (const out of [disk, join(disk, "run")]) {
      const { code, err } = await runToEnd(program([...ARGS, "--out", out]));
      assertEquals(code, 1, err);
      assertMatch(errorsOf(err), /^error: Cannot .*: the file system is read-only; choose another directory\n$/);
    }
  });
  report("a disk that takes nothing", 2);
});

/** What befalls a folder, and what takes it away again. */
const FAULTS: Readonly<
  Record<string, { strike: (disk: string) => Promise<unknown>; heal: (disk: string) => Promise<unknown> }>
> = {
  "made read-only": {
    // Another one over it: what has a file open for writing cannot itself be made read-only.
    strike: (disk) => system("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", join(disk, "run")),
    heal: (disk) => system("umount", join(disk, "run")),
  },
  "filled up": {
    strike: (disk) => system("dd", "if=/dev/zero", `of=${join(disk, "ballast")}`, "bs=4096"),
    heal: (disk) => Deno.remove(join(disk, "ballast")),
  },
  "removed": {
    strike: (disk) => Deno.remove(join(disk, "run"), { recursive: true }),
    heal: () => Promise.resolve(),
  },
};

diskTest("a folder that is made read-only, filled up or removed while a run goes on", async () => {
  let tried = 0;
  for (const [index, [fault, { strike, heal }]] of Object.entries(FAULTS).entries()) {
    // In the short version each fault once, with and without in turns.
    for (const keepGoing of LONG ? [false, true] : [index % 2 === 0]) {
      for (let i = 0; i < trials(1, 5); i++) {
        await withSmallDisk(4 * CHECKPOINT, async (disk) => {
          tried++;
          const out = join(disk, "run"), last = join(out, "last.safetensors");
          const child = program([...ARGS, "--epochs", "8", "--out", out, ...(keepGoing ? ["--keep-going"] : [])])
            .spawn();
          const reader = lines(child), errors = new Response(child.stderr).text();
          await until(reader, '"type":"checkpoint"', 2 + i);
          await strike(disk);
          if (!keepGoing && fault !== "removed") {
            while (!(await reader.read()).done);
            const [{ code }, err] = await Promise.all([child.status, errors]);
            assertEquals(code, 1, `${fault}: ${err}`);
            assertMatch(errorsOf(err), /^error: Cannot save "[^"]*": [^\n]*\n$/, fault);
            await heal(disk);
            await whole(last);
          } else if (!keepGoing) {
            while (!(await reader.read()).done);
            const [{ code }, err] = await Promise.all([child.status, errors]);
            assertEquals(code, 1, err);
            assertMatch(errorsOf(err), /^error: Cannot save "[^"]*": no such file or directory\n$/);
          } else {
            if (fault !== "removed") {
              assert(await until(reader, '"type":"warning"'), `${fault}: no warning`);
            }
            await heal(disk);
            if (fault !== "removed") await whole(last);
            assert(
              await until(reader, '"type":"checkpoint"'),
              `${fault}: never saved again: ${await Promise.race([errors, ""])}`,
            );
            while (!(await reader.read()).done);
            const [{ code }, err] = await Promise.all([child.status, errors]);
            assertEquals(code, 0, `${fault}: ${err}`);
            const { description: { progress } } = await decodeCheckpoint(await Deno.readFile(last), last);
            assertEquals(progress!.epoch, 8);
          }
        });
      }
    }
  }
  report("a folder made read-only, filled up or removed", tried, "with --keep-going and without");
});

diskTest("decoded pictures on a read-only disk are used; where some are missing, one line", async () => {
  await withSmallDisk(2 ** 20, async (disk) => {
    await withFolder(async (folder) => {
      const dataset = `folder:${await writePictures(folder, "pictures")}`;
      const network = { ...NARROW_NETWORK, num_classes: 2 };
      const file = await writeNarrow(folder, "a.safetensors", { class_names: ["a", "b"], network });
      const args = ["eval", file, "--dataset", dataset, "--data-dir", disk, "--json"];
      const first = await runToEnd(program(args));
      assertEquals(first.code, 0, first.err);
      await system("mount", "-o", "remount,ro", disk);
      assertEquals(await runToEnd(program(args)), first);
      const { code, err } = await runToEnd(program([...args, "--image-size", "40"]));
      assertEquals(code, 1);
      assertMatch(
        err,
        /^error: Cannot keep decoded pictures in the data directory, "[^"]*": the file system is read-only; [^\n]*\n$/,
      );
    });
  });
  report("a read-only cache of pictures", 2);
});

diskTest("a download that fills the disk: one line, no file under the final name", async () => {
  const bytes = new Uint8Array(3_000_000).fill(7);
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, () => new Response(bytes));
  const random = new Random(3), count = trials(2, 20);
  try {
    for (let i = 0; i < count; i++) {
      await withSmallDisk(4096 * (4 + random.below(700)), async (disk) => {
        const url = `http://127.0.0.1:${server.addr.port}/cifar-10-binary.tar.gz`;
        const { code, err } = await runToEnd(program(["download", "cifar10", "--url", url, "--data-dir", disk]));
        assertEquals(code, 1, err);
        assertStringIncludes(err, "the disk is full");
        const names = [...Deno.readDirSync(disk)].map(({ name }) => name);
        assert(!names.includes("cifar-10-binary.tar.gz"), names.join());
      });
    }
  } finally {
    await server.shutdown();
  }
  report("a full disk while downloading", count);
});
