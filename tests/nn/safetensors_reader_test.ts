import { assert, assertEquals, assertRejects } from "@std/assert";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import { type ByteSource, bytesSource } from "../../nn/byte_source.ts";
import { encodeSafetensors, float32Tensor, parseSafetensors, toFloat32 } from "../../nn/safetensors.ts";
import { SafetensorsReader } from "../../nn/safetensors_reader.ts";
import { formula } from "../support.ts";

const file = encodeSafetensors({
  tensors: new Map([
    ["a", float32Tensor(formula(24, 1), [2, 3, 4])],
    ["half", { dtype: "F16", shape: [3], bytes: new Uint8Array(new Float16Array([1.5, -2, 0.25]).buffer) }],
    ["brain", { dtype: "BF16", shape: [2], bytes: new Uint8Array(new Uint16Array([0x3fc0, 0xc000]).buffer) }],
    ["none", float32Tensor(new Float32Array(0), [0, 5])],
  ]),
  metadata: { format: "pt" },
});

Deno.test("reading by range gives what reading whole does, and reads each byte once", async () => {
  let bytes = 0;
  const source: ByteSource = {
    size: file.length,
    read: (offset, length) => {
      bytes += length;
      return Promise.resolve(file.slice(offset, offset + length));
    },
  };
  const reader = await SafetensorsReader.open(source, "file");
  const header = bytes;
  const { tensors, metadata } = await reader.all();
  assertEquals({ tensors, metadata }, { ...parseSafetensors(file) });
  // The header's length is read twice, nothing else.
  assertEquals(bytes, file.length + 8);
  assertEquals(header, file.length + 8 - 24 * 4 - 6 - 4);
  assertEquals(reader.places.map(({ name }) => name), ["a", "half", "brain", "none"]);
  assertEquals([...toFloat32((await reader.tensor("half"))!)], [1.5, -2, 0.25]);
  assertEquals([...toFloat32((await reader.tensor("brain"))!)], [1.5, -2]);
  assertEquals(await reader.tensor("b"), undefined);
});

Deno.test("a thousand damaged files: an error or a whole reading each", async () => {
  const random = new Random(5, 0), below = (count: number) => Math.floor(random.uniform() * count);
  let refused = 0;
  for (let round = 0; round < 1000; round++) {
    let bytes = file.slice();
    const at = below(bytes.length);
    if (round % 3 === 0) bytes[at] ^= 1 << below(8);
    else if (round % 3 === 1) bytes[at] = below(256);
    else bytes = bytes.slice(0, at);
    try {
      const { tensors } = await (await SafetensorsReader.open(bytesSource(bytes), "damaged")).all();
      assertEquals(tensors.size > 0, true);
    } catch (error) {
      if (!(error instanceof UserError)) throw new Error(`round ${round}: ${error}`, { cause: error });
      refused++;
    }
  }
  assert(refused > 500, `${refused} of 1000 were refused`);
});

Deno.test("a header larger than the file is refused before it is read", async () => {
  const bytes = new Uint8Array(16);
  bytes[5] = 1;
  await assertRejects(() => SafetensorsReader.open(bytesSource(bytes), "file"), UserError, "it is of another kind");
  bytes.set([9, 0, 0, 0, 0, 0]);
  await assertRejects(() => SafetensorsReader.open(bytesSource(bytes), "file"), UserError, "its header claims 9 bytes");
});
