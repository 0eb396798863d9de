/** Helpers for WGSL that is generated: unrolled loops, grids. */

/** `body(0) .. body(count - 1)` on lines of their own: a loop unrolled. */
export function unroll(count: number, body: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => body(index)).join("\n");
}

/** The least number of `size`-sized pieces that cover `total`. */
export function ceilDiv(total: number, size: number): number {
  return Math.ceil(total / size);
}

/**
 * The grid for `items` independent invocations, `workgroupSize` to a workgroup. Past the limit of one dimension it folds
 * into a second; a kernel then finds its item with {@linkcode ITEM_INDEX} and returns when it is `>= items`.
 */
export function itemGrid(items: number, workgroupSize: number, maxPerDimension = 65535): [number, number, number] {
  const groups = ceilDiv(items, workgroupSize);
  const rows = ceilDiv(groups, maxPerDimension);
  return [ceilDiv(groups, rows), rows, 1];
}

/** WGSL for an invocation's item in an {@linkcode itemGrid}: needs `workgroup_id`, `num_workgroups`, `local_invocation_index`. */
export const ITEM_INDEX = /* wgsl */ `
fn item_index(workgroup: vec3u, count: vec3u, local: u32, size: u32) -> u32 {
  return (workgroup.y * count.x + workgroup.x) * size + local;
}`;
