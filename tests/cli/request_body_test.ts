import { assertEquals, assertRejects } from "@std/assert";
import { Bodies, HttpError } from "../../cli/request_body.ts";

const LIMITS = { maxBytes: 10, totalBytes: 15, idleSeconds: 0.05 };

/** A request whose body comes as it is written, and that never ends by itself. */
function request(headers: Record<string, string> = {}) {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  // A body that is refused is not read on.
  writer.closed.catch(() => {});
  return { request: new Request("http://here/", { method: "POST", body: readable, headers }), writer };
}

const bytes = (count: number) => new Uint8Array(count).fill(7);
const whole = (count: number) => new Request("http://here/", { method: "POST", body: bytes(count) });

/** The status that a body is refused with. */
async function refusal(body: Promise<unknown>): Promise<number> {
  return (await assertRejects(() => body, HttpError)).status;
}

Deno.test("a body is read whole, however it comes; a request without one is empty", async () => {
  const bodies = new Bodies(LIMITS), { request: slow, writer } = request();
  const reading = bodies.read(slow);
  for (const count of [4, 1, 5]) await writer.write(bytes(count));
  await writer.close();
  assertEquals((await reading).bytes, bytes(10));
  assertEquals((await bodies.read(new Request("http://here/"))).bytes, bytes(0));
});

Deno.test("a body that stands still, breaks off or is too long is refused, and holds nothing", async () => {
  const bodies = new Bodies(LIMITS);
  const cases: [number, (writer: WritableStreamDefaultWriter) => Promise<void>, Record<string, string>?][] = [
    [408, () => Promise.resolve()],
    [400, (writer) => writer.abort(new Error("gone"))],
    // Told in advance: refused before anything comes.
    [413, () => Promise.resolve(), { "content-length": "11" }],
    [413, (writer) => writer.write(bytes(6))],
  ];
  for (const [status, then, headers] of cases) {
    const { request: bad, writer } = request(headers);
    const refused = refusal(bodies.read(bad));
    if (!headers) await writer.write(bytes(5));
    await then(writer).catch(() => {});
    assertEquals(await refused, status);
  }
  // So much room as at the beginning.
  using first = await bodies.read(whole(10)), second = await bodies.read(whole(5));
  assertEquals(first.bytes.length + second.bytes.length, LIMITS.totalBytes);
});

Deno.test("a body that comes slowly, but comes, is waited for", async () => {
  const bodies = new Bodies(LIMITS), { request: slow, writer } = request();
  const reading = bodies.read(slow);
  for (let i = 0; i < 5; i++) {
    await writer.write(bytes(1));
    await new Promise((resolve) => setTimeout(resolve, LIMITS.idleSeconds * 400));
  }
  await writer.close();
  assertEquals((await reading).bytes, bytes(5));
});

Deno.test("all bodies together take no more than they may, until they are done with", async () => {
  const bodies = new Bodies(LIMITS);
  {
    using held = await bodies.read(whole(10));
    const error = await assertRejects(() => bodies.read(whole(6)), HttpError);
    assertEquals([held.bytes.length, error.status, error.headers], [10, 503, { "retry-after": "1" }]);
  }
  using after = await bodies.read(whole(10));
  assertEquals(after.bytes.length, 10);
});

Deno.test("when it stops, what has begun to come may come, for a while; nothing else may", async () => {
  const bodies = new Bodies({ ...LIMITS, idleSeconds: 60 }), { request: slow, writer } = request();
  const reading = bodies.read(slow), late = bodies.read(request().request);
  let stopped = false;
  const stop = bodies.stop(0.1).then(() => stopped = true);
  assertEquals(await refusal(bodies.read(whole(1))), 503);
  await writer.write(bytes(3));
  await writer.close();
  assertEquals([(await reading).bytes.length, stopped], [3, false]);
  assertEquals(await refusal(late), 503);
  await stop;
  await new Bodies(LIMITS).stop(60);
});
