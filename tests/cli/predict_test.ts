import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { dirname, fromFileUrl, join } from "@std/path";
import sharp from "sharp";
import { chosenInput } from "../../cli/classifier.ts";
import { pictureInput } from "../../cli/picture_input.ts";
import { weightsDescription } from "../../cli/weights_metadata.ts";
import { imagenetStatistics } from "../../data/folder.ts";
import { Random } from "../../kernels/random.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { encodeSafetensors } from "../../nn/safetensors.ts";
import { withFolder } from "../support.ts";
import {
  NARROW,
  narrowCheckpoint,
  type Outcome,
  resnext,
  writeNarrow,
  writeOverflowing,
  writeSpoilt,
} from "./support.ts";

const MAIN = fromFileUrl(new URL("../../main.ts", import.meta.url));

/** Runs the program with bytes on stdin. */
async function withStdin(args: readonly string[], bytes: Uint8Array<ArrayBuffer>): Promise<Outcome> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", MAIN, ...args],
    env: { XDG_RUNTIME_DIR: "/tmp" },
    ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
  }).spawn();
  // A program that refuses its arguments reads nothing.
  await new Blob([bytes]).stream().pipeTo(child.stdin).catch(() => {});
  const { code, stdout, stderr } = await child.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** Pictures of two classes, plain enough to be learned in a moment: `dark` and `light`, of any size and format. */
async function drawPictures(folder: string): Promise<void> {
  const random = new Random(3);
  for (const [part, count] of [["train", 12], ["val", 4]] as const) {
    for (const [name, level] of [["dark", 40], ["light", 210]] as const) {
      for (let i = 0; i < count; i++) {
        const width = 30 + random.below(40), height = 30 + random.below(40);
        const data = Uint8Array.from({ length: width * height * 3 }, () => level + random.below(30));
        const picture = sharp(data, { raw: { width, height, channels: 3 } });
        const path = join(folder, part, name, `${i}.${["jpg", "png", "webp"][i % 3]}`);
        await Deno.mkdir(dirname(path), { recursive: true });
        await picture.toFile(path);
      }
    }
  }
}

Deno.test("a folder of pictures is learned, its pictures named; weights go on to other classes", async () => {
  await withFolder(async (folder) => {
    const pictures = join(folder, "pictures"), data = ["--data-dir", join(folder, "data")];
    await drawPictures(pictures);
    await Deno.writeTextFile(join(pictures, "train/dark/broken.jpg"), "no picture");
    const dataset = ["--dataset", `folder:${pictures}`, ...data];
    const run = ["--image-size", "32", "--batch-size", "8", "--lr", "0.02"];
    const out = join(folder, "run");
    const trained = await resnext(["train", ...dataset, ...NARROW, ...run, "--epochs", "4", "--out", out]);
    assertEquals(trained.code, 0, trained.stderr);
    assertMatch(trained.stdout, /^Images {4}pictures of .*pictures: 24 to train on, 8 to test on, of 2 classes$/m);
    assertMatch(trained.stdout, /^Skipped {3}1 picture that cannot be read/m);
    assertMatch(
      trained.stdout,
      /^Epoch {2}1\/4 .*\nSkipped 1 picture:\n {2}train\/dark\/broken.jpg: its format is not known$/m,
    );
    assertMatch(trained.stdout, /best test accuracy 1\.0000/);
    const best = join(out, "best.safetensors");

    const light = join(pictures, "val/light/0.jpg"), dark = join(pictures, "val/dark/1.png");
    const named = await resnext(["predict", best, light, dark, "--topk", "1"]);
    assertEquals([named.code, named.stderr], [0, ""]);
    const [first, second] = named.stdout.split("\n");
    assertMatch(first, /0\.jpg: light (0\.[5-9]|1\.0)\d+$/);
    assertMatch(second, /1\.png: dark (0\.[5-9]|1\.0)\d+$/);

    const tested = await resnext(["eval", best, ...data, "--json"]);
    assertEquals([tested.code, tested.stderr], [0, ""]);
    assertEquals(JSON.parse(tested.stdout).top1, 1);

    // Weights of ten classes: the stem and the first stage stay, the head is new.
    const weights = await writeNarrow(folder, "ten.safetensors");
    const tuned = join(folder, "tuned");
    const fine = ["--weights", weights, "--num-classes", "2", "--freeze", "stem,layer1", "--weight-decay", "0.1"];
    const tuning = await resnext(["train", ...dataset, ...fine, ...run, "--epochs", "2", "--out", tuned]);
    assertEquals(tuning.code, 0, tuning.stderr);
    assertMatch(
      tuning.stdout,
      /^Weights {3}.*ten\.safetensors, resnext50, with a new head: fc had 10 classes, has 2$/m,
    );
    assertMatch(tuning.stdout, /^Frozen {4}stem, layer1$/m);
    const last = join(tuned, "last.safetensors");
    const { state, description } = await decodeCheckpoint(await Deno.readFile(last), last);
    const before = narrowCheckpoint().state;
    assertEquals(description.settings!.frozen, ["stem", "layer1"]);
    for (
      const [name, same] of [["conv1.weight", true], ["layer1.0.bn2.running_var", true], [
        "layer2.0.conv1.weight",
        false,
      ]] as const
    ) {
      assertEquals(String(state.get(name)!.bytes) === String(before.get(name)!.bytes), same, name);
    }
    assertEquals(state.get("fc.weight")!.shape, [2, 32]);
    // A run that goes on knows what is frozen, and what is not its own.
    const resumed = await resnext(["train", "--resume", last, "--epochs", "3", ...data]);
    assertEquals(resumed.code, 0, resumed.stderr);
    assertMatch(resumed.stdout, /^Frozen {4}stem, layer1$/m);
    const other = await resnext(["train", "--resume", last, "--epochs", "4", "--freeze", "stem", ...data]);
    assertEquals([other.code, other.stdout], [2, ""]);
  });
});

Deno.test("what cannot be trained on is one line", async () => {
  await withFolder(async (folder) => {
    const pictures = join(folder, "pictures"), out = join(folder, "run");
    await drawPictures(pictures);
    await Deno.writeFile(join(pictures, "train/dark/broken.png"), new Uint8Array());
    const weights = await writeNarrow(folder, "ten.safetensors");
    const cases: [string[], number, RegExp][] = [
      [["--dataset", "folder:"], 2, /Option --dataset must be shapes, .* or folder:PATH, not "folder:"/],
      [["--dataset", `folder:${folder}/none`], 1, /Cannot find .*none"; name where it is by --dataset/],
      [
        ["--dataset", `folder:${pictures}`, "--strict"],
        1,
        /broken\.png: it is empty; remove it, or leave out --strict/,
      ],
      [["--dataset", `folder:${pictures}`, "--val-split", "0.1"], 2, /it has train and val already/],
      [["--dataset", `folder:${pictures}`, "--num-classes", "5"], 2, /--num-classes must be 2/],
      [["--dataset", "shapes", "--val-split", "0.1"], 2, /Cannot split shapes/],
      [["--dataset", "shapes", "--freeze", "layer1"], 2, /Cannot freeze "layer1" while "stem" learns/],
      [["--dataset", "shapes", "--freeze", "stem,layer9"], 2, /Cannot freeze "layer9": the network has/],
      [["--dataset", "shapes", "--weights", `${folder}/none`], 1, /none/],
      [
        ["--dataset", "shapes", "--weights", weights, "--cardinality", "4"],
        2,
        /--cardinality does not go with --weights/,
      ],
    ];
    for (const [args, exit, message] of cases) {
      const { code, stdout, stderr } = await resnext([
        "train",
        ...args,
        "--data-dir",
        join(folder, "data"),
        "--out",
        out,
      ]);
      const lines = stderr.trimEnd().split("\n");
      assertEquals([code, stdout], [exit, ""], stderr);
      assertMatch(lines.at(-1)!, message);
      assert(lines.every((line) => /^(error: |Decoding pictures )/.test(line)), stderr);
    }
  });
});

Deno.test("pictures come from stdin too; one that cannot be read is told, the others are named", async () => {
  await withFolder(async (folder) => {
    const network = await writeNarrow(folder);
    const picture = new Uint8Array(
      await sharp({ create: { width: 50, height: 40, channels: 3, background: "#407040" } }).jpeg().toBuffer(),
    );
    await Deno.writeFile(join(folder, "good.jpg"), picture);
    await Deno.writeFile(join(folder, "bad.jpg"), picture.slice(0, 100));
    const paths = [join(folder, "good.jpg"), join(folder, "bad.jpg"), "-"];
    const { code, stdout, stderr } = await withStdin(["predict", network, ...paths, "--topk", "3", "--json"], picture);
    assertEquals([code, stderr], [1, ""]);
    const [good, bad, piped] = stdout.trim().split("\n").map((line) => JSON.parse(line));
    assertEquals([good.image, bad.image, piped.image], paths);
    assertEquals(good.predictions.length, 3);
    assertEquals(piped.predictions, good.predictions);
    assertMatch(bad.error, /damaged|format/);
    const text = await withStdin(["predict", network, ...paths], picture);
    assertEquals(text.code, 1);
    assertMatch(text.stderr, /^error: Cannot read ".*bad\.jpg": it.*\n$/);
    assertEquals(text.stdout.trim().split("\n").length, 2);
    const twice = await withStdin(["predict", network, "-", "-"], picture);
    assertEquals([twice.code, twice.stdout], [2, ""]);
    assertStringIncludes(twice.stderr, "give - once");

    // Weights alone are recognised.
    const weights = join(folder, "weights.safetensors");
    await Deno.writeFile(weights, encodeSafetensors({ tensors: narrowCheckpoint().state, metadata: { format: "pt" } }));
    const bare = await resnext(["predict", weights, paths[0], "--image-size", "32", "--topk", "1"]);
    assertMatch(bare.stdout, /good\.jpg: class \d 0\.\d{4}\n$/);
    const overflowing = await writeOverflowing(folder);
    for (const more of [[], ["--json"]]) {
      const { code, stdout, stderr } = await resnext(["predict", overflowing, paths[0], ...more]);
      const [told, silent] = more.length > 0 ? [stdout, stderr] : [stderr, stdout];
      assertEquals([code, silent], [1, ""]);
      assertMatch(told, /^(error: Cannot name what is on ".*good\.jpg"|\{"image":".*good\.jpg","error"):/);
      assertMatch(told, /the network's logits are not finite; use precision f32 [^\n]*\n$/);
    }
    const spoilt = await resnext(["predict", await writeSpoilt(folder), paths[0]]);
    assertEquals([spoilt.code, spoilt.stdout], [1, ""]);
    assertMatch(spoilt.stderr, /^error: Cannot use ".*": "fc\.bias" in it is NaN or infinite, [^\n]*\n$/);
    const wrong = await resnext(["predict", paths[0], paths[0]]);
    assertEquals([wrong.code, wrong.stdout, wrong.stderr.trimEnd().split("\n").length], [1, "", 1]);
  });
});

Deno.test("published weights are told by their file's name, and shown what they were tested with", () => {
  const network = { arch: "resnext50_32x4d", num_classes: 1000, cardinality: 32 };
  const sizes = (path: string, imageSize?: number) => {
    const { image_size, resize_size } = pictureInput(weightsDescription(path, { metadata: {} }, network), imageSize);
    return [image_size, resize_size];
  };
  assertEquals(sizes("in/resnext50_32x4d-1a0047aa.pth"), [224, 232]);
  assertEquals(sizes("resnext50_32x4d-7cdf4587.pth"), [224, 256]);
  assertEquals(sizes("resnext101_64x4d.c1_in1k.safetensors"), [288, 288]);
  assertEquals(sizes("mine.pth"), [224, 256]);
  // At another size they see as much of a picture.
  assertEquals(sizes("resnext50_32x4d-1a0047aa.pth", 112), [112, 116]);
  assertEquals(sizes("resnext101_64x4d.c1_in1k.safetensors", 224), [224, 224]);
  assertEquals(sizes("mine.pth", 112), [112, 128]);
  // What the user says goes first.
  const description = { network, ...weightsDescription("resnext50_32x4d-1a0047aa.pth", { metadata: {} }, network) };
  assertEquals(chosenInput({ description }, 224, 300, "resnext predict").resize_size, 300);
});

Deno.test("the side of pictures is the file's, else what its run shows it", () => {
  const input = { image_size: 32, mean: [0.3, 0.3, 0.3], std: [0.25, 0.25, 0.25] } as const;
  const settings = (dataset: string) => ({ ...narrowCheckpoint().description.settings!, dataset });
  assertEquals(pictureInput({ input, settings: settings("cifar10") }), { ...input, resize_size: 32 });
  assertEquals(pictureInput({ input, settings: settings("cifar10") }, 64), {
    ...input,
    image_size: 64,
    resize_size: 64,
  });
  assertEquals(pictureInput({ input, settings: settings("folder:/a") }), { ...input, resize_size: 37 });
  assertEquals(pictureInput({ input }), { ...input, resize_size: 37 });
  assertEquals(pictureInput({ input: { ...input, resize_size: 40 }, settings: settings("cifar10") }).resize_size, 40);
  // 37 of 32 is 256 of 224, rounded: told or not, the same comes of it.
  assertEquals(pictureInput({ input: { ...input, resize_size: 37 } }, 224).resize_size, 256);
  assertEquals(pictureInput({}), { image_size: 224, resize_size: 256, ...imagenetStatistics });
});
