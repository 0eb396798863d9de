import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { cifarFiles, hasCifar, parseRecords, readCifar, recordBytes } from "../../data/cifar.ts";
import { cifar100, cifar100ClassNames } from "../../data/cifar100.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";

/** Records with coarse label 19 - i and fine label 90 + i; a plane is filled with its number and the record's. */
function records(count: number): Uint8Array<ArrayBuffer> {
  const size = recordBytes(cifar100), bytes = new Uint8Array(count * size);
  for (let i = 0; i < count; i++) {
    bytes.set([19 - i, 90 + i], i * size);
    for (let k = 0; k < 3; k++) bytes.fill(60 * k + i, i * size + 2 + k * 1024, i * size + 2 + (k + 1) * 1024);
  }
  return bytes;
}

Deno.test("the classes are a hundred, in the order of the alphabet", () => {
  assertEquals([cifar100ClassNames.length, new Set(cifar100ClassNames).size], [100, 100]);
  assertEquals([...cifar100ClassNames].sort(), cifar100ClassNames);
  assertEquals([cifar100ClassNames[0], cifar100ClassNames[47], cifar100ClassNames[99]], [
    "apple",
    "maple_tree",
    "worm",
  ]);
});

Deno.test("of a record's two labels the second is the class", () => {
  assertEquals(recordBytes(cifar100), 3074);
  const { count, images, labels } = parseRecords(records(3), cifar100);
  assertEquals([count, ...labels], [3, 90, 91, 92]);
  assertEquals([...images.subarray(2 * 3072, 2 * 3072 + 3)], [2, 62, 122]);
  const wrong = records(1);
  wrong[1] = 100;
  assertThrows(() => parseRecords(wrong, cifar100), UserError, "label 100, not one of 0 to 99");
});

Deno.test("the data set is read from its two files", async () => {
  await withFolder(async (dataDirectory) => {
    const { folder, files } = cifarFiles(cifar100);
    await Deno.mkdir(join(dataDirectory, folder));
    assertEquals(await hasCifar(cifar100, dataDirectory), false);
    await assertRejects(() => readCifar(cifar100, dataDirectory), UserError, "run `download cifar100`");
    for (const { name, size } of files) {
      await Deno.writeFile(join(dataDirectory, folder, name), records(4));
      await Deno.truncate(join(dataDirectory, folder, name), size);
    }
    assertEquals(await hasCifar(cifar100, dataDirectory), true);
    const set = await readCifar(cifar100, dataDirectory, { trainLimit: 4, testLimit: 2 });
    assertEquals([set.name, set.classNames.length, set.train.count, set.test.count], ["cifar100", 100, 4, 2]);
    assertEquals([...set.train.labels], [90, 91, 92, 93]);
  });
});
