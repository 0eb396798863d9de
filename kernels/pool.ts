/** Max pooling and global average pooling, with their gradients. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, read, write } from "./dispatch.ts";
import { padded, type Shape, storedElements } from "./layout.ts";
import { type LoadNorm, normalizedLoads } from "./load_norm.ts";
import { eachItem, itemGrid } from "./wgsl.ts";

/** A square max pooling. */
export interface MaxPoolSpec {
  readonly input: Shape;
  /** At most 15: a tap's index is kept in a byte. */
  readonly kernel: number;
  readonly stride: number;
  /** At most half of the kernel, as in PyTorch. */
  readonly padding: number;
}

/** The output's size: `floor((in + 2 padding - kernel) / stride) + 1` each way. */
export function maxPoolOutput({ input, kernel, stride, padding }: MaxPoolSpec): Shape {
  const size = (length: number) => Math.floor((length + 2 * padding - kernel) / stride) + 1;
  return { n: input.n, h: size(input.h), w: size(input.w), c: input.c };
}

/** Floats of the operand that keeps the taps: one a vec4, its bytes the four channels' taps. */
export function maxPoolIndexElements(spec: MaxPoolSpec): number {
  return storedElements(maxPoolOutput(spec)) / 4;
}

/**
 * `y` = the largest value of each window; `indices`, when given, keeps which tap (row * kernel + column) it was, for
 * the gradient. PyTorch's rule: of equal values the first; NaN is larger than all.
 *
 * @throws {RangeError} for a kernel that does not fit.
 */
export function maxPoolForward(
  { x, y, indices, loadNorm }: {
    readonly x: Operand;
    readonly y: Operand;
    readonly indices?: Operand;
    /** `x` is normalized as it is loaded. */
    readonly loadNorm?: LoadNorm;
  },
  spec: MaxPoolSpec,
  caps: Capabilities,
): Dispatch[] {
  checkMaxPool(spec);
  const loads = normalizedLoads(loadNorm, "COLUMNS");
  const output = maxPoolOutput(spec);
  const items = storedElements(output) / 4;
  return [overItems({
    label: indices ? "max_pool.forward" : "max_pool.inference",
    bindings: { x: read(x), ...loads.bindings, y: write(y), ...(indices && { indices: write(indices, "array<u32>") }) },
    constants: maxPoolConstants(spec),
    body: /* wgsl */ `
  let column = item % COLUMNS;
  ${loads.prepare("by", "column")}
  let left = item / COLUMNS % OUT_WIDTH * STRIDE;
  let top = item / COLUMNS / OUT_WIDTH % OUT_HEIGHT * STRIDE;
  let image = item / COLUMNS / OUT_WIDTH / OUT_HEIGHT;
  var best = vec4f();
  var tap = vec4u();
  var first = true;
  for (var dy = 0u; dy < KERNEL; dy++) {
    // Positions count from the padding's edge; a row above the image wraps to a large number.
    let row = top + dy - PADDING;
    if (row >= HEIGHT) { continue; }
    for (var dx = 0u; dx < KERNEL; dx++) {
      let position = left + dx - PADDING;
      if (position >= WIDTH) { continue; }
      let value = ${loads.apply("get_x(((image * HEIGHT + row) * WIDTH + position) * COLUMNS + column)", "by")};
      let nan = (bitcast<vec4u>(value) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
      let take = (value > best) | nan | vec4<bool>(first);
      best = select(best, value, take);
      tap = select(tap, vec4u(dy * KERNEL + dx), take);
      first = false;
    }
  }
  set_y(item, best);
  ${indices ? "indices[item] = tap.x | (tap.y << 8u) | (tap.z << 16u) | (tap.w << 24u);" : ""}`,
    functions: loads.functions,
    items,
    flops: items * 4 * spec.kernel ** 2,
    bytes: x.byteLength + y.byteLength + (indices?.byteLength ?? 0),
  }, caps)];
}

/** `dx` = for each input the sum of `dy` over the windows whose largest value it was. A gather: every element once. */
export function maxPoolBackward(
  { dy, indices, dx }: { readonly dy: Operand; readonly indices: Operand; readonly dx: Operand },
  spec: MaxPoolSpec,
  caps: Capabilities,
): Dispatch[] {
  checkMaxPool(spec);
  const items = storedElements(spec.input) / 4, outputs = storedElements(maxPoolOutput(spec)) / 4;
  return [overItems({
    label: "max_pool.backward",
    bindings: { dy: read(dy), indices: read(indices, "array<u32>"), dx: write(dx) },
    constants: maxPoolConstants(spec),
    body: /* wgsl */ `
  let column = item % COLUMNS;
  let position = item / COLUMNS % WIDTH + PADDING;
  let row = item / COLUMNS / WIDTH % HEIGHT + PADDING;
  let image = item / COLUMNS / WIDTH / HEIGHT;
  let last_top = min(row / STRIDE, OUT_HEIGHT - 1u);
  let last_left = min(position / STRIDE, OUT_WIDTH - 1u);
  var sum = vec4f();
  for (var top = first_window(row); top <= last_top; top++) {
    for (var left = first_window(position); left <= last_left; left++) {
      let at = ((image * OUT_HEIGHT + top) * OUT_WIDTH + left) * COLUMNS + column;
      let tap = (row - top * STRIDE) * KERNEL + position - left * STRIDE;
      let taps = (vec4u(indices[at]) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
      sum += select(vec4f(), get_dy(at), taps == vec4u(tap));
    }
  }
  set_dx(item, sum);`,
    functions: /* wgsl */ `
/** The first window that reaches a position counted from the padding's edge. */
fn first_window(position: u32) -> u32 {
  return select(0u, (position + STRIDE - KERNEL) / STRIDE, position >= KERNEL);
}`,
    items,
    flops: outputs * 4 * Math.ceil(spec.kernel / spec.stride) ** 2,
    bytes: dx.byteLength + dy.byteLength + indices.byteLength,
  }, caps)];
}

/** Refuses a kernel that does not fit. @throws {RangeError} */
export function checkMaxPool({ input, kernel, stride, padding }: MaxPoolSpec): void {
  const refuse = (why: string): never => {
    throw new RangeError(
      `Cannot pool ${input.h}x${input.w} with kernel ${kernel}, stride ${stride}, padding ${padding}: ${why}`,
    );
  };
  if (![kernel, stride, padding].every(Number.isInteger)) refuse("all must be whole numbers");
  if (!(kernel >= 1 && kernel <= 15 && stride >= 1)) refuse("a kernel is 1 to 15, a stride at least 1");
  if (!(padding >= 0 && padding * 2 <= kernel)) refuse("the padding is at most half of the kernel");
  if (Math.min(input.h, input.w) + 2 * padding < kernel) refuse("the input is smaller");
}

function maxPoolConstants(spec: MaxPoolSpec): Record<string, number> {
  const { input, kernel, stride, padding } = spec;
  const { h, w } = maxPoolOutput(spec);
  return {
    COLUMNS: padded(input.c) / 4,
    HEIGHT: input.h,
    WIDTH: input.w,
    OUT_HEIGHT: h,
    OUT_WIDTH: w,
    KERNEL: kernel,
    STRIDE: stride,
    PADDING: padding,
  };
}

/** Global average pooling: `y[n, c]` = the mean of `x[n, :, :, c]`; `y` is [n, 1, 1, c]. */
export function globalAveragePool(
  { x, y }: { readonly x: Operand; readonly y: Operand },
  input: Shape,
  caps: Capabilities,
): Dispatch[] {
  const columns = padded(input.c) / 4, items = input.n * columns;
  return [overItems({
    label: "global_average_pool.forward",
    bindings: { x: read(x), y: write(y) },
    constants: { COLUMNS: columns, PIXELS: input.h * input.w },
    body: /* wgsl */ `
  let first = item / COLUMNS * PIXELS * COLUMNS + item % COLUMNS;
  var sum = vec4f();
  for (var pixel = 0u; pixel < PIXELS; pixel++) { sum += get_x(first + pixel * COLUMNS); }
  set_y(item, sum / f32(PIXELS));`,
    items,
    flops: input.n * input.h * input.w * input.c,
    bytes: x.byteLength + y.byteLength,
  }, caps)];
}

/** `dx[n, :, :, c] = dy[n, c] / (h * w)`. */
export function globalAveragePoolBackward(
  { dy, dx }: { readonly dy: Operand; readonly dx: Operand },
  input: Shape,
  caps: Capabilities,
): Dispatch[] {
  const columns = padded(input.c) / 4, items = input.n * columns;
  return [overItems({
    label: "global_average_pool.backward",
    bindings: { dy: read(dy), dx: write(dx) },
    constants: { COLUMNS: columns, PIXELS: input.h * input.w },
    body: /* wgsl */ `
  let first = item / COLUMNS * PIXELS * COLUMNS + item % COLUMNS;
  let share = get_dy(item) / f32(PIXELS);
  for (var pixel = 0u; pixel < PIXELS; pixel++) { set_dx(first + pixel * COLUMNS, share); }`,
    items,
    flops: items * 4,
    bytes: dx.byteLength + dy.byteLength,
  }, caps)];
}

/** One invocation for each of `items`; `body` sees `item`. */
function overItems(
  { body, functions = "", items, ...dispatch }:
    & { readonly body: string; readonly functions?: string; readonly items: number }
    & Pick<Dispatch, "label" | "bindings" | "constants" | "flops" | "bytes">,
  caps: Capabilities,
): Dispatch {
  const size = caps.software ? 8 : 64;
  return {
    ...dispatch,
    constants: { ...dispatch.constants, ITEMS: items },
    source: /* wgsl */ `
${functions}
${eachItem(size)}
  ${body}
}`,
    workgroups: itemGrid(items, size, caps.maxWorkgroupsPerDimension),
  };
}
