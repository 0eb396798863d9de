import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { UserError } from "../../kernels/user_error.ts";
import {
  type Checkpoint,
  checkpointFile,
  decodeCheckpoint,
  encodeCheckpoint,
  testedState,
} from "../../nn/checkpoint.ts";
import { removeUnfinished, saveFile } from "../../nn/checkpoint_file.ts";
import { describedNetwork, fittedState } from "../../nn/described_network.ts";
import { encodeSafetensors, float32Tensor, parseSafetensors } from "../../nn/safetensors.ts";
import { narrowCheckpoint } from "../cli/support.ts";
import { withFolder } from "../support.ts";

const names = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

Deno.test("a checkpoint comes back as it was written", async () => {
  const history = [{ epoch: 1, train_loss: 2.1, test_loss: 2.2, test_acc: 0.3 }];
  const checkpoint = narrowCheckpoint({ progress: { epoch: 1, step: 3, loss_sum: 0.1 + 0.2, rows: 48, history } });
  const read = await decodeCheckpoint(await encodeCheckpoint(checkpoint), "a");
  assertEquals(read, { ...checkpoint, state: new Map(checkpoint.state), momenta: new Map(checkpoint.momenta) });
});

Deno.test("a moving average is read beside the weights, and is what is to be used", async () => {
  const checkpoint = narrowCheckpoint(), average = new Map(checkpoint.state);
  average.set("fc.bias", float32Tensor(new Float32Array(10).fill(0.5), [10]));
  const read = await decodeCheckpoint(await encodeCheckpoint({ ...checkpoint, average }), "a");
  assertEquals([read.state, read.average], [new Map(checkpoint.state), average]);
  assertEquals(testedState(read), average);
  assertEquals(testedState(checkpoint), checkpoint.state);
});

Deno.test("any safetensors reader finds the weights under PyTorch's names, the momenta beside", async () => {
  const { tensors, metadata } = parseSafetensors(await encodeCheckpoint(narrowCheckpoint()));
  assertEquals(metadata.format, "pt");
  assertEquals(tensors.get("layer2.0.shortcut.0.weight")!.shape, [32, 16, 1, 1]);
  assertEquals(tensors.get("optimizer.momentum.fc.weight")!.shape, [10, 32]);
});

Deno.test("a bit that changed in the tensors, or a byte that is gone, is found out", async () => {
  const bytes = await encodeCheckpoint(narrowCheckpoint());
  bytes[bytes.length - 1] ^= 1;
  await assertRejects(() => decodeCheckpoint(bytes, "a"), UserError, "do not match its checksum");
  await assertRejects(() => decodeCheckpoint(bytes.slice(0, -1), "a"), UserError, "cut short or damaged");
});

Deno.test("weights without a description, other versions and wrong descriptions are refused in words", async () => {
  const tensors = new Map([["w", float32Tensor(new Float32Array(1), [1])]]);
  const decode = (metadata: Record<string, string>) =>
    decodeCheckpoint(encodeSafetensors({ tensors, metadata }), "a.safetensors");
  await assertRejects(() => decode({}), UserError, "without a description; `readWeightsFile` reads those");
  await assertRejects(() => decode({ resnext: "{" }), UserError, "not JSON");
  await assertRejects(() => decode({ resnext: "null" }), UserError, "not a JSON object");
  await assertRejects(() => decode({ resnext: '{"format":2}' }), UserError, "use a newer version");
  await assertRejects(() => decode({ resnext: '{"format":1}' }), UserError, 'no valid "network": it is missing');
  const network = { arch: "resnext50", num_classes: 0, cardinality: 32 };
  const wrong = JSON.stringify({ format: 1, network });
  await assertRejects(() => decode({ resnext: wrong }), UserError, 'no valid "network.num_classes"');
  const narrow = JSON.stringify({
    ...{ format: 1, network: { ...network, num_classes: 10 } },
    input: { image_size: 32, resize_size: 31, mean: [0, 0, 0], std: [1, 1, 1] },
  });
  await assertRejects(() => decode({ resnext: narrow }), UserError, 'no valid "input.resize_size"');
  const { description } = narrowCheckpoint(), settings = { ...description.settings, schedule: { kind: "cosin" } };
  const scheduled = JSON.stringify({ format: 1, ...description, settings });
  await assertRejects(() => decode({ resnext: scheduled }), UserError, 'no valid "settings.schedule.kind"');
});

Deno.test("what no reader takes is not written, either: both refuse it in the same words", async () => {
  const good = narrowCheckpoint(), { description, state } = good, { network, input, settings } = description;
  const bias = state.get("fc.bias")!, without = new Map(state);
  without.delete("fc.bias");
  const described = (changes: Partial<Checkpoint["description"]>) => ({ description: { ...description, ...changes } });
  const progress = { epoch: 2, step: 0, loss_sum: 0, rows: 0, history: [] };
  const wrong: [Partial<Checkpoint>, string][] = [
    [described({ progress }), "after epoch 2, but tells of 0"],
    [described({ network: { ...network, cardinality: -4 } }), 'no valid "network.cardinality"'],
    [described({ network: { ...network, arch: "mine" } }), 'Unknown architecture "mine"'],
    [
      described({ network: { ...network, num_classes: 11 } }),
      '"fc.weight" has shape [10,32], this network\'s is [11,32]',
    ],
    [described({ input: { ...input!, mean: [NaN, 0, 0] } }), 'no valid "input.mean"'],
    [described({ settings: { ...settings!, lr: Infinity } }), 'no valid "settings.lr"'],
    [{ state: without }, '"fc.bias" is missing'],
    [{ average: without }, '"fc.bias" is missing'],
    [{ lossScale: { scale: 3, goodSteps: 0 } }, "its loss scale is no power of two"],
  ];
  for (const [changes, why] of wrong) {
    await assertRejects(() => encodeCheckpoint({ ...good, ...changes }), UserError, why);
    const bytes = await checkpointFile({ ...good, ...changes });
    await assertRejects(() => decodeCheckpoint(bytes, "a"), UserError, why);
  }
  const short = new Map(state).set("fc.bias", { ...bias, bytes: bias.bytes.slice(4) });
  await assertRejects(() => encodeCheckpoint({ ...good, state: short }), UserError, '"fc.bias" of shape [10] needs 40');
  const momenta = new Map(good.momenta).set("fc.bias", { ...bias, bytes: bias.bytes.slice(4) });
  await assertRejects(() => encodeCheckpoint({ ...good, momenta }), UserError, "needs 40 bytes and has 36");
});

Deno.test("weights are fitted to a network: its order, absent counters zero, what does not fit named", () => {
  const { state, description: { network } } = narrowCheckpoint();
  const module = describedNetwork(network);
  const shuffled = new Map([...state].reverse().filter(([name]) => !name.endsWith("num_batches_tracked")));
  assertEquals([...fittedState(module, shuffled)], [...state]);
  const short = new Map(state);
  short.delete("fc.bias");
  let message = "";
  try {
    fittedState(module, short);
  } catch (error) {
    message = (error as Error).message;
  }
  assertStringIncludes(message, '"fc.bias" is missing');
});

Deno.test("a file is saved whole or not at all, and nothing stays beside it", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.safetensors"), blocked = join(folder, "b.safetensors");
    await saveFile(path, new Uint8Array([1]));
    await saveFile(path, new Uint8Array([2, 3]));
    assertEquals(await Deno.readFile(path), new Uint8Array([2, 3]));
    // A folder in its place refuses the renaming, after all has been written.
    await Deno.mkdir(join(blocked, "full"), { recursive: true });
    await assertRejects(() => saveFile(blocked, new Uint8Array([4])));
    assertEquals(names(folder), ["a.safetensors", "b.safetensors"]);
    await assertRejects(() => saveFile(join(folder, "none", "a"), new Uint8Array()), Deno.errors.NotFound);
  });
});

Deno.test("what a killed process left beside is cleared, and nothing else", async () => {
  await withFolder(async (folder) => {
    const left = [".last.safetensors.123.part", ".report.html.45.part"];
    for (const name of [...left, "last.safetensors", "notes.part", ".notes.part"]) {
      await Deno.writeTextFile(join(folder, name), "");
    }
    await removeUnfinished(folder);
    assertEquals(names(folder), [".notes.part", "last.safetensors", "notes.part"]);
  });
});
