/** The queue of `serve`, on a device of its own or on one that does as the test says. */

import { assertEquals, assertRejects } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { type OpenClassifier, openClassifier, readClassifier } from "../../cli/classifier.ts";
import { type Answer, type Batches, ClassifyQueue, UnavailableError } from "../../cli/classify_queue.ts";
import { PicturePool } from "../../data/pictures/pool.ts";
import { gpuTest, withFolder } from "../support.ts";
import { writeNarrow } from "./support.ts";

const transform = { kind: "centre", size: 1 } as const;
const KEPT = new AbortController().signal;

/** A device whose batches run when the test says so; a picture's logits are its first byte. */
class FakeDevice {
  readonly batches: number[][] = [];
  /** Ends the batch that runs. */
  next = Promise.withResolvers<void>();
  readonly lost = Promise.withResolvers<void>();
  readonly began = [Promise.withResolvers<void>()];

  asBatches(batchSize: number): Batches {
    return {
      batchSize,
      device: { name: "fake", gpu: { lost: this.lost.promise } },
      classify: async (pictures) => {
        this.batches.push(pictures.map(([first]) => first));
        this.next = Promise.withResolvers();
        this.began.at(-1)!.resolve();
        this.began.push(Promise.withResolvers());
        await this.next.promise;
        return pictures.map(([first]) => Float32Array.of(first));
      },
      [Symbol.dispose]: () => {},
    };
  }

  /** Waits for the batch of some number to begin. */
  async begun(batch: number): Promise<void> {
    for (let i = 0; i < batch; i++) await this.began[i].promise;
  }
}

/** Decodes at once. */
const pool = {
  depth: 2,
  prepare: (bytes: string | Uint8Array) =>
    Promise.resolve({ pixels: new Uint8Array(bytes as Uint8Array), width: 1, height: 1 }),
  close: () => {},
};

const picture = (first: number) => [Uint8Array.of(first)];
const first = ([answer]: Answer[]) => "logits" in answer ? answer.logits[0] : answer.error;
/** Lets everything happen that can. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 20));

Deno.test("what comes while a batch runs makes the next one; what nobody wants any more is left out", async () => {
  const device = new FakeDevice();
  const options = { pool, transform, most: 8, warn: () => {} };
  const queue = new ClassifyQueue({ ...options, open: () => Promise.resolve(device.asBatches(4)) });
  await assertRejects(() => queue.ask(picture(0), KEPT), UnavailableError, "starting");
  await queue.start();
  const alone = queue.ask(picture(1), KEPT);
  await device.begun(1);
  const gone = new AbortController();
  const answers = [2, 3, 4, 5, 6].map((byte) => queue.ask(picture(byte), KEPT));
  const unwanted = assertRejects(() => queue.ask(picture(99), gone.signal), DOMException);
  await turn();
  // Eight may wait, the running one counts.
  await assertRejects(() => queue.ask([...picture(7), ...picture(8)], KEPT), UnavailableError, "7 pictures");
  gone.abort();
  device.next.resolve();
  assertEquals(first(await alone), 1);
  await device.begun(2);
  device.next.resolve();
  await device.begun(3);
  device.next.resolve();
  assertEquals((await Promise.all(answers)).map(first), [2, 3, 4, 5, 6]);
  await unwanted;
  assertEquals(device.batches, [[1], [2, 3, 4, 5], [6]]);
  assertEquals([queue.length, queue.state], [0, "ready"]);
  queue.close();
  await assertRejects(() => queue.ask(picture(0), KEPT), UnavailableError, "stopping");
});

Deno.test("a picture is tried once more after the device is lost, no oftener; no device turns away, then comes back", async () => {
  let opened = 0, fails = false;
  const warnings: string[] = [];
  let device = new FakeDevice();
  const queue = new ClassifyQueue({
    ...{ pool, transform, most: 8, retryAfter: 0.05, warn: (message: string) => void warnings.push(message) },
    open: () => {
      opened++;
      if (fails) return Promise.reject(new Error("no adapter"));
      device = new FakeDevice();
      return Promise.resolve(device.asBatches(4));
    },
  });
  // The device fails, another is opened, and the picture is on that one.
  const lose = async () => {
    const lost = device;
    lost.next.reject(new Error("lost"));
    while (device === lost) await turn();
    await device.begun(1);
  };
  await queue.start();
  const once = queue.ask(picture(1), KEPT);
  await device.begun(1);
  await lose();
  device.next.resolve();
  assertEquals([first(await once), opened], [1, 2]);

  const twice = queue.ask(picture(2), KEPT);
  await device.begun(2);
  await lose();
  fails = true;
  device.next.reject(new Error("lost"));
  await assertRejects(() => twice, UnavailableError, "the GPU was lost");
  assertEquals(queue.state, "reopening");
  const waiting = queue.ask(picture(3), KEPT);
  await assertRejects(() => waiting, UnavailableError, "the GPU was lost");
  fails = false;
  while (queue.state !== "ready") await turn();
  const after = queue.ask(picture(4), KEPT);
  await device.begun(1);
  device.next.resolve();
  assertEquals(first(await after), 4);
  // A loss while nothing runs is noticed too.
  const idle = opened;
  device.lost.resolve();
  while (opened === idle) await turn();
  assertEquals([queue.state, opened], ["ready", idle + 1]);
  assertEquals(warnings.filter((message) => message === "The GPU is open again").length, 4);
  queue.close();
});

Deno.test("workers that fail are told of once, and who waits for them when the queue ends is turned away", async () => {
  const warnings: string[] = [];
  let failure = Promise.withResolvers<never>();
  const queue = new ClassifyQueue({
    open: () => Promise.resolve(new FakeDevice().asBatches(4)),
    pool: { depth: 2, prepare: () => failure.promise, close: () => failure.reject(new Error("closed")) },
    ...{ transform, most: 8, warn: (message: string) => void warnings.push(message) },
  });
  await queue.start();
  const refused = assertRejects(() => queue.ask([...picture(1), ...picture(2)], KEPT), Error, "crashed");
  failure.reject(new Error("crashed"));
  await refused;
  await turn();
  assertEquals(warnings, ["crashed"]);
  failure = Promise.withResolvers();
  const waiting = assertRejects(() => queue.ask(picture(3), KEPT), UnavailableError, "stopping");
  await turn();
  queue.close();
  await waiting;
  assertEquals(warnings, ["crashed"]);
});

gpuTest("a device that is destroyed is opened again, and answers the same", async () => {
  await withFolder(async (folder) => {
    const network = await writeNarrow(folder);
    const none = { arch: undefined, imageSize: undefined, resizeSize: undefined, precision: "f32" } as const;
    const file = await readClassifier(network, none, "resnext serve");
    const bytes = await Deno.readFile(fromFileUrl(new URL("../fixtures/pictures/small.png", import.meta.url)));
    let classifier: OpenClassifier | undefined;
    const warnings: string[] = [];
    const queue = new ClassifyQueue({
      open: async () => classifier = await openClassifier(file, [1, 4]),
      pool: new PicturePool(1),
      transform: file.transform,
      most: 8,
      warn: (message) => warnings.push(message),
    });
    try {
      await queue.start();
      const [before] = await queue.ask([bytes], KEPT);
      const was = classifier!;
      was.device.gpu.destroy();
      const [after] = await queue.ask([bytes], KEPT);
      assertEquals(after, before);
      assertEquals([queue.state, classifier !== was, warnings.at(-1)], ["ready", true, "The GPU is open again"]);
    } finally {
      queue.close();
    }
  });
});
