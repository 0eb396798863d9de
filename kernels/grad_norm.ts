/** The norm of all gradients, and gradients scaled down to a norm, as `torch.nn.utils.clip_grad_norm_` does it. */

import type { Capabilities } from "./device.ts";
import { type Dispatch, f32, type Operand, operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";
import { LOSS_SCALE, readLossScale } from "./loss_scale.ts";
import { partialSums } from "./partial_sums.ts";
import { readStepSettings, STEP_SETTINGS } from "./step_settings.ts";
import { ceilDiv, eachItem, itemGrid } from "./wgsl.ts";

/** A stretch of gradients: as much as one binding holds. Padding counts as zero, which it is. */
export interface GradientChunk {
  /** Read and, where they are clipped, written. */
  readonly gradients: Operand;
  /** Floats, a multiple of four. */
  readonly elements: number;
}

/** Where the norm goes. */
export interface GradNormOperands {
  readonly chunks: readonly GradientChunk[];
  /** A ring of `[norm, scale, 0, 0]`, one a slot: the norm before clipping, and what the gradients were multiplied by. */
  readonly norms: Operand;
  /** See `step_settings.ts`: its slot tells the place in the ring. */
  readonly settings: Operand;
  /** See `loss_scale.ts`: where it says that gradients overflowed, they stay as they are. */
  readonly lossScale?: Operand;
}

/** vec4s that one invocation squares and adds. */
const RUN = 64;

/**
 * Computes `norm = sqrt(sum of squares of all gradients)` in a fixed order: sums of {@linkcode RUN} vec4s, then sums of
 * those. With `maxNorm`, also `gradients *= min(1, maxNorm / (norm + 1e-6))`, PyTorch's formula. A norm that is not finite
 * spoils the gradients, as in PyTorch with `error_if_nonfinite=False`: it is the caller's to look at the ring.
 */
export function gradNorm(
  { chunks, norms, settings, lossScale }: GradNormOperands,
  { maxNorm }: { readonly maxNorm?: number },
  caps: Capabilities,
): Dispatch[] {
  const dispatches: Dispatch[] = [], sums: Operand[] = [];
  for (const { gradients, elements } of chunks) {
    const rows = ceilDiv(elements / 4, RUN);
    const partial = operand("grad_norm.partial", rows * 4), sum = operand("grad_norm.sum", 4);
    dispatches.push(squares(gradients, elements / 4, partial, rows, caps));
    dispatches.push(...partialSums(partial, rows, [{ operand: sum, vecs: 1 }], caps));
    sums.push(sum);
  }
  const scale = operand("grad_norm.scale", 4);
  dispatches.push(finish(sums, { norms, scale, settings }, maxNorm));
  if (maxNorm === undefined) return dispatches;
  for (const { gradients, elements } of chunks) {
    dispatches.push(each(
      "grad_norm.clip",
      {
        gradients: write(gradients),
        scale: read(scale),
        ...(lossScale && { loss_scale: readLossScale(lossScale) }),
      },
      { load: (k) => `let g${k} = gradients[at${k}];`, use: (k) => `gradients[at${k}] = g${k} * scale[0].x;` },
      {
        ...{ elements, caps, flops: elements, bytes: elements * 8 },
        // Between parameters is padding, which nothing would write again: no NaN may get there.
        ...(lossScale && { functions: LOSS_SCALE, setup: "if (loss_scale.found != 0u) { return; }" }),
      },
    ));
  }
  return dispatches;
}

/** Each invocation adds the squares of {@linkcode RUN} vec4s; neighbours load neighbours. */
function squares(gradients: Operand, vecs: number, partial: Operand, rows: number, caps: Capabilities): Dispatch {
  const workgroupSize = caps.software ? 8 : 64;
  return {
    label: "grad_norm.squares",
    bindings: { gradients: read(gradients), partial: write(partial) },
    uniforms: { VECS: vecs, ITEMS: rows },
    source: /* wgsl */ `
${eachItem(workgroupSize)}
  var sum = vec4f();
  for (var at = item; at < VECS; at += ITEMS) {
    let g = gradients[at];
    sum += g * g;
  }
  partial[item] = sum;
}`,
    workgroups: itemGrid(rows, workgroupSize, caps.maxWorkgroupsPerDimension),
    flops: vecs * 8,
    bytes: 16 * (vecs + rows),
  };
}

/** One invocation: the root, the factor, and both into the ring. */
function finish(
  sums: readonly Operand[],
  { norms, scale, settings }: { readonly norms: Operand; readonly scale: Operand; readonly settings: Operand },
  maxNorm: number | undefined,
): Dispatch {
  return {
    label: "grad_norm.finish",
    bindings: {
      ...Object.fromEntries(sums.map((sum, index) => [`sum_${index}`, read(sum)])),
      norms: write(norms),
      scale: write(scale),
      settings: readStepSettings(settings),
    },
    ...(maxNorm !== undefined && { constants: { MAX_NORM: f32(maxNorm) } }),
    source: /* wgsl */ `
${STEP_SETTINGS}

@compute @workgroup_size(1)
fn main() {
  let sum = ${sums.map((_, index) => `sum_${index}[0]`).join(" + ")};
  let norm = sqrt((sum.x + sum.y) + (sum.z + sum.w));
  ${
      maxNorm === undefined ? "let factor = 1.0;" : `let ratio = MAX_NORM / (norm + 1e-6);
  // Bits, because min() may turn NaN into 1: above 1.0 and not beyond infinity.
  let bits = bitcast<u32>(ratio);
  let factor = select(ratio, 1.0, bits > 0x3f800000u && bits <= 0x7f800000u);`
    }
  norms[settings.slot] = vec4f(norm, factor, 0.0, 0.0);
  scale[0] = vec4f(factor);
}`,
    workgroups: [1, 1, 1],
    flops: 8,
    bytes: 16 * (sums.length + 3),
  };
}
