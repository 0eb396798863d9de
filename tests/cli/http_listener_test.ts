import { assert, assertEquals, assertMatch } from "@std/assert";
import { HttpListener } from "../../cli/http_listener.ts";

const HOST = "127.0.0.1";

/** Connects and sends. */
async function connect(port: number, text = ""): Promise<Deno.TcpConn> {
  const connection = await Deno.connect({ hostname: HOST, port });
  if (text !== "") await connection.write(new TextEncoder().encode(text));
  return connection;
}

Deno.test("closing ends in time though bodies are unfinished, after the answers being made", async () => {
  const asked = Promise.withResolvers<void>(), answer = Promise.withResolvers<void>();
  const listener = new HttpListener({
    host: HOST,
    port: 0,
    warn: () => {},
    handler: async (request) => {
      if (!request.url.endsWith("/slow")) return new Response("unread");
      asked.resolve();
      await answer.promise;
      return new Response("answered");
    },
  });
  const head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc";
  const clients = [await connect(listener.port, `POST / ${head}`), await connect(listener.port)];
  const slow = fetch(`http://${HOST}:${listener.port}/slow`).then((response) => response.text());
  await asked.promise;
  let closed = false;
  const closing = listener.close(0.3).then(() => closed = true);
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert(!closed, "it waits for the answer");
  answer.resolve();
  assertEquals(await slow, "answered");
  await closing;
  for (const client of clients) client.close();
});

Deno.test({
  name: "it goes on where descriptors ran out, though idle clients hold on to theirs, and says so in a line",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    const module = new URL("../../cli/http_listener.ts", import.meta.url);
    // Deno 2.9.6 needs descriptors for the first signal that it listens for, and panics without; serve listens before.
    const script = `import { HttpListener } from "${module}";
      Deno.addSignalListener("SIGTERM", () => {});
      const handler = () => Promise.resolve(new Response("here"));
      const listener = new HttpListener({ host: "${HOST}", port: 0, handler, warn: (text) => console.error(text) });
      console.log(listener.port);`;
    const child = new Deno.Command("sh", {
      args: ["-c", 'ulimit -n 100; exec "$@"', "sh", Deno.execPath(), "eval", "--no-check", script],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const stderr = new Response(child.stderr).text();
    const clients: Deno.TcpConn[] = [];
    try {
      const output = child.stdout.getReader();
      const port = Number(new TextDecoder().decode((await output.read()).value));
      await output.cancel();
      for (let i = 0; i < 120; i++) {
        const client = await connect(port).catch(() => undefined);
        if (client) clients.push(client);
      }
      const ask = () => fetch(`http://${HOST}:${port}/`).then((response) => response.text(), () => undefined);
      let answer: string | undefined;
      for (const end = performance.now() + 30_000; answer === undefined && performance.now() < end;) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        answer = await ask();
      }
      assertEquals(answer, "here");
    } finally {
      for (const client of clients) client.close();
      child.kill("SIGKILL");
      await child.status;
    }
    assertMatch(await stderr, /^Cannot accept connections: Too many open files .*\n$/);
  },
});
