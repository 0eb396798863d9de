import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { ArchiveError, extractTarGz } from "../../data/archive.ts";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";
import { goodEntries, gzip, names, noise, smallArchive, smallFiles, tar, type TarEntry } from "./archive_support.ts";

/** Extracts an archive of these bytes in a folder of its own; gives what came out, by name. */
async function extract(bytes: Uint8Array): Promise<Map<string, Uint8Array>> {
  const out = new Map<string, Uint8Array>();
  await withFolder(async (folder) => {
    const inside = join(folder, "inside");
    await Deno.writeFile(join(folder, "a.tar.gz"), bytes);
    await Deno.mkdir(inside);
    try {
      await extractTarGz(join(folder, "a.tar.gz"), inside, smallArchive);
      for (const name of names(inside)) out.set(name, await Deno.readFile(join(inside, name)));
    } finally {
      // Whatever the archive is, nothing may appear beside the folder, and nothing in it but expected files.
      assertEquals(names(folder), ["a.tar.gz", "inside"]);
      for (const name of names(inside)) assert(smallArchive.files.some((file) => file.name === name), name);
    }
  });
  return out;
}

async function assertRefused(entries: readonly TarEntry[], reason: string): Promise<void> {
  const error = await assertRejects(async () => await extract(await gzip(tar(entries))), ArchiveError, reason);
  assertStringIncludes(error.message, "a.tar.gz");
}

Deno.test("the expected files come out, with a readme beside them or not", async () => {
  const readme = { path: "set/readme.html", data: noise(100, 3) };
  for (const entries of [goodEntries, [readme, ...goodEntries], goodEntries.slice(1)]) {
    const out = await extract(await gzip(tar(entries)));
    assertEquals([...out], smallFiles.map(({ name, data }) => [name, data]));
  }
});

Deno.test("paths that lead outside are refused", async () => {
  for (
    const path of ["../one.bin", "set/../../x", "/etc/x", "set/../../inside/one.bin", "C:\\x", "..\\x", "\\\\host\\x"]
  ) {
    await assertRefused([...goodEntries, { path, data: noise(10, 4) }], "leads outside");
  }
});

Deno.test("links, devices and pipes are refused", async () => {
  for (const type of ["1", "2", "3", "4", "6"]) {
    const link = type === "1" || type === "2" ? "../../target" : "";
    await assertRefused([{ path: "set/one.bin", type, link }, ...goodEntries], "only files and folders");
  }
});

Deno.test("files that are missing, twice there, of another size or of other bytes are refused", async () => {
  const [folder, one, two] = goodEntries;
  await assertRefused([folder, one], "set/two.bin is not in it");
  await assertRefused([folder], "set/one.bin, set/two.bin are not in it");
  await assertRefused([folder, one, two, one], "twice");
  await assertRefused([folder, one, { path: "set/two.bin", data: noise(2999, 2) }], "2999 bytes, must have 3000");
  await assertRefused([folder, one, { path: "set/two.bin", data: noise(3000, 9) }], "two.bin in it has other bytes");
  await assertRefused([folder, one, { path: "set/two.bin", type: "5" }], "is a folder");
});

Deno.test("bombs are refused before they unpack: many bytes, many entries, an archive in the archive", async () => {
  await assertRefused([...goodEntries, { path: "zeros", data: new Uint8Array(2 << 20) }], "holds more than");
  const many = Array.from({ length: 40 }, (_, i) => ({ path: `set/extra${i}` }));
  await assertRefused([...many, ...goodEntries], "more than 18 entries");
  await assertRejects(async () => await extract(await gzip(await gzip(tar(goodEntries)))), ArchiveError, "twice");
});

Deno.test("an archive that is cut anywhere is refused", async () => {
  const whole = await gzip(tar(goodEntries));
  for (const share of [0, 0.001, 0.3, 0.7, 0.999]) {
    await assertRejects(() => extract(whole.subarray(0, Math.floor(whole.length * share))), ArchiveError);
  }
  await assertRejects(() => extract(noise(5000, 5)), ArchiveError, "no whole gzip file");
  const plain = tar(goodEntries);
  await assertRejects(async () => await extract(await gzip(plain.slice(0, 70_000))), ArchiveError);
});

Deno.test("a mutated archive gives the right bytes or is refused, and writes nothing elsewhere", async () => {
  const random = new Random(20);
  const plain = tar(goodEntries);
  let refused = 0;
  for (let i = 0; i < 60; i++) {
    const mutated = plain.slice();
    // Mostly in the headers, where it hurts.
    for (let n = 1 + random.below(3); n > 0; n--) {
      const at = [0, 512, 512 * 139][random.below(3)] + random.below(512);
      if (at < mutated.length) mutated[at] ^= 1 << random.below(8);
    }
    try {
      const out = await extract(await gzip(mutated));
      assertEquals([...out.keys()], smallFiles.map(({ name }) => name));
      for (const { name, data } of smallFiles) assertEquals(out.get(name), data);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      refused++;
    }
  }
  assert(refused > 0);
});

Deno.test("a missing archive is told by its name", async () => {
  await assertRejects(
    () => extractTarGz("/nowhere/a.tar.gz", "/nowhere", smallArchive),
    UserError,
    "/nowhere/a.tar.gz",
  );
});
