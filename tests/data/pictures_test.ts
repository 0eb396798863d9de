import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import sharp, { type Sharp } from "sharp";
import { PixelBudget } from "../../data/pictures/budget.ts";
import { preparePicture } from "../../data/pictures/decode.ts";
import { readJpegHeader } from "../../data/pictures/jpeg_header.ts";
import { PicturePool } from "../../data/pictures/pool.ts";
import { drawCrop, drawWindow } from "../../data/pictures/random_resized_crop.ts";
import { resample } from "../../data/pictures/resample.ts";
import { placement, testTransform, trainTransform } from "../../data/pictures/transform.ts";
import { shapes } from "../../data/shapes.ts";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import { resizedBytes } from "../kernels/resize_support.ts";
import { gpuTest } from "../support.ts";
import { noise } from "./archive_support.ts";

const FIXTURES = fromFileUrl(new URL("../fixtures/pictures", import.meta.url));

/** Mean absolute difference, in steps of a byte. */
function difference(a: Uint8Array, b: ArrayLike<number>): number {
  assertEquals(a.length, b.length);
  return a.reduce<number>((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;
}

/** A smooth picture whose four quarters are told by colour: red, green, blue, white from left to right, top to bottom. */
function quarters(width: number, height: number) {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 3) {
      const quarter = Number(x >= width / 2) + 2 * Number(y >= height / 2);
      for (let k = 0; k < 3; k++) data[at + k] = quarter === 3 || quarter === k ? 230 : 20;
    }
  }
  return sharp(data, { raw: { width, height, channels: 3 } });
}

/** The colours of the quarters of a prepared picture. */
function corners(pixels: Uint8Array, size: number): string {
  const names: Record<string, string> = { "100": "red", "010": "green", "001": "blue", "111": "white" };
  return [[1, 1], [3, 1], [1, 3], [3, 3]].map(([x, y]) => {
    const at = (Math.floor(size * y / 4) * size + Math.floor(size * x / 4)) * 3;
    const key = Array.from(pixels.subarray(at, at + 3), (value) => Number(value > 128)).join("");
    return names[key] ?? key;
  }).join(" ");
}

Deno.test("photographs become what torchvision and PIL make of them, within a 255th", async () => {
  for (const file of ["landscape.jpg", "portrait.jpg", "stars.webp", "grey.jpg", "small.png"]) {
    const { pixels } = await preparePicture(await Deno.readFile(join(FIXTURES, file)), testTransform(224));
    const rows = await sharp(join(FIXTURES, file.replace(/\.\w+$/, ".rows.png"))).removeAlpha().raw().toBuffer();
    const stride = 224 * 3;
    const own = Uint8Array.from({ length: rows.length }, (_, i) => {
      return pixels[(3 + 7 * Math.floor(i / stride)) * stride + i % stride];
    });
    assertLess(difference(own, rows), 0.5, file);
  }
});

gpuTest("small images made smaller are to predict what they are to eval and train", async (device) => {
  const count = 8, side = 32, { images } = shapes({ train: 0, test: count, seed: 0 }).test;
  const planes = Float32Array.from({ length: images.length }, (_, i) => {
    const pixel = i % side ** 2, channel = Math.floor(i / side ** 2) % 3, image = Math.floor(i / side ** 2 / 3);
    return images[(image * side ** 2 + pixel) * 3 + channel];
  });
  for (const size of [12, 19, 31]) {
    const made = await resizedBytes(device, planes, { n: count, c: 3, h: side, w: side }, size, size);
    for (let image = 0; image < count; image++) {
      const data = images.subarray(image * side ** 2 * 3, (image + 1) * side ** 2 * 3);
      const png = await sharp(data, { raw: { width: side, height: side, channels: 3 } }).png().toBuffer();
      const { pixels } = await preparePicture(png, testTransform(size, size));
      const own = Float32Array.from({ length: pixels.length }, (_, i) => {
        return 255 * made[(image * 3 + i % 3) * size ** 2 + Math.floor(i / 3)];
      });
      // Libvips rounds to bytes twice. Without antialias the difference is 6, of 12x12.
      assertLess(difference(pixels, own), 1, `${size}x${size}`);
    }
  }
});

Deno.test("the shorter side and the centre are torchvision's", () => {
  assertEquals(placement(500, 375, testTransform(224)), { width: 341, height: 256, left: 58, top: 16 });
  // (293 - 224) / 2 = 34.5 is rounded to the even number.
  assertEquals(placement(1000, 872, testTransform(224)), { width: 293, height: 256, left: 34, top: 16 });
  assertEquals(placement(30, 90, testTransform(32)), { width: 37, height: 111, left: 2, top: 40 });
  assertEquals(placement(30, 90, trainTransform(224)), { width: 256, height: 256, left: 0, top: 0 });
});

Deno.test("resampling reproduces constants and ramps, and its window is part of the whole", () => {
  const ramp = {
    width: 9,
    height: 5,
    data: Uint8Array.from({ length: 9 * 5 * 3 }, (_, i) => Math.floor(i / 3) % 9 * 20),
  };
  const whole = { left: 0, top: 0, width: 18, height: 11 };
  const all = resample(ramp, 18, 11, whole);
  // Twice as wide: pixel centres at quarters, the first and the last beyond the outer centres.
  assertEquals(Array.from({ length: 6 }, (_, x) => all[x * 3]), [0, 5, 15, 25, 35, 45]);
  assertEquals(all[17 * 3], 160);
  const part = resample(ramp, 18, 11, { left: 4, top: 3, width: 5, height: 2 });
  assertEquals([...part.subarray(0, 15)], [...all.subarray((3 * 18 + 4) * 3, (3 * 18 + 9) * 3)]);
});

Deno.test("every format and kind of pixel is read, upright", async () => {
  const kinds: Record<string, Sharp> = {
    jpeg: quarters(60, 40).jpeg(),
    progressive: quarters(60, 40).jpeg({ progressive: true }),
    png: quarters(60, 40).png(),
    palette: quarters(60, 40).png({ palette: true }),
    "16 bit": quarters(60, 40).toColourspace("rgb16").png(),
    transparent: quarters(60, 40).ensureAlpha(0.5).png(),
    webp: quarters(60, 40).webp({ lossless: true }),
    avif: quarters(60, 40).avif({ lossless: true }),
    gif: quarters(60, 40).gif(),
    tiff: quarters(60, 40).tiff(),
    "large jpeg": quarters(2400, 1600).jpeg(),
  };
  for (const [kind, picture] of Object.entries(kinds)) {
    const bytes = await picture.toBuffer();
    for (const transform of [testTransform(48), trainTransform(48)]) {
      const { pixels, width, height } = await preparePicture(bytes, transform);
      assertEquals(corners(pixels, transform.size), "red green blue white", `${kind} ${transform.kind}`);
      assertEquals(width / height, 1.5, kind);
    }
  }
  const grey = await preparePicture(await quarters(60, 40).greyscale().png().toBuffer(), testTransform(48));
  assertEquals([grey.pixels[0], grey.pixels[1]], [grey.pixels[1], grey.pixels[2]]);
  // Printing inks have no pure green: the plain conversion gives a yellowish one.
  const cmyk = await preparePicture(
    await quarters(60, 40).toColourspace("cmyk").jpeg({ quality: 95 }).toBuffer(),
    testTransform(48),
  );
  assertEquals([corners(cmyk.pixels, 48).replace("110", "green"), cmyk.width], ["red green blue white", 60]);
  // Orientation 6: the camera lay on its side, the picture is turned by a quarter clockwise.
  const turned = await quarters(60, 40).withMetadata({ orientation: 6 }).jpeg().toBuffer();
  const upright = await preparePicture(turned, testTransform(48));
  assertEquals([corners(upright.pixels, 48), upright.width, upright.height], ["blue red white green", 40, 60]);
});

Deno.test("a JPEG's header tells the size as shown, as sharp does", async () => {
  for (let orientation = 1; orientation <= 8; orientation++) {
    for (const progressive of [false, true]) {
      const bytes = await quarters(60, 40).withMetadata({ orientation }).jpeg({ progressive }).toBuffer();
      const { autoOrient } = await sharp(bytes).metadata();
      assertEquals(readJpegHeader(bytes), { ...autoOrient, components: 3 });
    }
  }
  assertEquals(readJpegHeader(await quarters(6, 4).jpeg().toBuffer()), { width: 6, height: 4, components: 3 });
  assertEquals(readJpegHeader(await quarters(6, 4).toColourspace("b-w").jpeg().toBuffer())?.components, 1);
  assertEquals(readJpegHeader(await quarters(6, 4).png().toBuffer()), undefined);
});

/** A JPEG of 60 by 40 with an Exif directory of one entry, the orientation, as a number of some TIFF type. */
async function oriented(value: number, { type = 3, count = 1, little = true, magic = 42 }) {
  const jpeg = await quarters(60, 40).jpeg().toBuffer(), exif = new Uint8Array(36), view = new DataView(exif.buffer);
  view.setUint32(0, 0xffe10022);
  exif.set(new TextEncoder().encode(little ? "Exif\0\0II" : "Exif\0\0MM"), 4);
  view.setUint16(12, magic, little);
  view.setUint32(14, 8, little);
  view.setUint16(18, 1, little);
  view.setUint16(20, 0x0112, little);
  view.setUint16(22, type, little);
  view.setUint32(24, count, little);
  if (type === 4 || type === 9) view.setUint32(28, value, little);
  else if (type === 3 || type === 8) view.setUint16(28, value, little);
  else view.setUint8(28, value);
  return Uint8Array.from([...jpeg.subarray(0, 2), ...exif, ...jpeg.subarray(2)]);
}

Deno.test("pictures are turned by whatever orientation libvips turns them by", async () => {
  const upright = "red green blue white", turned = "blue red white green";
  for (const little of [true, false]) {
    // TIFF's types of whole numbers, then text, bytes of no type, and a type of none.
    for (const type of [1, 3, 4, 6, 8, 9, 2, 7, 99]) {
      const bytes = await oriented(6, { type, little });
      for (const transform of [testTransform(24), testTransform(48), trainTransform(24)]) {
        const { pixels, width, height } = await preparePicture(bytes, transform),
          whole = type !== 2 && type < 7 || type === 8 || type === 9;
        assertEquals(
          [corners(pixels, transform.size), width, height],
          whole ? [turned, 40, 60] : [upright, 60, 40],
          `type ${type}`,
        );
      }
    }
    for (const odd of [{ count: 0 }, { count: 2 }, { count: 3 }, { magic: 43 }]) {
      const bytes = await oriented(6, { ...odd, little }), { autoOrient } = await sharp(bytes).metadata();
      const { width, height } = await preparePicture(bytes, testTransform(48));
      assertEquals({ width, height }, autoOrient, JSON.stringify(odd));
    }
  }
});

Deno.test("a JPEG's header is not read otherwise than by libvips, whatever its bytes", async () => {
  const sources = [
    await oriented(6, {}),
    await oriented(8, { little: false }),
    new Uint8Array(await quarters(60, 40).withMetadata({ orientation: 5 }).jpeg().toBuffer()),
  ];
  const random = new Random(5);
  let read = 0;
  for (let i = 0; i < 1500; i++) {
    const mutated = sources[i % 3].slice();
    // The Exif directory is near the beginning.
    for (let n = 0; n < 2; n++) mutated[random.below(random.below(2) ? 60 : 700)] = random.below(256);
    const header = readJpegHeader(i % 5 === 0 ? mutated.subarray(0, random.below(700)) : mutated);
    const shown = header && await sharp(mutated).metadata().then(({ autoOrient }) => autoOrient, () => undefined);
    if (!shown) continue;
    assertEquals({ width: header.width, height: header.height }, shown);
    read++;
  }
  assertGreater(read, 300);
});

Deno.test("of a moving picture the first frame is taken", async () => {
  const frames = new Uint8Array(20 * 40 * 3).fill(250, 0, 20 * 20 * 3);
  const gif = await sharp(frames, { raw: { width: 20, height: 40, channels: 3, pageHeight: 20 } }).gif().toBuffer();
  const { pixels, height } = await preparePicture(gif, testTransform(16));
  assertEquals([height, Math.min(...pixels) > 200], [20, true]);
});

/** A JPEG whose header tells another size. */
function sized(jpeg: Uint8Array<ArrayBuffer>, width: number, height: number): Uint8Array<ArrayBuffer> {
  const bytes = jpeg.slice(), frame = bytes.findIndex((byte, i) => byte === 0xff && bytes[i + 1] === 0xc0);
  const view = new DataView(bytes.buffer);
  view.setUint16(frame + 5, height);
  view.setUint16(frame + 7, width);
  return bytes;
}

Deno.test("pixels are decoded within a budget: who asks for more than is left waits", async () => {
  const budget = PixelBudget.of(10), elsewhere = new PixelBudget(budget.memory);
  const first = await budget.take(7);
  // Waiting for another thread keeps no program running.
  const timer = setTimeout(() => {}, 10_000);
  let taken = false;
  const second = elsewhere.take(4).then((second) => (taken = true, second));
  (await budget.take(3))[Symbol.dispose]();
  assertEquals(taken, false);
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
  (await budget.take(10))[Symbol.dispose]();
  clearTimeout(timer);
});

Deno.test("pictures give back their share of the budget, also those that break off", async () => {
  const large = sized(new Uint8Array(await quarters(60, 40).jpeg().toBuffer()), 13_000, 13_000);
  using pool = new PicturePool(1);
  const ask = (bytes: Uint8Array) => pool.prepare(bytes, testTransform(16));
  const half = large.slice(0, large.length / 2);
  const results = await Promise.all([half, half, large, half, large].map(ask));
  assertEquals(results.map((result) => "pixels" in result), [false, false, true, false, true]);
});

Deno.test("a worker gives a large picture's memory back at once", async () => {
  const side = 3000, background = { r: 1, g: 2, b: 3 };
  const large = sharp({ create: { width: side, height: side, channels: 3, background } }).toColourspace("cmyk").jpeg();
  const bytes = new Uint8Array(await large.toBuffer());
  using pool = new PicturePool(1);
  await pool.prepare(sized(bytes, 40, 40), testTransform(16));
  const before = Deno.memoryUsage().rss, pictures = 8;
  for (let i = 0; i < pictures; i++) assert("pixels" in await pool.prepare(bytes, testTransform(16)));
  // Four bytes of ink and three of colour a pixel. Other memory of the process may grow meanwhile.
  assertLess((Deno.memoryUsage().rss - before) / pictures, side ** 2 * 7 / 4, "what a picture leaves behind");
});

Deno.test("workers name what is wrong with a picture, and go on", async () => {
  const good = new Uint8Array(await quarters(60, 40).jpeg().toBuffer());
  const png = new Uint8Array(await quarters(60, 40).png().toBuffer());
  const flipped = png.slice();
  flipped[flipped.length - 30] ^= 255;
  const huge = png.slice();
  // 60000 x 60000 by its header, whose checksum is no longer right either.
  new DataView(huge.buffer).setUint32(16, 60000);
  new DataView(huge.buffer).setUint32(20, 60000);
  const broken: Record<string, Uint8Array> = {
    empty: new Uint8Array(0),
    noise: noise(500, 1),
    "half a jpeg": good.slice(0, good.length / 2),
    "a jpeg's header": good.slice(0, 30),
    "half a png": png.slice(0, png.length / 2),
    flipped,
    huge,
    text: new TextEncoder().encode("<html>not found</html>"),
    svg: new TextEncoder().encode(
      '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0"/></svg>',
    ),
    "a jpeg of 256 million pixels": sized(good, 16_000, 16_000),
  };
  using pool = new PicturePool(2);
  const results = await Promise.all([
    pool.prepare(good, testTransform(16)),
    ...Object.values(broken).map((bytes) => pool.prepare(bytes, testTransform(16))),
    pool.prepare("/nowhere/at/all.jpg", testTransform(16)),
    pool.prepare(good, testTransform(16)),
  ]);
  for (const at of [0, results.length - 1]) assert("pixels" in results[at], "the good picture");
  for (const [i, kind] of [...Object.keys(broken), "absent"].entries()) {
    const result = results[i + 1];
    assert("error" in result, kind);
    assertEquals(result.error.includes("\n"), false, kind);
    assertGreater(result.error.length, 8, kind);
  }
  assertEquals(results[1], { error: "it is empty" });
  assertEquals(results.slice(-4, -2), [{ error: "its format is not known" }, { error: "it has too many pixels" }]);
  assertStringIncludes((results.at(-2) as { error: string }).error, "no such file");
  assertEquals(await pool.prepare(FIXTURES, testTransform(16)), { error: "it is a folder", unread: true });
  await assertRejects(() => preparePicture(new Uint8Array(0), testTransform(16)), Error, "it is empty");
});

Deno.test("a pool that is closed leaves nobody waiting, and takes nothing more", async () => {
  const bytes = new Uint8Array(await quarters(60, 40).jpeg().toBuffer());
  const pool = new PicturePool(1), ask = () => pool.prepare(bytes, testTransform(16));
  // One worker has two at a time; the third waits for it.
  const closed = "Cannot decode a picture: the PicturePool is closed";
  const asked = Array.from({ length: 3 }, () => assertRejects(ask, Error, closed));
  pool.close();
  await Promise.all(asked);
  await assertRejects(ask, Error, closed);
  pool.close();
});

/** What a worker runs instead of `worker.ts`: the first of its kind breaks down by its first picture. */
const BREAKS_DOWN = `self.onmessage = () => { throw new Error("broken down"); };`;

Deno.test("after a worker has broken down, others prepare what is asked for later", async () => {
  const bytes = new Uint8Array(await quarters(60, 40).jpeg().toBuffer());
  const Original = globalThis.Worker, broken = `data:text/javascript,${encodeURIComponent(BREAKS_DOWN)}`;
  let started = 0;
  globalThis.Worker = class extends Original {
    constructor(url: string | URL, options?: WorkerOptions) {
      super(started++ === 0 ? broken : url, options);
    }
  };
  try {
    // One alone: another might have answered before this one breaks down.
    using pool = new PicturePool(1);
    const ask = () => pool.prepare(bytes, testTransform(16));
    const asked = Array.from({ length: 5 }, () => assertRejects(ask, UserError, "Cannot decode pictures: "));
    await Promise.all(asked);
    const after = await Promise.all(Array.from({ length: 5 }, ask));
    assertEquals(after.map((result) => "pixels" in result), Array(5).fill(true));
    assertEquals(started, 2, "the worker, and another in its place");
  } finally {
    globalThis.Worker = Original;
  }
});

Deno.test("sizes and workers that are none are refused by name, before a picture is blamed for them", async () => {
  for (const workers of [NaN, 0, -1, 1.5, Infinity]) {
    assertThrows(() => new PicturePool(workers), RangeError, `with ${workers} workers`);
  }
  for (const size of [NaN, 0, -4, 0.5, 1e9]) {
    for (const make of [testTransform, trainTransform]) {
      assertThrows(() => make(size), RangeError, "Cannot prepare pictures with a");
    }
  }
  const short = "a shorter side of 8: must be a whole number in [32, 10000000]";
  assertThrows(() => testTransform(32, 8), RangeError, short);
  assertThrows(() => testTransform(32, NaN), RangeError, "a shorter side of NaN");
  assertEquals(testTransform(32, 32), { kind: "centre", size: 32, side: 32 });
  // Those that were not made by a function.
  using pool = new PicturePool(1);
  await assertRejects(() => pool.prepare("cat.jpg", { kind: "centre", size: 32, side: 8 }), RangeError, short);
});

Deno.test("mutated pictures are read or refused, and never stop the workers", async () => {
  const sources = [
    new Uint8Array(await quarters(60, 40).jpeg().toBuffer()),
    new Uint8Array(await quarters(60, 40).png().toBuffer()),
    new Uint8Array(await quarters(60, 40).webp().toBuffer()),
    new Uint8Array(await quarters(60, 40).gif().toBuffer()),
  ];
  const random = new Random(7);
  using pool = new PicturePool(2);
  const results = await Promise.all(Array.from({ length: 200 }, (_, i) => {
    const bytes = sources[i % sources.length].slice();
    for (let n = 0; n < 4; n++) bytes[random.below(bytes.length)] = random.below(256);
    return pool.prepare(bytes.subarray(0, bytes.length - random.below(3) * random.below(20)), testTransform(16));
  }));
  for (const result of results) {
    if ("pixels" in result) assertEquals(result.pixels.length, 16 * 16 * 3);
    else assertGreater(result.error.length, 8);
  }
});

Deno.test("random crops are within the picture, of torchvision's areas and ratios", () => {
  const random = new Random(1);
  let area = 0, ratio = 0;
  for (let i = 0; i < 2000; i++) {
    const { top, left, width, height } = drawCrop(400, 300, random);
    assert(top >= 0 && left >= 0 && top + height <= 300 && left + width <= 400);
    const share = width * height / 120_000;
    assert(share > 0.075 && share <= 1 && width / height > 0.7 && width / height < 1.4);
    area += share / 2000;
    ratio += width / height / 2000;
  }
  // The means of 20,000 draws of torchvision's for this picture: large upright crops do not fit.
  assertLess(Math.abs(area - 0.430), 0.02);
  assertLess(Math.abs(ratio - 1.044), 0.02);
  // Nothing of these ratios fits: the centre is taken, as wide as may be.
  assertEquals(drawCrop(1000, 10, random), { top: 0, left: 493, height: 10, width: 13 });
});

Deno.test("a window is the crop within the stored square, mirrored half of the time", () => {
  let mirrored = 0;
  for (let seed = 0; seed < 400; seed++) {
    const crop = drawCrop(400, 300, new Random(seed));
    const [top, left, height, width] = drawWindow(400, 300, 256, new Random(seed));
    assertLess(Math.abs(top - crop.top * 256 / 300) + Math.abs(height - crop.height * 256 / 300), 1e-9);
    const start = width < 0 ? left + width : left;
    assertLess(Math.abs(start - crop.left * 0.64) + Math.abs(Math.abs(width) - crop.width * 0.64), 1e-9);
    mirrored += Number(width < 0);
  }
  assertLess(Math.abs(mirrored - 200), 40);
});

const BAD_IMAGES = fromFileUrl(new URL("../../../shared/badimages", import.meta.url));
const hasBadImages = await Deno.stat(BAD_IMAGES).then(() => true, () => false);

Deno.test({ name: "the collection of bad and odd images", ignore: !hasBadImages }, async () => {
  using pool = new PicturePool(2);
  for (const { name } of Deno.readDirSync(join(BAD_IMAGES, "bad"))) {
    const result = await pool.prepare(join(BAD_IMAGES, "bad", name), trainTransform(64));
    assert("pixels" in result || result.error.length > 0, name);
  }
  for (const { name } of Deno.readDirSync(join(BAD_IMAGES, "odd"))) {
    if (!name.endsWith(".jpg")) continue;
    const own = await pool.prepare(join(BAD_IMAGES, "odd", name), testTransform(64));
    const reference = await pool.prepare(join(BAD_IMAGES, "odd", name.replace(".jpg", ".ref.png")), testTransform(64));
    assert("pixels" in own && "pixels" in reference, name);
    assertLess(difference(own.pixels, reference.pixels), 0.3, name);
  }
});
