/**
 * The words of the GPU layer.
 *
 * An **operand** is a piece of GPU memory known by identity alone: where it lies is decided later, by a plan or a test.
 * A **dispatch** is one kernel launch as plain data: its WGSL, what it binds, how many workgroups. Kernels are functions
 * from operands and sizes to dispatches; they touch no device, so a dispatch can be printed, counted and tested alone.
 */

/** A piece of GPU memory, known by identity. Two operands are the same exactly when they are the same object. */
export interface Operand {
  /** For people: shown in errors and tables. */
  readonly label: string;
  /** A multiple of 16, so that it can always be bound as `array<vec4f>`. */
  readonly byteLength: number;
}

/** One operand as a kernel sees it. */
export interface Binding {
  /** What is bound. */
  readonly operand: Operand;
  /** What the kernel does with it. */
  readonly access: "read" | "read_write";
  /** WGSL store type, such as `array<vec4f>`. */
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
  /** WGSL without the declarations above; its entry point is `main`. */
  readonly source: string;
  /** How many, in three dimensions. */
  readonly workgroups: readonly [number, number, number];
  /** Floating-point operations, a multiply-add counting two. */
  readonly flops: number;
  /** Bytes that must move at least: every operand read or written once. */
  readonly bytes: number;
}

/** A new operand of `elements` 4-byte elements, its size rounded up to whole vec4s. */
export function operand(label: string, elements: number): Operand {
  return { label, byteLength: Math.max(16, Math.ceil(elements / 4) * 16) };
}

/** Binds for reading. */
export function read(operand: Operand, type = "array<vec4f>"): Binding {
  return { operand, access: "read", type };
}

/** Binds for writing (or reading and writing in place). */
export function write(operand: Operand, type = "array<vec4f>"): Binding {
  return { operand, access: "read_write", type };
}

/** Marks a constant as a float, even when its value is whole. */
export function f32(value: number): { readonly f32: number } {
  return { f32: value };
}

/** The whole shader module of a dispatch. Equal texts share a pipeline. */
export function shaderText(dispatch: Dispatch): string {
  const bindings = Object.entries(dispatch.bindings).map(([name, { access, type }], index) =>
    `@group(0) @binding(${index}) var<storage, ${access}> ${name}: ${type};`
  );
  const constants = Object.entries(dispatch.constants ?? {}).map(([name, value]) =>
    typeof value === "number" ? `const ${name}: u32 = ${value}u;` : `const ${name}: f32 = ${floatLiteral(value.f32)};`
  );
  const names = Object.keys(dispatch.uniforms ?? {});
  if (names.length === 0) return [...bindings, ...constants, dispatch.source].join("\n");
  const uniforms = `struct Uniforms { ${names.map((name) => `${name}: u32`).join(", ")} }
@group(0) @binding(${bindings.length}) var<uniform> uniforms: Uniforms;`;
  const used = new RegExp(`\\b(${names.join("|")})\\b`, "g");
  return [...bindings, uniforms, ...constants, dispatch.source.replace(used, "uniforms.$1")].join("\n");
}

/** The bytes of a dispatch's uniforms, in the order of their declaration; undefined where it has none. */
export function uniformBytes({ uniforms }: Dispatch): Uint32Array<ArrayBuffer> | undefined {
  return uniforms && Uint32Array.from(Object.values(uniforms));
}

function floatLiteral(value: number): string {
  if (!Number.isFinite(value)) throw new Error(`Cannot write ${value} as a WGSL constant`);
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}
