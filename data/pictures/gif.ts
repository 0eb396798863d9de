/**
 * A GIF's first frame in PIL's colours (GIF89a, 1990): libvips makes transparent pixels black, and what the frame leaves of
 * the picture, while PIL takes the palette's colours for both. So the frame's transparency is switched off before libvips
 * sees it, and what is outside of the frame is painted.
 */

/** How a GIF is to be decoded. */
export interface GifFrame {
  /** The file, its first frame without transparency. */
  readonly opaque: Uint8Array;
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  /** RGB of what is outside of the frame. */
  readonly ground: readonly [red: number, green: number, blue: number];
}

const EXTENSION = 0x21, GRAPHIC_CONTROL = 0xf9, IMAGE = 0x2c;

/** Reads up to the first frame's pixels; undefined where the bytes are no GIF, or one that ends before. */
export function readGif(bytes: Uint8Array): GifFrame | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 13 || !/^GIF8[79]a/.test(String.fromCharCode(...bytes.subarray(0, 6)))) return undefined;
  const opaque = bytes.slice();
  const paletteBytes = (flags: number) => flags & 0x80 ? 3 << (flags & 7) + 1 : 0;
  let palette = bytes.subarray(13, 13 + paletteBytes(bytes[10])), transparent = 0;
  for (let at = 13 + palette.length; at + 10 <= bytes.length;) {
    if (bytes[at] === IMAGE) {
      const own = paletteBytes(bytes[at + 9]);
      if (own) palette = bytes.subarray(at + 10, at + 10 + own);
      const [left, top, width, height] = [1, 3, 5, 7].map((field) => view.getUint16(at + field, true));
      // PIL's palettes go on with greys.
      const [red = transparent, green = transparent, blue = transparent] = palette.subarray(transparent * 3);
      return { opaque, left, top, width, height, ground: [red, green, blue] };
    }
    if (bytes[at] !== EXTENSION) {
      at++;
      continue;
    }
    if (bytes[at + 1] === GRAPHIC_CONTROL && bytes[at + 3] & 1) {
      opaque[at + 3] &= ~1;
      transparent = bytes[at + 6];
    }
    // Blocks, each after its length; the last one is empty.
    for (at += 2; at < bytes.length && bytes[at] !== 0;) at += 1 + bytes[at];
    at++;
  }
  return undefined;
}

/** Whether a picture of `width` by `height` is more than the frame. */
export function hasGround(frame: GifFrame, width: number, height: number): boolean {
  return frame.left > 0 || frame.top > 0 || frame.width < width || frame.height < height;
}

/** Paints what is outside of the frame, in RGB pixels. */
export function paintGround(frame: GifFrame, pixels: Uint8Array, width: number): void {
  const line = Uint8Array.from({ length: width * 3 }, (_, i) => frame.ground[i % 3]);
  const left = Math.min(frame.left, width) * 3, right = Math.min(frame.left + frame.width, width) * 3;
  for (let y = 0, at = 0; at < pixels.length; y++, at += line.length) {
    const within = y >= frame.top && y < frame.top + frame.height;
    pixels.set(within ? line.subarray(0, left) : line, at);
    if (within) pixels.set(line.subarray(right), at + right);
  }
}
