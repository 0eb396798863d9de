/** Helpers for WGSL that is generated: unrolled loops, grids. */

/** `body(0) .. body(count - 1)` on lines of their own: a loop unrolled. */
export function unroll(count: number, body: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => body(index)).join("\n");
}

/**
 * A vec4 where all guards hold, else zeros. `&`, as a compiler may make a branch of each `&&`: SwiftShader's took seconds
 * and gigabytes for unrolled loads.
 */
export function guarded(value: string, guards: readonly string[]): string {
  return guards.length ? `select(vec4f(), ${value}, ${guards.map((guard) => `(${guard})`).join(" & ")})` : value;
}

/** The least number of `size`-sized pieces that cover `total`. */
export function ceilDiv(total: number, size: number): number {
  return Math.ceil(total / size);
}

/**
 * The grid for `items` independent invocations, `workgroupSize` to a workgroup. Past the limit of one dimension it folds
 * into a second; a kernel finds its item with {@linkcode eachItem}.
 */
export function itemGrid(items: number, workgroupSize: number, maxPerDimension = 65535): [number, number, number] {
  const groups = ceilDiv(items, workgroupSize);
  const rows = ceilDiv(groups, maxPerDimension);
  return [ceilDiv(groups, rows), rows, 1];
}

/**
 * WGSL that opens the entry point of a kernel over an {@linkcode itemGrid}: what follows sees `workgroup_index` and `local`,
 * the invocation's index in the workgroup, and ends with a brace.
 */
export function entryPoint(workgroupSize: number): string {
  return /* wgsl */ `
@compute @workgroup_size(${workgroupSize})
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let workgroup_index = workgroup.y * workgroups.x + workgroup.x;`;
}

/** As {@linkcode entryPoint}; what follows is done for each `item` below `ITEMS`. */
export function eachItem(workgroupSize: number): string {
  return /* wgsl */ `${entryPoint(workgroupSize)}
  let item = workgroup_index * ${workgroupSize}u + local;
  if (item >= ITEMS) { return; }`;
}

/**
 * WGSL that adds a product to a sum of vec4s.
 *
 * @param fused By `fma`, as on GPUs: of two products that begin a sum compilers may else choose which one they round, and
 * kernels that are cut otherwise come to other bits.
 */
export function addProduct(sum: string, factor: string, vector: string, fused: boolean): string {
  return fused ? `${sum} = fma(vec4f(${factor}), ${vector}, ${sum});` : `${sum} += ${factor} * ${vector};`;
}
