import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { dirname, join } from "@std/path";
import sharp from "sharp";
import type { AnyImageSet } from "../../data/dataset.ts";
import { findFolder, type FolderOptions, readFolder } from "../../data/folder.ts";
import { withLock } from "../../data/lock.ts";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";
import { names, noise } from "./archive_support.ts";

const WIDTH = 40, HEIGHT = 30;

/** A picture of one colour. */
function plain(red: number, green: number, blue: number): Promise<Uint8Array> {
  return sharp({ create: { width: WIDTH, height: HEIGHT, channels: 3, background: { r: red, g: green, b: blue } } })
    .png().toBuffer();
}

async function write(path: string, bytes: Uint8Array): Promise<void> {
  await Deno.mkdir(dirname(path), { recursive: true });
  await Deno.writeFile(path, bytes);
}

/** Two classes, `dark` and `light`: `train` pictures of each to train on, `test` to test on, grey levels that tell them. */
async function withPictures(
  run: (path: string, read: (more?: Partial<FolderOptions>) => ReturnType<typeof readFolder>) => Promise<void>,
  { parts = [["train/", 4], ["val/", 2]] as [string, number][] } = {},
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, "pictures");
    for (const [part, count] of parts) {
      for (let i = 0; i < count; i++) {
        await write(join(path, `${part}dark/${i}.png`), await plain(10 + i, 0, part === "val/" ? 50 : 0));
        await write(join(path, `${part}light/${i}.png`), await plain(200 + i, 0, part === "val/" ? 50 : 0));
      }
    }
    const dataDirectory = join(folder, "data");
    const opened: { close(): void }[] = [];
    try {
      await run(path, async (more = {}) => {
        const set = await readFolder({ path, dataDirectory, imageSize: 28, workers: 2, ...more });
        opened.push(set);
        return set;
      });
    } finally {
      for (const set of opened) set.close();
    }
  });
}

/** The red byte of each image, by label. */
function reds(set: AnyImageSet): string[] {
  assert(!(set.images instanceof Uint8Array));
  const pixels = new Uint8Array(set.images.imageBytes);
  return Array.from({ length: set.count }, (_, i) => {
    (set.images as { read(i: number, into: Uint8Array): void }).read(i, pixels);
    return `${set.labels[i]}:${pixels[0]}`;
  });
}

Deno.test("train and val, classes by folder, images of one size", async () => {
  await withPictures(async (path, read) => {
    await write(join(path, "train/dark/notes.txt"), noise(10, 1));
    await write(join(path, "train/light/deeper/4.PNG"), await plain(204, 0, 0));
    await write(join(path, ".hidden/x.png"), await plain(0, 0, 0));
    const set = await read();
    assertEquals(set.classNames, ["dark", "light"]);
    assertEquals([set.train.count, set.test.count, set.height, set.width], [9, 4, 32, 32]);
    assertEquals(set.test.size, { height: 28, width: 28 });
    assertEquals([set.decoded, set.skipped.length], [13, 0]);
    const wanted = ["0:10", "0:11", "0:12", "0:13", "1:200", "1:201", "1:202", "1:203", "1:204"];
    assertEquals(reds(set.train).sort(), wanted);
    assertEquals(reds(set.test).sort(), ["0:10", "0:11", "1:200", "1:201"]);
    const red: Record<string, string> = { "dark/0": "0:10", "dark/1": "0:11", "light/0": "1:200", "light/1": "1:201" };
    assertEquals(set.test.files?.map((file) => red[file.slice("val/".length, -".png".length)]), reds(set.test));
    // The first ones are not all of one class.
    assertEquals(new Set(set.train.labels.subarray(0, 4)).size, 2);
    const [top, left, height, width] = set.train.crop!(0, new Random(1));
    assert(top >= 0 && height > 0 && top + height <= 32 && Math.min(left, left + width) >= 0);
  });
});

Deno.test("classes are in the order of torchvision's ImageFolder, by code points", async () => {
  await withPictures(async (path, read) => {
    for (const part of ["train", "val"]) {
      for (const name of ["😀", "Ａ"]) await write(join(path, part, name, "1.png"), await plain(9, 0, 0));
    }
    assertEquals((await read()).classNames, ["dark", "light", "Ａ", "😀"]);
  });
});

Deno.test("the second time nothing is decoded; a picture that has changed, or another size, is", async () => {
  await withPictures(async (path, read) => {
    const first = await read();
    const again = await read();
    assertEquals([first.decoded, again.decoded], [12, 0]);
    assertEquals(reds(again.train), reds(first.train));
    await write(join(path, "train/dark/2.png"), await plain(77, 1, 1));
    await Deno.utime(join(path, "train/dark/2.png"), 1e9, 1e9);
    const changed = await read();
    assertEquals([changed.decoded, reds(changed.train).includes("0:77"), changed.train.count], [1, true, 8]);
    assertEquals((await read({ imageSize: 56 })).decoded, 12);
    assertEquals((await read({ trainLimit: 3, testLimit: 0 })).decoded, 0);
    await Deno.remove(join(path, "train/light/0.png"));
    const fewer = await read();
    assertEquals([fewer.decoded, fewer.train.count], [0, 7]);
  });
});

Deno.test("a cache that has all is read as it lies: nothing is written, and no lock waited for", async () => {
  await withPictures(async (path, read) => {
    const first = await read(), cache = join(dirname(path), "data", "pictures");
    const state = () => names(cache).map((name) => [name, Deno.statSync(join(cache, name)).mtime]);
    const locks = names(cache).filter((name) => name.endsWith(".pixels")).map((name) =>
      join(cache, name.replace(".pixels", ".lock"))
    );
    assertEquals(locks.length, 2);
    await withLock(locks[0], () =>
      withLock(locks[1], async () => {
        const before = state(), second = await read();
        assertEquals([second.decoded, reds(second.train)], [0, reds(first.train)]);
        assertEquals(state(), before);
      }));
  });
});

Deno.test("a cache that is begun anew has no index until its pixels are there", async () => {
  await withPictures(async (path, read) => {
    const first = await read(), cache = join(dirname(path), "data", "pictures");
    const [index] = names(cache).filter((name) => /whole.*json$/.test(name)).map((name) => join(cache, name));
    const { slots, ...others } = JSON.parse(await Deno.readTextFile(index));
    assertEquals(slots, 8);
    // Of another version: nothing in it counts.
    await Deno.writeTextFile(index, JSON.stringify({ ...others, slots, format: 1 }));
    let seen: boolean | undefined;
    const second = await read({ onProgress: () => seen ??= names(cache).some((name) => join(cache, name) === index) });
    assertEquals([second.decoded, seen], [8, false]);
    // Whoever was reading goes on with what it had.
    assertEquals(reds(first.train), reds(second.train));
  });
});

Deno.test("a damaged cache is made anew", async () => {
  await withPictures(async (path, read) => {
    const first = reds((await read()).train);
    const cache = join(dirname(path), "data", "pictures");
    assertEquals(
      names(cache).filter((name) => !/^pictures-[0-9a-f]{12}-(whole-32|centre-28)\.(json|pixels)$/.test(name)),
      [],
    );
    const pixels = join(cache, names(cache).find((name) => /whole-32\.pixels$/.test(name))!);
    await Deno.truncate(pixels, 32 * 32 * 3 * 5 + 17);
    const cut = await read();
    assertEquals([cut.decoded, reds(cut.train)], [3, first]);
    await Deno.writeTextFile(pixels.replace(".pixels", ".json"), "{ no json");
    const unread = await read();
    assertEquals([unread.decoded, reds(unread.train)], [8, first]);
    await Deno.remove(pixels);
    assertEquals((await read()).decoded, 8);
  });
});

Deno.test("broken pictures are left out and named, and remembered as such", async () => {
  await withPictures(async (path, read) => {
    const picture = await plain(1, 2, 3);
    await write(join(path, "train/dark/empty.jpg"), new Uint8Array(0));
    await write(join(path, "train/light/half.png"), picture.slice(0, picture.length / 2));
    await write(join(path, "val/light/noise.webp"), noise(300, 2));
    for (const decoded of [15, 0]) {
      const set = await read();
      assertEquals(set.skipped.map((skipped) => skipped.path).sort(), [
        "train/dark/empty.jpg",
        "train/light/half.png",
        "val/light/noise.webp",
      ]);
      assertEquals(set.skipped.find((skipped) => skipped.path.endsWith("empty.jpg"))!.error, "it is empty");
      assertEquals([set.train.count, set.test.count, set.decoded], [8, 4, decoded]);
    }
    const error = await assertRejects(() => read({ strict: true }), UserError, "leave out --strict");
    assertStringIncludes(error.message, path);
  });
});

Deno.test("what only tests needs no pictures to train on, and leaves theirs alone", async () => {
  await withPictures(async (path, read) => {
    await read();
    const tested = await read({ trainLimit: 0 });
    assertEquals([tested.train.count, tested.test.count, tested.decoded], [0, 4, 0]);
    assertEquals((await read()).decoded, 0);
    await Deno.rename(join(path, "train"), join(dirname(path), "elsewhere"));
    await assertRejects(() => read(), UserError, "it has no train and val in it");
    // `val` without `train`, and the folder of classes itself.
    for (const more of [{}, { path: join(path, "val") }]) {
      const alone = await read({ trainLimit: 0, ...more });
      assertEquals([alone.classNames, alone.train.count], [["dark", "light"], 0]);
      assertEquals(reds(alone.test).sort(), reds(tested.test).sort());
    }
    await Deno.rename(join(path, "val"), join(path, "train"));
    await assertRejects(() => read({ trainLimit: 0 }), UserError, "it has no train and val in it");
  });
});

Deno.test("parts are found in whatever case, exact names first, and are no classes", async () => {
  for (const [train, test] of [["Train/", "Test/"], ["TRAIN/", "VALID/"], ["train/", "Val/"]]) {
    await withPictures(async (path, read) => {
      await write(join(path, "Meta/1.png"), await plain(0, 0, 0));
      const set = await read();
      assertEquals([set.classNames, set.train.count, set.test.count], [["dark", "light"], 8, 4]);
      assert(set.test.files!.every((file) => file.startsWith(test)));
      assertEquals((await read({ trainLimit: 0 })).test.count, 4);
      await assertRejects(() => read({ valSplit: 0.5 }), UserError, `it has ${train.slice(0, -1)} and`);
    }, { parts: [[train, 4], [test, 2]] });
  }
  await withPictures(async (path, read) => {
    assertEquals((await read()).test.count, 6, "test, whatever Val holds");
    await Deno.remove(join(path, "train"), { recursive: true });
    await assertRejects(() => read({ valSplit: 0.5 }), UserError, "Val and test are names of parts, not of classes");
    await Deno.remove(join(path, "test"), { recursive: true });
    assertEquals((await read({ trainLimit: 0 })).test.count, 4, "Val alone");
    await Deno.rename(join(path, "Val"), join(path, "Train"));
    assertEquals((await read({ valSplit: 0.5 })).classNames, ["dark", "light"]);
  }, { parts: [["train/", 4], ["Val/", 2], ["test/", 3]] });
});

Deno.test("a class may be called Train", async () => {
  await withPictures(async (path, read) => {
    for (const name of ["1", "2"]) await write(join(path, "Train", `${name}.png`), await plain(9, 0, 0));
    const classes = ["Train", "dark", "light"];
    assertEquals((await read({ valSplit: 0.5 })).classNames, classes);
    assertEquals((await read({ trainLimit: 0 })).classNames, classes);
  }, { parts: [["", 2]] });
});

Deno.test("a class without a picture to train on is refused by name; pictures that no decoder takes are told", async () => {
  await withPictures(async (path, read) => {
    await write(join(path, "train/third/1.bmp"), noise(100, 1));
    await write(join(path, "train/third/2.HEIC"), noise(100, 2));
    for (const more of [{}, { trainLimit: 10 }]) {
      await assertRejects(() => read(more), UserError, 'the class "third" has no picture to train on');
    }
    assertEquals((await read({ trainLimit: 0 })).classNames, ["dark", "light", "third"]);
    await write(join(path, "train/third/3.png"), await plain(1, 2, 3));
    const { train, skipped } = await read();
    assertEquals([train.count, skipped.map(({ path }) => path).sort()], [9, [
      "train/third/1.bmp",
      "train/third/2.HEIC",
    ]]);
    // Of a limited part the class may have none.
    assertEquals((await read({ trainLimit: 1 })).train.count, 1);
    await Deno.remove(join(path, "train/dark"), { recursive: true });
    await Deno.mkdir(join(path, "train/dark"));
    await assertRejects(() => read(), UserError, 'the class "dark" has no picture to train on');
  });
});

Deno.test("what is known of pictures that are gone is forgotten, of those beyond a limit it is not", async () => {
  await withPictures(async (path, read) => {
    await read();
    await Deno.rename(join(path, "train/dark/0.png"), join(path, "train/dark/new.png"));
    await read();
    const cache = join(dirname(path), "data", "pictures"),
      index = names(cache).find((name) => /whole.*json$/.test(name));
    const { entries } = JSON.parse(await Deno.readTextFile(join(cache, index!)));
    assertEquals(entries.map(({ path }: { path: string }) => path).sort(), [
      ...["1", "2", "3", "new"].map((name) => `train/dark/${name}.png`),
      ...["0", "1", "2", "3"].map((name) => `train/light/${name}.png`),
    ]);
    await Deno.rename(join(path, "train/dark/new.png"), join(path, "train/dark/newer.png"));
    await read({ trainLimit: 8 });
    assertEquals((await read()).decoded, 0);
  });
});

Deno.test("mirroring can be switched off, crops be larger; a folder's name may be as long as a system allows", async () => {
  await withPictures(async (path, read) => {
    const long = join(dirname(path), "ж".repeat(120));
    await Deno.rename(path, long);
    const windows = async (flip?: boolean) => {
      const { train } = await read({ path: long, flip });
      return Array.from({ length: 40 }, (_, seed) => train.crop!(seed % 8, new Random(seed)));
    };
    const [plain, mirrored] = [await windows(false), await windows()];
    assertEquals([plain, mirrored].map((all) => all.some(([, , , width]) => width < 0)), [false, true]);
    assertEquals(plain.map(([top]) => top), mirrored.map(([top]) => top));
    const { train } = await read({ path: long, scale: [1, 1] });
    const [, , height, width] = train.crop!(0, new Random(1));
    assert(height * Math.abs(width) > 0.9 * 32 * 32);
    await assertRejects(() => read({ path: long, scale: [0, 1] }), RangeError, "shares from above 0 to 1");
  });
});

Deno.test("sizes and workers that are none are refused by name before anything is read; no picture is blamed", async () => {
  const read = (more: Partial<FolderOptions>) =>
    readFolder({ path: "/nowhere/at/all", dataDirectory: "/nowhere", imageSize: 28, ...more });
  await assertRejects(() => read({ imageSize: 0 }), RangeError, "an image size of 0: must be a whole number in [1, ");
  await assertRejects(
    () => read({ resizeSize: 8 }),
    RangeError,
    "a shorter side of 8: must be a whole number in [28, ",
  );
  await assertRejects(() => read({ workers: NaN }), RangeError, "with NaN workers");
  await assertRejects(() => read({}), UserError, "/nowhere/at/all");
});

Deno.test("a part is split off each class, the same for the same seed", async () => {
  await withPictures(async (path, read) => {
    const set = await read({ valSplit: 0.25 });
    assertEquals(set.skipped, []);
    assertEquals([set.classNames, set.train.count, set.test.count], [["dark", "light"], 12, 4]);
    const test = reds(set.test);
    assertEquals(test.filter((each) => each.startsWith("0:")).length, 2);
    assertEquals(test.filter((each) => reds(set.train).includes(each)), []);
    assertEquals(reds((await read({ valSplit: 0.25 })).test), test);
    const others = await Promise.all(
      [1, 2, 3].map(async (seed) => String(reds((await read({ valSplit: 0.25, seed })).test))),
    );
    assert(others.some((other) => other !== String(test)));
    await assertRejects(() => read(), UserError, "--val-split");
    await assertRejects(() => read({ valSplit: 0.01 }), UserError, "choose another --val-split");
    await assertRejects(() => read({ path: join(path, "dark"), valSplit: 0.1 }), UserError, "it has no class");
  }, { parts: [["", 8]] });
});

Deno.test("more than 256 classes have labels of four bytes", async () => {
  await withFolder(async (folder) => {
    const picture = await plain(9, 9, 9);
    for (let i = 0; i < 300; i++) {
      for (const part of ["train", "val"]) {
        if (part === "train" || i >= 298) await write(join(folder, "set", part, `c${i + 1000}`, "x.png"), picture);
      }
    }
    const options = { path: join(folder, "set"), dataDirectory: folder, imageSize: 7, workers: 2 };
    const set = await readFolder(options);
    set.close();
    assertEquals([set.train.labels instanceof Uint32Array, Math.max(...set.train.labels), set.train.count], [
      true,
      299,
      300,
    ]);
    assertEquals([...set.test.labels].sort(), [298, 299]);
  });
});

Deno.test("folders that are no data set are told by what to do", async () => {
  await withPictures(async (path, read) => {
    await assertRejects(() => read({ path: join(path, "none") }), UserError, "no such file or directory");
    const split = await assertRejects(() => read({ valSplit: 0.5 }), UserError, "leave out --val-split");
    assertEquals(split.exitCode, 2);
    await write(join(path, "val/strange/1.png"), await plain(1, 1, 1));
    await assertRejects(() => read(), UserError, '"strange"');
    await Deno.remove(join(path, "val/strange"), { recursive: true });
    for (const name of ["dark", "light"]) {
      await Deno.remove(join(path, "val", name), { recursive: true });
      await Deno.mkdir(join(path, "val", name));
    }
    await assertRejects(() => read(), UserError, "there is no picture");
    await write(join(path, "val/dark/1.jpg"), noise(100, 3));
    await assertRejects(() => read(), UserError, "not one of 1 pictures can be read; val/dark/1.jpg");
  });
});

Deno.test("pictures that have no room on the disk are refused before they are decoded", async () => {
  await withPictures(async (_, read) => {
    const told: number[] = [];
    const large = () => read({ imageSize: 8_000_000, onProgress: (done) => void told.push(done) });
    await assertRejects(large, UserError, "Cannot prepare 8 pictures: they take 2006204");
    assertEquals(told, []);
  });
});

Deno.test("progress is told picture by picture, of each part", async () => {
  await withPictures(async (_, read) => {
    const told: number[][] = [];
    await read({ onProgress: (...counts) => void told.push(counts) });
    const upTo = (all: number) => Array.from({ length: all }, (_, i) => [i + 1, all]);
    assertEquals(told, [...upTo(8), ...upTo(4)]);
  });
});

Deno.test("a reading that has been given up decodes nothing", async () => {
  await withPictures(async (path, read) => {
    const dataDirectory = await Deno.makeTempDir();
    try {
      const found = await findFolder({ path, dataDirectory, imageSize: 28, workers: 1 });
      await assertRejects(() => found.read(AbortSignal.abort()), DOMException, "aborted");
      assertEquals(names(dataDirectory), []);
    } finally {
      await Deno.remove(dataDirectory, { recursive: true });
    }
    assertEquals((await read()).decoded, 12);
  });
});

Deno.test("runs at the same time share the work", async () => {
  await withPictures(async (_, read) => {
    const [one, two] = await Promise.all([read(), read()]);
    assertEquals(reds(one.train), reds(two.train));
    assertEquals(one.decoded + two.decoded, 12);
  });
});
