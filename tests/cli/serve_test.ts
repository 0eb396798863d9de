/** `serve` as a process. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { withFolder } from "../support.ts";
import { program, resnext, writeNarrow, writeOverflowing } from "./support.ts";

const PICTURES = ["landscape.jpg", "portrait.jpg", "grey.jpg", "small.png", "stars.webp"];
const pathOf = (name: string) => fromFileUrl(new URL(`../fixtures/pictures/${name}`, import.meta.url));
const bytesOf = (name: string) => Deno.readFile(pathOf(name));

interface Server {
  readonly url: string;
  readonly network: string;
  readonly ready: Record<string, unknown>;
  /** Sends a signal and gives what the process printed after it was ready, and its exit code. */
  stop(signal: Deno.Signal): Promise<{ code: number; stdout: string; stderr: string }>;
}

/** Runs `body` with a server that has said that it is ready, and ends it. */
async function serving(
  args: readonly string[],
  body: (server: Server) => Promise<void>,
  write = writeNarrow,
): Promise<void> {
  await withFolder(async (folder) => {
    const network = await write(folder);
    const child = program(["serve", network, "--port", "0", "--json", ...args]).spawn();
    const stderr = new Response(child.stderr).text();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let printed = "", ended = false;
    try {
      while (!printed.includes("\n")) {
        const { done, value } = await reader.read();
        if (done) throw new Error(`It ended: ${await stderr}`);
        printed += value;
      }
      const ready = JSON.parse(printed.split("\n")[0]);
      await body({
        ...{ url: ready.url, network, ready },
        stop: async (signal) => {
          child.kill(signal);
          const { code } = await child.status;
          ended = true;
          return { code, stdout: (await reader.read()).value ?? "", stderr: await stderr };
        },
      });
    } finally {
      if (!ended) child.kill("SIGKILL");
      await child.status;
      await stderr;
      await reader.cancel();
    }
  });
}

async function post(url: string, body: BodyInit, path = "predict") {
  const response = await fetch(url + path, { method: "POST", body });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

function form(files: Record<string, Uint8Array<ArrayBuffer>>): FormData {
  const form = new FormData();
  for (const [name, bytes] of Object.entries(files)) form.append("image", new File([bytes], name));
  return form;
}

/** A form of fields that are no files. */
function formOf(parts: number): Blob {
  const part = "--x\r\ncontent-disposition: form-data; name=a\r\n\r\n\r\n";
  return new Blob([part.repeat(parts), "--x--\r\n"], { type: "multipart/form-data; boundary=x" });
}

/** A form without its last bytes. */
async function cut(form: FormData, bytes: number): Promise<Blob> {
  const whole = await new Response(form).blob();
  return whole.slice(0, whole.size - Math.ceil(bytes), whole.type);
}

/** Sends bytes that no client would, and gives the answer as it comes. */
async function raw(url: string, request: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  await connection.write(new TextEncoder().encode(request));
  return await new Response(connection.readable).text();
}

Deno.test("serve answers as predict does, one picture or many, alone or together", async () => {
  await serving([], async ({ url, network, ready, stop }) => {
    assertEquals([ready.type, ready.arch, ready.classes, ready.image_size, ready.precision], [
      "ready",
      "resnext50",
      10,
      32,
      "f32",
    ]);
    const { stdout } = await resnext(["predict", network, ...PICTURES.map(pathOf), "--json"]);
    const predicted = new Map(stdout.trim().split("\n").map((line, i) => [PICTURES[i], JSON.parse(line).predictions]));
    const files = Object.fromEntries(await Promise.all(PICTURES.map(async (name) => [name, await bytesOf(name)])));

    const one = await post(url, files["landscape.jpg"]);
    assertEquals([one.status, one.headers.get("content-type")], [200, "application/json"]);
    assertEquals(one.body, { predictions: predicted.get("landscape.jpg") });
    assertEquals((await post(url, form({ "grey.jpg": files["grey.jpg"] }))).body, {
      predictions: predicted.get("grey.jpg"),
    });
    // Batches of 1, 4 and 16, with other rows beside: evaluation is by running statistics, so no row sees its mates, and
    // each row's sums are taken in the same order whatever the batch.
    const many = await post(url, form(files));
    assertEquals([many.status, many.body], [200, {
      images: PICTURES.map((name) => ({ image: name, predictions: predicted.get(name) })),
    }]);
    const together = Array.from({ length: 40 }, (_, i) => PICTURES[i % PICTURES.length]);
    const answers = await Promise.all(together.map((name) => post(url, files[name])));
    assertEquals(answers.map(({ body }) => body), together.map((name) => ({ predictions: predicted.get(name) })));

    const two = await post(url, files["small.png"], "predict?topk=2");
    assertEquals(two.body.predictions, predicted.get("small.png").slice(0, 2));
    assertEquals((await post(url, files["small.png"], "predict?topk=99")).body.predictions.length, 10);

    // A request that was begun is answered: its second half comes after the signal.
    const { readable, writable } = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>();
    const slow = post(url, readable), writer = writable.getWriter();
    await writer.write(files["stars.webp"].slice(0, 1000));
    await fetch(`${url}health`).then((response) => response.body?.cancel());
    const ended = stop("SIGINT");
    await new Promise((resolve) => setTimeout(resolve, 200));
    await writer.write(files["stars.webp"].slice(1000));
    await writer.close();
    assertEquals((await slow).body, { predictions: predicted.get("stars.webp") });
    const { code, stdout: more, stderr } = await ended;
    assertEquals([code, more, stderr], [130, "", "Stopping when what was begun is answered; again: at once\n"]);
  });
});

Deno.test("serve refuses in a sentence what it cannot answer, and goes on", async () => {
  await serving(["--max-bytes", "100000", "--topk", "1", "--verbose"], async ({ url, stop }) => {
    const good = await bytesOf("small.png"), bad = (await bytesOf("landscape.jpg")).slice(0, 200);
    const large = new Uint8Array(1_000_000);
    const chunked = new ReadableStream<Uint8Array<ArrayBuffer>>({
      start(controller) {
        for (let i = 0; i < 20; i++) controller.enqueue(large.subarray(0, 10_000));
        controller.close();
      },
    });
    const noFile = new FormData();
    noFile.append("image", "cat.jpg");
    const cases: [string, BodyInit, number, RegExp][] = [
      ["predict", bad, 422, /^Cannot read the picture: it is damaged/],
      ["predict", "no picture", 422, /^Cannot read the picture: its format is not known$/],
      ["predict", form({ "a.jpg": bad }), 422, /^Cannot read the picture/],
      ["predict", "", 400, /^Cannot find a picture: the body is empty/],
      ["predict", noFile, 400, /the form has no file$/],
      ["predict", new Blob(["--x"], { type: "multipart/form-data; boundary=y" }), 400, /^Cannot read the form/],
      ["predict", new Blob(["--x"], { type: "multipart/form-data" }), 400, /^Cannot read the form/],
      ["predict", await cut(form({ "a.png": good, "b.png": good }), good.length / 2), 400, /no whole multipart/],
      ["predict", await cut(form({ "a.png": good }), 4), 400, /no whole multipart/],
      ["predict", formOf(1025), 413, /^Cannot take the form: it may have at most 1024 parts$/],
      ["predict", formOf(1024), 400, /the form has no file$/],
      ["predict", large, 413, /at most 100000 bytes$/],
      ["predict", chunked, 413, /at most 100000 bytes$/],
      ["predict?topk=0", good, 400, /^Cannot read topk/],
      ["predict?topk=many", good, 400, /^Cannot read topk/],
      ["nothing", good, 404, /^Cannot find that/],
      ["", good, 405, /^Cannot POST here/],
    ];
    for (const [path, body, status, message] of cases) {
      const answer = await post(url, body, path);
      assertEquals([answer.status, Object.keys(answer.body)], [status, ["error"]], path);
      assertMatch(answer.body.error, message);
      assert(!/\/(home|work|tmp|root)\b|\n/.test(answer.body.error), answer.body.error);
    }
    for (const head of ["GET / HTTP/1.1\r\nHost: a b<>", "GET http://[::1/ HTTP/1.1\r\nHost: localhost"]) {
      const answer = await raw(url, `${head}\r\nConnection: close\r\n\r\n`);
      assertMatch(answer, /^HTTP\/1\.1 400 [^]*\{"error":"Cannot read the address: [^"]*"\}\n/);
    }
    const get = await fetch(`${url}predict`);
    assertEquals([get.status, get.headers.get("allow")], [405, "POST"]);
    await get.body?.cancel();
    const health = await fetch(`${url}health`);
    assertEquals([health.status, await health.json()], [200, { status: "ok" }]);
    const about = await (await fetch(url)).json();
    assertEquals([about.arch, about.max_bytes], ["resnext50", 100_000]);

    // Of several pictures those that can be read are named.
    const mixed = await post(url, form({ "bad.jpg": bad, "good.png": good }));
    assertEquals(mixed.status, 200);
    assertMatch(mixed.body.images[0].error, /^it is damaged/);
    assertEquals([mixed.body.images[1].image, mixed.body.images[1].predictions.length], ["good.png", 1]);

    const { code, stderr } = await stop(Deno.build.os === "windows" ? "SIGINT" : "SIGTERM");
    assertEquals(code, Deno.build.os === "windows" ? 130 : 143);
    const lines = stderr.trimEnd().split("\n").filter((line) => !line.startsWith("Stopping"));
    assertEquals(lines.length, cases.length + 6, stderr);
    for (const line of lines) assertMatch(line, /^\S+Z (GET|POST) (\/\S*|-) \d{3} \d+ ms$/);
  });
});

Deno.test("logits that are not finite are the server's fault, and told to its owner", async () => {
  await serving([], async ({ url, stop }) => {
    const good = await bytesOf("small.png"), why = "the network's logits are not finite; use precision f32 ";
    for (
      const [body, name] of [[good, "the picture"], [
        form({ "a.png": new Uint8Array(9), "b.png": good }),
        '"b.png"',
      ]] as const
    ) {
      const answer = await post(url, body);
      assertEquals([answer.status, Object.keys(answer.body)], [500, ["error"]]);
      assert(answer.body.error.startsWith(`Cannot name what is on ${name}: ${why}`), answer.body.error);
    }
    const { stderr } = await stop("SIGINT");
    assertEquals(stderr.match(/^warning: Cannot name what is on .* not finite; /gm)?.length, 2, stderr);
  }, writeOverflowing);
});

Deno.test("a port or an address that serve cannot have is one line", async () => {
  await withFolder(async (folder) => {
    const network = await writeNarrow(folder);
    using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const cases: [string[], number, RegExp][] = [
      [["--port", String(taken.addr.port)], 1, /^error: Cannot listen on 127\.0\.0\.1:\d+: the port is taken; .*\n$/],
      [["--host", "192.0.2.1"], 1, /^error: Cannot listen on 192\.0\.2\.1:8000: this machine has no such address.*\n$/],
      [["--port", "70000"], 2, /^error: Option --port must be a whole number from 0 to 65535.*\n$/],
      [["--image-size", "64", "--resize-size", "32"], 2, /^error: Option --resize-size must be .*resnext serve.*\n$/],
    ];
    await Promise.all(cases.map(async ([args, code, message]) => {
      const outcome = await resnext(["serve", network, ...args]);
      assertEquals([outcome.code, outcome.stdout], [code, ""], outcome.stderr);
      assertMatch(outcome.stderr, message);
    }));
  });
});
