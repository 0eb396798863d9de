/**
 * What becomes of a picture before it is kept: the two ways in which torchvision's reference training prepares
 * photographs, as far as they do not change from epoch to epoch.
 */

/** A way of preparing pictures; `size` is the height and width of what comes out. */
export interface PictureTransform {
  /**
   * `centre`: torchvision's `Resize(round(size * 256 / 224))` of the shorter side, then `CenterCrop(size)`: for testing.
   * `whole`: all of the picture, its two sides resized independently to `size`: for crops to be taken from.
   */
  readonly kind: "centre" | "whole";
  /** Of what comes out, in pixels. */
  readonly size: number;
  /** Of `centre`: another length of the shorter side. */
  readonly side?: number;
}

/** Where a picture's sides go, and what is cut out there; in pixels. */
export interface Placement {
  /** The size that all of the picture is resized to. */
  readonly width: number;
  readonly height: number;
  /** The corner of the square of {@linkcode PictureTransform.size} that is kept. */
  readonly left: number;
  readonly top: number;
}

/** Pixels of a side, at most: libvips' own limit. */
const MOST_SIDE = 10_000_000;

/**
 * What testing does to photographs for a network of images of `imageSize`; `side` is another length of the shorter one.
 *
 * @throws {RangeError} for sizes that are none, and a side shorter than the image.
 */
export function testTransform(imageSize: number, side: number = resizedSide(imageSize)): PictureTransform {
  return checkTransform({ kind: "centre", size: imageSize, ...(side !== resizedSide(imageSize) && { side }) });
}

/**
 * What is kept of photographs for training on images of `imageSize`: somewhat more, as torchvision's 256 for 224.
 *
 * @throws {RangeError} for a size that is none.
 */
export function trainTransform(imageSize: number): PictureTransform {
  checkSide("an image size", imageSize, 1);
  return checkTransform({ kind: "whole", size: resizedSide(imageSize) });
}

/** Its sizes, so that no picture is blamed for them. @throws {RangeError} */
export function checkTransform(transform: PictureTransform): PictureTransform {
  const { size, side } = transform;
  checkSide("a size", size, 1);
  if (side !== undefined) checkSide("a shorter side", side, size);
  return transform;
}

function checkSide(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= MOST_SIDE) return;
  throw new RangeError(
    `Cannot prepare pictures with ${name} of ${value}: must be a whole number in [${least}, ${MOST_SIDE}]`,
  );
}

/** The shorter side before the centre is cut out: 256 for images of 224. */
export function resizedSide(imageSize: number): number {
  return Math.round(imageSize * 256 / 224);
}

/** Where a picture of `width` by `height` goes. */
export function placement(
  width: number,
  height: number,
  { kind, size, side = resizedSide(size) }: PictureTransform,
): Placement {
  if (kind === "whole") return { width: size, height: size, left: 0, top: 0 };
  // As torchvision's Resize does: the longer side is cut off to a whole number.
  const scaled = width <= height
    ? { width: side, height: Math.trunc(side * height / width) }
    : { width: Math.trunc(side * width / height), height: side };
  return { ...scaled, left: roundHalfEven((scaled.width - size) / 2), top: roundHalfEven((scaled.height - size) / 2) };
}

/** Python's `round`, which CenterCrop uses. */
function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
