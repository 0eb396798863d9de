import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { createHash } from "node:crypto";
import { join } from "@std/path";
import { FileSource } from "../../data/file_source.ts";
import { digestInName, fetchWeights, type WeightsOptions } from "../../data/weights_download.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";
import { names, noise } from "./archive_support.ts";

const content = noise(200_000, 3), sha256 = createHash("sha256").update(content).digest("hex");
const file = `net-${sha256.slice(0, 8)}.pth`;

/** A server on this machine that sends `bodies` in turn, the last one for ever. */
async function withServer(
  bodies: readonly Uint8Array<ArrayBuffer>[],
  run: (origin: string, options: WeightsOptions, asked: string[]) => Promise<void>,
): Promise<void> {
  const asked: string[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    asked.push(new URL(request.url).pathname);
    return new Response(bodies[Math.min(asked.length, bodies.length) - 1]);
  });
  try {
    await withFolder(async (dataDirectory) => {
      await run(`http://127.0.0.1:${server.addr.port}`, { dataDirectory, backoff: 1, retries: 1 }, asked);
    });
  } finally {
    await server.shutdown();
  }
}

Deno.test("weights arrive once, are checked by their name's digits, and are there then", async () => {
  await withServer([content], async (origin, options, asked) => {
    const publication = { file, url: `${origin}/models/${file}`, sha256: sha256.slice(0, 8) };
    const first = await fetchWeights(publication, options);
    assertEquals(first, { path: join(options.dataDirectory, "weights", file), present: false, sha256 });
    assertEquals(await Deno.readFile(first.path), content);
    assertEquals((await fetchWeights(publication, options)).present, true);
    assertEquals(asked, [`/models/${file}`]);
    assertEquals(names(join(options.dataDirectory, "weights")).filter((name) => !name.endsWith(".lock")), [file]);
  });
});

Deno.test("a damaged file is fetched anew; bytes of another checksum are refused and leave nothing", async () => {
  const wrong = noise(200_000, 4);
  await withServer([content, wrong], async (origin, options, asked) => {
    const publication = { file, url: `${origin}/${file}`, sha256: sha256.slice(0, 8) };
    const { path } = await fetchWeights(publication, options);
    await Deno.writeFile(path, content.subarray(1));
    const error = await assertRejects(() => fetchWeights(publication, options), UserError);
    assertStringIncludes(error.message, `must be ${sha256.slice(0, 8)}...`);
    assertEquals(asked.length, 2);
    assertEquals(names(join(options.dataDirectory, "weights")).filter((name) => !name.endsWith(".lock")), []);
  });
});

Deno.test("a mirror and a path must hold the same bytes; another file's own name tells its checksum", async () => {
  await withServer([content], async (origin, options) => {
    const publication = {
      file: "net-00000000.pth",
      url: "https://nowhere.invalid/net-00000000.pth",
      sha256: "00000000",
    };
    await assertRejects(
      () => fetchWeights(publication, { ...options, url: `${origin}/net.pth` }),
      UserError,
      "SHA-256",
    );
    const other = await fetchWeights(publication, { ...options, url: `${origin}/${file}?raw=1` });
    assertEquals(other.path.endsWith(file), true);
    const local = join(options.dataDirectory, "mine.pth");
    await Deno.writeFile(local, content);
    const copied = await fetchWeights({ ...publication, file, sha256: sha256.slice(0, 10) }, {
      ...options,
      url: local,
    });
    assertEquals([copied.present, copied.sha256], [true, sha256]);
    await assertRejects(
      () => fetchWeights(publication, { ...options, url: join(local, "none") }),
      UserError,
      "no such",
    );
  });
});

Deno.test("without a checksum the caller's look decides, then and later", async () => {
  await withServer([content], async (origin, options, asked) => {
    const publication = { file: "model.safetensors", url: `${origin}/model.safetensors` };
    const refuse = { ...options, check: () => Promise.reject(new UserError("not weights")) };
    await assertRejects(() => fetchWeights(publication, refuse), UserError, "not weights");
    const seen: string[] = [];
    const look = { ...options, check: (path: string) => Promise.resolve(void seen.push(path)) };
    assertEquals((await fetchWeights(publication, look)).present, false);
    assertEquals((await fetchWeights(publication, look)).present, true);
    assertEquals([seen.length, asked.length], [2, 2]);
    await assertRejects(() => fetchWeights(publication, refuse), UserError, "not weights");
    assertEquals(names(join(options.dataDirectory, "weights")).filter((name) => !name.endsWith(".lock")), []);
  });
});

Deno.test("names tell checksums where they have one", () => {
  assertEquals(digestInName("resnext50_32x4d-7cdf4587.pth"), "7cdf4587");
  assertEquals(digestInName("model.safetensors"), undefined);
  assertEquals(digestInName("resnext50-weights.pth"), undefined);
});

Deno.test("a file is read in any order; folders and what is missing are refused", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "file");
    await Deno.writeFile(path, content);
    {
      await using source = await FileSource.open(path);
      assertEquals(source.size, content.length);
      assertEquals(await source.read(199_990, 10), content.slice(199_990));
      assertEquals(await source.read(5, 7), content.slice(5, 12));
      await Deno.truncate(path, 100);
      await assertRejects(() => source.read(50, 100), UserError, "shorter meanwhile");
    }
    await assertRejects(() => FileSource.open(folder), UserError, "it is a folder");
    await assertRejects(() => FileSource.open(join(folder, "none")), UserError, "no such file");
  });
});
