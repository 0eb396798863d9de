import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { RunFolder } from "../../cli/run_folder.ts";
import { UserError } from "../../kernels/user_error.ts";
import { smallCheckpoint } from "../checkpoint_support.ts";
import { names } from "../data/archive_support.ts";
import { withFolder } from "../support.ts";

Deno.test("one process at a time trains into a folder; the second is told who does", async () => {
  await withFolder(async (path) => {
    const folder = await RunFolder.open(path);
    const error = await assertRejects(() => RunFolder.open(path), UserError);
    assertStringIncludes(error.message, `process ${Deno.pid} on "${Deno.hostname()}" has been training into it since`);
    await folder[Symbol.asyncDispose]();
    await (await RunFolder.open(path))[Symbol.asyncDispose]();
    assertEquals(names(path), []);
  });
});

Deno.test("another run's folder is refused and left unlocked; the run's own is gone on with", async () => {
  await withFolder(async (path) => {
    const first = await RunFolder.open(path);
    await first.save(smallCheckpoint(0, 3), true);
    await first[Symbol.asyncDispose]();
    for (let i = 0; i < 2; i++) await assertRejects(() => RunFolder.open(path), UserError, "it holds a run already");
    for (const resumed of [first.last, first.best]) {
      await (await RunFolder.open(path, resumed))[Symbol.asyncDispose]();
    }
    assertEquals(names(path), ["best.safetensors", "last.safetensors"]);
  });
});

Deno.test("a folder whose best checkpoint alone is left is another run's too", async () => {
  await withFolder(async (path) => {
    await using first = await RunFolder.open(path);
    await first.save(smallCheckpoint(), true);
    await Deno.remove(first.last);
    await first[Symbol.asyncDispose]();
    await assertRejects(
      () => RunFolder.open(path),
      UserError,
      `it holds a run already; go on with it by --resume ${first.best}`,
    );
    await (await RunFolder.open(path, first.best))[Symbol.asyncDispose]();
  });
});

Deno.test("going on from the best checkpoint never overwrites a later one that is whole", async () => {
  await withFolder(async (path) => {
    await using first = await RunFolder.open(path);
    await first.save(smallCheckpoint(1, 0), true);
    await first.save(smallCheckpoint(1, 7), false);
    await first[Symbol.asyncDispose]();
    await assertRejects(() => RunFolder.open(path, first.best), UserError, `go on with it by --resume ${first.last}`);
    await Deno.truncate(first.last, 1000);
    await (await RunFolder.open(path, first.best))[Symbol.asyncDispose]();
  });
});

Deno.test("the best checkpoint goes along with a run that moves, once it has one of its own there", async () => {
  await withFolder(async (path) => {
    await using first = await RunFolder.open(join(path, "first"));
    await first.save(smallCheckpoint(1, 0), true);
    const bytes = await Deno.readFile(first.best), there = join(path, "second");
    await (await RunFolder.open(there, first.last)).removeIfEmpty();
    assertEquals(names(path), ["first"]);
    for (const better of [false, true]) {
      await using second = await RunFolder.open(there, first.last);
      await second.save(smallCheckpoint(1, 7), better);
      await second.save(smallCheckpoint(1, 8), false);
      assertEquals(String(await Deno.readFile(second.best)) === String(bytes), !better);
      await Deno.remove(second.last);
      await Deno.remove(second.best);
    }
  });
});

Deno.test("an empty folder goes with its run; a link to a folder stays", async () => {
  await withFolder(async (path) => {
    await (await RunFolder.open(join(path, "empty"))).removeIfEmpty();
    assertEquals(names(path), []);
    await Deno.mkdir(join(path, "real"));
    await Deno.symlink("real", join(path, "link"));
    for (const name of ["link", "link/"]) {
      await (await RunFolder.open(join(path, name))).removeIfEmpty();
      await using run = await RunFolder.open(`${path}/${name}`);
      await run.save(smallCheckpoint(1, 0), false);
      await run.removeIfEmpty();
      assertEquals(names(path), ["link", "real"]);
      await Deno.remove(run.last);
    }
  });
});

Deno.test("a run that moves takes its best checkpoint along or leaves nothing", async () => {
  await withFolder(async (path) => {
    await using first = await RunFolder.open(join(path, "first"));
    await first.save(smallCheckpoint(1, 0), true);
    const there = join(path, "second");
    const second = await RunFolder.open(there, first.last);
    // The system refuses both: the best one, which is gone, and then the last one, in whose place something is.
    await Deno.rename(first.best, join(path, "away"));
    await assertRejects(() => second.save(smallCheckpoint(1, 7), false), UserError, "Cannot copy");
    await Deno.rename(join(path, "away"), first.best);
    await Deno.mkdir(join(second.last, "in", "the", "way"), { recursive: true });
    await assertRejects(() => second.save(smallCheckpoint(1, 7), false), UserError, "Cannot save");
    await Deno.remove(second.last, { recursive: true });
    assertEquals(names(there), [".lock"]);
    await second.save(smallCheckpoint(1, 7), false);
    assertEquals(names(there), [".lock", "best.safetensors", "last.safetensors"]);
    await second[Symbol.asyncDispose]();

    await Deno.remove(first.best);
    await Deno.mkdir(first.best);
    await assertRejects(() => RunFolder.open(join(path, "third"), first.last), UserError, "it is a folder");
  });
});

Deno.test("the newest checkpoint is the furthest whole one", async () => {
  await withFolder(async (path) => {
    assertEquals(await RunFolder.newestCheckpoint(join(path, "nowhere")), { newest: undefined, damaged: [] });
    assertEquals(await RunFolder.newestCheckpoint(path), { newest: undefined, damaged: [] });
    const folder = await RunFolder.open(path);
    await folder.save(smallCheckpoint(1, 0), true);
    await folder.save(smallCheckpoint(1, 7), false);
    assertEquals((await RunFolder.newestCheckpoint(path)).newest, folder.last);
    const bytes = await Deno.readFile(folder.last);
    bytes[bytes.length - 1] ^= 1;
    await Deno.writeFile(folder.last, bytes);
    const { newest, damaged } = await RunFolder.newestCheckpoint(path);
    assertEquals(newest, folder.best);
    assertEquals(damaged.length, 1);
    assertStringIncludes(damaged[0], "last.safetensors");
    await folder[Symbol.asyncDispose]();
  });
});
