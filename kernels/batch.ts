/** Makes a batch on the GPU from a data set's bytes: gather, scale, resize, normalize. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, read, write } from "./dispatch.ts";
import { antialiased, bilinear, SOURCE_SPAN, SOURCE_TAP } from "./resize.ts";
import { eachItem, itemGrid } from "./wgsl.ts";

/** Operands of {@linkcode makeBatch}. */
export interface BatchOperands {
  /** RGB bytes, row-major [image, height, width, 3], as they lie in memory; at most 4 GiB. */
  readonly images: Operand;
  /** One byte an image, or one u32: {@linkcode BatchSpec.labelBytes} tells. */
  readonly labels: Operand;
  /** One u32 a row of the batch: which image it is. */
  readonly indices: Operand;
  /**
   * One `vec4f(top, left, height, width)` a row, a rectangle of the image in its own pixels that is resized to the batch's
   * size. A negative width runs to the left of `left`: mirrored. Absent: images as they are.
   */
  readonly window?: Operand;
  /** Written: [rows, outHeight, outWidth, 4] floats, the fourth channel zero. */
  readonly x: Operand;
  /** Written: one u32 a row. */
  readonly y: Operand;
}

/** Sizes and settings of {@linkcode makeBatch}. */
export interface BatchSpec {
  readonly rows: number;
  /** The images' own size. */
  readonly height: number;
  readonly width: number;
  /** The batch's size. Where it differs, images are resized (`resize.ts`), antialiased where they become smaller. */
  readonly outHeight: number;
  readonly outWidth: number;
  /** By channel, of values from 0 to 1. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** 1 or 4. */
  readonly labelBytes: 1 | 4;
}

/** A rectangle of an image in its own pixels: top, left, height, width; see {@linkcode BatchOperands.window}. */
export type ImageWindow = readonly [top: number, left: number, height: number, width: number];

/**
 * `x[row] = (resize(images[indices[row]] / 255) - mean) / std` and `y[row] = labels[indices[row]]`: what
 * torchvision's `ToTensor`, `Resize(antialias=True)` and `Normalize` give.
 */
export function makeBatch(operands: BatchOperands, spec: BatchSpec, caps: Capabilities): Dispatch[] {
  const { images, labels, indices, window, x, y } = operands;
  const { rows, height, width, outHeight, outWidth, mean, std, labelBytes } = spec;
  const resized = window !== undefined || outHeight !== height || outWidth !== width;
  const smaller = outHeight < height || outWidth < width;
  const items = rows * outHeight * outWidth;
  const size = caps.software ? 8 : 64;
  return [{
    label: "batch.make",
    bindings: {
      images: read(images, "array<u32>"),
      labels: read(labels, "array<u32>"),
      indices: read(indices, "array<u32>"),
      ...(window && { windows: read(window) }),
      x: write(x),
      y: write(y, "array<u32>"),
    },
    constants: {
      ITEMS: items,
      HEIGHT: height,
      WIDTH: width,
      OUT_HEIGHT: outHeight,
      OUT_WIDTH: outWidth,
      ROW_SCALE: f32(height / outHeight),
      COLUMN_SCALE: f32(width / outWidth),
      ...Object.fromEntries(mean.map((value, i) => [`MEAN_${i}`, f32(value)])),
      ...Object.fromEntries(std.map((value, i) => [`STD_${i}`, f32(value)])),
    },
    source: /* wgsl */ `
${resized ? SOURCE_TAP : ""}
${smaller ? SOURCE_SPAN : ""}
${window ? WINDOW_TAP : ""}
${window && smaller ? WINDOW_SPAN : ""}
/** A pixel's three values, 0 to 255. It may start anywhere in a word and end in the next. */
fn stored(image: u32, row: u32, column: u32) -> vec3f {
  let byte = ((image * HEIGHT + row) * WIDTH + column) * 3u;
  let word = byte / 4u;
  let shift = byte % 4u * 8u;
  var bits = images[word] >> shift;
  if (shift > 8u) { bits |= images[word + 1u] << (32u - shift); }
  return vec3f((vec3u(bits) >> vec3u(0u, 8u, 16u)) & vec3u(255u));
}
${resized ? MIXED : ""}
${smaller ? AVERAGED : ""}
${eachItem(size)}
  let batch_row = item / OUT_WIDTH / OUT_HEIGHT;
  let image = indices[batch_row];
  let row = item / OUT_WIDTH % OUT_HEIGHT;
  let column = item % OUT_WIDTH;
  ${window ? "let window = windows[batch_row];" : ""}
  ${pixel(resized, window !== undefined, smaller)}
  let normal = (value / 255.0 - vec3f(MEAN_0, MEAN_1, MEAN_2)) / vec3f(STD_0, STD_1, STD_2);
  x[item] = vec4f(normal, 0.0);
  if (item % (OUT_WIDTH * OUT_HEIGHT) == 0u) {
    y[batch_row] = ${labelBytes === 4 ? "labels[image]" : "(labels[image / 4u] >> (image % 4u * 8u)) & 255u"};
  }
}`,
    workgroups: itemGrid(items, size, caps.maxWorkgroupsPerDimension),
    flops: items * 3 * (resized ? 3 * reads(height, outHeight) * reads(width, outWidth) : 3),
    bytes: rows * height * width * 3 + items * 16 + rows * (8 + labelBytes + (window ? 16 : 0)),
  }];
}

/** As `source_tap`, of an output pixel within a window that starts at `start` and is `extent` long. */
const WINDOW_TAP = /* wgsl */ `
fn window_tap(out: u32, count: u32, start: f32, extent: f32, length: u32) -> Tap {
  let at = clamp(start + (f32(out) + 0.5) * (extent / f32(count)) - 0.5, 0.0, f32(length - 1u));
  let low = u32(at);
  return Tap(low, min(low + 1u, length - 1u), at - f32(low));
}`;

/** As `source_span`, of an output pixel within a window. */
const WINDOW_SPAN = /* wgsl */ `
fn window_span(out: u32, count: u32, start: f32, extent: f32, length: u32) -> Span {
  let scale = extent / f32(count);
  return span(start + (f32(out) + 0.5) * scale, abs(scale), length);
}`;

const texel = (row: string, column: string) => `stored(image, ${row}, ${column})`;

const MIXED = /* wgsl */ `
fn mixed(image: u32, vertical: Tap, horizontal: Tap) -> vec3f {
  return ${bilinear(texel)};
}`;

const AVERAGED = /* wgsl */ `
fn averaged(image: u32, vertical: Span, horizontal: Span) -> vec3f {${antialiased(texel)}
}`;

/** Stored pixels that make one of the batch, one way. */
const reads = (stored: number, out: number) => 2 * Math.max(stored / out, 1);

/** WGSL that gives the `value` of a pixel at `row` and `column`. @param smaller Images have more pixels, some way. */
function pixel(resized: boolean, windowed: boolean, smaller: boolean): string {
  if (!resized) return `let value = ${texel("row", "column")};`;
  const made = (how: "mixed" | "averaged", kind: "tap" | "span") =>
    windowed
      ? `${how}(
    image,
    window_${kind}(row, OUT_HEIGHT, window.x, window.z, HEIGHT),
    window_${kind}(column, OUT_WIDTH, window.y, window.w, WIDTH),
  )`
      : `${how}(image, source_${kind}(row, ROW_SCALE, HEIGHT), source_${kind}(column, COLUMN_SCALE, WIDTH))`;
  const mixed = made("mixed", "tap"), averaged = made("averaged", "span");
  if (!windowed || !smaller) return `let value = ${smaller ? averaged : mixed};`;
  return /* wgsl */ `
  var value: vec3f;
  if (all(abs(window.zw) <= vec2f(f32(OUT_HEIGHT), f32(OUT_WIDTH)))) {
    value = ${mixed};
  } else {
    value = ${averaged};
  }`;
}
