/**
 * The words of the GPU layer.
 *
 * An **operand** is a piece of GPU memory known by identity alone: where it lies is decided later, by a plan or a test.
 * A **dispatch** is one kernel launch as plain data: its WGSL, what it binds, how many workgroups. Kernels are functions
 * from operands and sizes to dispatches; they touch no device, so a dispatch can be printed, counted and tested alone.
 */

/**
 * How the numbers of an operand lie in memory. Arithmetic is float32 always: `f16` halves (IEEE binary16, four in a
 * `vec2u`) are widened when loaded and rounded to nearest when stored, by the driver's packing or by {@linkcode HALF_BITS}.
 */
export type ElementType = "f32" | "f16";

/** A piece of GPU memory, known by identity. Two operands are the same exactly when they are the same object. */
export interface Operand {
  /** For people: shown in errors and tables. */
  readonly label: string;
  /** A multiple of four elements, so that it can always be bound as vec4s. */
  readonly byteLength: number;
  /** Absent: `f32`, or no floats at all. */
  readonly type?: ElementType;
}

/** One operand as a kernel sees it. */
export interface Binding {
  /** What is bound. */
  readonly operand: Operand;
  /** What the kernel does with it. */
  readonly access: "read" | "read_write";
  /** WGSL store type, such as `array<vec4f>`; of halves `array<vec2u>` or, one by one, `array<u32>`. */
  readonly type: string;
}

/** One kernel launch. */
export interface Dispatch {
  /** What it computes, such as `conv2d.forward`. */
  readonly label: string;
  /** By WGSL variable name, in binding order. One operand may stand once only. */
  readonly bindings: Readonly<Record<string, Binding>>;
  /** Become `const NAME: u32` (integers) or `const NAME: f32` (wrap in {@linkcode f32}) before the source. */
  readonly constants?: Readonly<Record<string, number | { readonly f32: number }>>;
  /**
   * `u32` values given when the kernel runs, standing in the source by their names as constants do. Sizes told so share one
   * compiled pipeline; as constants they cost a compilation each, and let the compiler divide by them quickly.
   */
  readonly uniforms?: Readonly<Record<string, number>>;
  /**
   * WGSL without the declarations above; its entry point is `main`. A binding of floats, `x` say, is read by `get_x(at)`
   * and written by `set_x(at, value)`, whatever its elements are in memory.
   */
  readonly source: string;
  /** How many, in three dimensions. */
  readonly workgroups: readonly [number, number, number];
  /** Floating-point operations, a multiply-add counting two. */
  readonly flops: number;
  /** Bytes that must move at least: every operand read or written once. */
  readonly bytes: number;
  /** Dispatches of one number belong together: to one pass of one operation of a network. */
  readonly group?: number;
  /** What follows is submitted by itself. */
  readonly endsSubmission?: boolean;
}

/** A new operand of `elements` elements, of 4 bytes unless `type` says otherwise, its size rounded up to whole vec4s. */
export function operand(label: string, elements: number, type: ElementType = "f32"): Operand {
  const vectors = Math.max(1, Math.ceil(elements / 4));
  return type === "f32" ? { label, byteLength: vectors * 16 } : { label, byteLength: vectors * 8, type };
}

/** Binds for reading. */
export function read(operand: Operand, type: string = vectors(operand)): Binding {
  return { operand, access: "read", type };
}

/** Binds for writing (or reading and writing in place). */
export function write(operand: Operand, type: string = vectors(operand)): Binding {
  return { operand, access: "read_write", type };
}

/** Binds for reading floats one by one: `get_x(at)` is then an `f32`. */
export function readScalars(operand: Operand): Binding {
  return read(operand, operand.type === "f16" ? "array<u32>" : "array<f32>");
}

function vectors({ type }: Operand): string {
  return type === "f16" ? "array<vec2u>" : "array<vec4f>";
}

/** Marks a constant as a float, even when its value is whole. */
export function f32(value: number): { readonly f32: number } {
  return { f32: value };
}

/** Who rounds floats to halves: the driver, or {@linkcode HALF_BITS}, where the driver does not do it as IEEE 754 says. */
export type HalfRounding = "driver" | "bits";

/** The whole shader module of a dispatch. Equal texts share a pipeline. */
export function shaderText(dispatch: Dispatch, rounding: HalfRounding = "driver"): string {
  const bindings = Object.entries(dispatch.bindings).map(([name, { access, type }], index) =>
    `@group(0) @binding(${index}) var<storage, ${access}> ${name}: ${type};`
  );
  const accessors = Object.entries(dispatch.bindings).flatMap(([name, binding]) =>
    accessorsOf(name, binding, rounding).filter((text) =>
      dispatch.source.includes(text.slice(3, text.indexOf("(") + 1))
    )
  );
  if (accessors.some((text) => text.includes("half_bits("))) accessors.unshift(HALF_BITS);
  const constants = Object.entries(dispatch.constants ?? {}).map(([name, value]) =>
    typeof value === "number" ? `const ${name}: u32 = ${value}u;` : `const ${name}: f32 = ${floatLiteral(value.f32)};`
  );
  const names = Object.keys(dispatch.uniforms ?? {});
  if (names.length === 0) return [...bindings, ...accessors, ...constants, dispatch.source].join("\n");
  const uniforms = `struct Uniforms { ${names.map((name) => `${name}: u32`).join(", ")} }
@group(0) @binding(${bindings.length}) var<uniform> uniforms: Uniforms;`;
  const used = new RegExp(`\\b(${names.join("|")})\\b`, "g");
  const source = dispatch.source.replace(used, "uniforms.$1");
  return [...bindings, uniforms, ...accessors, ...constants, source].join("\n");
}

/** WGSL functions that load and store a binding's floats; none for what holds no floats. */
function accessorsOf(name: string, { operand, type, access }: Binding, rounding: HalfRounding): string[] {
  const half = operand.type === "f16";
  if (type === "array<f32>" || half && type === "array<u32>") {
    const value = half ? `unpack2x16float(${name}[at / 2u])[at % 2u]` : `${name}[at]`;
    return [`fn get_${name}(at: u32) -> f32 { return ${value}; }`];
  }
  if (type !== (half ? "array<vec2u>" : "array<vec4f>")) return [];
  const load = half
    ? `let bits = ${name}[at]; return vec4f(unpack2x16float(bits.x), unpack2x16float(bits.y));`
    : `return ${name}[at];`;
  const stored = !half
    ? "value"
    : rounding === "driver"
    ? "vec2u(pack2x16float(value.xy), pack2x16float(value.zw))"
    : "half_bits(value)";
  return [
    `fn get_${name}(at: u32) -> vec4f { ${load} }`,
    ...(access === "read_write" ? [`fn set_${name}(at: u32, value: vec4f) { ${name}[at] = ${stored}; }`] : []),
  ];
}

/**
 * Four floats as halves in two words, rounded to nearest, ties to even, without the conversion of the driver: WGSL leaves
 * its rounding open, and AMD's under Mesa rounds towards zero.
 */
const HALF_BITS = `fn half_bits(value: vec4f) -> vec2u {
  let bits = bitcast<vec4u>(value);
  let size = bits & vec4u(0x7fffffffu);
  // The exponent's bias is 15 in place of 127; what rounds to 65536 or more is infinite.
  let odd = (size >> vec4u(13u)) & vec4u(1u);
  let normal = min((size - vec4u(0x38000000u) + vec4u(0xfffu) + odd) >> vec4u(13u), vec4u(0x7c00u));
  // Below 2^-14 a half counts steps of 2^-24, as a float from 0.5 to 1 does.
  let small = bitcast<vec4u>(bitcast<vec4f>(size) + vec4f(0.5)) - vec4u(0x3f000000u);
  let number = select(normal, small, size < vec4u(0x38800000u));
  let half = select(number, vec4u(0x7e00u), size > vec4u(0x7f800000u)) | ((bits >> vec4u(16u)) & vec4u(0x8000u));
  return half.xz | (half.yw << vec2u(16u));
}`;

/** The bytes of a dispatch's uniforms, in the order of their declaration; undefined where it has none. */
export function uniformBytes({ uniforms }: Dispatch): Uint32Array<ArrayBuffer> | undefined {
  return uniforms && Uint32Array.from(Object.values(uniforms));
}

function floatLiteral(value: number): string {
  if (!Number.isFinite(value)) throw new Error(`Cannot write ${value} as a WGSL constant`);
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}
