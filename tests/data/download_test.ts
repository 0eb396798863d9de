import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { download, type DownloadOptions } from "../../data/download.ts";
import type { Progress } from "../../data/meter.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";
import { md5, names, noise } from "./archive_support.ts";

const content = noise(300_000, 7);
const facts = { size: content.length, md5: md5(content) };

/** What a test's server does with a request; `n` counts them from 0. */
type Handler = (request: Request, n: number) => Response | Promise<Response>;

/** What a server was asked; a request itself does not outlive its answer. */
interface Asked {
  readonly path: string;
  readonly headers: Headers;
}

/** A server on this machine, the folder that a file is to come to, and impatient options. */
async function withServer(
  handler: Handler,
  run: (to: string, options: DownloadOptions, requests: Asked[]) => Promise<void>,
): Promise<void> {
  const requests: Asked[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {}, onError: () => new Response() }, (r) => {
    requests.push({ path: new URL(r.url).pathname, headers: new Headers(r.headers) });
    return handler(r, requests.length - 1);
  });
  try {
    await withFolder(async (folder) => {
      const to = join(folder, "file.bin"), url = `http://127.0.0.1:${server.addr.port}/file.bin`;
      await run(to, { url, to, retries: 3, backoff: 1, stall: 2000 }, requests);
    });
  } finally {
    await server.shutdown();
  }
}

/** A server as it should be: knows ranges, tells an entity tag. */
function good(data = content, etag = '"v1"'): Handler {
  return (request) => {
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    const condition = request.headers.get("if-range");
    if (start === 0 || (condition !== null && condition !== etag)) return new Response(data, { headers: { etag } });
    if (start >= data.length) return new Response(null, { status: 416 });
    return new Response(data.subarray(start), {
      status: 206,
      headers: { etag, "content-range": `bytes ${start}-${data.length - 1}/${data.length}` },
    });
  };
}

/** A body that breaks off, or hangs, after the first `bytes` of the content. */
function broken(bytes: number, how: "close" | "hang" = "close", headers: HeadersInit = { etag: '"v1"' }): Response {
  let sent = false;
  const body = new ReadableStream({
    async pull(controller) {
      if (!sent) controller.enqueue(content.subarray(0, bytes));
      else if (how === "close") controller.error(new Error("gone"));
      else await new Promise(() => {});
      sent = true;
    },
  });
  return new Response(body, { headers: { "content-length": String(content.length), ...headers } });
}

async function assertWhole(to: string): Promise<void> {
  assertEquals(await Deno.readFile(to), content);
  assertEquals(names(join(to, "..")), ["file.bin"], "nothing is left beside it");
}

Deno.test("a file arrives, with progress", async () => {
  await withServer(good(), async (to, options) => {
    const seen: Progress[] = [];
    await download({ ...options, expected: facts, onProgress: (progress) => seen.push(progress) });
    await assertWhole(to);
    assertEquals([seen.at(-1)?.bytes, seen.at(-1)?.total], [content.length, content.length]);
  });
});

Deno.test("a file that is there is not asked for; a damaged one is replaced", async () => {
  await withServer(good(), async (to, options, requests) => {
    await Deno.writeFile(to, content);
    await download({ ...options, expected: facts });
    assertEquals(requests.length, 0);
    await Deno.writeFile(to, content.subarray(1));
    await download({ ...options, expected: facts });
    await assertWhole(to);
  });
});

Deno.test("a connection that breaks is resumed where it broke", async () => {
  for (const expected of [facts, {}]) {
    await withServer(
      (request, n) => n === 0 ? broken(100_000) : good()(request, n),
      async (to, options, requests) => {
        await download({ ...options, expected });
        await assertWhole(to);
        assertEquals(requests.length, 2);
        const [start] = /\d+/.exec(requests[1].headers.get("range") ?? "") ?? [];
        assert(Number(start) > 0 && Number(start) <= 100_000, `resumed at ${start}`);
        assertEquals(requests[1].headers.get("if-range"), '"v1"');
      },
    );
  }
});

Deno.test("a connection that stalls is given up and resumed", async () => {
  await withServer(
    (request, n) => n === 0 ? broken(50_000, "hang") : good()(request, n),
    async (to, options, requests) => {
      const notices: string[] = [];
      await download({ ...options, stall: 150, expected: facts, onNotice: (text) => notices.push(text) });
      await assertWhole(to);
      assertEquals(requests.length, 2);
      assertStringIncludes(notices[0], "has sent nothing for 0.15 s");
    },
  );
});

Deno.test("a server that never answers is given up", async () => {
  // A listener that accepts and says nothing.
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await withFolder(async (folder) => {
    const url = `http://127.0.0.1:${listener.addr.port}/x`;
    const patience = { retries: 1, backoff: 1, stall: 100 };
    await assertRejects(
      () => download({ url, to: join(folder, "x"), ...patience }),
      UserError,
      "has sent nothing for 0.1 s, 2 times in a row",
    );
    assertEquals(names(folder), []);
  });
  listener.close();
});

Deno.test("what an earlier run left is gone on with, if it is sure to be the same file", async () => {
  // The facts vouch for it, or the server's tag does.
  for (const [expected, tag] of [[facts, '"v1"'], [{}, '"v1"'], [{}, '"v0"']] as const) {
    await withServer(good(), async (to, options, requests) => {
      await Deno.writeFile(`${to}.part`, content.subarray(0, 123_456));
      const origin = { url: options.url, etag: tag, total: content.length };
      await Deno.writeTextFile(`${to}.part.json`, JSON.stringify(origin));
      await download({ ...options, expected });
      await assertWhole(to);
      assertEquals(requests[0].headers.get("range"), "bytes=123456-");
      assertEquals(requests[0].headers.get("if-range"), tag);
      assertEquals(requests.length, 1);
    });
  }
  // Nothing vouches for it: from the start.
  for (const sidecar of [undefined, "{", '{"url":"http://other/","etag":"\\"v1\\""}']) {
    await withServer(good(), async (to, options, requests) => {
      await Deno.writeFile(`${to}.part`, noise(1000, 8));
      if (sidecar) await Deno.writeTextFile(`${to}.part.json`, sidecar);
      await download(options);
      await assertWhole(to);
      assertEquals(requests[0].headers.get("range"), null);
    });
  }
});

Deno.test("an earlier run's damaged bytes are found and fetched anew, once", async () => {
  await withServer(good(), async (to, options, requests) => {
    await Deno.writeFile(`${to}.part`, noise(200_000, 9));
    await download({ ...options, expected: facts });
    await assertWhole(to);
    assertEquals(requests.map((request) => request.headers.get("range")), ["bytes=200000-", null]);
  });
});

Deno.test("a server that cannot resume, or lies about the range, is asked for the whole", async () => {
  const answers: Handler[] = [
    () => new Response(content),
    () => new Response(content, { status: 206, headers: { "content-range": `bytes 0-299999/300000` } }),
    () =>
      new Response(content.subarray(5000), { status: 206, headers: { "content-range": "bytes 5000-299998/299999" } }),
    () => new Response(content.subarray(5000), { status: 206 }),
    () => new Response(null, { status: 416 }),
  ];
  for (const answer of answers) {
    await withServer((r, n) => r.headers.has("range") ? answer(r, n) : good()(r, n), async (to, options) => {
      await Deno.writeFile(`${to}.part`, content.subarray(0, 5000));
      await download({ ...options, expected: facts });
      await assertWhole(to);
    });
  }
});

Deno.test("500, 503 and 429 with Retry-After are tried again, and then it is good", async () => {
  const passing: Handler = (request, n) => {
    if (n === 0) return new Response("oops", { status: 500 });
    if (n === 1) return new Response("busy", { status: 429, headers: { "retry-after": "0" } });
    if (n === 2) return new Response(null, { status: 503, headers: { "retry-after": new Date(0).toUTCString() } });
    return good()(request, n);
  };
  await withServer(passing, async (to, options, requests) => {
    await download({ ...options, expected: facts });
    await assertWhole(to);
    assertEquals(requests.length, 4);
  });
});

Deno.test("a server that stays broken is given up after some attempts, and what came is kept", async () => {
  await withServer(() => new Response(null, { status: 502 }), async (to, options, requests) => {
    await assertRejects(() => download(options), UserError, "answers 502 Bad Gateway, 4 times in a row");
    assertEquals(requests.length, 4);
    assertEquals(names(join(to, "..")), []);
  });
  await withServer((_, n) => n === 0 ? broken(60_000) : new Response(null, { status: 500 }), async (to, options) => {
    await assertRejects(() => download({ ...options, expected: facts }), UserError, "500");
    assertEquals(names(join(to, "..")), ["file.bin.part", "file.bin.part.json"]);
  });
});

Deno.test("a wait that a server asks for is not sat out when it is long", async () => {
  const answer = () => new Response(null, { status: 429, headers: { "retry-after": "3600" } });
  await withServer(answer, async (_, options, requests) => {
    await assertRejects(() => download(options), UserError, "to be tried in 3600 s");
    assertEquals(requests.length, 1);
  });
  const dated = () => {
    const date = new Date(Date.now() + 3600_000).toUTCString();
    return new Response(null, { status: 503, headers: { "retry-after": date } });
  };
  await withServer(dated, async (_, options, requests) => {
    const { message } = await assertRejects(() => download(options), UserError);
    assertMatch(message, /to be tried in (3599|3600) s/);
    assertEquals(requests.length, 1);
  });
});

Deno.test("404 and 403 are told at once", async () => {
  for (const status of [404, 403]) {
    await withServer(() => new Response("no", { status }), async (to, options, requests) => {
      await assertRejects(() => download(options), UserError, `answers ${status}`);
      assertEquals(requests.length, 1);
      assertEquals(names(join(to, "..")), []);
    });
  }
});

Deno.test("wrong bytes, too many, too few, a wrong length: refused, and nothing is left", async () => {
  const lies: [Handler, string][] = [
    [() => new Response(noise(content.length, 99)), "has other bytes than it must"],
    [() => new Response(noise(content.length + 1, 1)), "the server offers 300001 bytes, the file has 300000"],
    [() => new Response("<html>Please log in</html>"), "the server offers 26 bytes"],
    [() => new Response(new Blob([content, content]).stream()), "sends more than 300000 bytes"],
  ];
  for (const [answer, reason] of lies) {
    await withServer(answer, async (to, options) => {
      await assertRejects(() => download({ ...options, expected: facts }), UserError, reason);
      assertEquals(names(join(to, "..")), []);
    });
  }
  // Without a length, a short body could be a broken connection: tried again, then refused.
  await withServer(() => new Response(new Blob([content.subarray(9)]).stream()), async (to, options) => {
    await assertRejects(() => download({ ...options, expected: facts }), UserError, "sent only");
    assert(!names(join(to, "..")).includes("file.bin"));
  });
});

Deno.test("no more than the limit is taken of a file of unknown size", async () => {
  await withServer(() => new Response(new Blob([content]).stream()), async (to, options) => {
    await assertRejects(() => download({ ...options, maxBytes: 1000 }), UserError, "sends more than 1000 bytes");
    assertEquals(names(join(to, "..")), []);
  });
  await withServer(() => new Response(content), async (_, options) => {
    await assertRejects(() => download({ ...options, maxBytes: 1000 }), UserError, "at most 1000 are taken");
  });
});

Deno.test("redirects are followed, in circles not, and never to another scheme", async () => {
  const to = (location: string) => new Response(null, { status: 302, headers: { location } });
  await withServer((r, n) => n === 0 ? to("/other") : good()(r, n), async (path, options, requests) => {
    await download({ ...options, expected: facts });
    await assertWhole(path);
    assertEquals(requests[1].path, "/other");
  });
  await withServer(() => to("/file.bin"), async (_, options, requests) => {
    await assertRejects(() => download(options), UserError, "redirects more than 10 times");
    assertEquals(requests.length, 11);
  });
  for (const location of ["file:///etc/passwd", "ftp://host/x", "data:text/plain,x"]) {
    await withServer(() => to(location), async (_, options) => {
      await assertRejects(() => download(options), UserError, "neither http nor https");
    });
  }
});

Deno.test("addresses that are none, and servers that are not there, are told in a line", async () => {
  await withFolder(async (folder) => {
    const to = join(folder, "x");
    await assertRejects(() => download({ url: "nonsense", to }), UserError, '"nonsense" is no address');
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    listener.close();
    const url = `http://127.0.0.1:${listener.addr.port}/`;
    const error = await assertRejects(
      () => download({ url, to, retries: 1, backoff: 1 }),
      UserError,
      "Cannot download",
    );
    assertStringIncludes(error.message, "check the network");
    assertEquals(error.message.split("\n").length, 1);
  });
});

Deno.test("downloads of the same file at once do not spoil each other, and one of them does the work", async () => {
  await withServer(good(), async (to, options, requests) => {
    await Promise.all(Array.from({ length: 5 }, () => download({ ...options, expected: facts })));
    await assertWhole(to);
    assertEquals(requests.length, 1);
  });
});

Deno.test("a full disk and a folder that cannot be are told by what to do", async () => {
  await withServer(good(), async (to, options) => {
    const write = Deno.FsFile.prototype.write;
    Deno.FsFile.prototype.write = () =>
      Promise.reject(Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" }));
    try {
      await assertRejects(() => download({ ...options, expected: facts }), UserError, "the disk is full");
    } finally {
      Deno.FsFile.prototype.write = write;
    }
    assert(!names(join(to, "..")).includes("file.bin"));
    await Deno.writeTextFile(`${to}-file`, "");
    await assertRejects(() => download({ ...options, to: join(`${to}-file`, "x") }), UserError, "Cannot write");
  });
});

Deno.test("a download that is stopped keeps what came, and the next one goes on", async () => {
  await withServer((r, n) => n === 0 ? broken(80_000, "hang") : good()(r, n), async (to, options) => {
    const controller = new AbortController();
    const stopping = (async () => {
      // As soon as something has come.
      while (!(await Deno.stat(`${to}.part`).catch(() => undefined))?.size) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      controller.abort(new Error("stopped"));
    })();
    const { signal } = controller;
    await assertRejects(() => download({ ...options, expected: facts, signal }), Error, "stopped");
    await stopping;
    assert((await Deno.stat(`${to}.part`)).size > 0);
    await download({ ...options, expected: facts });
    await assertWhole(to);
  });
});
