/** Files that Debian's PyTorch 1.13 has saved; `fixtures/torch/make.py` made them. */

import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import { bytesSource } from "../../nn/byte_source.ts";
import { parseSafetensors, type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import { readTorchFile } from "../../nn/torch_file.ts";
import { readWeightsFile } from "../../nn/weights_file.ts";

const folder = fromFileUrl(new URL("../fixtures/torch/", import.meta.url));
const bytesOf = (name: string) => Deno.readFileSync(`${folder}${name}`);
const values = (tensors: ReadonlyMap<string, TensorData>) =>
  Object.fromEntries([...tensors].map(([name, tensor]) => [name, [...toFloat32(tensor)]]));
const load = (name: string) => readTorchFile(bytesSource(bytesOf(name)), name);

for (const form of ["zip", "legacy"]) {
  for (const dtype of ["f32", "f16", "bf16"]) {
    Deno.test(`${form} form, ${dtype}: every tensor is what PyTorch saved, strides and shared storages too`, async () => {
      const { tensors, notes } = await load(`${dtype}_${form}.pth`);
      const expected = parseSafetensors(bytesOf(`${dtype}.safetensors`));
      assertEquals(notes, []);
      assertEquals([...tensors.keys()], [...expected.tensors.keys()]);
      for (const [name, tensor] of expected.tensors) {
        const { dtype, shape, bytes } = tensors.get(name)!;
        assertEquals({ dtype, shape, bytes: [...bytes] }, { ...tensor, bytes: [...tensor.bytes] }, name);
      }
    });
  }

  Deno.test(`${form} form: a training script's checkpoint is unwrapped, and that is said`, async () => {
    const { tensors, notes } = await readWeightsFile(bytesSource(bytesOf(`wrapped_${form}.pth`)));
    assertEquals(notes, ['took "state_dict" of the checkpoint', 'took "module." off the names']);
    assertEquals([...tensors].map(([name, { shape }]) => [name, shape]), [["fc.weight", [2, 2]]]);
  });

  Deno.test(`${form} form: timm's checkpoint gives the average of the weights, as timm reads it`, async () => {
    const { tensors, notes } = await load(`timm_${form}.pth`);
    assertEquals(notes, ['took "state_dict_ema" of the checkpoint, the average of the weights']);
    assertEquals(values(tensors), { "fc.weight": [2, 2, 2, 2], "fc.bias": [0, 0] });
  });

  Deno.test(`${form} form: a module of the user's own class is refused with what to save instead`, async () => {
    const error = await assertRejects(() => load(`own_module_${form}.pth`), UserError);
    assertEquals(
      error.message,
      `Cannot read "own_module_${form}.pth" as PyTorch's: it holds a model as an object of __main__.Net, which only ` +
        "Python can make: save model.state_dict() instead of the model",
    );
  });

  Deno.test(`${form} form: a pickle that calls os.system is refused by name, and runs nothing`, async () => {
    const error = await assertRejects(() => load(`evil_${form}.pth`), UserError);
    assertEquals(
      error.message,
      `Cannot read "evil_${form}.pth" as PyTorch's: it wants to call posix.system (os.system): refused, and nothing of ` +
        "it was run; do not open it in Python",
    );
  });

  Deno.test(`${form} form: a thousand damaged files, an error or a right reading each`, async () => {
    const original = bytesOf(`f32_${form}.pth`), right = await load(`f32_${form}.pth`);
    const random = new Random(20, form.length);
    const below = (count: number) => Math.floor(random.uniform() * count);
    let refused = 0;
    for (let round = 0; round < 1000; round++) {
      let bytes = original.slice();
      for (let changes = 1 + below(3); changes > 0; changes--) {
        const kind = below(4), at = below(bytes.length);
        if (kind === 0) bytes[at] ^= 1 << below(8);
        else if (kind === 1) bytes[at] = below(256);
        else if (kind === 2) bytes = bytes.slice(0, Math.max(1, at));
        else bytes.set(bytes.slice(at, at + 1 + below(16)), below(Math.max(1, bytes.length - 16)));
      }
      try {
        const { tensors } = await readTorchFile(bytesSource(bytes), "damaged");
        // The old form has no checksums: numbers and names may differ there, sizes always fit.
        for (const { shape, bytes } of tensors.values()) {
          assertEquals(bytes.length % Math.max(1, shape.reduce((product, size) => product * size, 1)), 0);
        }
        if (form === "zip") {
          assertEquals(
            [...tensors].map(([key, { bytes }]) => [key, ...bytes]),
            [...right.tensors].map(([key, { bytes }]) => [key, ...bytes]),
          );
        }
      } catch (error) {
        if (!(error instanceof UserError)) throw new Error(`round ${round}: ${error}`, { cause: error });
        refused++;
      }
    }
    assert(refused > 500, `${refused} of 1000 were refused`);
  });
}

Deno.test("a whole module, saved as such, is refused with what to save instead", async () => {
  const error = await assertRejects(() => load("module_zip.pth"), UserError);
  assertStringIncludes(error.message, "it holds a model as an object of torch.nn.modules.linear.Linear, which");
  assertStringIncludes(error.message, ": save model.state_dict() instead of the model");
});

Deno.test("torchvision's reference checkpoint gives the average of the weights, without its counter", async () => {
  const { tensors, notes } = await readWeightsFile(bytesSource(bytesOf("torchvision_zip.pth")));
  assertEquals(notes, [
    'took "model_ema" of the checkpoint, the average of the weights',
    'took "module." off the names',
    'left out "n_averaged"',
  ]);
  assertEquals(values(tensors), { "fc.weight": [2, 2, 2, 2], "fc.bias": [2, 2] });
});

for (const protocol of [2, 5]) {
  Deno.test(`protocol ${protocol}: Python's and NumPy's values beside a state are passed over`, async () => {
    const { tensors, notes } = await load(`values_protocol${protocol}.pth`);
    assertEquals(notes, ['took "net" of the checkpoint']);
    assertEquals(values(tensors), { "fc.weight": [3, 3, 3, 3], "fc.bias": [0, 0] });
  });
}

Deno.test("tensors of kinds that are not known are passed over beside a state, and refused within it", async () => {
  assertEquals(values((await load("complex_zip.pth")).tensors), { "fc.weight": [1, 1, 1, 1], "fc.bias": [0, 0] });
  const message = "it holds a tensor of torch._utils._rebuild_qtensor, which is not known";
  await assertRejects(() => load("quantized_zip.pth"), UserError, message);
});

Deno.test("of an archive only what is read must be stored as it is: torch.jit's code is compressed", async () => {
  const compressed = (entry: string) => {
    const bytes = bytesOf("f32_zip.pth").slice(), view = new DataView(bytes.buffer);
    for (let at = 0; at < bytes.length - 46; at++) {
      if (view.getUint32(at, true) !== 0x02014b50) continue;
      const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + view.getUint16(at + 28, true)));
      if (name.endsWith(entry)) view.setUint16(at + 10, 8, true);
    }
    return readTorchFile(bytesSource(bytes), "x");
  };
  assertEquals((await compressed("/version")).tensors, (await load("f32_zip.pth")).tensors);
  const message = /data\.pkl" is compressed, which torch\.save's are not; unpack it, or save it again$/;
  assertMatch((await assertRejects(() => compressed("/data.pkl"), UserError)).message, message);
});

Deno.test("pickles of protocol 4 are read", async () => {
  const { tensors } = await load("protocol4.pth");
  assertEquals([...new Float32Array(tensors.get("a")!.bytes.slice().buffer)], [1, 1]);
});

Deno.test("the kind of a file is told by its first bytes", async () => {
  const read = async (name: string) => (await readWeightsFile(bytesSource(bytesOf(name)), name)).format;
  assertEquals(await read("f16_zip.pth"), "torch");
  assertEquals(await read("f16_legacy.pth"), "torch");
  assertEquals(await read("f16.safetensors"), "safetensors");
  await assertRejects(() => readWeightsFile(bytesSource(new Uint8Array(3)), "x"), UserError, "too few for a header");
  await assertRejects(() => readWeightsFile(bytesSource(new Uint8Array(0)), "x"), UserError, "too few for a header");
});

// ---------------------------------------------------------------------------------------------------------------------
// Hostile pickles, as the old form would hold them
// ---------------------------------------------------------------------------------------------------------------------

/** The old form around a pickle. */
function legacy(pickle: readonly number[]): Uint8Array<ArrayBuffer> {
  const head = bytesOf("f32_legacy.pth").slice(0, 137);
  return new Uint8Array([...head, ...pickle, 0x80, 2, 0x5d, 0x2e]);
}

const text = (value: string) => [...new TextEncoder().encode(value)];
const refusedAs = (pickle: readonly number[], message: string) =>
  assertRejects(() => readTorchFile(bytesSource(legacy(pickle)), "hostile"), UserError, message);

Deno.test("pickles that import, build, count or remember what they must not are refused", async () => {
  await refusedAs([0x80, 2, ...text("cbuiltins\neval\n"), 0x2e], "it wants to call builtins.eval: refused");
  await refusedAs([0x80, 4, 0x8c, 2, ...text("os"), 0x8c, 6, ...text("system"), 0x93, 0x2e], "os.system: refused");
  await refusedAs([0x80, 2, ...text("(S'x'\nios\nsystem\n"), 0x2e], "instruction 0x53: refused");
  await refusedAs([0x80, 2, ...text("(ios\nsystem\n"), 0x2e], "os.system: refused");
  await refusedAs([0x80, 2, ...text("cos.path\nb\x1b[31m\n"), 0x2e], "it wants to call os.path.b\\u001b[31m: refused");
  await refusedAs([0x80, 2, ...text("ca\nb\x1b[31m\n"), 0x2e], "a model as an object of a.b\\u001b[31m, which");
  await refusedAs([0x80, 2, 0x8b, 0xff, 0xff, 0xff, 0xff, 0x2e], "an integer of 4294967295 bytes");
  await refusedAs([0x80, 2, 0x58, 0xff, 0xff, 0xff, 0xff, 0x2e], "it is cut short");
  await refusedAs([0x80, 2, 0x68, 9, 0x2e], "remembers value 9, which it never had");
  await refusedAs([0x80, 2, 0x75, 0x2e], "goes back to a mark that is not there");
  await refusedAs(
    [0x80, 2, ...text("ctorch\nfloat32\n"), 0x29, 0x52, 0x2e],
    "its pickle calls torch.float32, which is no function; copy",
  );
  await refusedAs([0x80, 2, 0x82, 1, 0x2e], "instruction 0x82: refused");
  await refusedAs(
    [0x80, 2, 0x5d, 0x2e],
    'or as "state_dict", "model_state_dict", "model", ...: save model.state_dict()',
  );
  const epoch = [0x8c, 5, ...text("epoch"), 0x4b, 3, 0x73, 0x29, 0x4e, 0x73];
  await refusedAs([0x80, 2, 0x7d, ...epoch, 0x2e], '..., but "epoch": save model.state_dict()');
  await refusedAs([0x80, 2, 0x5d, 0x28, 0x90, 0x2e], "adds to what is no set");
  await refusedAs([0x80, 2, ...text("ctorch\nSize\nca\nb\n"), 0x85, 0x52, 0x2e], "a tuple is missing");
  await refusedAs([0x80, 2, ...text("ctorch\nfloat32\n"), 0x7d, 0x62, 0x2e], "sets attributes of what has none");
});

Deno.test("what is called, built, appended, set and added on an unknown name is forgotten", async () => {
  // antigravity.fly(), with an attribute, an element, an item and a member, is still a name and nothing else.
  const object = [
    ...text("cantigravity\nfly\n"),
    0x29,
    0x52,
    0x7d,
    0x62,
    0x4e,
    0x61,
    0x4e,
    0x4e,
    0x73,
    0x28,
    0x4e,
    0x90,
  ];
  const called = [...object, 0x29, 0x81, 0x29, 0x7d, 0x92];
  await refusedAs([0x80, 4, ...called, 0x2e], "it holds a model as an object of antigravity.fly, which");
  // In the place of a tensor it makes no state: nothing is left out of one silently.
  await refusedAs([0x80, 4, 0x7d, 0x8c, 1, 0x61, ...called, 0x73, 0x2e], "it holds no state_dict");
});

Deno.test("a list copied once a byte ends soon", async () => {
  const items = Array.from({ length: 50_000 }, () => [0x4b, 1]).flat();
  const copies = Array.from({ length: 20_000 }, () => [0x68, 1, 0x68, 0, 0x85, 0x52, 0x30]).flat();
  const started = performance.now();
  await refusedAs(
    [0x80, 2, 0x28, ...items, 0x74, 0x71, 0, ...text("ctorch\nSize\n"), 0x71, 1, ...copies, 0x2e],
    "copies its lists over and over",
  );
  assert(performance.now() - started < 20_000);
});

Deno.test("a tensor of more than the file may ask for is refused", async () => {
  // A storage of one element seen as 2^40 of them, by a stride of zero.
  const storage = [
    0x28,
    0x8c,
    7,
    ...text("storage"),
    ...text("ctorch\nByteStorage\n"),
    0x8c,
    1,
    0x30,
    0x8c,
    3,
    ...text("cpu"),
    0x4b,
    1,
    0x74,
    0x51,
  ];
  const size = [0x8a, 6, 0, 0, 0, 0, 0, 1, 0x85];
  const tensor = [
    ...text("ctorch._utils\n_rebuild_tensor_v2\n"),
    0x28,
    ...storage,
    0x4b,
    0,
    ...size,
    0x4b,
    0,
    0x85,
    0x89,
    0x7d,
    0x74,
    0x52,
  ];
  const pickle = [0x80, 4, 0x7d, 0x8c, 1, 0x61, ...tensor, 0x73, 0x2e];
  const keys = [0x80, 4, 0x5d, 0x8c, 1, 0x30, 0x61, 0x2e, 1, 0, 0, 0, 0, 0, 0, 0, 5];
  const file = new Uint8Array([...bytesOf("f32_legacy.pth").slice(0, 137), ...pickle, ...keys]);
  await assertRejects(
    () => readTorchFile(bytesSource(file), "hostile"),
    UserError,
    "its tensors would take 1099511627776 bytes, the file has",
  );
});
