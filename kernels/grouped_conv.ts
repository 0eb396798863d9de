/**
 * Grouped convolution whose groups fall together with vec4s: 1, 2 or 4 n channels wide. Forward pass, input gradient and
 * weight gradient; other groupings are for `direct_conv.ts`.
 */

import { convFlops, type ConvGeometry, convOutput } from "./conv_geometry.ts";
import type { Capabilities } from "./device.ts";
import type { Dispatch, Operand } from "./dispatch.ts";
import { groupedWeightGradientDispatches, type WeightGradientOperands } from "./grouped_conv_weight_gradient.ts";
import { type Gather, gatherDispatch } from "./grouped_gather.ts";
import {
  type Axis,
  convBytes,
  divisorUpTo,
  forwardAxis,
  gradientAxis,
  type Grouping,
  grouping,
  reachableTaps,
  tileSize,
} from "./grouped_tiling.ts";
import { ceilDiv } from "./wgsl.ts";

/** Whether these kernels take a convolution: both widths of a group 1 or 2, or each a multiple of 4. */
export function groupedSupports(geometry: ConvGeometry): boolean {
  return grouping(geometry) !== undefined;
}

/** Operands of a forward pass. */
export interface ForwardOperands {
  readonly x: Operand;
  readonly weight: Operand;
  readonly bias?: Operand;
  readonly y: Operand;
}

/** `y = conv(x, weight) + bias`. */
export function groupedForward(
  { x, weight, bias, y }: ForwardOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  const group = supported(geometry);
  const { input, kernelHeight, kernelWidth, stride, padding } = geometry;
  const output = convOutput(geometry);
  const cut = cutting(output.h, output.w, input.n, 1, geometry, group, group.outPerGroup, caps);
  const rows = forwardAxis(output.h, input.h, { kernel: kernelHeight, stride, padding, size: cut.rows });
  const columns = forwardAxis(output.w, input.w, { kernel: kernelWidth, stride, padding, size: cut.columns });
  const bytes = convBytes(geometry);
  return [gatherDispatch({
    label: "conv2d.grouped.forward",
    source: x,
    weight,
    target: y,
    bias,
    rows,
    columns,
    transposed: false,
    ...walk(rows, columns, geometry, group, { ...cut, transposed: false }, caps),
    flops: convFlops(geometry),
    bytes: bytes.x + bytes.weight + bytes.y,
  })];
}

/** Operands of an input gradient. */
export interface InputGradientOperands {
  readonly dy: Operand;
  readonly weight: Operand;
  readonly dx: Operand;
  /** As large as `dx`: another gradient of the same input. */
  readonly addend?: Operand;
}

/** `dx = conv^T(dy, weight) + addend`. */
export function groupedInputGradient(
  { dy, weight, dx, addend }: InputGradientOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  const group = supported(geometry);
  const { input, kernelHeight, kernelWidth, stride, padding } = geometry;
  const output = convOutput(geometry);
  const cut = cutting(input.h, input.w, input.n, stride, geometry, group, group.inPerGroup, caps);
  const rows = gradientAxis(input.h, output.h, { kernel: kernelHeight, stride, padding, size: cut.rows });
  const columns = gradientAxis(input.w, output.w, { kernel: kernelWidth, stride, padding, size: cut.columns });
  const bytes = convBytes(geometry);
  return [gatherDispatch({
    label: "conv2d.grouped.dx",
    source: dy,
    weight,
    target: dx,
    addend,
    rows,
    columns,
    transposed: true,
    ...walk(rows, columns, geometry, group, { ...cut, transposed: true }, caps),
    flops: convFlops(geometry),
    bytes: bytes.x * (addend ? 2 : 1) + bytes.weight + bytes.y,
  })];
}

/** `dweight`, and `dbias` (the column sum of `dy`) when asked for. */
export function groupedWeightGradient(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  return groupedWeightGradientDispatches(operands, geometry, supported(geometry), caps);
}

function supported(geometry: ConvGeometry): Grouping {
  const found = grouping(geometry);
  if (!found) {
    throw new Error(
      `No grouped kernel for ${geometry.input.c} -> ${geometry.outChannels} in ${geometry.groups} groups`,
    );
  }
  return found;
}

interface Cut {
  readonly rows: number;
  readonly columns: number;
  readonly tileImages: number;
  readonly targets: number;
}

/** Multiply-adds of vec4s a kernel's text may hold: more compiles slowly, to little gain. */
const SOFTWARE_STATEMENTS = 1200;
/** Pixels whose sums an invocation keeps. */
const SOFTWARE_PIXELS = 32;
const GPU_PIXELS = 8;

/** A tile's size, from the registers and the text it takes. `multiple` is what an axis cut into tiles must divide by. */
function cutting(
  height: number,
  width: number,
  images: number,
  multiple: number,
  geometry: ConvGeometry,
  group: Grouping,
  perGroup: number,
  { software }: Capabilities,
): Cut {
  const targets = software ? divisorUpTo(perGroup, 4) : 1;
  const taps = geometry.kernelHeight * geometry.kernelWidth / multiple ** 2;
  const statements = taps * targets;
  const pixels = software
    ? Math.max(4, Math.min(SOFTWARE_PIXELS, Math.floor(SOFTWARE_STATEMENTS / statements)))
    : GPU_PIXELS;
  const columns = tileSize(width, Math.max(multiple, Math.min(8, Math.floor(pixels / multiple))), multiple);
  const rows = tileSize(height, Math.max(multiple, Math.min(4, Math.floor(pixels / columns))), multiple);
  const whole = rows === height && columns === width;
  return {
    rows,
    columns,
    targets,
    tileImages: whole ? Math.max(1, Math.min(images, Math.floor(pixels / (rows * columns)))) : 1,
  };
}

/** vec4 weights an invocation of the CPU may hold through its walk. */
const HELD_WEIGHTS = 160;
/** Invocations wanted on the CPU, some for each of its cores. */
const SOFTWARE_INVOCATIONS = 128;

/** How far an invocation walks: on a CPU far, for its weights' sake; on a GPU one tile, for parallelism's. */
function walk(
  rows: Axis,
  columns: Axis,
  geometry: ConvGeometry,
  group: Grouping,
  cut: Cut & { readonly transposed: boolean },
  caps: Capabilities,
): Pick<
  Gather,
  "images" | "grouping" | "targets" | "tileImages" | "tilesEach" | "held" | "workgroupSize" | "maxWorkgroups"
> {
  const images = geometry.input.n;
  const { targets, tileImages, transposed } = cut;
  const taps = reachableTaps(rows).length * reachableTaps(columns).length;
  const sourcesPerGroup = transposed ? group.outPerGroup : group.inPerGroup;
  const held = caps.software && taps * group.swizzles.length * sourcesPerGroup * targets <= HELD_WEIGHTS;
  const blocks = (transposed ? group.inBlocks : group.outBlocks) / targets;
  const tiles = ceilDiv(images, tileImages) * rows.tiles * columns.tiles;
  const tilesEach = held ? ceilDiv(tiles, Math.min(tiles, ceilDiv(SOFTWARE_INVOCATIONS, blocks))) : 1;
  return {
    images,
    grouping: group,
    targets,
    tileImages,
    tilesEach,
    held,
    workgroupSize: caps.software ? 8 : 64,
    maxWorkgroups: caps.maxWorkgroupsPerDimension,
  };
}
