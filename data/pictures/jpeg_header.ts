/**
 * What a JPEG's header tells of the picture (ITU-T T.81, annex B; Exif 2.3): libvips tells the same, but opens the file a
 * second time for it, which costs a tenth of the decoding.
 */

/** A picture's own size, as it is shown, and its colours. */
export interface JpegHeader {
  readonly width: number;
  readonly height: number;
  /** Colour components: 1 is grey, 3 colour, 4 CMYK. */
  readonly components: number;
}

/** Markers of frames; C4, C8 and CC among them mean something else. */
const isFrame = (marker: number) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
const END_OF_IMAGE = 0xd9, START_OF_SCAN = 0xda, APP1 = 0xe1;

/** Reads the header; undefined where the bytes are no JPEG, or one that does not go by the book. */
export function readJpegHeader(bytes: Uint8Array): JpegHeader | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 4 || view.getUint16(0) !== 0xffd8) return undefined;
  let orientation: number | undefined;
  for (let at = 2; at + 4 <= bytes.length;) {
    if (bytes[at] !== 0xff) return undefined;
    const marker = bytes[at + 1], length = view.getUint16(at + 2), end = at + 2 + length;
    if (marker < 0xc0 || marker === END_OF_IMAGE || marker === START_OF_SCAN || length < 2 || end > bytes.length) {
      return undefined;
    }
    if (isFrame(marker)) {
      if (length < 8) return undefined;
      const [height, width] = [view.getUint16(at + 5), view.getUint16(at + 7)];
      if (width === 0 || height === 0) return undefined;
      // From 5 on the picture lies on its side.
      const upright = (orientation ?? 1) < 5;
      return { width: upright ? width : height, height: upright ? height : width, components: bytes[at + 9] };
    }
    if (marker === APP1 && orientation === undefined) {
      orientation = readOrientation(new DataView(bytes.buffer, bytes.byteOffset + at + 4, length - 2));
    }
    at = end;
  }
  return undefined;
}

const ORIENTATION = 0x0112, SHORT = 3;

/** The orientation, 1 to 8, in an Exif segment; undefined where it is none, or tells none. */
function readOrientation(segment: DataView): number | undefined {
  const tiff = 6;
  // "Exif", two zeros, then a TIFF header: byte order, 42, the offset of the first directory.
  if (segment.byteLength < tiff + 14 || segment.getUint32(0) !== 0x45786966) return undefined;
  const order = segment.getUint16(tiff), little = order === 0x4949;
  if (!little && order !== 0x4d4d) return undefined;
  const directory = tiff + segment.getUint32(tiff + 4, little);
  if (directory + 2 > segment.byteLength) return undefined;
  const count = segment.getUint16(directory, little);
  for (let i = 0, at = directory + 2; i < count && at + 12 <= segment.byteLength; i++, at += 12) {
    if (segment.getUint16(at, little) !== ORIENTATION) continue;
    const value = segment.getUint16(at + 8, little);
    return segment.getUint16(at + 2, little) === SHORT && value >= 1 && value <= 8 ? value : undefined;
  }
  return undefined;
}
