/**
 * Convolution with `groups = 1` as a matrix product ({@linkcode gemm}), output and both gradients.
 *
 * - 1x1, stride 1: the activation *is* the matrix.
 * - 1x1, larger stride: the pixels used are copied side by side first ({@linkcode subsample}), the rest is as above.
 * - any other: implicit GEMM; the loaders compute where a tap of the filter falls, and give zero outside.
 *
 * A linear layer is the first case with one pixel an image.
 */

import { type ConvGeometry, convOutput } from "./conv_geometry.ts";
import type { ConvOptions, InputGradientOptions } from "./conv_options.ts";
import type { Capabilities } from "./device.ts";
import { type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { gemm, gemmChunkRows } from "./gemm.ts";
import type { Gemm, GemmVariant } from "./gemm_problem.ts";
import { padded, storedElements } from "./layout.ts";
import { type LoadNorm, normalizedLoads } from "./load_norm.ts";
import { eachItem, itemGrid } from "./wgsl.ts";

/** Settings of the dense kernels beside the geometry. */
export interface DenseOptions extends ConvOptions {
  /** Forces a variant; for tests and measurements. */
  readonly variant?: GemmVariant;
}

/** y = conv(x, weight) + bias, then the epilogue. x NHWC, weight HWIO, y NHWC, bias `[outChannels]`. */
export function denseForward(
  operands: { x: Operand; weight: Operand; bias?: Operand; y: Operand },
  geometry: ConvGeometry,
  caps: Capabilities,
  options: DenseOptions = {},
): Dispatch[] {
  const { x, weight, bias, y } = operands;
  if (isStridedPointwise(geometry)) {
    const { loadNorm, ...rest } = options;
    const { compact, pixels, dispatch } = subsampled(x, loadNorm, geometry, caps);
    return [dispatch, ...denseForward({ x: compact, weight, bias, y }, pixels, caps, rest)];
  }
  const { residual, loadNorm, moments, ...rest } = options;
  const size = sizes(geometry), loads = normalizedLoads(loadNorm, "C4");
  return gemm({
    ...rest,
    addend: residual,
    ...(moments && { rowSums: { kind: "moments", chunks: moments } }),
    label: options.norm ? "conv2d.forward+batch_norm" : "conv2d.forward",
    m: size.OUT_PIXELS,
    n: size.O4 * 4,
    k: size.TAPS * size.C4 * 4,
    bindings: { x: read(x), weight: read(weight), ...loads.bindings },
    ...size.values,
    a: {
      along: "k",
      wgsl: loads.functions + (size.pointwise
        ? /* wgsl */ `
alias ARow = u32;
fn a_row(m: u32) -> ARow { return m * C4; }
fn load_a(row: ARow, k4: u32) -> vec4f {
  ${loads.prepare("by", "k4")}
  return ${loads.apply("get_x(row + k4)", "by")};
}`
        : /* wgsl */ `
struct ARow { image: u32, row: i32, column: i32 }
fn a_row(m: u32) -> ARow {
  let pixel = m % (OUT_H * OUT_W);
  return ARow(m / (OUT_H * OUT_W) * (H * W), i32(pixel / OUT_W * STRIDE) - i32(PADDING), i32(pixel % OUT_W * STRIDE) - i32(PADDING));
}
fn load_a(r: ARow, k4: u32) -> vec4f {
  let tap = k4 / C4;
  let row = r.row + i32(tap / KERNEL_W);
  let column = r.column + i32(tap % KERNEL_W);
  let inside = (row >= 0) & (row < i32(H)) & (column >= 0) & (column < i32(W));
  let at = (r.image + u32(clamp(row, 0, i32(H) - 1)) * W + u32(clamp(column, 0, i32(W) - 1))) * C4 + k4 % C4;
  ${loads.prepare("by", "k4 % C4")}
  return select(vec4f(), ${loads.apply("get_x(at)", "by")}, inside);
}`),
    },
    b: { along: "n", wgsl: `fn load_b(k: u32, n4: u32) -> vec4f { return get_weight(k * O4 + n4); }` },
    out: y,
    bias,
    bytes: x.byteLength + weight.byteLength + y.byteLength + (residual?.byteLength ?? 0),
  }, caps);
}

/** dx = gradient of the output's `dy` by the input, + addend. All NHWC; weight HWIO. */
export function denseInputGradient(
  operands: { dy: Operand; weight: Operand; dx: Operand; addend?: Operand },
  geometry: ConvGeometry,
  caps: Capabilities,
  options: Pick<DenseOptions, "variant"> & InputGradientOptions = {},
): Dispatch[] {
  const { dy, weight, dx, addend } = operands, { sums, ...rest } = options;
  if (isStridedPointwise(geometry)) {
    const pixels = strippedGeometry(geometry);
    const compact = operand("conv2d.input_gradient.compact", storedElements(pixels.input), dx.type);
    return [
      ...denseInputGradient({ dy, weight, dx: compact }, pixels, caps, options),
      spread(compact, dx, addend, geometry, caps),
    ];
  }
  const size = sizes(geometry);
  return gemm({
    ...rest,
    ...(sums && { rowSums: { kind: "gradient", ...sums.norm, chunks: sums.chunks } }),
    label: "conv2d.input_gradient",
    m: size.IN_PIXELS,
    n: size.C4 * 4,
    k: size.TAPS * size.O4 * 4,
    bindings: { dy: read(dy), weight: read(weight) },
    ...size.values,
    a: {
      along: "k",
      wgsl: size.pointwise
        ? /* wgsl */ `
alias ARow = u32;
fn a_row(m: u32) -> ARow { return m * O4; }
fn load_a(row: ARow, k4: u32) -> vec4f { return get_dy(row + k4); }`
        : /* wgsl */ `
struct ARow { image: u32, row: i32, column: i32 }
fn a_row(m: u32) -> ARow {
  let pixel = m % (H * W);
  return ARow(m / (H * W) * (OUT_H * OUT_W), i32(pixel / W + PADDING), i32(pixel % W + PADDING));
}
fn load_a(r: ARow, k4: u32) -> vec4f {
  let tap = k4 / O4;
  let row = r.row - i32(tap / KERNEL_W);
  let column = r.column - i32(tap % KERNEL_W);
  // Not '%' of negative numbers, which Vulkan leaves to the driver.
  let from_row = u32(max(row, 0));
  let from_column = u32(max(column, 0));
  let inside = (row >= 0) & (column >= 0) & (from_row / STRIDE < OUT_H) & (from_column / STRIDE < OUT_W)
    & (from_row % STRIDE == 0u) & (from_column % STRIDE == 0u);
  let at = (r.image + min(from_row / STRIDE, OUT_H - 1u) * OUT_W + min(from_column / STRIDE, OUT_W - 1u)) * O4 + k4 % O4;
  return select(vec4f(), get_dy(at), inside);
}`,
    },
    b: {
      along: "k",
      wgsl: `fn load_b(k4: u32, n: u32) -> vec4f { return get_weight(${
        size.pointwise ? "n * O4 + k4" : "(k4 / O4 * (C4 * 4u) + n) * O4 + k4 % O4"
      }); }`,
    },
    out: dx,
    addend,
    bytes: dy.byteLength + weight.byteLength + dx.byteLength + (addend?.byteLength ?? 0),
  }, caps);
}

/** Rows of the output that a forward pass can sum at a time; 0 where it cannot. */
export function denseForwardChunkRows(geometry: ConvGeometry, bias: Operand | undefined, caps: Capabilities): number {
  const { OUT_PIXELS, O4, C4, TAPS } = sizes(geometry);
  return gemmChunkRows({ m: OUT_PIXELS, n: O4 * 4, k: TAPS * C4 * 4, bias }, caps);
}

/** Rows of the input's gradient that can be summed at a time; 0 where they cannot. */
export function denseInputGradientChunkRows(geometry: ConvGeometry, caps: Capabilities): number {
  if (isStridedPointwise(geometry)) return 0;
  const { IN_PIXELS, O4, C4, TAPS } = sizes(geometry);
  return gemmChunkRows({ m: IN_PIXELS, n: C4 * 4, k: TAPS * O4 * 4 }, caps);
}

/** dweight (HWIO) and dbias from the input and the output's gradient. */
export function denseWeightGradient(
  operands: { x: Operand; dy: Operand; dweight: Operand; dbias?: Operand },
  geometry: ConvGeometry,
  caps: Capabilities,
  { loadNorm, ...rest }: DenseOptions = {},
): Dispatch[] {
  const { x, dy, dweight, dbias } = operands;
  if (isStridedPointwise(geometry)) {
    const { compact, pixels, dispatch } = subsampled(x, loadNorm, geometry, caps);
    return [dispatch, ...denseWeightGradient({ x: compact, dy, dweight, dbias }, pixels, caps, rest)];
  }
  const size = sizes(geometry), loads = normalizedLoads(loadNorm, "C4");
  const by = loadNorm ? ", by" : "";
  const columnStruct = (members: string) => `struct AColumn { ${members}${loadNorm ? ", by: LoadNorm" : ""} }`;
  return gemm(
    {
      ...rest,
      label: "conv2d.weight_gradient",
      m: size.TAPS * size.C4 * 4,
      n: size.O4 * 4,
      k: size.OUT_PIXELS,
      bindings: { x: read(x), dy: read(dy), ...loads.bindings },
      ...size.values,
      a: {
        along: "m",
        wgsl: loads.functions + (size.pointwise
          ? /* wgsl */ `
${columnStruct("at: u32")}
fn a_column(m4: u32) -> AColumn {
  ${loads.prepare("by", "m4")}
  return AColumn(m4${by});
}
fn load_a(column: AColumn, k: u32) -> vec4f {
  return ${loads.apply("get_x(k * C4 + column.at)", "column.by")};
}`
          : /* wgsl */ `
${columnStruct("at: u32, row: i32, column: i32")}
fn a_column(m4: u32) -> AColumn {
  let tap = m4 / C4;
  ${loads.prepare("by", "m4 % C4")}
  return AColumn(m4 % C4, i32(tap / KERNEL_W) - i32(PADDING), i32(tap % KERNEL_W) - i32(PADDING)${by});
}
fn load_a(c: AColumn, k: u32) -> vec4f {
  let pixel = k % (OUT_H * OUT_W);
  let row = i32(pixel / OUT_W * STRIDE) + c.row;
  let column = i32(pixel % OUT_W * STRIDE) + c.column;
  let inside = (row >= 0) & (row < i32(H)) & (column >= 0) & (column < i32(W));
  let image = k / (OUT_H * OUT_W) * (H * W);
  let at = (image + u32(clamp(row, 0, i32(H) - 1)) * W + u32(clamp(column, 0, i32(W) - 1))) * C4 + c.at;
  return select(vec4f(), ${loads.apply("get_x(at)", "c.by")}, inside);
}`),
      },
      b: { along: "n", wgsl: `fn load_b(k: u32, n4: u32) -> vec4f { return get_dy(k * O4 + n4); }` },
      out: dweight,
      columnSums: dbias,
      bytes: x.byteLength + dy.byteLength + dweight.byteLength,
    } satisfies Gemm,
    caps,
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Sizes
// ---------------------------------------------------------------------------------------------------------------------

function sizes(geometry: ConvGeometry) {
  const { input, kernelHeight, kernelWidth, stride, padding } = geometry;
  const out = convOutput(geometry);
  const pointwise = kernelHeight === 1 && kernelWidth === 1 && stride === 1 && padding === 0;
  const C4 = padded(input.c) / 4, O4 = padded(out.c) / 4;
  const window = { H: input.h, W: input.w, OUT_H: out.h, OUT_W: out.w, KERNEL_W: kernelWidth };
  return {
    pointwise,
    C4,
    O4,
    TAPS: kernelHeight * kernelWidth,
    IN_PIXELS: input.n * input.h * input.w,
    OUT_PIXELS: out.n * out.h * out.w,
    // Pointwise products divide by nothing: one shader serves them all.
    values: pointwise
      ? { uniforms: { C4, O4 } }
      : { constants: { C4, O4, ...window, STRIDE: stride, PADDING: padding } },
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Strided 1x1: the pixels used, side by side
// ---------------------------------------------------------------------------------------------------------------------

function isStridedPointwise({ kernelHeight, kernelWidth, stride, padding }: ConvGeometry): boolean {
  return kernelHeight === 1 && kernelWidth === 1 && stride > 1 && padding === 0;
}

/** The same convolution on the used pixels alone: stride 1, input as large as the output. */
function strippedGeometry(geometry: ConvGeometry): ConvGeometry {
  const { n, h, w } = convOutput(geometry);
  return { ...geometry, stride: 1, input: { n, h, w, c: geometry.input.c } };
}

function subsampled(x: Operand, norm: LoadNorm | undefined, geometry: ConvGeometry, caps: Capabilities) {
  const pixels = strippedGeometry(geometry);
  const compact = operand("conv2d.subsampled", storedElements(pixels.input), x.type);
  return { pixels, compact, dispatch: subsample(x, compact, norm, geometry, caps) };
}

const PIXEL_WORKGROUP = 64;

/** compact[n, i, j] = x[n, stride i, stride j], normalized where a norm is given. */
function subsample(
  x: Operand,
  compact: Operand,
  norm: LoadNorm | undefined,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch {
  const { OUT_PIXELS, C4, values } = sizes(geometry), loads = normalizedLoads(norm, "C4");
  return {
    label: "conv2d.subsample",
    bindings: { x: read(x), ...loads.bindings, compact: write(compact) },
    constants: { ...values.constants, ITEMS: OUT_PIXELS * C4 },
    source: /* wgsl */ `
${loads.functions}
${eachItem(PIXEL_WORKGROUP)}
  let pixel = item / C4 % (OUT_H * OUT_W);
  let image = item / C4 / (OUT_H * OUT_W);
  ${loads.prepare("by", "item % C4")}
  let at = ((image * H + pixel / OUT_W * STRIDE) * W + pixel % OUT_W * STRIDE) * C4 + item % C4;
  set_compact(item, ${loads.apply("get_x(at)", "by")});
}`,
    workgroups: itemGrid(OUT_PIXELS * C4, PIXEL_WORKGROUP, caps.maxWorkgroupsPerDimension),
    flops: 0,
    bytes: 2 * compact.byteLength,
  };
}

/** dx[n, stride i, stride j] = compact[n, i, j], zero elsewhere, + addend. */
function spread(
  compact: Operand,
  dx: Operand,
  addend: Operand | undefined,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch {
  const { IN_PIXELS, C4, values } = sizes(geometry);
  return {
    label: "conv2d.spread",
    bindings: { compact: read(compact), ...(addend && { addend: read(addend) }), dx: write(dx) },
    constants: { ...values.constants, ITEMS: IN_PIXELS * C4 },
    source: /* wgsl */ `
${eachItem(PIXEL_WORKGROUP)}
  let pixel = item / C4 % (H * W);
  let image = item / C4 / (H * W);
  let row = pixel / W;
  let column = pixel % W;
  let used = (row % STRIDE == 0u) & (column % STRIDE == 0u);
  let at = ((image * OUT_H + min(row / STRIDE, OUT_H - 1u)) * OUT_W + min(column / STRIDE, OUT_W - 1u)) * C4 + item % C4;
  set_dx(item, select(vec4f(), get_compact(at), used)${addend ? " + get_addend(item)" : ""});
}`,
    workgroups: itemGrid(IN_PIXELS * C4, PIXEL_WORKGROUP, caps.maxWorkgroupsPerDimension),
    flops: 0,
    bytes: compact.byteLength + dx.byteLength * (addend ? 2 : 1),
  };
}
