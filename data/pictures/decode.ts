/**
 * Decodes pictures of any common format into square RGB images, by sharp (libvips). This module loads sharp: only the
 * workers import it, so that nobody else pays for it.
 */

import sharp, { type Sharp, type SharpOptions } from "sharp";
import type { PixelBudget } from "./budget.ts";
import { hasGround, paintGround, readGif } from "./gif.ts";
import { readJpegHeader } from "./jpeg_header.ts";
import { resample } from "./resample.ts";
import { type PictureTransform, placement } from "./transform.ts";

// The threads are ours: one picture a worker, and none of them comes twice.
sharp.concurrency(1);
sharp.cache(false);
// An SVG is a program, whose reader heeds no timeout. Only its loader is blocked, not all with exceptions: this holds for
// the whole process at once, while other workers are decoding.
sharp.block({ operation: ["VipsForeignLoadSvg"] });

/** Pictures of more pixels are refused, as PIL does: a file of a megabyte can hold as many. */
const MAX_PIXELS = 178_956_970;
/** Seconds that a picture may take: only one made for it takes so long. */
const TIMEOUT = 30;

/** A picture made ready. */
export interface PreparedPicture {
  /** `size x size x 3` RGB bytes. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  /** The picture's own size, upright. */
  readonly width: number;
  /** As `width`. */
  readonly height: number;
}

/**
 * Decodes a picture (JPEG, PNG, WebP, AVIF, TIFF, the first frame of a GIF or an animated WebP), turns it upright by its
 * EXIF orientation, and resizes as PIL's bilinear does. Colour profiles and transparency are ignored, as torchvision's
 * loader does: what is transparent has the colour that the file gives it; 16 bits become 8, grey and CMYK become RGB.
 *
 * Testing pictures are decoded in full. For training pictures a JPEG much larger than needed is decoded at a half, a
 * quarter or an eighth of its size, which is several times faster.
 *
 * @param budget Of all pictures that are decoded at a time.
 * @throws {Error} saying what is wrong with it.
 */
export async function preparePicture(
  bytes: Uint8Array,
  transform: PictureTransform,
  budget?: PixelBudget,
): Promise<PreparedPicture> {
  if (bytes.length === 0) throw new Error("it is empty");
  const input = {
    failOn: "error",
    ignoreIcc: true,
    limitInputPixels: MAX_PIXELS,
    sequentialRead: true,
    autoOrient: true,
  } as const;
  const gif = readGif(bytes);
  if (gif) bytes = gif.opaque;
  const { width, height, cmyk, hasAlpha } = await readHeader(bytes, input);
  if (width * height > MAX_PIXELS) throw new Error("it has too many pixels");
  using _taken = await budget?.take(width * height);
  const placed = placement(width, height, transform);
  const window = { left: placed.left, top: placed.top, width: transform.size, height: transform.size };
  // Libvips enlarges with its pixels half a pixel off, blends colours with transparency before it resizes, turns CMYK into
  // RGB by a profile of its own, and leaves black what a GIF's frame does not fill.
  const enlarged = placed.width > width || placed.height > height;
  const ground = gif !== undefined && hasGround(gif, width, height);
  const whole = sharp(bytes, input).timeout({ seconds: TIMEOUT });
  const decoded = cmyk
    ? cmykToRgb(await pixelsOf(whole.pipelineColourspace("cmyk").toColourspace("cmyk"), width, height, 4))
    : enlarged || hasAlpha || ground
    ? await pixelsOf(whole.toColourspace("srgb").removeAlpha(), width, height, 3)
    : undefined;
  using _memory = decoded && released(decoded);
  if (ground) paintGround(gif, decoded!, width);
  if (enlarged) {
    const pixels = resample({ width, height, data: decoded! }, placed.width, placed.height, window);
    return { pixels, width, height };
  }
  const source = decoded ? sharp(decoded, { raw: { width, height, channels: 3 } }) : sharp(bytes, input);
  const resized = source
    .resize({
      width: placed.width,
      height: placed.height,
      fit: "fill",
      kernel: "linear",
      fastShrinkOnLoad: transform.kind === "whole",
    });
  const data = await (transform.kind === "whole" ? resized : resized.extract(window))
    .timeout({ seconds: TIMEOUT })
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer();
  if (data.length !== transform.size ** 2 * 3) throw new Error(`it decodes to ${data.length} bytes`);
  return { pixels: new Uint8Array(data), width, height };
}

/** What decides on the way of a picture: its size as shown, and its kind of pixels. */
async function readHeader(bytes: Uint8Array, input: SharpOptions) {
  const jpeg = readJpegHeader(bytes);
  if (jpeg && (jpeg.components === 1 || jpeg.components === 3)) return { ...jpeg, cmyk: false, hasAlpha: false };
  const { autoOrient: { width, height }, hasAlpha, space } = await sharp(bytes, input).metadata();
  return { width, height, cmyk: space === "cmyk", hasAlpha };
}

/** All pixels of a picture. @throws {Error} where they are of another size than its header tells: rows would be scrambled. */
async function pixelsOf(picture: Sharp, width: number, height: number, channels: number): Promise<Uint8Array> {
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });
  if (info.width === width && info.height === height && info.channels === channels) return data;
  const [told, found] = [{ width, height, channels }, info].map((it) => `${it.width}x${it.height}x${it.channels}`);
  throw new Error(`it decodes to ${found} bytes, though its header tells ${told}`);
}

/** Gives a picture's memory back when it is disposed of: a worker without work collects no garbage. */
function released({ buffer, length }: Uint8Array): Disposable {
  return { [Symbol.dispose]: () => void (length === buffer.byteLength && (buffer as ArrayBuffer).transfer(0)) };
}

/** The plain conversion, PIL's: light passes what cyan and black leave of red, and so on. */
function cmykToRgb(cmyk: Uint8Array): Uint8Array {
  const count = cmyk.length / 4;
  using _memory = released(cmyk);
  const rgb = new Uint8ClampedArray(count * 3);
  for (let i = 0, from = 0, to = 0; i < count; i++, from += 4) {
    const light = (255 - cmyk[from + 3]) / 255;
    for (let k = 0; k < 3; k++) rgb[to++] = (255 - cmyk[from + k]) * light;
  }
  return new Uint8Array(rgb.buffer);
}
