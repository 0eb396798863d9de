import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { imagenetLabels } from "../../data/imagenet_labels.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { encodeSafetensors, float32Tensor, type TensorData } from "../../nn/safetensors.ts";
import type { StateDict } from "../../nn/weights.ts";
import { withFolder } from "../support.ts";
import { NARROW_NETWORK, narrowCheckpoint, resnext, writeNarrow } from "./support.ts";

const PICTURE = fromFileUrl(new URL("../fixtures/pictures/landscape.jpg", import.meta.url));

async function writeWeights(folder: string, tensors: StateDict): Promise<string> {
  const path = join(folder, "weights.safetensors");
  await Deno.writeFile(path, encodeSafetensors({ tensors, metadata: {} }));
  return path;
}

/** The narrow network's weights, changed. */
function changed(change: (state: Map<string, TensorData>) => void): Map<string, TensorData> {
  const state = new Map(narrowCheckpoint().state);
  change(state);
  return state;
}

const described = async (path: string) => (await decodeCheckpoint(await Deno.readFile(path), path)).description;

Deno.test("mean and deviation are given by options, and predict uses them", async () => {
  await withFolder(async (folder) => {
    const weights = await writeWeights(folder, narrowCheckpoint().state), to = join(folder, "to.safetensors");
    const predicted = async (file: string) => {
      const { code, stdout, stderr } = await resnext(["predict", file, PICTURE, "--json"]);
      assertEquals([code, stderr], [0, ""]);
      return JSON.parse(stdout).predictions;
    };
    const imported = async (...args: string[]) => {
      const { code, stderr } = await resnext(["checkpoint", "import", weights, "--to", to, "--force", ...args]);
      assertEquals([code, stderr], [0, ""]);
      return await predicted(to);
    };
    const size = ["--image-size", "32"], own = narrowCheckpoint().description.input!;
    const bare = { settings: undefined, progress: undefined, class_names: undefined };
    const expected = await predicted(await writeNarrow(folder, "own.safetensors", bare));
    assertEquals(await imported(...size, "--mean", "0.3,0.3,0.3", "--std", "0.25, 0.25, 0.25"), expected);
    assertEquals((await described(to)).input, { ...own, resize_size: 37 });
    assertNotEquals(await imported(...size, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"), expected);
    assertNotEquals(await imported(...size), expected);

    const statistics = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"];
    const refused: [string[], RegExp][] = [
      [statistics, /Options --mean and --std need --image-size: the file does not tell it/],
      [[...size, "--mean", "0.5,0.5,0.5"], /Option --mean needs --std: give both/],
      [[...size, "--std", "0.5,0.5,0.5"], /Option --std needs --mean: give both/],
      [[...size, ...statistics, "--mean", "0.5"], /--mean must be three numbers from 0 to 1, .*, not "0\.5"/],
      [
        [...size, ...statistics, "--mean", "123.7,116.3,103.5"],
        /--mean must be three numbers from 0 to 1, as of pixels/,
      ],
      [[...size, ...statistics, "--std", "0,1,1"], /--std must be three numbers above 0, at most 1, as of pixels/],
    ];
    await Promise.all(refused.map(async ([args, message]) => {
      const to = join(folder, "none.safetensors");
      const { code, stdout, stderr } = await resnext(["checkpoint", "import", weights, "--to", to, ...args]);
      assertEquals([code, stdout], [2, ""]);
      assertMatch(stderr, message);
      assertMatch(stderr, /^error: [^\n]*\n$/);
    }));
  });
});

Deno.test("weights of a thousand classes are prepared as ImageNet's, but for what is given", async () => {
  await withFolder(async (folder) => {
    const network = { ...NARROW_NETWORK, num_classes: 1000 }, to = join(folder, "to.safetensors");
    const weights = await writeWeights(folder, narrowCheckpoint({ network, class_names: undefined }).state);
    const statistics = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"];
    assertEquals((await resnext(["checkpoint", "import", weights, "--to", to, ...statistics])).code, 0);
    const { input, class_names } = await described(to), half = [0.5, 0.5, 0.5];
    assertEquals([input, class_names], [{ image_size: 224, mean: half, std: half }, undefined]);
    const predicted = await resnext(["predict", to, PICTURE, "--image-size", "32", "--topk", "1"]);
    const [, label] = /: (.*) [01]\.\d{4}\n$/.exec(predicted.stdout)!;
    assert(imagenetLabels.includes(label), label);
  });
});

Deno.test("names that several classes have are told, and their classes stay apart", async () => {
  await withFolder(async (folder) => {
    const weights = await writeWeights(folder, narrowCheckpoint().state), to = join(folder, "to.safetensors");
    const labels = join(folder, "labels.txt");
    const names = ["crane", "b", "c", "crane", "e", "maillot", "maillot", "maillot", "i", "j"];
    await Deno.writeTextFile(labels, names.join("\n"));
    const into = await resnext(["checkpoint", "import", weights, "--to", to, "--labels", labels, "--image-size", "32"]);
    assertEquals(into.code, 0);
    assertMatch(into.stderr, /^warning: .*labels\.txt: 2 names of several classes, "crane", "maillot"; [^\n]*\n$/);
    assertEquals((await described(to)).class_names, names);
    for (
      const [text, wrong] of [
        [new TextEncoder().encode(names.toSpliced(3, 1, "").join("\n")), "line 4 is empty; give class 3 a name there"],
        [Uint8Array.of(0x63, 0x61, 0x66, 0xe9), "it is not UTF-8; save it as that"],
        [new TextEncoder().encode("a\0b"), "it is no text; give a class's name a line, in UTF-8"],
        [new TextEncoder().encode("a\n"), "it has 1 line, a class's name each, and the network 10 classes"],
      ] as const
    ) {
      await Deno.writeFile(labels, text);
      const refused = await resnext(["checkpoint", "import", weights, "--to", to, "--labels", labels, "--force"]);
      assertEquals([refused.code, refused.stderr], [1, `error: Cannot use "${labels}": ${wrong}\n`]);
    }
    const { stdout } = await resnext(["predict", to, PICTURE, "--topk", "10", "--json"]);
    const predictions = JSON.parse(stdout).predictions as { label: string; class: number }[];
    assertEquals(predictions.map((each) => each.class).sort(), names.map((_, i) => i));
    for (const each of predictions) assertEquals(each.label, names[each.class]);
  });
});

Deno.test("a tensor that does not fit is named, and the nearest network", async () => {
  await withFolder(async (folder) => {
    const cases: [StateDict, RegExp][] = [
      [
        changed((state) => state.set("layer2.0.bn1.weight", float32Tensor(new Float32Array(9), [9]))),
        /nearest is resnext50 with layers 1,1 .*, whose "layer2\.0\.bn1\.weight" has shape \[8\], not \[9\]\n$/,
      ],
      [changed((state) => state.delete("bn1.bias")), /nearest is .*, but "bn1\.bias" is missing\n$/],
      [
        changed((state) => state.set("layer1.0.se.fc1.weight", float32Tensor(new Float32Array(9), [9]))),
        /nearest is .*, which has no "layer1\.0\.se\.fc1\.weight"\n$/,
      ],
      [
        new Map([...narrowCheckpoint().state].map(([name, tensor]) => [`encoder.${name}`, tensor])),
        /are of no ResNeXt, and no other is known; the first is "encoder\.conv1\.weight" of shape \[64,3,7,7\]\n$/,
      ],
    ];
    for (const [state, message] of cases) {
      const weights = await writeWeights(folder, state);
      const to = join(folder, "to.safetensors");
      for (const args of [["checkpoint", "import", weights, "--to", to], ["predict", weights, PICTURE]]) {
        const { code, stdout, stderr } = await resnext(args);
        assertEquals([code, stdout], [1, ""]);
        assertMatch(stderr, message);
        assertMatch(stderr, /^error: Cannot tell the network of "[^\n]*\n$/);
      }
    }
  });
});

Deno.test("a network without its head is for train alone, which gives it one", async () => {
  await withFolder(async (folder) => {
    const weights = await writeWeights(
      folder,
      changed((state) => ["fc.weight", "fc.bias"].forEach((name) => state.delete(name))),
    );
    const to = join(folder, "to.safetensors");
    const refused = [
      ["checkpoint", "import", weights, "--to", to],
      ["checkpoint", "import", weights, "--to", to, "--arch", "resnext50", "--layers", "1,1", "--channels", "16,32"],
      ["predict", weights, PICTURE],
      ["eval", weights, "--dataset", "shapes"],
    ];
    await Promise.all(refused.map(async (args) => {
      const { code, stdout, stderr } = await resnext(args);
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^error: Cannot use ".*": it has no "fc\.weight", by which .*`train --weights` [^\n]*\n$/);
    }));
    const run = join(folder, "run");
    const data = ["--image-size", "32", "--train-limit", "8", "--test-limit", "8", "--batch-size", "8"];
    // Nothing is learned, so that what was taken over is there at the end.
    const trained = await resnext(["train", "--weights", weights, ...data, "--epochs", "1", "--lr", "0", "--out", run]);
    assertEquals(trained.code, 0, trained.stderr);
    assertMatch(
      trained.stdout,
      /^Weights {3}.*weights\.safetensors, resnext50, with a new head: there was no fc, now it has 10 classes$/m,
    );
    const { state } = await decodeCheckpoint(await Deno.readFile(join(run, "last.safetensors")), "last");
    const { state: given } = narrowCheckpoint();
    assertEquals(state.get("layer1.0.conv2.weight"), given.get("layer1.0.conv2.weight"));
    assertEquals(state.get("fc.weight")!.shape, [10, 32]);
    assertNotEquals(state.get("fc.weight"), given.get("fc.weight"));
  });
});
