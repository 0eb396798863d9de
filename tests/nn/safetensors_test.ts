import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import {
  type Dtype,
  encodeSafetensors,
  float32Tensor,
  int64Scalar,
  parseSafetensors,
  type TensorData,
  toFloat32,
} from "../../nn/safetensors.ts";

/** A file with this header, whatever it says, and `dataBytes` zeros. */
function file(header: unknown, dataBytes = 0): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const out = new Uint8Array(8 + json.length + dataBytes);
  new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true);
  out.set(json, 8);
  return out;
}

function valid(): Uint8Array<ArrayBuffer> {
  return encodeSafetensors({
    tensors: new Map<string, TensorData>([
      ["layer.weight", float32Tensor(Float32Array.of(1, -2, 3.5, 4, 5, 6), [2, 3])],
      ["count", int64Scalar(7)],
      ["empty", float32Tensor(new Float32Array(0), [0, 4])],
    ]),
    metadata: { format: "pt", näme: "größe" },
  });
}

Deno.test("what is written is read: names, order, shapes, values, metadata", () => {
  const { tensors, metadata } = parseSafetensors(valid());
  assertEquals(metadata, { format: "pt", näme: "größe" });
  assertEquals([...tensors].map(([name, { dtype, shape }]) => [name, dtype, [...shape]]), [
    ["layer.weight", "F32", [2, 3]],
    ["count", "I64", []],
    ["empty", "F32", [0, 4]],
  ]);
  assertEquals([...toFloat32(tensors.get("layer.weight")!)], [1, -2, 3.5, 4, 5, 6]);
  assertEquals([...toFloat32(tensors.get("count")!)], [7]);
  const header = Number(new DataView(valid().buffer).getBigUint64(0, true));
  assertEquals(header % 8, 0, "the data is aligned");
});

Deno.test("a file within a larger buffer is read, at any offset", () => {
  const bytes = valid(), shifted = new Uint8Array(bytes.length + 3);
  shifted.set(bytes, 3);
  const { tensors } = parseSafetensors(shifted.subarray(3));
  assertEquals([...toFloat32(tensors.get("layer.weight")!)], [1, -2, 3.5, 4, 5, 6]);
});

Deno.test("a file of nothing is a file", () => {
  assertEquals(parseSafetensors(file({})).tensors.size, 0);
  assertEquals(parseSafetensors(encodeSafetensors({ tensors: new Map(), metadata: {} })).metadata, {});
});

/** One value of each type, as its bytes. */
const VALUES: Partial<Record<Dtype, [ArrayBuffer, number]>> = {
  F64: [new Float64Array([0.1]).buffer, Math.fround(0.1)],
  F32: [new Float32Array([0.1]).buffer, Math.fround(0.1)],
  F16: [new Float16Array([-1.5]).buffer, -1.5],
  BF16: [new Uint16Array([0xc049]).buffer, -3.140625],
  I64: [new BigInt64Array([-3n]).buffer, -3],
  U64: [new BigUint64Array([3n]).buffer, 3],
  I32: [new Int32Array([-4]).buffer, -4],
  U32: [new Uint32Array([4]).buffer, 4],
  I16: [new Int16Array([-5]).buffer, -5],
  U16: [new Uint16Array([5]).buffer, 5],
  I8: [new Int8Array([-6]).buffer, -6],
  U8: [new Uint8Array([6]).buffer, 6],
};

for (const [dtype, [buffer, value]] of Object.entries(VALUES)) {
  Deno.test(`${dtype} becomes float32`, () => {
    const tensor = { dtype: dtype as Dtype, shape: [1], bytes: new Uint8Array(buffer) };
    const { tensors } = parseSafetensors(encodeSafetensors({ tensors: new Map([["a", tensor]]), metadata: {} }));
    assertEquals([...toFloat32(tensors.get("a")!)], [value]);
  });
}

Deno.test("half precision's infinities and NaN stay what they are", () => {
  const f16 = {
    dtype: "F16",
    shape: [3],
    bytes: new Uint8Array(new Uint16Array([0x7c00, 0xfc00, 0x7e00]).buffer),
  } as const;
  assertEquals([...toFloat32(f16)], [Infinity, -Infinity, NaN]);
  const bf16 = {
    ...f16,
    dtype: "BF16",
    bytes: new Uint8Array(new Uint16Array([0x7f80, 0xff80, 0x7fc0]).buffer),
  } as const;
  assertEquals([...toFloat32(bf16)], [Infinity, -Infinity, NaN]);
});

Deno.test("truth values are no numbers", () => {
  assertThrows(
    () => toFloat32({ dtype: "BOOL", shape: [1], bytes: new Uint8Array(1) }, "mask"),
    UserError,
    'Cannot use "mask" as numbers',
  );
});

Deno.test("what no reader takes is not written", () => {
  const good = float32Tensor(new Float32Array(3), [3]);
  const refused = (name: string, tensor: unknown, why: string, metadata: Record<string, unknown> = {}) => {
    const written = { tensors: new Map([[name, tensor as TensorData]]), metadata: metadata as Record<string, string> };
    assertThrows(() => encodeSafetensors(written), UserError, `Cannot write safetensors: ${why}`);
  };
  refused("a", { ...good, shape: [4] }, 'tensor "a" of shape [4] needs 16 bytes and has 12');
  refused("a", { ...good, shape: [1.5, 2] }, 'tensor "a" has no valid shape');
  refused("a", { ...good, dtype: "F8" }, 'tensor "a" has unknown dtype "F8"');
  refused("__metadata__", good, "no tensor may be called");
  refused("a", good, "the metadata are not a map of strings", { epoch: 1 });
});

const F32 = (begin: number, end: number, shape: unknown = [(end - begin) / 4]) => ({
  dtype: "F32",
  shape,
  data_offsets: [begin, end],
});

const words = (latin: string) => Uint8Array.from(latin, (character) => character.charCodeAt(0));

const REFUSED: [string, Uint8Array<ArrayBuffer>, string][] = [
  ["nothing", new Uint8Array(0), "0 bytes are too few"],
  ["seven bytes", new Uint8Array(7), "7 bytes are too few"],
  [
    "a header longer than the file",
    new Uint8Array([9, 0, 0, 0, 0, 0, 0, 0, 123]),
    "claims 9 bytes, the file has 9: it is cut short",
  ],
  ["a header of 2^64 - 1 bytes", new Uint8Array(16).fill(255, 0, 8), "it is of another kind, or damaged"],
  ["a pointer of Git LFS", words("version https://git-lfs.github.com/spec/v1\n"), "`git lfs pull` fetches the file"],
  ["a web page", words("<!DOCTYPE html>"), "it is a web page; download the file itself"],
  ["an indented web page", words("\n  <html lang=en>"), "it is a web page"],
  ["a pickle", words("\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94."), "a pickle, but none of torch.save's"],
  ["a compressed file", words("\x1f\x8b\x08\0\0\0\0\0\x02\xff"), "compressed by gzip; unpack it first"],
  ["other words", words("no tensors here"), "it is of another kind, or damaged; safetensors and files of torch.save"],
  ["an empty header", new Uint8Array(8), "not JSON"],
  ["a header that is no JSON", file("{'a': 1}"), "not JSON"],
  ["a header that is no UTF-8", file('"ab"').fill(255, 9, 11), "its header is "],
  ["a list", file([]), "not a JSON object"],
  ["null", file(null), "not a JSON object"],
  ["metadata of numbers", file({ __metadata__: { epoch: 1 } }), "__metadata__ is not a map of strings"],
  ["metadata that is a list", file({ __metadata__: [] }), "__metadata__ is not a map of strings"],
  ["an entry that is a number", file({ a: 1 }), 'the entry of tensor "a" is not an object'],
  ["an unknown type", file({ a: { ...F32(0, 4), dtype: "F8" } }, 4), 'unknown dtype "F8"'],
  ["a type out of the prototype", file({ a: { ...F32(0, 4), dtype: "toString" } }, 4), 'unknown dtype "toString"'],
  ["no type", file({ a: { shape: [1], data_offsets: [0, 4] } }, 4), "unknown dtype undefined"],
  ["a shape that is none", file({ a: F32(0, 4, "1") }, 4), "no valid shape"],
  ["a negative size", file({ a: F32(0, 4, [-1]) }, 4), "no valid shape"],
  ["half a size", file({ a: F32(0, 4, [0.5, 2]) }, 4), "no valid shape"],
  ["one offset", file({ a: { ...F32(0, 4), data_offsets: [0] } }, 4), "no valid data_offsets"],
  ["negative offsets", file({ a: { ...F32(0, 4), data_offsets: [-4, 0] } }, 4), "no valid data_offsets"],
  ["offsets backwards", file({ a: { ...F32(0, 4), data_offsets: [4, 0] } }, 4), "cut short or damaged"],
  ["too few bytes", file({ a: F32(0, 8) }, 4), "cut short or damaged"],
  ["a shape of another size", file({ a: F32(0, 8, [3]) }, 8), "of shape [3] needs 12 bytes and has 8"],
  ["a product beyond whole numbers", file({ a: F32(0, 8, [2 ** 31, 2 ** 31, 2 ** 31]) }, 8), "needs"],
  ["overlapping tensors", file({ a: F32(0, 8), b: F32(4, 12) }, 12), 'tensor "b" overlaps another'],
  ["a hole", file({ a: F32(0, 4), b: F32(8, 12) }, 12), 'tensor "b" leaves a hole before it'],
  ["bytes after the last", file({ a: F32(0, 4) }, 8), "4 bytes follow the last tensor"],
];

for (const [what, bytes, message] of REFUSED) {
  Deno.test(`refused: ${what}`, () => {
    const error = assertThrows(() => parseSafetensors(bytes, "some.safetensors"), UserError, message);
    assert(error.message.startsWith('Cannot read "some.safetensors" as safetensors: '), error.message);
    assertEquals(error.message.split("\n").length, 1);
  });
}

Deno.test("a damaged file is read or refused, never worse", () => {
  const random = new Random(1, 9), whole = valid();
  let read = 0, refused = 0;
  for (let round = 0; round < 600; round++) {
    let bytes = whole.slice();
    for (let i = 0, changes = 1 + random.below(4); i < changes; i++) {
      const at = random.below(bytes.length);
      switch (random.below(5)) {
        case 0:
          bytes[at] = random.below(256);
          break;
        case 1:
          bytes[at] ^= 1 << random.below(8);
          break;
        case 2:
          bytes = bytes.slice(0, at + 1);
          break;
        case 3: {
          // A digit for another: lengths, sizes and offsets that are wrong yet well formed.
          const digits = [...bytes.keys()].filter((i) => bytes[i] >= 48 && bytes[i] <= 57);
          if (digits.length) bytes[digits[random.below(digits.length)]] = 48 + random.below(10);
          break;
        }
        default: {
          const longer = new Uint8Array(bytes.length + 1 + random.below(20));
          longer.set(bytes);
          bytes = longer;
        }
      }
    }
    try {
      const { tensors } = parseSafetensors(bytes);
      for (const [name, tensor] of tensors) if (tensor.dtype !== "BOOL") toFloat32(tensor, name);
      read++;
    } catch (error) {
      assertInstanceOf(error, UserError);
      refused++;
    }
  }
  assert(read > 20 && refused > 200, `${read} read, ${refused} refused`);
});
