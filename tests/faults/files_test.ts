/**
 * Files that are damaged, or made to do harm: each is read as it says, or refused with a line that names it and says why,
 * in bounded time and memory.
 */

import { assert, assertEquals, assertMatch, equal } from "@std/assert";
import { extractTarGz } from "../../data/archive.ts";
import { parseRecords } from "../../data/cifar.ts";
import { cifar10 } from "../../data/cifar10.ts";
import { narrowCheckpoint } from "../cli/support.ts";
import { configArguments } from "../../cli/config.ts";
import { trainCommand } from "../../cli/train.ts";
import { readArguments } from "../../cli/command.ts";
import { trainOptions } from "../../cli/train_options.ts";
import { readTunings } from "../../cli/tuning.ts";
import { Random } from "../../kernels/random.ts";
import { Tuning } from "../../kernels/tuning.ts";
import { UserError } from "../../kernels/user_error.ts";
import { checkpointFile, decodeCheckpoint, encodeCheckpoint } from "../../nn/checkpoint.ts";
import { bytesSource } from "../../nn/byte_source.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { encodeSafetensors, float32Tensor, parseSafetensors, type TensorData } from "../../nn/safetensors.ts";
import { readWeightsFile } from "../../nn/weights_file.ts";
import { concatenate, goodEntries, gzip, md5, noise, tar, type TarEntry } from "../data/archive_support.ts";
import { smallCheckpoint } from "../checkpoint_support.ts";
import { formula, withFolder } from "../support.ts";
import { mutateBytes, mutateJson, report, trials } from "./support.ts";

const NAME = "hostile.file";
const COUNT = trials(200, 10_000);
/** Milliseconds that one input may take; a good one takes about one. */
const PATIENCE = 2000;

/**
 * Tries every input: `read` must return (and has then checked what it read), or throw a `UserError` that names the file
 * and is fit to print.
 */
async function tryAll(
  what: string,
  count: number,
  make: (random: Random, index: number) => Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>,
  read: (bytes: Uint8Array<ArrayBuffer>) => void | Promise<void>,
  named: string | RegExp = NAME,
): Promise<void> {
  let refused = 0, slowest = 0;
  const before = Deno.memoryUsage().rss;
  for (let i = 0; i < count; i++) {
    const bytes = await make(new Random(5, i), i);
    const started = performance.now();
    try {
      await read(bytes);
    } catch (error) {
      if (!(error instanceof UserError)) {
        throw new Error(`${what}, input ${i}: ${error instanceof Error ? error.stack : error}`, { cause: error });
      }
      assertMatch(error.message, RegExp(named), `${what}, input ${i}`);
      assert(error.message.length < 700, `${what}, input ${i}: ${error.message.slice(0, 700)}`);
      // deno-lint-ignore no-control-regex
      assert(!/[\x00-\x1f\x7f-\x9f]/.test(error.message), `${what}, input ${i}: ${JSON.stringify(error.message)}`);
      refused++;
    }
    const took = performance.now() - started;
    slowest = Math.max(slowest, took);
    assert(took < PATIENCE, `${what}, input ${i}: ${took} ms`);
  }
  const grown = (Deno.memoryUsage().rss - before) / 2 ** 20;
  assert(grown < 512, `${what}: memory grew by ${grown} MiB`);
  assert(refused > 0);
  report(`files, ${what}`, count, `${refused} refused, the slowest took ${slowest.toFixed(0)} ms`);
}

// ---------------------------------------------------------------------------------------------------------------------
// safetensors
// ---------------------------------------------------------------------------------------------------------------------

/** Cuts a file into its header's text and its data. */
function split(file: Uint8Array<ArrayBuffer>): { header: string; data: Uint8Array<ArrayBuffer> } {
  const length = Number(new DataView(file.buffer).getBigUint64(0, true));
  return { header: new TextDecoder().decode(file.subarray(8, 8 + length)), data: file.slice(8 + length) };
}

function assembled(header: string, data: Uint8Array, length?: bigint): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(header), head = new Uint8Array(8);
  new DataView(head.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  return concatenate([head, json, data]);
}

const LENGTHS = [0n, 1n, 7n, 2n ** 20n, 100_000_000n, 2n ** 31n, 2n ** 32n + 8n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];

/** Bytes, the header's JSON, or its length changed. */
function mutateSafetensors(file: Uint8Array<ArrayBuffer>, random: Random): Uint8Array<ArrayBuffer> {
  const { header, data } = split(file);
  switch (random.below(4)) {
    case 0:
      return mutateBytes(file, random, 8 + header.length);
    case 1:
      return assembled(header, data, LENGTHS[random.below(LENGTHS.length)]);
    default:
      return assembled(mutateJson(header, random), data);
  }
}

const tensors = new Map<string, TensorData>([
  ["a.weight", float32Tensor(formula(24, 1), [2, 3, 4])],
  ["a.bias", float32Tensor(formula(4, 2), [4])],
  ["scalar", float32Tensor(formula(1, 3), [])],
  ["empty", float32Tensor(new Float32Array(0), [0, 5])],
  ["bytes", { dtype: "U8", shape: [3], bytes: new Uint8Array([1, 2, 3]) }],
]);

Deno.test("safetensors: mutated files are read as they say or refused", async () => {
  const file = encodeSafetensors({ tensors, metadata: { format: "pt", note: '{"a":1}' } });
  await tryAll("safetensors", COUNT, (random) => mutateSafetensors(file, random), (bytes) => {
    const read = parseSafetensors(bytes, NAME);
    // A second reader, without any check: what is taken for good must be what this one finds.
    const { header, data } = split(bytes);
    const entries = Object.entries(JSON.parse(header)).filter(([key]) => key !== "__metadata__") as [
      string,
      { dtype: string; shape: number[]; data_offsets: [number, number] },
    ][];
    assertEquals(read.tensors.size, entries.length);
    for (const [key, { dtype, shape, data_offsets: [begin, end] }] of entries) {
      const tensor = read.tensors.get(key)!;
      assertEquals({ ...tensor, bytes: [...tensor.bytes] }, { dtype, shape, bytes: [...data.subarray(begin, end)] });
    }
  });
});

Deno.test("safetensors: headers made to cost time or memory are refused", async () => {
  const empty = new Uint8Array(0);
  const tensor = (fields: string) => assembled(`{"t":{${fields}}}`, empty);
  const files = [
    assembled("[".repeat(5_000_000), empty),
    assembled(`{"a":`.repeat(1_000_000), empty),
    assembled(`{${'"a":1,'.repeat(500_000)}"a":1}`, empty),
    tensor('"dtype":"F32","shape":[1e15,1e15,1e15],"data_offsets":[0,0]'),
    tensor(`"dtype":"F32","shape":[${"1,".repeat(500_000)}2],"data_offsets":[0,0]`),
    tensor('"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,9007199254740993]'),
    tensor('"dtype":"__proto__","shape":[],"data_offsets":[0,0]'),
    tensor('"dtype":"F32","shape":[-1],"data_offsets":[0,-4]'),
    assembled('{"__proto__":{"dtype":"F32"}}', empty),
    assembled(`{"${"long".repeat(1_000_000)}":1}`, empty),
    assembled(
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      new Uint8Array(1),
    ),
    assembled('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"dtype":"I8"}}', new Uint8Array(1)),
    assembled("null", empty),
  ];
  let at = 0;
  await tryAll("safetensors by hand", files.length, () => files[at++], (bytes) => {
    parseSafetensors(bytes, NAME);
    throw new Error("it was read");
  });
});

// ---------------------------------------------------------------------------------------------------------------------
// Checkpoints
// ---------------------------------------------------------------------------------------------------------------------

/** Bytes of the file, the header, or the description within it changed. */
function mutateCheckpoint(file: Uint8Array<ArrayBuffer>, random: Random): Uint8Array<ArrayBuffer> {
  if (random.below(2) === 0) return mutateSafetensors(file, random);
  const { header, data } = split(file);
  const value = JSON.parse(header);
  value.__metadata__.resnext = mutateJson(value.__metadata__.resnext, random);
  return assembled(JSON.stringify(value), data);
}

Deno.test("checkpoints: mutated files are the checkpoint still, or refused", async () => {
  const checkpoint = smallCheckpoint();
  const file = await encodeCheckpoint(checkpoint);
  assert(equal(await decodeCheckpoint(file, NAME), checkpoint));
  await tryAll("checkpoints", COUNT, (random) => mutateCheckpoint(file, random), async (bytes) => {
    const read = await decodeCheckpoint(bytes, NAME);
    assert(equal(read, checkpoint), "another checkpoint is read");
  });
});

Deno.test("checkpoints: descriptions made to do harm, with a right checksum, are taken as they say or refused", async () => {
  const { description, state, momenta } = smallCheckpoint();
  const json = JSON.stringify(description), parameters = describedNetwork(description.network).parameterCount;
  await tryAll("checkpoints with hostile descriptions", COUNT, async (random) => {
    for (;;) {
      try {
        return await checkpointFile({ description: JSON.parse(mutateJson(json, random)), state, momenta });
      } catch {
        // No JSON: that is tried above.
      }
    }
  }, async (bytes) => {
    const read = await decodeCheckpoint(bytes, NAME);
    // Whatever it says, it is the network that its weights are of.
    assert(equal(read.state, state));
    assertEquals(describedNetwork(read.description.network).parameterCount, parameters);
  });
});

Deno.test("checkpoints: every single bit of a file counts", async () => {
  const checkpoint = smallCheckpoint();
  const file = await encodeCheckpoint(checkpoint);
  await tryAll("checkpoints with one bit changed", trials(100, 5000), (random) => {
    const bytes = file.slice();
    bytes[random.below(bytes.length)] ^= 1 << random.below(8);
    return bytes;
  }, async (bytes) => {
    // Only bits that say nothing may change: an entry that readers do not know, white space, the note of the format.
    assert(equal(await decodeCheckpoint(bytes, NAME), checkpoint), "another checkpoint is read");
  });
});

// ---------------------------------------------------------------------------------------------------------------------
// CIFAR-10
// ---------------------------------------------------------------------------------------------------------------------

Deno.test("CIFAR-10: mutated records are read as they say or refused", async () => {
  const record = (label: number) => concatenate([new Uint8Array([label]), noise(3072, label + 1)]);
  const file = concatenate([record(0), record(9), record(4)]);
  await tryAll("CIFAR-10 records", COUNT, (random) => mutateBytes(file, random, 1), (bytes) => {
    const { count, images, labels } = parseRecords(bytes, cifar10, NAME);
    assertEquals(count * 3073, bytes.length);
    for (let i = 0; i < count; i++) {
      assertEquals(labels[i], bytes[i * 3073]);
      assert(labels[i] < 10);
      for (const [pixel, colour] of [[0, 0], [17, 1], [1023, 2]]) {
        assertEquals(images[(i * 1024 + pixel) * 3 + colour], bytes[i * 3073 + 1 + colour * 1024 + pixel]);
      }
    }
  });
});

// ---------------------------------------------------------------------------------------------------------------------
// Archives
// ---------------------------------------------------------------------------------------------------------------------

Deno.test("archives: mutated ones give the right bytes or are refused, and nothing is written elsewhere", async () => {
  const files = [{ name: "one.bin", data: noise(900, 1) }, { name: "two.bin", data: noise(40, 2) }];
  const expected = {
    folder: "set",
    files: files.map(({ name, data }) => ({ name, size: data.length, md5: md5(data) })),
  };
  const entries: TarEntry[] = [
    goodEntries[0],
    ...files.map(({ name, data }) => ({ path: `set/${name}`, data })),
  ];
  const plain = tar(entries), packed = await gzip(plain);
  const PATHS = ["../x", "/tmp/x", "set/../../x", "set\\..\\x", "C:x", "set/one.bin/", "./set/one.bin", "set/\u0000x"];
  const make = async (random: Random) => {
    switch (random.below(3)) {
      case 0:
        return mutateBytes(packed, random, 20);
      case 1:
        return await gzip(mutateBytes(plain, random, 2048));
      default: {
        const hostile = entries.slice(), at = random.below(hostile.length + 1);
        const { data } = files[random.below(2)];
        hostile.splice(at, random.below(2), {
          path: random.below(2) ? PATHS[random.below(PATHS.length)] : `set/${files[random.below(2)].name}`,
          type: "0123456xgLK"[random.below(11)],
          link: "/etc/passwd",
          data: data.subarray(0, random.below(data.length + 1)),
          size: [undefined, 0, 1, 2 ** 33 - 1, 2 ** 30][random.below(5)],
        });
        return await gzip(tar(hostile));
      }
    }
  };
  await withFolder(async (folder) => {
    const archive = `${folder}/${NAME}`, to = `${folder}/to`;
    await tryAll("archives", COUNT, make, async (bytes) => {
      await Deno.writeFile(archive, bytes);
      await Deno.mkdir(to);
      try {
        await extractTarGz(archive, to, expected);
        for (const { name, data } of files) assertEquals(await Deno.readFile(`${to}/${name}`), data);
      } finally {
        const left = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
        assertEquals(left, [NAME, "to"]);
        for (const { name, isFile } of Deno.readDirSync(to)) assert(isFile && files.some((file) => file.name === name));
        await Deno.remove(to, { recursive: true });
      }
    });
  });
});

// ---------------------------------------------------------------------------------------------------------------------
// Configs, tunings, PyTorch's files
// ---------------------------------------------------------------------------------------------------------------------

Deno.test("configs: mutated ones give values that the command takes, or are refused", async () => {
  const config = JSON.stringify({
    $schema: "train.schema.json",
    epochs: 3,
    lr: 0.1,
    "batch-size": 16,
    nesterov: true,
    dataset: "shapes",
    layers: [1, 1, 1, 1],
    out: "runs/a",
    "on-device-lost": "stop",
  });
  const { network, input, settings } = narrowCheckpoint().description;
  const ofRun = JSON.stringify({ network, input, settings, options: { lr: 0.1, "batch-size": 4 } });
  const make = (random: Random) => new TextEncoder().encode(mutateJson(random.below(4) ? config : ofRun, random));
  await tryAll("configs", COUNT, make, (bytes) => {
    const args = configArguments(new TextDecoder().decode(bytes), NAME, trainCommand);
    const { options } = readArguments({ options: trainOptions, positionals: [] }, args, "train");
    for (const key of ["lr", "epochs", "batchSize"]) {
      const value = options[key];
      assert(value === undefined || (typeof value === "number" && Number.isFinite(value)), `${key}: ${value}`);
    }
  }, /hostile\.file|Option --/);
});

Deno.test("tunings: mutated tables count for what they hold, or for nothing", async () => {
  const problem = "m 64 n 64 k 64", table = { "GPU | Deno 2.9.6": { [problem]: "shared 8x2" } };
  await withFolder(async (folder) => {
    const file = `${folder}/${NAME}`;
    let empty = 0;
    for (let i = 0; i < COUNT; i++) {
      const random = new Random(7, i);
      const text = JSON.stringify(table);
      const bytes = random.below(2)
        ? mutateBytes(new TextEncoder().encode(text), random)
        : new TextEncoder().encode(mutateJson(text, random));
      await Deno.writeFile(file, bytes);
      const read = await readTunings(file);
      for (const entries of Object.values(read)) {
        new Tuning(entries);
        for (const variant of Object.values(entries)) assertEquals(typeof variant, "string");
      }
      if (Object.keys(read).length === 0) empty++;
    }
    report("files, tunings", COUNT, `${empty} count as empty`);
  });
});

Deno.test("PyTorch's files: mutated ones give tensors of the bytes that they have, or are refused", async () => {
  const folder = new URL("../fixtures/torch/", import.meta.url);
  const files = ["f32_zip", "f32_legacy", "wrapped_zip", "wrapped_legacy", "network_zip", "protocol4"];
  files.push("timm_zip", "timm_legacy", "torchvision_zip", "values_protocol5", "own_module_legacy");
  const originals = files.map((name) => Deno.readFileSync(new URL(`${name}.pth`, folder)));
  await tryAll(
    "PyTorch's files",
    COUNT,
    (random) => mutateBytes(originals[random.below(originals.length)], random, 600),
    async (bytes) => {
      const { tensors } = await readWeightsFile(bytesSource(bytes), NAME);
      for (const { shape, bytes: data } of tensors.values()) {
        assert(data.length <= 16 * shape.reduce((a, b) => a * b, 1));
        assert(data.length <= 100 * bytes.length);
      }
    },
  );
});
