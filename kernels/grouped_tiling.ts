/**
 * How a grouped convolution is cut into tiles, and which taps reach what.
 *
 * All three passes of a convolution relate a **target** pixel (of `y`, of `dx`, or of `dy` in the weight gradient) to
 * **source** pixels (of `x`, or of `dy` in the input gradient), one a tap of the kernel. The two axes do so independently.
 * A tile is a run of target positions; as its start is a multiple of the stride, the offset from the tile to its sources
 * is the same for every tile and known when the kernel is written. So strides cost no wasted multiplications, taps
 * that only ever see padding vanish, and borders are tested only where some tile touches one.
 */

import { type ConvGeometry, convOutput } from "./conv_geometry.ts";
import { padded } from "./layout.ts";
import { ceilDiv } from "./wgsl.ts";

/** One axis of a tiling, rows or columns. */
export interface Axis {
  /** Target positions. */
  readonly target: number;
  /** Source positions. */
  readonly source: number;
  /** Taps of the kernel. */
  readonly kernel: number;
  /** Target positions of one tile; the last tile may reach past the end. */
  readonly size: number;
  readonly tiles: number;
  /** Source positions from one tile's base to the next one's. */
  readonly step: number;
  /** From the tile's base to the source of target `offset` under `tap`; undefined where no tile has one in bounds. */
  reach(offset: number, tap: number): number | undefined;
}

/** The axis of the forward pass: target `y`, source `x`. The weight gradient has the same, its target being `dy`. */
export function forwardAxis(
  target: number,
  source: number,
  { kernel, stride, padding, size }: { kernel: number; stride: number; padding: number; size: number },
): Axis {
  return axis({ target, source, kernel, size, step: size * stride }, (offset, tap) => offset * stride + tap - padding);
}

/** The axis of the input gradient: target `dx`, source `dy`. `size` is a multiple of the stride or covers the axis. */
export function gradientAxis(
  target: number,
  source: number,
  { kernel, stride, padding, size }: { kernel: number; stride: number; padding: number; size: number },
): Axis {
  return axis({ target, source, kernel, size, step: Math.floor(size / stride) }, (offset, tap) => {
    const distance = offset + padding - tap;
    return distance % stride === 0 ? distance / stride : undefined;
  });
}

function axis(
  sizes: { target: number; source: number; kernel: number; size: number; step: number },
  reach: (offset: number, tap: number) => number | undefined,
): Axis {
  const { target, source, size, step } = sizes;
  const tiles = ceilDiv(target, size);
  return {
    ...sizes,
    tiles,
    reach(offset, tap) {
      const from = reach(offset, tap);
      if (from === undefined) return undefined;
      for (let tile = 0; tile < tiles; tile++) {
        const at = tile * step + from;
        if (tile * size + offset < target && at >= 0 && at < source) return from;
      }
      return undefined;
    },
  };
}

/** Whether some tile finds no source at `reach` from its base, so that loads must be guarded. */
export function canMiss(axis: Axis, reach: number): boolean {
  return reach < 0 || (axis.tiles - 1) * axis.step + reach >= axis.source;
}

/** Whether the last tile reaches past the last target. */
export function isRagged(axis: Axis): boolean {
  return axis.tiles * axis.size > axis.target;
}

/** A source position and the (target offset, tap) pairs that use it. */
export interface Source {
  readonly reach: number;
  readonly uses: readonly { readonly offset: number; readonly tap: number }[];
}

/** The source positions a tile touches, in order, with what each is used for; `taps` restricts to a part of the kernel. */
export function sources(axis: Axis, taps: readonly number[] = range(axis.kernel)): Source[] {
  const found = new Map<number, { offset: number; tap: number }[]>();
  for (let offset = 0; offset < axis.size; offset++) {
    for (const tap of taps) {
      const reach = axis.reach(offset, tap);
      if (reach === undefined) continue;
      if (!found.has(reach)) found.set(reach, []);
      found.get(reach)!.push({ offset, tap });
    }
  }
  return [...found].sort(([a], [b]) => a - b).map(([reach, uses]) => ({ reach, uses }));
}

/** The taps of an axis that reach a source at all. */
export function reachableTaps(axis: Axis): number[] {
  return range(axis.kernel).filter((tap) => range(axis.size).some((offset) => axis.reach(offset, tap) !== undefined));
}

/** A tile's size on an axis: all of it when that fits, else what loads least, borders of one on each side counted. */
export function tileSize(extent: number, most: number, multiple = 1): number {
  if (extent <= most) return extent;
  let best = multiple, least = Infinity;
  for (let size = multiple; size <= most; size += multiple) {
    const loads = ceilDiv(extent, size) * (size + 1);
    if (loads <= least) [best, least] = [size, loads];
  }
  return best;
}

/** The sizes of a tile worth trying on an axis: some small ones, and all of it when that fits. */
export function tileSizes(extent: number, most: number, multiple = 1): number[] {
  const small = range(most).map((index) => (index + 1) * multiple)
    .filter((size) => size < extent && size <= Math.max(most, multiple));
  return extent <= most ? [...small, extent] : small;
}

/** The (target offset, tap) pairs of a tile that reach a source. */
export function uses(axis: Axis): number {
  return sources(axis).reduce((sum, source) => sum + source.uses.length, 0);
}

// What a kernel costs on a CPU, by measurement on Mesa's llvmpipe, where eight invocations are the lanes of a register.

/** A vec4 loaded or stored, against a product of a 4x4 matrix with one: in time and in length of machine code. */
export const LOAD_COST = 5;
/** What a kernel's text may come to, in such products: longer ones take seconds to compile and run no faster. */
export const MOST_TEXT = 600;
/** A product executed by a vector of invocations, against one of the text to compile, over a short training. */
export const RUN_COST = 1 / 160 / 8;
/** Invocations wanted on a CPU: some vectors for each core. */
export const SOFTWARE_INVOCATIONS = 64;
/** Largest tile on a CPU. */
export const MOST_COLUMNS = 8;
/** Largest tile on a CPU. */
export const MOST_ROWS = 4;

/** How the channels of a grouped convolution fall into vec4s. */
export interface Grouping {
  /** Input and output channels of a group. */
  readonly inWidth: number;
  readonly outWidth: number;
  /** vec4s of a pixel of `x` and of `y`. */
  readonly inBlocks: number;
  readonly outBlocks: number;
  /** vec4s a group takes in `x` and `y`; 1 where several groups share a vec4. */
  readonly inPerGroup: number;
  readonly outPerGroup: number;
  /** Weight rows a source vec4 meets, each with the components of that vec4 it multiplies. */
  readonly swizzles: readonly string[];
}

/**
 * The grouping of a geometry, or undefined where the vec4s do not fall together with groups, or where all that any tap
 * meets is padding: there is nothing to gather.
 */
export function grouping(geometry: ConvGeometry): Grouping | undefined {
  const { input, outChannels, groups, kernelHeight, kernelWidth, stride, padding } = geometry;
  const y = convOutput(geometry);
  const meets = (target: number, source: number, kernel: number) =>
    reachableTaps(forwardAxis(target, source, { kernel, stride, padding, size: 1 })).length > 0;
  if (!meets(y.h, input.h, kernelHeight) || !meets(y.w, input.w, kernelWidth)) return undefined;
  if (input.c % 4 !== 0 || outChannels % 4 !== 0 || input.c % groups !== 0 || outChannels % groups !== 0) {
    return undefined;
  }
  const inWidth = input.c / groups, outWidth = outChannels / groups;
  const shared = inWidth === outWidth && (inWidth === 1 || inWidth === 2);
  if (!shared && (inWidth % 4 !== 0 || outWidth % 4 !== 0)) return undefined;
  return {
    inWidth,
    outWidth,
    inBlocks: padded(input.c) / 4,
    outBlocks: padded(outChannels) / 4,
    inPerGroup: shared ? 1 : inWidth / 4,
    outPerGroup: shared ? 1 : outWidth / 4,
    swizzles: inWidth === 1 ? ["xyzw"] : inWidth === 2 && shared ? ["xxzz", "yyww"] : ["x", "y", "z", "w"],
  };
}

/** The most of `blocks` vec4s, `most` at most, that make up whole groups of `perGroup`, or go into one without a rest. */
export function blocksTogether(blocks: number, perGroup: number, most: number): number | undefined {
  return range(most).map((index) => most - index)
    .find((count) => perGroup % count === 0 || (count % perGroup === 0 && blocks % count === 0));
}

/** `[0, 1, .. count - 1]`. */
export function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}
