import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { HeldLock, withLock } from "../../data/lock.ts";
import { withFolder } from "../support.ts";
import { names } from "./archive_support.ts";

Deno.test("tasks under one lock run one after the other, and the lock goes with the last", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "deep", "lock");
    let inside = 0, most = 0, waits = 0;
    const task = async () => {
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 2));
      inside--;
    };
    await Promise.all(Array.from({ length: 20 }, () => withLock(path, task, { onWait: () => waits++ })));
    assertEquals(most, 1);
    assert(waits > 0);
    assertEquals(names(join(folder, "deep")), []);
  });
});

Deno.test("the wait for a lock can be ended", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "lock"), controller = new AbortController();
    await withLock(path, async () => {
      const waiting = withLock(path, () => Promise.resolve(), {
        onWait: () => void setTimeout(() => controller.abort(), 10),
        signal: controller.signal,
      });
      await assertRejects(() => waiting, DOMException, "aborted");
    });
    assertEquals(await withLock(path, () => Promise.resolve(1)), 1);
  });
});

Deno.test("a task that fails lets the lock go", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "lock");
    await assertRejects(() => withLock(path, () => Promise.reject(new Error("failed"))), Error, "failed");
    assertEquals(await withLock(path, () => Promise.resolve(1)), 1);
  });
});

Deno.test("a killed process leaves no lock behind", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "lock");
    const code = `const f = await Deno.open(${JSON.stringify(path)}, { create: true, write: true });
      await f.lock(true); console.log("locked"); await new Promise((r) => setTimeout(r, 60000));`;
    const child = new Deno.Command(Deno.execPath(), { args: ["eval", "-q", code], stdout: "piped" }).spawn();
    const reader = child.stdout.getReader();
    await reader.read();
    let waited = false;
    const locked = withLock(path, () => Promise.resolve("mine"), {
      onWait() {
        waited = true;
        child.kill("SIGKILL");
      },
    });
    assertEquals(await locked, "mine");
    assert(waited);
    await reader.cancel();
    await child.status;
  });
});

Deno.test("a held lock tells who has it; given back, it is gone", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "lock");
    const first = await HeldLock.take(path);
    assert("lock" in first);
    const second = await HeldLock.take(path);
    assert("holder" in second);
    assertEquals(second.holder?.process, Deno.pid);
    assertEquals(second.holder?.host, Deno.hostname());
    await first.lock[Symbol.asyncDispose]();
    assertEquals(names(folder), []);
    const third = await HeldLock.take(path);
    assert("lock" in third);
    await third.lock[Symbol.asyncDispose]();
  });
});

Deno.test("a held lock that a dead process left is taken over, whatever is in it", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "lock");
    for (const text of ["", "{", '{"process":1,"host":"elsewhere","since":"2020-01-01T00:00:00Z"}']) {
      await Deno.writeTextFile(path, text);
      const taken = await HeldLock.take(path);
      assert("lock" in taken);
      assertEquals(JSON.parse(await Deno.readTextFile(path)).process, Deno.pid);
      await taken.lock[Symbol.asyncDispose]();
    }
  });
});
