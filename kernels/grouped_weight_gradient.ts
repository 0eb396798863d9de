/**
 * Weight gradient of a grouped convolution: for a tap, `dweight[i, o] = sum over pixels of x[i] dy[o]`.
 *
 * An invocation owns one vec4 of input channels, some of output channels and some kernel rows, and walks over its share
 * of the tiles of pixels with all those sums in registers. Either by itself (`grouped_weight_gradient_direct.ts`) or with
 * others that load for each other (`grouped_weight_gradient_staged.ts`), and in the same order. Shares ("chunks") write
 * partial sums, which further dispatches add in a fixed order. The bias gradient rides along.
 */

import { convFlops, type ConvGeometry, convKey, convOutput } from "./conv_geometry.ts";
import type { Capabilities } from "./device.ts";
import { type Binding, type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { type Grouping, reachableTaps } from "./grouped_tiling.ts";
import { directSource } from "./grouped_weight_gradient_direct.ts";
import { gpuPlan, partition, type Plan, shares, softwarePlan } from "./grouped_weight_gradient_plan.ts";
import { type StagedBlock, stagedBlock, stagedSource } from "./grouped_weight_gradient_staged.ts";
import { type LoadNorm, type NormalizedLoads, normalizedLoads } from "./load_norm.ts";
import { partialSums } from "./partial_sums.ts";
import { chosenDispatches } from "./tuning.ts";
import { ceilDiv, itemGrid } from "./wgsl.ts";

/** Operands of a weight gradient. */
export interface WeightGradientOperands {
  readonly x: Operand;
  readonly dy: Operand;
  readonly dweight: Operand;
  /** The column sum of `dy`. */
  readonly dbias?: Operand;
  /** `x` is normalized as it is loaded. */
  readonly loadNorm?: LoadNorm;
}

/** The dispatches of the weight gradient, and of the bias gradient when asked for. */
export function groupedWeightGradientDispatches(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  grouping: Grouping,
  caps: Capabilities,
): Dispatch[] {
  const plan = caps.software ? softwarePlan(geometry, grouping) : gpuPlan(geometry, grouping);
  const block = caps.software ? undefined : stagedBlock(plan, grouping, caps);
  const direct = ["direct", () => directDispatches(operands, geometry, grouping, plan, caps)] as const;
  const staged = block
    ? [["staged", () => stagedDispatches(operands, geometry, grouping, plan, block, caps)] as const]
    : [];
  // By measurement on an H100: with 16 channels a group staged ones take 72 to 90 % of the time, with 8 up to twice as long.
  const variants = new Map(grouping.inPerGroup >= 4 ? [...staged, direct] : [direct, ...staged]);
  const key = `grouped dweight ${convKey(geometry)}${operands.x.type === "f16" ? " f16" : ""}`;
  return chosenDispatches({ key, variants, likely: variants.size }, caps.tuning);
}

/** An invocation by itself, some kernel rows a dispatch. */
function directDispatches(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  grouping: Grouping,
  plan: Plan,
  caps: Capabilities,
): Dispatch[] {
  const { rows, columns, outs, rowsEach, workgroupSize } = plan;
  const { tiles, tilesEach, chunks } = shares(plan, geometry, grouping);
  const to = destination(operands, geometry, grouping, chunks);
  const loads = normalizedLoads(operands.loadNorm, "X_BLOCKS");
  const items = grouping.outBlocks / outs * grouping.inPerGroup * chunks;
  const parts = partition(rows.kernel, reachableTaps(rows), rowsEach);
  const dispatches = parts.map((taps, part): Dispatch => ({
    label: "conv2d.grouped.dweight",
    bindings: bindings(operands, loads, to, part === 0),
    constants: {
      ITEMS: items,
      OUT_ITEMS: grouping.outBlocks / outs,
      TILES: tiles,
      TILES_EACH: tilesEach,
      ...sizes(geometry, grouping, to),
    },
    source: directSource({
      ...{ rows, columns, grouping, taps, outs, workgroupSize, loads, fused: !caps.software },
      output: to.output,
      bias: part > 0 ? undefined : to.bias,
    }),
    workgroups: itemGrid(items, workgroupSize, caps.maxWorkgroupsPerDimension),
    ...work(operands, geometry, parts.length),
  }));
  return [...dispatches, ...to.added(caps)];
}

/** A workgroup's invocations together: see `grouped_weight_gradient_staged.ts`. */
function stagedDispatches(
  operands: WeightGradientOperands,
  geometry: ConvGeometry,
  grouping: Grouping,
  plan: Plan,
  block: StagedBlock,
  caps: Capabilities,
): Dispatch[] {
  const { rows, columns, rowsEach } = plan, [taps] = partition(rows.kernel, reachableTaps(rows), rowsEach);
  const { tiles, tilesEach, chunks } = shares(plan, geometry, grouping);
  const to = destination(operands, geometry, grouping, chunks);
  const loads = normalizedLoads(operands.loadNorm, "X_BLOCKS");
  const sets = grouping.outBlocks / block.outs * grouping.inPerGroup / block.ins * ceilDiv(chunks, block.shares);
  const dispatch: Dispatch = {
    label: "conv2d.grouped.dweight",
    bindings: bindings(operands, loads, to, true),
    constants: { TILES: tiles, TILES_EACH: tilesEach, CHUNKS: chunks, ...sizes(geometry, grouping, to) },
    source: stagedSource({ rows, columns, grouping, taps, outs: 1, block, loads, output: to.output, bias: to.bias }),
    workgroups: itemGrid(sets, 1, caps.maxWorkgroupsPerDimension),
    ...work(operands, geometry, 1),
  };
  return [dispatch, ...to.added(caps)];
}

/** Where sums go: to the gradients, or where there are several shares to partial results. */
interface Destination {
  /** vec4s of one share's results. */
  readonly stride: number;
  readonly bindings: Readonly<Record<string, Binding>>;
  readonly biasBinding: Readonly<Record<string, Binding>>;
  /** Name of the binding that takes weights. */
  readonly output: string;
  /** Likewise, and from where on. */
  readonly bias?: { readonly output: string; readonly at: number };
  /** What adds partial results. */
  readonly added: (caps: Capabilities) => Dispatch[];
}

function destination(
  { dweight, dbias }: WeightGradientOperands,
  { kernelHeight, kernelWidth }: ConvGeometry,
  { inWidth, outBlocks }: Grouping,
  chunks: number,
): Destination {
  const weightVecs = kernelHeight * kernelWidth * inWidth * outBlocks, biasVecs = dbias ? outBlocks : 0;
  const stride = weightVecs + biasVecs;
  if (chunks === 1) {
    return {
      stride,
      bindings: { dweight: write(dweight) },
      biasBinding: dbias ? { dbias: write(dbias) } : {},
      output: "dweight",
      bias: dbias && { output: "dbias", at: 0 },
      added: () => [],
    };
  }
  const partial = operand("partial dweight", chunks * stride * 4);
  const outputs = [{ operand: dweight, vecs: weightVecs }, ...(dbias ? [{ operand: dbias, vecs: biasVecs }] : [])];
  return {
    stride,
    bindings: { partial: write(partial) },
    biasBinding: {},
    output: "partial",
    bias: dbias && { output: "partial", at: weightVecs },
    added: (caps) => partialSums(partial, chunks, outputs, caps),
  };
}

function bindings({ x, dy }: WeightGradientOperands, loads: NormalizedLoads, to: Destination, bias: boolean) {
  return { x: read(x), dy: read(dy), ...loads.bindings, ...to.bindings, ...(bias && to.biasBinding) };
}

function sizes(geometry: ConvGeometry, { inBlocks, outBlocks }: Grouping, { stride }: Destination) {
  const { input } = geometry, y = convOutput(geometry);
  return {
    ...{ X_ROWS: input.h, X_COLUMNS: input.w, X_BLOCKS: inBlocks },
    ...{ DY_ROWS: y.h, DY_COLUMNS: y.w, DY_BLOCKS: outBlocks, PARTIAL: stride },
  };
}

function work({ x, dy, dweight }: WeightGradientOperands, geometry: ConvGeometry, parts: number) {
  return { flops: convFlops(geometry) / parts, bytes: x.byteLength + dy.byteLength + dweight.byteLength / parts };
}
