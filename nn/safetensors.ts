/**
 * The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes. Nothing in it is
 * run, and every offset is checked before it is used.
 *
 * Format: https://github.com/huggingface/safetensors#format
 */

import { UserError } from "../kernels/user_error.ts";
import { parseStrictJson, quoted } from "./json.ts";

/** Bytes of one element by safetensors' name of the type. */
const BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const satisfies Readonly<Record<Dtype, number>>;

/** Element types by safetensors' names. */
export type Dtype =
  | ("F64" | "F32" | "F16" | "BF16")
  | ("I64" | "I32" | "I16" | "I8" | "U64" | "U32" | "U16" | "U8" | "BOOL");

/** A tensor as a file holds it: row-major bytes. */
export interface TensorData {
  /** Type of its elements. */
  readonly dtype: Dtype;
  /** Length of each dimension. */
  readonly shape: readonly number[];
  /** Little-endian, row-major. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** What a `.safetensors` file holds. */
export interface Safetensors {
  /** In the order of the file's data. */
  readonly tensors: ReadonlyMap<string, TensorData>;
  /** Texts by name. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** The key of a header that is no tensor's. */
const METADATA = "__metadata__";

/** The format's own limit of its header. */
const MAX_HEADER_BYTES = 100_000_000;

/** Where a tensor lies in a file. */
export interface TensorPlace {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** In the file, in bytes. */
  readonly offset: number;
  readonly length: number;
}

/** What a file's header says. */
export interface SafetensorsHeader {
  /** In the order of the file's data, every byte of which they cover once. */
  readonly places: readonly TensorPlace[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** Bytes at a file's beginning that tell its header's length. */
export const HEADER_LENGTH_BYTES = 8;

/**
 * Where a file's header ends, from its first bytes.
 *
 * @throws {UserError} when a file of `fileBytes` cannot have such a header.
 */
export function safetensorsHeaderEnd(head: Uint8Array, fileBytes: number, name = "input"): number {
  if (head.length < HEADER_LENGTH_BYTES) {
    throw refusal(name, `${head.length} bytes are too few for a header; ${AGAIN}`);
  }
  const length = new DataView(head.buffer, head.byteOffset, head.byteLength).getBigUint64(0, true);
  if (length <= MAX_HEADER_BYTES && Number(length) <= fileBytes - HEADER_LENGTH_BYTES) {
    return HEADER_LENGTH_BYTES + Number(length);
  }
  const cut = `its header claims ${length} bytes, the file has ${fileBytes}: it is cut short; ${AGAIN}`;
  const strange = "it is of another kind, or damaged; safetensors and files of torch.save are read";
  throw refusal(name, otherKind(head) ?? (length > MAX_HEADER_BYTES ? strange : cut));
}

/** What helps where a file is not whole. */
const AGAIN = "copy, download or save it again";

/** What a file is that is often taken for one of weights, by its first bytes, and what to do. */
function otherKind(head: Uint8Array): string | undefined {
  const start = new TextDecoder().decode(head.subarray(0, HEADER_LENGTH_BYTES));
  if (start === "version ") return "it is what Git LFS keeps in the file's place; `git lfs pull` fetches the file";
  if (/^\s*</.test(start)) return "it is a web page; download the file itself";
  if (head[0] === 0x1f && head[1] === 0x8b) return "it is compressed by gzip; unpack it first";
  if (head[0] === 0x80 && head[1] >= 2 && head[1] <= 5) {
    return "it is a pickle, but none of torch.save's; save model.state_dict() by torch.save";
  }
}

/**
 * Reads a file's beginning, up to where its header ends.
 *
 * @throws {UserError} when it does not describe a file of `fileBytes`.
 */
export function parseSafetensorsHeader(head: Uint8Array, fileBytes: number, name = "input"): SafetensorsHeader {
  const refuse = (why: string): never => {
    throw refusal(name, `${why}; ${AGAIN}`);
  };
  const start = head.length, available = fileBytes - start;
  const header = parseHeader(head.subarray(HEADER_LENGTH_BYTES), refuse);
  let metadata: Record<string, string> = {};
  const entries: { key: string; dtype: Dtype; shape: number[]; begin: number; end: number }[] = [];
  for (const [key, value] of Object.entries(header)) {
    if (key === METADATA) {
      if (!isTexts(value)) refuse(`${METADATA} is not a map of strings`);
      metadata = value as Record<string, string>;
      continue;
    }
    if (!isRecord(value)) refuse(`the entry of tensor ${quoted(key)} is not an object`);
    const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
      refuse(`tensor ${quoted(key)} has no valid data_offsets`);
    }
    const [begin, end] = offsets as [number, number];
    if (begin > end || end > available) {
      refuse(`tensor ${quoted(key)} reaches to byte ${end} of ${available}: the file is cut short or damaged`);
    }
    const wrong = wrongInTensor({ dtype, shape, bytes: { length: end - begin } });
    if (wrong) refuse(`tensor ${quoted(key)} ${wrong}`);
    entries.push({ key, dtype: dtype as Dtype, shape: shape as number[], begin, end });
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  const places = entries.map(({ key, dtype, shape, begin, end }): TensorPlace => {
    if (begin !== at) refuse(`tensor ${quoted(key)} ${begin < at ? "overlaps another" : "leaves a hole before it"}`);
    at = end;
    return { name: key, dtype, shape, offset: start + begin, length: end - begin };
  });
  if (at !== available) refuse(`${available - at} bytes follow the last tensor`);
  return { places, metadata };
}

/**
 * Reads a whole file's bytes. The tensors share memory with `bytes`.
 *
 * @param name Stands in error messages.
 * @throws {UserError} when the bytes are not a valid safetensors file, saying where.
 */
export function parseSafetensors(bytes: Uint8Array<ArrayBuffer>, name = "input"): Safetensors {
  const end = safetensorsHeaderEnd(bytes, bytes.length, name);
  const { places, metadata } = parseSafetensorsHeader(bytes.subarray(0, end), bytes.length, name);
  const tensors = new Map(places.map(({ name, dtype, shape, offset, length }): [string, TensorData] => [
    name,
    { dtype, shape, bytes: bytes.subarray(offset, offset + length) },
  ]));
  return { tensors, metadata };
}

function refusal(name: string, why: string): UserError {
  return new UserError(`Cannot read "${name}" as safetensors: ${why}`);
}

function parseHeader(bytes: Uint8Array, refuse: (why: string) => never): Record<string, unknown> {
  let header: unknown;
  try {
    header = parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    refuse(`its header ${error instanceof SyntaxError ? error.message : "is not JSON"}`);
  }
  return isRecord(header) ? header : refuse("its header is not a JSON object");
}

/** What is wrong with a tensor's type, shape or bytes, as a predicate; undefined where nothing is. */
export function wrongInTensor(
  { dtype, shape, bytes }: {
    readonly dtype: unknown;
    readonly shape: unknown;
    readonly bytes: { readonly length: number };
  },
): string | undefined {
  if (typeof dtype !== "string" || !Object.hasOwn(BYTES, dtype)) {
    return `has unknown dtype ${quoted(dtype)}: known are ${Object.keys(BYTES).join(", ")}`;
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) return "has no valid shape";
  const wanted = shape.reduce((product, size) => product * size, BYTES[dtype as Dtype]);
  if (wanted !== bytes.length) return `of shape ${quoted(shape)} needs ${wanted} bytes and has ${bytes.length}`;
}

function isTexts(value: unknown): value is Record<string, string> {
  return isRecord(value) && Object.values(value).every((item) => typeof item === "string");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/**
 * Writes a file's bytes, its tensors in the map's order; the data starts at a multiple of 8.
 *
 * @throws {UserError} for tensors and metadata that {@linkcode parseSafetensors} would refuse.
 *
 * @example
 * ```ts
 * import { encodeSafetensors, float32Tensor, parseSafetensors } from "@cardinal/resnext";
 *
 * const bytes = encodeSafetensors({ tensors: new Map([["a", float32Tensor(Float32Array.of(1, 2), [2])]]), metadata: {} });
 * const { tensors } = parseSafetensors(bytes);
 * if (tensors.get("a")?.shape[0] !== 2) throw new Error("a comes back");
 * ```
 */
export function encodeSafetensors({ tensors, metadata }: Safetensors): Uint8Array<ArrayBuffer> {
  const refuse = (why: string) => {
    throw new UserError(`Cannot write safetensors: ${why}`);
  };
  const header: Record<string, unknown> = {};
  if (!isTexts(metadata)) refuse("the metadata are not a map of strings");
  if (Object.keys(metadata).length > 0) header[METADATA] = metadata;
  let at = 0;
  for (const [key, tensor] of tensors) {
    const { dtype, shape, bytes } = tensor, wrong = wrongInTensor(tensor);
    if (wrong) refuse(`tensor ${quoted(key)} ${wrong}`);
    if (key === METADATA) refuse(`no tensor may be called ${quoted(key)}`);
    header[key] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  let text = JSON.stringify(header);
  const length = new TextEncoder().encode(text).length;
  text += " ".repeat((8 - length % 8) % 8);
  const json = new TextEncoder().encode(text);
  const out = new Uint8Array(8 + json.length + at);
  new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true);
  out.set(json, 8);
  at = 8 + json.length;
  for (const { bytes } of tensors.values()) {
    out.set(bytes, at);
    at += bytes.length;
  }
  return out;
}

/** A float32 tensor from its values; shares their memory. */
export function float32Tensor(values: Float32Array<ArrayBuffer>, shape: readonly number[]): TensorData {
  return { dtype: "F32", shape, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

/** A 64-bit integer scalar, as PyTorch keeps `num_batches_tracked`. */
export function int64Scalar(value: number): TensorData {
  return { dtype: "I64", shape: [], bytes: new Uint8Array(new BigInt64Array([BigInt(value)]).buffer) };
}

/** The number that a tensor of one element holds; NaN where it is none. */
export function scalarOf(tensor: TensorData): number {
  const { dtype, bytes } = tensor;
  if (dtype === "BOOL") return NaN;
  const values = dtype === "I64" ? new BigInt64Array(bytes.slice().buffer) : toFloat32(tensor);
  return values.length === 1 ? Number(values[0]) : NaN;
}

/** The name of the first tensor that holds a NaN or an infinity as float32, if any does. */
export function firstNonFinite(tensors: ReadonlyMap<string, TensorData>): string | undefined {
  for (const [name, tensor] of tensors) {
    if (/^B?F/.test(tensor.dtype) && toFloat32(tensor).some((value) => !Number.isFinite(value))) return name;
  }
}

/**
 * The values as float32: F32 as they are, F16 and BF16 widened, F64 rounded, integers converted.
 *
 * @throws {UserError} for BOOL.
 */
export function toFloat32(tensor: TensorData, name = "tensor"): Float32Array<ArrayBuffer> {
  const { dtype, bytes } = tensor;
  const { buffer } = bytes.slice();
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F16":
      return new Float32Array(new Float16Array(buffer));
    case "BF16":
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
    case "F64":
      return new Float32Array(new Float64Array(buffer));
    case "I64":
      return Float32Array.from(new BigInt64Array(buffer), Number);
    case "U64":
      return Float32Array.from(new BigUint64Array(buffer), Number);
    case "I32":
      return new Float32Array(new Int32Array(buffer));
    case "U32":
      return new Float32Array(new Uint32Array(buffer));
    case "I16":
      return new Float32Array(new Int16Array(buffer));
    case "U16":
      return new Float32Array(new Uint16Array(buffer));
    case "I8":
      return new Float32Array(new Int8Array(buffer));
    case "U8":
      return new Float32Array(new Uint8Array(buffer));
    case "BOOL":
      throw new UserError(`Cannot use "${name}" as numbers: its type is BOOL`);
  }
}
