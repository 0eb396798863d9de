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
/** Markers of tables, applications' data and comments, which may stand before the frame. */
const isSegment = (marker: number) =>
  marker >= 0xe0 && marker <= 0xef || [0xc4, 0xcc, 0xdb, 0xdd, 0xfe].includes(marker);
const APP1 = 0xe1;
/** "Exif". */
const EXIF = 0x45786966;

/**
 * Reads the header; undefined where the bytes are no JPEG, or one that does not go by the book: libvips has its own ways
 * with those, and is to be asked.
 */
export function readJpegHeader(bytes: Uint8Array): JpegHeader | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 4 || view.getUint16(0) !== 0xffd8) return undefined;
  let orientation = 1, exif = false;
  for (let at = 2; at + 4 <= bytes.length;) {
    if (bytes[at] !== 0xff) return undefined;
    const marker = bytes[at + 1], length = view.getUint16(at + 2), end = at + 2 + length;
    if (!(isFrame(marker) || isSegment(marker)) || length < 2 || end > bytes.length) return undefined;
    if (isFrame(marker)) {
      if (length < 8) return undefined;
      const [height, width] = [view.getUint16(at + 5), view.getUint16(at + 7)];
      if (width === 0 || height === 0) return undefined;
      // From 5 on the picture lies on its side.
      const upright = orientation < 5;
      return { width: upright ? width : height, height: upright ? height : width, components: bytes[at + 9] };
    }
    // Other segments of this kind hold other things; of two with Exif the first counts.
    if (marker === APP1 && !exif && length >= 6 && view.getUint32(at + 4) === EXIF) {
      const told = readOrientation(new DataView(bytes.buffer, bytes.byteOffset + at + 4, length - 2));
      if (told === undefined) return undefined;
      orientation = told;
      exif = true;
    }
    at = end;
  }
  return undefined;
}

const ORIENTATION = 0x0112, SHORT = 3;

/** The orientation, 1 to 8, in an Exif segment, 1 where it has none; undefined where any of it is not by the book. */
function readOrientation(segment: DataView): number | undefined {
  const tiff = 6;
  // Two zeros, then a TIFF header: byte order, 42, the offset of the first directory.
  if (segment.byteLength < tiff + 14 || segment.getUint16(4) !== 0) return undefined;
  const order = segment.getUint16(tiff), little = order === 0x4949;
  if ((!little && order !== 0x4d4d) || segment.getUint16(tiff + 2, little) !== 42) return undefined;
  const directory = tiff + segment.getUint32(tiff + 4, little);
  if (directory + 2 > segment.byteLength) return undefined;
  const first = directory + 2, count = segment.getUint16(directory, little);
  if (first + 12 * count + 4 > segment.byteLength) return undefined;
  for (let at = first; at < first + 12 * count; at += 12) {
    if (segment.getUint16(at, little) !== ORIENTATION) continue;
    // Some cameras write other types of numbers, and libvips takes some of them.
    if (segment.getUint16(at + 2, little) !== SHORT || segment.getUint32(at + 4, little) !== 1) return undefined;
    const value = segment.getUint16(at + 8, little);
    return value >= 1 && value <= 8 ? value : undefined;
  }
  return 1;
}
