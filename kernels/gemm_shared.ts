/** Matrix multiplication by the strategy `shared`; see `gemm.ts`. */

import type { Capabilities } from "./device.ts";
import type { Gemm, Tile } from "./gemm_problem.ts";
import { accumulators, step } from "./gemm_step.ts";
import { ceilDiv, unroll } from "./wgsl.ts";

/**
 * 256 threads; a tile of 128x128 (8x8 a thread) for large products, 64x64 (4x4) for small ones; 16 elements of k at a time
 * through workgroup memory. Both tiles keep the loaders' `vec4f`: four along k by row or column, or four along m or n by
 * element of k, so nothing is transposed. A thread's rows lie 16 apart (along k) or in fours (along m), its columns in
 * fours, so that neighbours read neighbouring banks.
 */
export function sharedTile(problem: Gemm, caps: Capabilities): Tile {
  const { m, n, a: { along: aAlong }, b: { along: bAlong } } = problem;
  const large = ceilDiv(m, 128) * ceilDiv(n, 128) >= 128 && caps.maxWorkgroupStorageBytes >= 16384;
  const perThread = large ? 8 : 4, size = perThread * 16, columns4 = perThread / 4, depth = 16;
  const vectors = size * depth / 4, loads = vectors / 256;
  const aLoad = (r: number) => {
    const index = `(lane + ${r * 256}u)`;
    return aAlong === "k"
      ? `{ let k4 = k / 4u + ${index} % ${depth / 4}u; let m = ${index} / ${depth / 4}u;
      tile_a[(${index} % ${
        depth / 4
      }u) * ${size}u + m] = select(vec4f(), load_a(row_${r}, min(k4, K / 4u - 1u)), k4 * 4u < k_end); }`
      : `{ let kk = k + ${index} / ${size / 4}u; let m4 = tile_m / 4u + ${index} % ${size / 4}u;
      tile_a[${index}] = select(vec4f(), load_a(min(m4, M / 4u - 1u), min(kk, K - 1u)), kk < k_end); }`;
  };
  const bLoad = (r: number) => {
    const index = `(lane + ${r * 256}u)`;
    return bAlong === "n"
      ? `{ let kk = k + ${index} / ${size / 4}u; let n4 = tile_n / 4u + ${index} % ${size / 4}u;
      tile_b[${index}] = select(vec4f(), load_b(min(kk, K - 1u), min(n4, N4 - 1u)), kk < k_end); }`
      // Column 4 j + i stands at i * size / 4 + j: a thread's four columns are then read without bank conflicts.
      : `{ let k4 = k / 4u + ${index} % ${depth / 4}u; let n = ${index} / ${depth / 4}u;
      tile_b[(${index} % ${depth / 4}u) * ${size}u + n % 4u * ${size / 4}u + n / 4u] =
        select(vec4f(), load_b(min(k4, K / 4u - 1u), min(tile_n + n, N4 * 4u - 1u)), k4 * 4u < k_end); }`;
  };
  const row = (i: number) => aAlong === "k" ? `ty + ${i * 16}u` : `(ty + ${(i >> 2) * 16}u) * 4u + ${i & 3}u`;
  const fetchA = aAlong === "k"
    ? unroll(perThread, (i) => `let a_${i} = tile_a[s * ${size}u + ty + ${i * 16}u];`)
    : unroll(perThread, (i) =>
      `let a_${i >> 2}_${i & 3} = tile_a[(s * 4u + ${i & 3}u) * ${size / 4}u + ty + ${(i >> 2) * 16}u];`);
  const fetchB = unroll(4 * columns4, (i) => {
    const j = i >> 2, kk = i & 3;
    return bAlong === "n"
      ? `let b_${j}_${kk} = tile_b[(s * 4u + ${kk}u) * ${size / 4}u + tx + ${j * 16}u];`
      : `let b_${j}_${kk} = tile_b[s * ${size}u + ${kk * size / 4}u + tx + ${j * 16}u];`;
  });
  const inner = step(problem, {
    rows: perThread,
    columns4,
    a: (i, kk) => aAlong === "k" ? `a_${i}` : `a_${i}_${kk}`,
    b: (j, kk) => `b_${j}_${kk}`,
  });
  return {
    rows: size,
    columns: size,
    kStep: depth,
    workgroupSize: 256,
    declarations: `var<workgroup> tile_a: array<vec4f, ${vectors}>;\nvar<workgroup> tile_b: array<vec4f, ${vectors}>;`,
    body: /* wgsl */ `
  let tx = lane % 16u;
  let ty = lane / 16u;
  ${
      aAlong === "k"
        ? unroll(loads, (r) => `let row_${r} = a_row(min(tile_m + (lane + ${r * 256}u) / ${depth / 4}u, M - 1u));`)
        : ""
    }
  ${accumulators(problem, perThread, columns4)}
  for (var k = k_begin; k < k_end; k += ${depth}u) {
    ${unroll(loads, aLoad)}
    ${unroll(loads, bLoad)}
    workgroupBarrier();
    for (var s = 0u; s < ${depth / 4}u; s++) {
      ${fetchA}
      ${fetchB}
      ${inner}
    }
    workgroupBarrier();
  }
  ${
      unroll(perThread * columns4, (q) => {
        const i = Math.floor(q / columns4), j = q % columns4;
        return `store(tile_m + ${row(i)}, tile_n / 4u + tx + ${j * 16}u, acc_${i}_${j});`;
      })
    }
  ${
      problem.columnSums
        ? `if (tile_m == 0u && ty == 0u) { ${
          unroll(columns4, (j) => `store_sums(tile_n / 4u + tx + ${j * 16}u, sums_${j});`)
        } }`
        : ""
    }`,
  };
}
