import { assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { FileSource } from "../../data/file_source.ts";
import { checkReadable, readAtMost, readStart, readWithin, tryWriting } from "../../data/files.ts";
import { UserError } from "../../kernels/user_error.ts";
import { saveFile } from "../../nn/checkpoint_file.ts";
import { withFolder } from "../support.ts";

const bytes = new Uint8Array([1, 2, 3, 4]);

/** A pipe that nobody writes to. */
async function pipe(folder: string): Promise<string> {
  const path = join(folder, "pipe");
  await new Deno.Command("mkfifo", { args: [path] }).output();
  return path;
}

Deno.test("files are read within a limit, and their starts", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "file");
    await Deno.writeFile(path, bytes);
    assertEquals(await readWithin(path, 4), bytes);
    await assertRejects(() => readWithin(path, 3), UserError, "is larger than 3 bytes");
    assertEquals(await readStart(path, 2), bytes.subarray(0, 2));
    assertEquals(await readStart(path, 9), bytes);
    assertEquals(await readStart(join(folder, "none"), 9), undefined);
    assertEquals(await readAtMost(ReadableStream.from([bytes, bytes]), 7), undefined);
    assertEquals((await readAtMost(ReadableStream.from([bytes, bytes]), 8))?.length, 8);
  });
});

Deno.test({
  name: "a pipe and a device are neither waited for nor replaced, a link is followed",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await withFolder(async (folder) => {
      const path = await pipe(folder), target = join(folder, "target"), link = join(folder, "link");
      for (const read of [checkReadable, FileSource.open, (path: string) => readWithin(path, 9)]) {
        await assertRejects(() => read(path), UserError, "it is no file");
        await assertRejects(() => read(folder), UserError, "it is a folder");
      }
      await assertRejects(() => saveFile(path, bytes), UserError, "it is a device or a pipe");
      assertEquals((await Deno.lstat(path)).isFifo, true);
      await Deno.symlink(target, link);
      await assertRejects(() => saveFile(link, bytes), UserError, "it is a link to nothing");
      await Deno.writeTextFile(target, "old");
      await saveFile(link, bytes);
      assertEquals([(await Deno.lstat(link)).isSymlink, await Deno.readFile(target)], [true, bytes]);
      await Deno.remove(link);
      await Deno.symlink(path, link);
      await assertRejects(() => saveFile(link, bytes), UserError, "it is a device or a pipe");
    });
  },
});

Deno.test("writing into a folder is tried, and leaves it as it was", async () => {
  await withFolder(async (folder) => {
    await tryWriting(join(folder, "a", "b"));
    await tryWriting(folder);
    assertEquals([...Deno.readDirSync(folder)], []);
    const file = join(folder, "file");
    await Deno.writeFile(file, bytes);
    await assertRejects(() => tryWriting(file), Deno.errors.AlreadyExists);
    await assertRejects(() => tryWriting(join(file, "a")));
    assertEquals(await Deno.readFile(file), bytes);
  });
});
