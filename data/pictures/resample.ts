/**
 * Resizing as PIL does it (and so torchvision on pictures): bilinear, antialiased. A triangle filter as wide as a pixel of
 * the smaller image, first along rows, then along columns, rounded to bytes after each.
 */

/** RGB bytes, `height x width x 3`. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** A window of the resized image. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** Resizes an image to `width` by `height` and returns the window of it. */
export function resample(image: Pixels, width: number, height: number, window: Window): Uint8Array<ArrayBuffer> {
  const columns = taps(image.width, width, window.left, window.width);
  const rows = taps(image.height, height, window.top, window.height);
  const first = rows[0].from, last = rows.at(-1)!;
  const lines = last.from + last.weights.length - first;
  const narrow = new Uint8ClampedArray(lines * window.width * 3);
  for (let line = 0, at = 0; line < lines; line++) {
    const start = (first + line) * image.width;
    for (const { from, weights } of columns) {
      let r = 0, g = 0, b = 0;
      for (let k = 0, p = (start + from) * 3; k < weights.length; k++, p += 3) {
        const weight = weights[k];
        r += weight * image.data[p];
        g += weight * image.data[p + 1];
        b += weight * image.data[p + 2];
      }
      narrow[at++] = r;
      narrow[at++] = g;
      narrow[at++] = b;
    }
  }
  const out = new Uint8ClampedArray(window.width * window.height * 3), stride = window.width * 3;
  for (let row = 0, at = 0; row < rows.length; row++) {
    const { from, weights } = rows[row];
    for (let column = 0; column < stride; column++) {
      let sum = 0;
      for (let k = 0, p = (from - first) * stride + column; k < weights.length; k++, p += stride) {
        sum += weights[k] * narrow[p];
      }
      out[at++] = sum;
    }
  }
  return new Uint8Array(out.buffer);
}

/** The input pixels that make an output pixel, and their shares. */
interface Taps {
  readonly from: number;
  readonly weights: Float64Array;
}

/** For the output pixels `start`, `start + 1`, ...: PIL's `precompute_coeffs` with the bilinear filter. */
function taps(input: number, output: number, start: number, count: number): Taps[] {
  const scale = input / output, reach = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = (start + i + 0.5) * scale;
    const from = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const to = Math.min(Math.trunc(centre + reach + 0.5), input);
    const weights = Float64Array.from({ length: to - from }, (_, k) => {
      return Math.max(1 - Math.abs((from + k - centre + 0.5) / reach), 0);
    });
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { from, weights: weights.map((weight) => weight / sum) };
  });
}
