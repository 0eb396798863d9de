import { assertEquals } from "@std/assert";
import { preparePicture } from "../../data/pictures/decode.ts";
import { readGif } from "../../data/pictures/gif.ts";
import { Random } from "../../kernels/random.ts";

const SIZE = 6;
const RED = [250, 10, 20], GREEN = [30, 240, 50], BLUE = [10, 40, 230], SAND = [220, 200, 150];
const PALETTE = [RED, GREEN, BLUE, SAND].flat(), OTHER = [SAND, RED, GREEN, BLUE].flat();

interface Frame {
  readonly box: readonly [left: number, top: number, width: number, height: number];
  /** The palette's index of each pixel. */
  readonly pixels: readonly number[];
  readonly transparent?: number;
  readonly palette?: readonly number[];
}

/** A GIF of `SIZE` by `SIZE`, colours of four. */
function gif(frames: readonly Frame[], palette: readonly number[] = PALETTE): Uint8Array<ArrayBuffer> {
  const short = (value: number) => [value & 255, value >> 8];
  const bytes = [...new TextEncoder().encode("GIF89a"), ...short(SIZE), ...short(SIZE)];
  bytes.push(palette.length ? 0xf1 : 0x70, 1, 0, ...palette);
  for (const { box, pixels, transparent, palette: own } of frames) {
    if (transparent !== undefined) bytes.push(0x21, 0xf9, 4, 1, 0, 0, transparent, 0);
    bytes.push(0x2c, ...box.flatMap(short), own ? 0x81 : 0, ...own ?? [], 2);
    // Codes of three bits: before two pixels each the table is cleared (4), so that codes grow no longer; 5 is the end.
    const codes = pixels.flatMap((pixel, i) => i % 2 ? [pixel] : [4, pixel]).concat(5);
    const bits = codes.flatMap((code) => [code & 1, code >> 1 & 1, code >> 2]);
    const data = Array.from({ length: Math.ceil(bits.length / 8) }, (_, i) => {
      return bits.slice(8 * i, 8 * i + 8).reduce((byte, bit, at) => byte | bit << at, 0);
    });
    bytes.push(data.length, ...data, 0);
  }
  return Uint8Array.from([...bytes, 0x3b]);
}

const all = Array.from({ length: SIZE ** 2 }, (_, i) => (i * 7 + (i >> 2)) % 4);
const whole = [0, 0, SIZE, SIZE] as const, part = [1, 2, 3, 2] as const;

/** The colours of a picture's pixels. */
async function decoded(bytes: Uint8Array): Promise<number[][]> {
  const { pixels } = await preparePicture(bytes, { kind: "centre", size: SIZE, side: SIZE });
  return Array.from({ length: SIZE ** 2 }, (_, i) => [...pixels.subarray(3 * i, 3 * i + 3)]);
}

/** What PIL's `convert("RGB")` gives (Pillow 9.4): colours by index, and outside of the frame that of `ground`. */
function expected({ box: [left, top, width, height], pixels }: Frame, palette: readonly number[], ground: number) {
  return Array.from({ length: SIZE ** 2 }, (_, i) => {
    const x = i % SIZE - left, y = Math.floor(i / SIZE) - top;
    const index = x >= 0 && x < width && y >= 0 && y < height ? pixels[y * width + x] : ground;
    return palette.slice(3 * index, 3 * index + 3);
  });
}

Deno.test("a GIF's transparent pixels have their palette's colour, as in PIL", async () => {
  const frame = { box: whole, pixels: all };
  for (const transparent of [undefined, 0, 3]) {
    assertEquals(await decoded(gif([{ ...frame, transparent }])), expected(frame, PALETTE, 0), `${transparent}`);
  }
  const own = { ...frame, transparent: 2, palette: OTHER };
  assertEquals(await decoded(gif([own])), expected(frame, OTHER, 0));
  assertEquals(await decoded(gif([own], [])), expected(frame, OTHER, 0), "no palette of the whole");
  const second = { box: whole, pixels: all.toReversed(), transparent: 1 };
  assertEquals(
    await decoded(gif([{ ...frame, transparent: 3 }, second])),
    expected(frame, PALETTE, 0),
    "of two frames",
  );
});

Deno.test("what a GIF's first frame leaves of the picture has the transparent colour, or the palette's first", async () => {
  const frame = { box: part, pixels: all.slice(0, 6) };
  assertEquals(await decoded(gif([frame])), expected(frame, PALETTE, 0));
  assertEquals(await decoded(gif([{ ...frame, transparent: 2 }])), expected(frame, PALETTE, 2));
  assertEquals(await decoded(gif([{ ...frame, transparent: 1, palette: OTHER }])), expected(frame, OTHER, 1));
  assertEquals(await decoded(gif([frame, { box: whole, pixels: all }])), expected(frame, PALETTE, 0), "of two frames");
});

Deno.test("a GIF's bytes are left as they are, and any bytes have an answer", () => {
  const bytes = gif([{ box: part, pixels: all.slice(0, 6), transparent: 2 }]), before = bytes.slice();
  const random = new Random(1);
  assertEquals(readGif(bytes)?.ground, BLUE as unknown as [number, number, number]);
  assertEquals(bytes, before);
  for (let length = 0; length < bytes.length; length++) readGif(bytes.subarray(0, length));
  for (let i = 0; i < 500; i++) {
    const mutated = bytes.slice();
    for (let n = 0; n < 3; n++) mutated[6 + random.below(60)] = random.below(256);
    const frame = readGif(mutated);
    if (frame) assertEquals(frame.ground.every((value) => value >= 0 && value < 256), true);
  }
  assertEquals(readGif(new Uint8Array(40)), undefined);
});
