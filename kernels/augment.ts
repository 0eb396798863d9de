/**
 * Changes a batch of normalized images at random, as torchvision's transforms do: crop of the padded image, mirror, colour
 * jitter, erased rectangles, and then mixup or CutMix with another row. What is drawn is decided by the host, a row of
 * numbers an image (`AUGMENT_VECTORS`); the kernel draws nothing.
 */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, operand, read, write } from "./dispatch.ts";
import { eachItem, itemGrid } from "./wgsl.ts";

/** `vec4f`s that say what is done to one image, in the order of {@linkcode RowChange}'s fields. */
export const AUGMENT_VECTORS = 6;

/** A rectangle in pixels; empty where its height or width is 0. */
export type Rectangle = readonly [top: number, left: number, height: number, width: number];

/** What is done to one image. */
export interface RowChange {
  /** Mirrored after the crop. */
  readonly flip: boolean;
  /** Where the crop's corner lies, of either sign; outside of the image is padding. */
  readonly top: number;
  /** As `top`. */
  readonly left: number;
  /** The factors of brightness, contrast and saturation, and the shift of hue in turns from -0.5 to 0.5. */
  readonly colour: readonly [brightness: number, contrast: number, saturation: number, hue: number];
  /** Become the mean colour. */
  readonly erased: Rectangle;
  /** As `erased`. */
  readonly cutout: Rectangle;
  /** The row of the batch that it is mixed with: without CutMix's rectangle it is mixup. Any row where it is not mixed. */
  readonly partner: number;
  /** Of the image itself, and of its label: from 0 to 1; 1 leaves both alone. */
  readonly weight: number;
  /** Where the partner is pasted, for CutMix. */
  readonly pasted: Rectangle;
}

/** Nothing is done. */
export const UNCHANGED: RowChange = {
  flip: false,
  top: 0,
  left: 0,
  colour: [1, 1, 1, 0],
  erased: [0, 0, 0, 0],
  cutout: [0, 0, 0, 0],
  partner: 0,
  weight: 1,
  pasted: [0, 0, 0, 0],
};

/** Writes a row's change into what the kernel reads. */
export function encodeChange(change: RowChange, row: number, into: Float32Array): void {
  const { flip, top, left, colour, erased, cutout, partner, weight, pasted } = change;
  into.set(
    [flip ? 1 : 0, top, left, 0, ...colour, ...erased, ...cutout, partner, weight, 0, 0, ...pasted],
    row * AUGMENT_VECTORS * 4,
  );
}

/** Operands of {@linkcode augmentBatch}. */
export interface AugmentOperands {
  /** [rows, height, width, 4], normalized; the fourth channel is zero. */
  readonly x: Operand;
  /** One u32 a row. */
  readonly labels: Operand;
  /** `AUGMENT_VECTORS` vec4fs a row. */
  readonly changes: Operand;
  /** Written: as `x`. */
  readonly y: Operand;
  /** Written: `vec4f(weight, the partner's label, 0, 0)` a row, as `crossEntropy` takes it. */
  readonly mixes?: Operand;
}

/** Sizes and settings of {@linkcode augmentBatch}. */
export interface AugmentSpec {
  readonly rows: number;
  readonly height: number;
  readonly width: number;
  /** What the images were normalized with. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** Outside of the image: its mirror image (without the edge's row, as `padding_mode="reflect"`), or black. */
  readonly reflect: boolean;
  /** Whether any row's colours change: contrast costs a pass over the image. */
  readonly colour: boolean;
}

/**
 * In torchvision's words: `RandomCrop(size, padding)`, `RandomHorizontalFlip`, `ColorJitter` (in the fixed order brightness,
 * contrast, saturation, hue), `Normalize`, `RandomErasing`, Cutout; then mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019).
 */
export function augmentBatch(operands: AugmentOperands, spec: AugmentSpec, caps: Capabilities): Dispatch[] {
  const { x, labels, changes, y, mixes } = operands;
  const { rows, height, width, mean, std, reflect, colour } = spec;
  const items = rows * height * width, size = caps.software ? 8 : 64;
  const greys = colour ? operand("augment.grey", rows * 4) : undefined;
  const constants = {
    ROWS: rows,
    ITEMS: items,
    HEIGHT: height,
    WIDTH: width,
    ...Object.fromEntries(mean.map((value, i) => [`MEAN_${i}`, f32(value)])),
    ...Object.fromEntries(std.map((value, i) => [`STD_${i}`, f32(value)])),
  };
  const dispatches: Dispatch[] = [];
  if (greys) {
    const lanes = caps.software ? 1 : 64;
    dispatches.push({
      label: "augment.grey",
      bindings: { x: read(x), changes: read(changes), greys: write(greys) },
      constants,
      source: greySource(reflect, lanes),
      workgroups: [rows, 1, 1],
      flops: items * 12,
      bytes: items * 16,
    });
  }
  dispatches.push({
    label: "augment.change",
    bindings: {
      x: read(x),
      labels: read(labels, "array<u32>"),
      changes: read(changes),
      ...(greys && { greys: read(greys) }),
      y: write(y),
      ...(mixes && { mixes: write(mixes) }),
    },
    constants,
    source: changeSource(reflect, colour, mixes !== undefined, size),
    workgroups: itemGrid(items, size, caps.maxWorkgroupsPerDimension),
    flops: items * (colour ? 60 : 6),
    bytes: items * 32,
  });
  return dispatches;
}

/** A pixel of a row after crop and mirror. */
const placed = (reflect: boolean) => /* wgsl */ `
const MEAN = vec3f(MEAN_0, MEAN_1, MEAN_2);
const STD = vec3f(STD_0, STD_1, STD_2);

fn inside(at: i32, length: u32) -> i32 {
  ${
  reflect
    // The image of -1 is that of 1. Not '%' of a negative number, which Vulkan leaves to the driver (NVIDIA's differs).
    ? `let period = max(2u * (length - 1u), 1u);
  let wrapped = u32(abs(at)) % period;
  return i32(min(wrapped, period - wrapped));`
    : "return at;"
}
}

fn placed(row: u32, vertical: u32, horizontal: u32) -> vec3f {
  let change = changes[row * ${AUGMENT_VECTORS}u];
  let mirrored = select(horizontal, WIDTH - 1u - horizontal, change.x != 0.0);
  let from_row = inside(i32(vertical) + i32(change.y), HEIGHT);
  let from_column = inside(i32(mirrored) + i32(change.z), WIDTH);
  if (from_row < 0 || from_column < 0 || from_row >= i32(HEIGHT) || from_column >= i32(WIDTH)) { return -MEAN / STD; }
  return x[(row * HEIGHT + u32(from_row)) * WIDTH + u32(from_column)].xyz;
}

/** Values from 0 to 1. */
fn brightened(row: u32, value: vec3f) -> vec3f {
  return clamp((value * STD + MEAN) * changes[row * ${AUGMENT_VECTORS}u + 1u].x, vec3f(), vec3f(1.0));
}

fn grey(value: vec3f) -> f32 {
  return dot(value, vec3f(0.2989, 0.587, 0.114));
}`;

/** The mean grey of each brightened image, which contrast turns about. */
function greySource(reflect: boolean, lanes: number): string {
  return /* wgsl */ `
${placed(reflect)}
${lanes > 1 ? `var<workgroup> sums: array<f32, ${lanes}>;` : ""}
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  var total = 0.0;
  for (var vertical = 0u; vertical < HEIGHT; vertical++) {
    // A sum a line first: a long chain of small addends would lose digits.
    var line = 0.0;
    for (var horizontal = lane; horizontal < WIDTH; horizontal += ${lanes}u) {
      line += grey(brightened(row, placed(row, vertical, horizontal)));
    }
    total += line;
  }
  ${
    lanes > 1
      ? `sums[lane] = total;
  workgroupBarrier();
  if (lane != 0u) { return; }
  total = 0.0;
  for (var i = 0u; i < ${lanes}u; i++) { total += sums[i]; }`
      : ""
  }
  greys[row] = vec4f(total / f32(HEIGHT * WIDTH), 0.0, 0.0, 0.0);
}`;
}

function changeSource(reflect: boolean, colour: boolean, mixes: boolean, size: number): string {
  return /* wgsl */ `
${placed(reflect)}
${colour ? COLOURED : ""}
fn within(rectangle: vec4f, vertical: u32, horizontal: u32) -> bool {
  let at = vec2f(f32(vertical), f32(horizontal));
  return all(at >= rectangle.xy) && all(at < rectangle.xy + rectangle.zw);
}

fn seen(row: u32, vertical: u32, horizontal: u32) -> vec3f {
  let first = row * ${AUGMENT_VECTORS}u;
  if (within(changes[first + 2u], vertical, horizontal) || within(changes[first + 3u], vertical, horizontal)) {
    return vec3f();
  }
  let value = placed(row, vertical, horizontal);
  return ${colour ? "coloured(row, value)" : "value"};
}

${eachItem(size)}
  let row = item / WIDTH / HEIGHT;
  let vertical = item / WIDTH % HEIGHT;
  let horizontal = item % WIDTH;
  let mixing = changes[row * ${AUGMENT_VECTORS}u + 4u];
  let pasted = changes[row * ${AUGMENT_VECTORS}u + 5u];
  let partner = min(u32(mixing.x), ROWS - 1u);
  var value = seen(row, vertical, horizontal);
  if (pasted.z > 0.0) {
    if (within(pasted, vertical, horizontal)) { value = seen(partner, vertical, horizontal); }
  } else if (mixing.y < 1.0) {
    value = mixing.y * value + (1.0 - mixing.y) * seen(partner, vertical, horizontal);
  }
  y[item] = vec4f(value, 0.0);
  if (item % (WIDTH * HEIGHT) == 0u) {
    ${mixes ? "mixes[row] = vec4f(mixing.y, f32(labels[partner]), 0.0, 0.0);" : "_ = labels[row];"}
  }
}`;
}

/** torchvision's `adjust_contrast`, `adjust_saturation` and `adjust_hue` of a brightened pixel, normalized again. */
const COLOURED = /* wgsl */ `
fn shifted_hue(value: vec3f, shift: f32) -> vec3f {
  let high = max(value.x, max(value.y, value.z));
  let range = high - min(value.x, min(value.y, value.z));
  if (range == 0.0) { return value; }
  let distance = (vec3f(high) - value) / range;
  var hue = 4.0 + distance.y - distance.x;
  if (value.x == high) { hue = distance.z - distance.y; } else if (value.y == high) { hue = 2.0 + distance.x - distance.z; }
  let turned = fract(hue / 6.0 + shift + 1.0) * 6.0;
  // HSV's cone, a ramp a channel.
  let ramp = clamp(abs(fract((vec3f(0.0, 4.0, 2.0) + turned) / 6.0) * 6.0 - 3.0) - 1.0, vec3f(), vec3f(1.0));
  return high - range + range * ramp;
}

fn coloured(row: u32, value: vec3f) -> vec3f {
  let factors = changes[row * ${AUGMENT_VECTORS}u + 1u];
  if (all(factors == vec4f(1.0, 1.0, 1.0, 0.0))) { return value; }
  var colour = brightened(row, value);
  colour = clamp(mix(vec3f(greys[row].x), colour, factors.y), vec3f(), vec3f(1.0));
  colour = clamp(mix(vec3f(grey(colour)), colour, factors.z), vec3f(), vec3f(1.0));
  if (factors.w != 0.0) { colour = shifted_hue(colour, factors.w); }
  return (colour - MEAN) / STD;
}`;
