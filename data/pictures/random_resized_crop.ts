/** torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`: the part of a photograph that training sees this time. */

import type { Random } from "../../kernels/random.ts";

/** Least and greatest share of the area, torchvision's default: that of Inception and ResNeXt. */
export const SCALE = [0.08, 1] as const;
/** Of width to height. */
const RATIO = [3 / 4, 4 / 3] as const;
/** Draws until the centre is taken. */
const ATTEMPTS = 10;

/** A part of a picture, in pixels. */
interface Part {
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
}

/** `RandomResizedCrop.get_params` for a picture of `width` by `height`. */
export function drawCrop(
  width: number,
  height: number,
  random: Random,
  scale: readonly [number, number] = SCALE,
): Part {
  const between = (low: number, high: number) => low + (high - low) * random.uniform();
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const area = width * height * between(...scale);
    const ratio = Math.exp(between(Math.log(RATIO[0]), Math.log(RATIO[1])));
    const w = Math.round(Math.sqrt(area * ratio)), h = Math.round(Math.sqrt(area / ratio));
    if (w < 1 || w > width || h < 1 || h > height) continue;
    return { top: random.below(height - h + 1), left: random.below(width - w + 1), height: h, width: w };
  }
  const w = Math.min(width, Math.max(1, Math.round(height * RATIO[1])));
  const h = Math.min(height, Math.max(1, Math.round(width / RATIO[0])));
  return { top: Math.floor((height - h) / 2), left: Math.floor((width - w) / 2), height: h, width: w };
}

/**
 * The crop, with `flip` mirrored half of the time, as a window (top, left, height, width; a negative width runs to the left) of a copy
 * of the picture whose sides were both resized to `size`.
 */
export function drawWindow(
  width: number,
  height: number,
  size: number,
  random: Random,
  { flip = true, scale }: { readonly flip?: boolean; readonly scale?: readonly [number, number] } = {},
): readonly [number, number, number, number] {
  const part = drawCrop(width, height, random, scale);
  const x = size / width, y = size / height;
  const mirrored = flip && random.uniform() < 0.5;
  return mirrored
    ? [part.top * y, (part.left + part.width) * x, part.height * y, -part.width * x]
    : [part.top * y, part.left * x, part.height * y, part.width * x];
}
