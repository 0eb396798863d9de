import { assert, assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import sharp from "sharp";
import { decodeCheckpoint } from "../nn/checkpoint.ts";
import { shapeNames, shapes } from "../data/shapes.ts";
import { encodeSafetensors } from "../nn/safetensors.ts";
import { NARROW_NETWORK, narrowCheckpoint, resnext } from "./cli/support.ts";
import { withFolder } from "./support.ts";

const ROOT = fromFileUrl(new URL("..", import.meta.url));

/** What an example prints. */
async function run(name: string, args: string[], env: Record<string, string> = {}): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--no-check", `examples/${name}`, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", ...env },
  }).output();
  assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
  return new TextDecoder().decode(stdout);
}

/** Drawn shapes of the first two classes as files, some of each, in two parts or in one. */
async function pictures(folder: string, parts = true): Promise<void> {
  const { train } = shapes({ train: 60, test: 0, seed: 1 });
  for (let i = 0; i < train.count; i++) {
    const name = shapeNames[train.labels[i]];
    if (train.labels[i] > 1) continue;
    const place = join(folder, ...(parts ? [i % 3 === 0 ? "val" : "train"] : []), name);
    await Deno.mkdir(place, { recursive: true });
    const pixels = train.images.subarray(i * 3072, (i + 1) * 3072);
    await sharp(pixels, { raw: { width: 32, height: 32, channels: 3 } }).png().toFile(join(place, `${i}.png`));
  }
}

Deno.test("examples/resnet20.ts: a network of one's own learns", async () => {
  const [head, ...lines] = (await run("resnet20.ts", ["24", "32"])).trimEnd().split("\n");
  // 0.27 M of the paper's table 6, and the three projections.
  assertMatch(head, /^ResNet-20: 272474 parameters, on ./);
  assertEquals(lines.length, 4);
  const losses = lines.map((line) => Number(line.match(/Loss: (\d+\.\d{4})/)![1]));
  assert(losses[0] > losses[1] && losses[1] > losses[2], lines.join("\n"));
  assert(losses[2] < 1.5, lines.join("\n"));
  assert(Number(lines[3].match(/Acc: (\d\.\d{4})$/)![1]) > 0.3, lines.join("\n"));
});

Deno.test("examples/fine_tune.ts and evaluate.ts: weights of others become a network for one's own pictures", async () => {
  await withFolder(async (folder) => {
    const own = join(folder, "pictures"), weights = join(folder, "weights.safetensors"), out = join(folder, "out");
    const env = { RESNEXT_DATA: folder };
    await pictures(own);
    const { state: tensors } = narrowCheckpoint({ network: { ...NARROW_NETWORK, num_classes: 1000 } });
    await Deno.writeFile(weights, encodeSafetensors({ tensors, metadata: {} }));
    const tuned = await run("fine_tune.ts", [own, weights, out, "1", "32"], env);
    assertMatch(tuned, /^\w+, \d+ pictures of 2 classes; the head was for 1000\n/);
    assertMatch(tuned, /^Epoch 1 \| Train Loss: \d+\.\d{4} \| Test Acc: [01]\.\d{4}$/m);
    // Only what is tested is read.
    await Deno.remove(join(own, "train"), { recursive: true });
    const judged = await run("evaluate.ts", [out, own], env);
    assertMatch(judged, /^\d+ of \d+ pictures are named right\n/);
    const accuracy = Number(tuned.match(/Test Acc: (\S+)/)![1]);
    const [right, , count] = judged.split(" ").map(Number);
    assert(Math.abs(accuracy - right / count) < 1e-3, `${tuned}\n${judged}`);
  });
});

Deno.test("examples/fine_tune.ts: a folder that it splits is split so by `eval` and `train --resume`, too", async () => {
  await withFolder(async (folder) => {
    const own = join(folder, "pictures"), weights = join(folder, "weights.safetensors"), out = join(folder, "out");
    const env = { RESNEXT_DATA: folder };
    await pictures(own, false);
    const { state: tensors } = narrowCheckpoint({ network: { ...NARROW_NETWORK, num_classes: 1000 } });
    await Deno.writeFile(weights, encodeSafetensors({ tensors, metadata: {} }));
    const tuned = await run("fine_tune.ts", [own, weights, out, "1", "32"], env);
    const { description } = await decodeCheckpoint(await Deno.readFile(out), out);
    assertEquals(description.settings?.val_split, 0.2);
    const judged = await resnext(["eval", out, "--json"], env);
    assertEquals(judged.code, 0, judged.stderr);
    const accuracy = Number(tuned.match(/Test Acc: (\S+)/)![1]);
    assert(Math.abs(accuracy - JSON.parse(judged.stdout).top1) < 1e-3, `${tuned}\n${judged.stdout}`);
    const more = await resnext(["train", "--resume", out, "--epochs", "2", "--out", join(folder, "run")], env);
    assertEquals(more.code, 0, more.stderr);
  });
});
