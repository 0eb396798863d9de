import { assert, assertEquals, assertRejects } from "@std/assert";
import { join, toFileUrl } from "@std/path";
import { fetchPublication, localPath, type Publication } from "../../data/cifar_download.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";
import { goodEntries, gzip, md5, names, noise, smallArchive, smallFiles, tar } from "./archive_support.ts";

const archive = await gzip(tar(goodEntries));

/** A server of archives by path, a publication at its `/good`, and a data directory. */
async function withPublication(
  run: (publication: Publication, dataDirectory: string, asked: string[]) => Promise<void>,
): Promise<void> {
  const asked: string[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url);
    asked.push(pathname);
    if (pathname === "/good") return new Response(archive);
    // A mirror's archive: the same files, compressed otherwise.
    if (pathname === "/mirror") return new Response(await gzip(tar(goodEntries.slice(1))));
    if (pathname === "/wrong") return new Response(await gzip(tar([{ path: "set/one.bin", data: noise(10, 1) }])));
    return new Response("no", { status: 404 });
  });
  try {
    await withFolder(async (folder) => {
      const url = `http://127.0.0.1:${server.addr.port}/good`;
      const facts = { name: "set.tar.gz", size: archive.length, md5: md5(archive) };
      await run({ url, archive: facts, content: smallArchive }, join(folder, "data"), asked);
    });
  } finally {
    await server.shutdown();
  }
}

/** The data directory holds the files, whole, and nothing else. */
async function assertComplete(dataDirectory: string): Promise<void> {
  assertEquals(names(dataDirectory), ["set"]);
  assertEquals(names(join(dataDirectory, "set")), smallFiles.map(({ name }) => name));
  for (const { name, data } of smallFiles) assertEquals(await Deno.readFile(join(dataDirectory, "set", name)), data);
}

Deno.test("the files come into place; a second call checks them and asks nobody", async () => {
  await withPublication(async (publication, dataDirectory, asked) => {
    const first = await fetchPublication({ dataDirectory }, publication);
    assertEquals([first.present, first.directory], [false, join(dataDirectory, "set")]);
    await assertComplete(dataDirectory);
    const second = await fetchPublication({ dataDirectory }, publication);
    assertEquals([second.present, second.mended], [true, []]);
    assertEquals(asked, ["/good"]);
    await assertComplete(dataDirectory);
  });
});

Deno.test("what is damaged, truncated or missing is mended", async () => {
  await withPublication(async (publication, dataDirectory) => {
    await fetchPublication({ dataDirectory }, publication);
    const path = join(dataDirectory, "set", "one.bin");
    const flipped = smallFiles[0].data.slice();
    flipped[5] ^= 1;
    const damages: [() => Promise<void>, string][] = [
      [() => Deno.writeFile(path, flipped), "one.bin has other bytes than it must (md5)"],
      [() => Deno.truncate(path, 99), "one.bin has 99 bytes, must have 70000"],
      [() => Deno.remove(path), "one.bin is missing"],
    ];
    for (const [harm, told] of damages) {
      await harm();
      const { present, mended } = await fetchPublication({ dataDirectory }, publication);
      assertEquals([present, mended], [false, [told]]);
      await assertComplete(dataDirectory);
    }
  });
});

Deno.test("mirrors: another address, a file address, a path; the user's file stays", async () => {
  await withPublication(async (publication, dataDirectory) => {
    const mirror = new URL("/mirror", publication.url).href;
    await fetchPublication({ dataDirectory, url: mirror }, publication);
    await assertComplete(dataDirectory);
    const file = `${dataDirectory}-archive.tar.gz`;
    await Deno.writeFile(file, archive);
    for (const url of [file, toFileUrl(file).href]) {
      await Deno.remove(dataDirectory, { recursive: true });
      await fetchPublication({ dataDirectory, url }, publication);
      await assertComplete(dataDirectory);
      assertEquals((await Deno.stat(file)).size, archive.length);
    }
  });
});

Deno.test("after a failure nothing is in place, and the next call starts afresh", async () => {
  await withPublication(async (publication, dataDirectory) => {
    const attempts: [string, string][] = [
      [new URL("/wrong", publication.url).href, "one.bin"],
      [new URL("/none", publication.url).href, "answers 404"],
      [join(dataDirectory, "none.tar.gz"), "no such file"],
      ["file://host/none", "Cannot read"],
      ["gopher://host/none", "neither http nor https"],
    ];
    for (const [url, reason] of attempts) {
      await assertRejects(() => fetchPublication({ dataDirectory, url, retries: 0 }, publication), UserError, reason);
      assertEquals(names(dataDirectory), [], url);
    }
    await fetchPublication({ dataDirectory }, publication);
    await assertComplete(dataDirectory);
  });
});

Deno.test("what a killed run left behind is swept away", async () => {
  await withPublication(async (publication, dataDirectory) => {
    await Deno.mkdir(join(dataDirectory, "set.unpacking"), { recursive: true });
    await Deno.writeFile(join(dataDirectory, "set.unpacking", "one.bin"), noise(5, 1));
    await Deno.writeFile(join(dataDirectory, "set.tar.gz.part"), noise(50, 1));
    await Deno.writeFile(join(dataDirectory, "set.lock"), new Uint8Array(0));
    await Deno.writeFile(join(dataDirectory, "set.tar.gz"), archive.subarray(0, 1000));
    await fetchPublication({ dataDirectory }, publication);
    await assertComplete(dataDirectory);
    // Everything was in place but the archive not yet removed.
    await Deno.writeFile(join(dataDirectory, "set.tar.gz"), archive);
    const { present } = await fetchPublication({ dataDirectory }, publication);
    assertEquals(present, true);
    await assertComplete(dataDirectory);
  });
});

Deno.test("two calls at once: one works, the other one finds it done", async () => {
  await withPublication(async (publication, dataDirectory, asked) => {
    const results = await Promise.all([1, 2, 3].map(() => fetchPublication({ dataDirectory }, publication)));
    assertEquals(results.map(({ present }) => present).sort(), [false, true, true]);
    assertEquals(asked, ["/good"]);
    await assertComplete(dataDirectory);
  });
});

Deno.test("a path is told from an address", () => {
  assert(localPath("a.tar.gz")?.endsWith("a.tar.gz"));
  assertEquals(localPath("https://host/a"), undefined);
  assertEquals(localPath("file:///a/b%20c"), "/a/b c");
});
