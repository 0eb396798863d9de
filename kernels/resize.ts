/** Bilinear resizing, as PyTorch's `interpolate(mode="bilinear", align_corners=False)` does it, antialiased or not. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, read, write } from "./dispatch.ts";
import { padded, type Shape, storedElements } from "./layout.ts";
import { eachItem, itemGrid } from "./wgsl.ts";

/**
 * WGSL `source_tap(out, scale, length)`: where an output pixel lies between two input pixels, one way. Pixel centres are
 * at halves, so it lies at `(out + 0.5) * scale - 0.5` with `scale = in / out`; before the first centre is the first.
 */
export const SOURCE_TAP = /* wgsl */ `
struct Tap {
  low: u32,
  high: u32,
  /** The weight of \`high\`. */
  weight: f32,
}
fn source_tap(out: u32, scale: f32, length: u32) -> Tap {
  let at = max((f32(out) + 0.5) * scale - 0.5, 0.0);
  let low = min(u32(at), length - 1u);
  return Tap(low, min(low + 1u, length - 1u), at - f32(low));
}`;

/** WGSL that mixes the four values `texel(row, column)` around a pixel, given `vertical` and `horizontal` taps. */
export function bilinear(texel: (row: string, column: string) => string): string {
  const row = (which: string) =>
    `mix(${texel(which, "horizontal.low")}, ${texel(which, "horizontal.high")}, horizontal.weight)`;
  return `mix(${row("vertical.low")}, ${row("vertical.high")}, vertical.weight)`;
}

/**
 * WGSL `source_span(out, scale, length)`: the input pixels that an antialiased output pixel is made of, one way, and
 * `share(span, at)`, how much of each: a triangle about the output pixel's centre that reaches as far as `scale`, the
 * output pixel's width. What lies outside of the image is cut off; the rest is to be divided by the sum of its shares.
 * With a scale below one the triangle reaches one input pixel, and the result is that of `source_tap`.
 */
export const SOURCE_SPAN = /* wgsl */ `
struct Span {
  first: u32,
  end: u32,
  centre: f32,
  reach: f32,
}
fn span(centre: f32, scale: f32, length: u32) -> Span {
  let reach = max(scale, 1.0);
  let inside = clamp(centre, 0.5, f32(length) - 0.5);
  return Span(u32(max(inside - reach + 0.5, 0.0)), min(u32(inside + reach + 0.5), length), inside, reach);
}
fn source_span(out: u32, scale: f32, length: u32) -> Span {
  return span((f32(out) + 0.5) * scale, scale, length);
}
fn share(span: Span, at: u32) -> f32 {
  return max(1.0 - abs((f32(at) + 0.5 - span.centre) / span.reach), 0.0);
}`;

/** The body of a WGSL function that averages `texel(row, column)`, a vec3f, over `vertical` and `horizontal` spans. */
export function antialiased(texel: (row: string, column: string) => string): string {
  return /* wgsl */ `
  var sum = vec3f();
  var total = 0.0;
  for (var row = vertical.first; row < vertical.end; row++) {
    let row_share = share(vertical, row);
    for (var column = horizontal.first; column < horizontal.end; column++) {
      let weight = row_share * share(horizontal, column);
      sum += weight * ${texel("row", "column")};
      total += weight;
    }
  }
  return sum / total;`;
}

/** Resizes an NHWC activation `x` of `input`'s size to `y` of `height` by `width`, without antialias. */
export function resizeBilinear(
  { x, y }: { readonly x: Operand; readonly y: Operand },
  { input, height, width }: { readonly input: Shape; readonly height: number; readonly width: number },
  caps: Capabilities,
): Dispatch[] {
  const output = { ...input, h: height, w: width };
  const items = storedElements(output) / 4;
  const size = caps.software ? 8 : 64;
  return [{
    label: "resize_bilinear",
    bindings: { x: read(x), y: write(y) },
    constants: {
      ITEMS: items,
      COLUMNS: padded(input.c) / 4,
      HEIGHT: input.h,
      WIDTH: input.w,
      OUT_HEIGHT: height,
      OUT_WIDTH: width,
      ROW_SCALE: f32(input.h / height),
      COLUMN_SCALE: f32(input.w / width),
    },
    source: /* wgsl */ `
${SOURCE_TAP}
fn texel(image: u32, row: u32, position: u32, column: u32) -> vec4f {
  return x[((image * HEIGHT + row) * WIDTH + position) * COLUMNS + column];
}
${eachItem(size)}
  let column = item % COLUMNS;
  let pixel = item / COLUMNS;
  let image = pixel / OUT_WIDTH / OUT_HEIGHT;
  let vertical = source_tap(pixel / OUT_WIDTH % OUT_HEIGHT, ROW_SCALE, HEIGHT);
  let horizontal = source_tap(pixel % OUT_WIDTH, COLUMN_SCALE, WIDTH);
  y[item] = ${bilinear((row, position) => `texel(image, ${row}, ${position}, column)`)};
}`,
    workgroups: itemGrid(items, size, caps.maxWorkgroupsPerDimension),
    flops: items * 4 * 9,
    bytes: (storedElements(input) + items * 4) * 4,
  }];
}
