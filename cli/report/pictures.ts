/** Pictures inside a page: PNGs as data addresses. */

import type { AnyImageSet } from "../../data/dataset.ts";

/** RGB or RGBA bytes, interleaved, as a PNG. */
export async function png(pixels: Uint8Array, width: number, height: number): Promise<Uint8Array<ArrayBuffer>> {
  // Loaded where it is needed: it asks for permissions that training by itself has not.
  const { default: sharp } = await import("sharp");
  const channels = pixels.length === width * height * 4 ? 4 : 3;
  const encoded = await sharp(pixels, { raw: { width, height, channels } }).png({ compressionLevel: 9 }).toBuffer();
  return new Uint8Array(encoded);
}

/** A PNG as an address that holds it. */
export function dataUrl(png: Uint8Array): string {
  return `data:image/png;base64,${png.toBase64()}`;
}

/** A picture as it lies in memory. */
export interface Sheet {
  readonly rgba: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** RGB tiles of one size side by side as RGBA, each enlarged `scale` times, `gap` clear pixels between. */
export function tiled(
  tiles: readonly Uint8Array[],
  { width, height, columns, gap = 2, scale = 1 }: {
    readonly width: number;
    readonly height: number;
    readonly columns: number;
    readonly gap?: number;
    readonly scale?: number;
  },
): Sheet {
  const across = Math.min(columns, tiles.length), down = Math.ceil(tiles.length / across);
  const [wide, high] = [width * scale, height * scale];
  const whole = { width: across * (wide + gap) - gap, height: down * (high + gap) - gap };
  const rgba = new Uint8Array(whole.width * whole.height * 4);
  tiles.forEach((tile, i) => {
    const left = (i % across) * (wide + gap), top = Math.floor(i / across) * (high + gap);
    for (let row = 0; row < high; row++) {
      for (let column = 0; column < wide; column++) {
        const from = (Math.floor(row / scale) * width + Math.floor(column / scale)) * 3;
        rgba.set([...tile.subarray(from, from + 3), 255], ((top + row) * whole.width + left + column) * 4);
      }
    }
  });
  return { rgba, ...whole };
}

/**
 * Filters `[count, 3, height, width]` as tiles: each is stretched to the whole range about grey, which is zero.
 */
export function filterTiles(weights: Float32Array, [count, channels, height, width]: readonly number[]): Uint8Array[] {
  const plane = height * width, size = channels * plane;
  return Array.from({ length: count }, (_, filter) => {
    const values = weights.subarray(filter * size, (filter + 1) * size);
    const most = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
    const tile = new Uint8Array(plane * 3);
    for (let pixel = 0; pixel < plane; pixel++) {
      for (let k = 0; k < 3; k++) {
        const value = values[Math.min(k, channels - 1) * plane + pixel];
        tile[pixel * 3 + k] = Math.round(127.5 + 127.5 * value / most);
      }
    }
    return tile;
  });
}

/** An image's RGB bytes, `length` of them. */
export function imageBytes({ images }: Pick<AnyImageSet, "images">, image: number, length: number): Uint8Array {
  if (images instanceof Uint8Array) return images.subarray(image * length, (image + 1) * length);
  const bytes = new Uint8Array(length);
  images.read(image, bytes);
  return bytes;
}
