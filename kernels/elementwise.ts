/** Element by element: ReLU, its gradient, sums of two tensors. Sizes are in floats, a multiple of four. */

import type { Capabilities } from "./device.ts";
import { type Binding, type Dispatch, type Operand, read, write } from "./dispatch.ts";
import { padded, type Shape } from "./layout.ts";
import { ceilDiv, entryPoint, itemGrid, unroll } from "./wgsl.ts";

/**
 * WGSL of a name's ReLU, NaN staying NaN as in PyTorch: `max` may drop it, and compilers turn a comparison into `max` (NVIDIA's
 * does), which would hide a training run gone wrong. So it is the bits that are compared, as signed numbers: -0.0 to
 * -infinity, the least ones, become 0.
 */
export function reluOf(v: string): string {
  return `select(${v}, vec4f(), bitcast<vec4i>(${v}) <= bitcast<vec4i>(vec4u(0xff800000u)))`;
}

/** WGSL `relu(vec4f)`: {@linkcode reluOf}. */
export const RELU = /* wgsl */ `
fn relu(v: vec4f) -> vec4f { return ${reluOf("v")}; }`;

/** WGSL of ReLU's gradient at `y`, its result or what it was made of: `dy` where that is NaN, too, as in PyTorch. */
export function reluGradient(dy: string, y: string): string {
  return `select(${dy}, vec4f(), ${y} <= vec4f())`;
}

/** `y = max(x, 0)`. */
export function relu(
  { x, y }: { readonly x: Operand; readonly y: Operand },
  elements: number,
  caps: Capabilities,
): Dispatch[] {
  return [each("relu.forward", { x: read(x), y: write(y) }, {
    load: (k) => `let x${k} = get_x(at${k});`,
    use: (k) => `set_y(at${k}, relu(x${k}));`,
  }, { elements, flops: elements, caps })];
}

/** `dx = 0 where y <= 0, else dy`. */
export function reluBackward(
  { y, dy, dx }: { readonly y: Operand; readonly dy: Operand; readonly dx: Operand },
  elements: number,
  caps: Capabilities,
): Dispatch[] {
  return [each("relu.backward", { y: read(y), dy: read(dy), dx: write(dx) }, {
    load: (k) => `let y${k} = get_y(at${k}); let g${k} = get_dy(at${k});`,
    use: (k) => `set_dx(at${k}, ${reluGradient(`g${k}`, `y${k}`)});`,
  }, { elements, flops: elements, caps })];
}

/** `y = a + b`, or `y = max(a + b, 0)` with `relu`. */
export function add(
  { a, b, y }: { readonly a: Operand; readonly b: Operand; readonly y: Operand },
  elements: number,
  caps: Capabilities,
  { relu = false }: { readonly relu?: boolean } = {},
): Dispatch[] {
  return [each(relu ? "add.relu" : "add", { a: read(a), b: read(b), y: write(y) }, {
    load: (k) => `let a${k} = get_a(at${k}); let b${k} = get_b(at${k});`,
    use: (k) => `set_y(at${k}, ${relu ? `relu(a${k} + b${k})` : `a${k} + b${k}`});`,
  }, { elements, flops: elements * (relu ? 2 : 1), caps })];
}

/**
 * Makes the padding of an activation's channels zero, whatever is there, a NaN too. There must be some: only the last vec4 of
 * each pixel is loaded and stored.
 */
export function clearPadding(x: Operand, { n, h, w, c }: Shape, caps: Capabilities): Dispatch[] {
  const pixels = n * h * w;
  const used = [0, 1, 2, 3].map((lane) => lane < c % 4);
  return [each("clear_padding", { x: write(x) }, {
    load: (k) => `let last${k} = at${k} * COLUMNS + COLUMNS - 1u; let x${k} = get_x(last${k});`,
    use: (k) => `set_x(last${k}, select(vec4f(), x${k}, vec4<bool>(${used.join(", ")})));`,
  }, {
    elements: pixels * 4,
    flops: 0,
    bytes: pixels * (x.type === "f16" ? 16 : 32),
    caps,
    constants: { COLUMNS: padded(c) / 4 },
  })];
}

/** Makes all elements zero. */
export function clear(label: string, x: Operand, elements: number, caps: Capabilities): Dispatch {
  return each(label, { x: write(x) }, { load: () => "", use: (k) => `x[at${k}] = vec4f();` }, {
    elements,
    flops: 0,
    caps,
  });
}

/** A dispatch over all vec4s; an invocation takes a few, a workgroup apart, so that neighbours load neighbours. */
export function each(
  label: string,
  bindings: Readonly<Record<string, Binding>>,
  body: { readonly load: (k: number) => string; readonly use: (k: number) => string },
  { elements, flops, bytes, caps, constants, functions = "", setup = "" }: {
    readonly elements: number;
    readonly flops: number;
    /** Default: every operand once. */
    readonly bytes?: number;
    readonly caps: Capabilities;
    readonly constants?: Dispatch["constants"];
    /** WGSL that the body calls or the bindings name. */
    readonly functions?: string;
    /** WGSL once an invocation, before the elements. */
    readonly setup?: string;
  },
): Dispatch {
  const vectors = ceilDiv(elements, 4);
  const size = caps.software ? 8 : 256;
  // A GPU takes more workgroups rather than more work in each until it is full.
  const [enough, most] = caps.software ? [512, 16] : [262144, 4];
  const perThread = Math.min(most, Math.max(1, Math.floor(vectors / enough)));
  return {
    label,
    bindings,
    constants,
    uniforms: { VECTORS: vectors },
    source: /* wgsl */ `
${RELU}
${functions}
${entryPoint(size)}
  let first = workgroup_index * ${size * perThread}u + local;
  ${setup}
  if (first + ${(perThread - 1) * size}u < VECTORS) {
    ${unroll(perThread, (k) => `let at${k} = first + ${k * size}u;\n${body.load(k)}`)}
    ${unroll(perThread, body.use)}
  } else {
    for (var at0 = first; at0 < VECTORS; at0 += ${size}u) {
      ${body.load(0)}
      ${body.use(0)}
    }
  }
}`,
    workgroups: itemGrid(vectors, size * perThread, caps.maxWorkgroupsPerDimension),
    flops,
    bytes: bytes ??
      Object.values(bindings).reduce((sum, { operand }) => sum + elements * (operand.type === "f16" ? 2 : 4), 0),
  };
}
