import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { hasCifar, parseRecords, readCifar, recordBytes } from "../../data/cifar.ts";
import { cifar10, cifar10ClassNames, cifar10Files } from "../../data/cifar10.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";

const RECORD_BYTES = recordBytes(cifar10);

/** Records whose labels are `first`, `first + 1`, ... modulo 10, and whose bytes tell plane and place. */
function records(count: number, first = 0): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(count * RECORD_BYTES);
  for (let i = 0; i < count; i++) {
    const at = i * RECORD_BYTES;
    bytes[at] = (first + i) % 10;
    for (let k = 0; k < 3; k++) bytes.fill(50 * k + i % 50, at + 1 + k * 1024, at + 1 + (k + 1) * 1024);
    bytes[at + 1 + 1024 + 33] = 255;
  }
  return bytes;
}

/** A data directory with batches in full size; sparse, as only the first records are written. */
async function withBatches(run: (dataDirectory: string) => Promise<void>): Promise<void> {
  await withFolder(async (dataDirectory) => {
    const folder = join(dataDirectory, cifar10Files.folder);
    await Deno.mkdir(folder);
    for (const [i, { name, size }] of cifar10Files.files.entries()) {
      await Deno.writeFile(join(folder, name), records(3, i));
      await Deno.truncate(join(folder, name), size);
    }
    await run(dataDirectory);
  });
}

Deno.test("records become interleaved images", () => {
  const { count, images, labels } = parseRecords(records(12), cifar10);
  assertEquals(count, 12);
  assertEquals([...labels], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
  assertEquals([...images.subarray(3072 * 2, 3072 * 2 + 6)], [2, 52, 102, 2, 52, 102]);
  // The second row's second pixel, green.
  assertEquals([...images.subarray(33 * 3, 33 * 3 + 3)], [0, 255, 100]);
  assertEquals(parseRecords(new Uint8Array(0), cifar10).count, 0);
});

Deno.test("what are no records is refused", () => {
  assertThrows(
    () => parseRecords(records(2).subarray(1), cifar10, "x.bin"),
    UserError,
    "Cannot read x.bin: 6145 bytes",
  );
  const wrong = records(3);
  wrong[RECORD_BYTES] = 10;
  assertThrows(() => parseRecords(wrong, cifar10), UserError, "record 1 has label 10");
});

Deno.test("the data set is read from its folder, as far as the limits say", async () => {
  await withBatches(async (dataDirectory) => {
    const set = await readCifar(cifar10, dataDirectory, { trainLimit: 10_003, testLimit: 2 });
    assertEquals([set.train.count, set.test.count, set.height, set.width], [10_003, 2, 32, 32]);
    assertEquals([...set.train.labels.subarray(0, 3), ...set.train.labels.subarray(10_000)], [0, 1, 2, 1, 2, 3]);
    assertEquals([...set.test.labels], [5, 6]);
    assertEquals(set.train.images.length, 10_003 * 3072);
    assertEquals([...set.train.images.subarray(10_001 * 3072, 10_001 * 3072 + 3)], [1, 51, 101]);
    assertEquals(set.classNames, cifar10ClassNames);
  });
});

Deno.test("only the files that a limit needs are looked at", async () => {
  await withBatches(async (dataDirectory) => {
    const path = join(dataDirectory, cifar10Files.folder, "data_batch_2.bin");
    await Deno.truncate(path, 5);
    assertEquals((await readCifar(cifar10, dataDirectory, { trainLimit: 10_000, testLimit: 0 })).train.count, 10_000);
    await assertRejects(() => readCifar(cifar10, dataDirectory, { trainLimit: 10_001 }), UserError, "data_batch_2.bin");
  });
});

Deno.test("a missing or truncated file is named, with the command that mends it", async () => {
  await withBatches(async (dataDirectory) => {
    assertEquals(await hasCifar(cifar10, dataDirectory), true);
    const path = join(dataDirectory, cifar10Files.folder, "test_batch.bin");
    for (
      const [harm, state] of [[() => Deno.truncate(path, 7), "has 7 bytes"], [
        () => Deno.remove(path),
        "is missing",
      ]] as const
    ) {
      await harm();
      assertEquals(await hasCifar(cifar10, dataDirectory), false);
      const error = await assertRejects(() => readCifar(cifar10, dataDirectory, { trainLimit: 1 }), UserError, state);
      assertEquals([error.message.includes(path), error.message.includes("download cifar10")], [true, true]);
    }
    assertEquals(await hasCifar(cifar10, join(dataDirectory, "none")), false);
  });
});
