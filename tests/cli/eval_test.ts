import { assertAlmostEquals, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { imagenetLabels } from "../../data/imagenet_labels.ts";
import { encodeSafetensors } from "../../nn/safetensors.ts";
import { checkClasses } from "../../cli/eval.ts";
import { evaluationText } from "../../cli/eval_report.ts";
import { withFolder } from "../support.ts";
import { UserError } from "../../kernels/user_error.ts";
import { NARROW_NETWORK, narrowCheckpoint, resnext, writeNarrow, writeOverflowing } from "./support.ts";

Deno.test("eval tells loss, accuracies, each class and what it is taken for; in JSON the same", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder, "best.safetensors");
    const text = await resnext(["eval", file]);
    assertEquals(text.code, 0, text.stderr);
    assertMatch(text.stdout, /^resnext50, after epoch 0, on 20 test images of shapes at 32x32$/m);
    assertMatch(text.stdout, /^Loss {12}\d+\.\d{4}$/m);
    assertMatch(text.stdout, /^crescent +[01]\.\d{4} +\d +2$/m);
    // But for the file's path, which is as long as it is.
    assertEquals(text.stdout.split("\n").slice(1).filter((line) => line.length > 80), []);

    const json = await resnext(["eval", file, "--json", "--batch-size", "7"]);
    assertEquals([json.code, json.stderr], [0, ""]);
    const { loss, top1, top5, images, classes, confusion } = JSON.parse(json.stdout);
    assertEquals([images, confusion.length], [20, 10]);
    assertEquals(confusion.map((row: number[]) => row.reduce((a, b) => a + b)), new Array(10).fill(2));
    const right = confusion.reduce((sum: number, row: number[], label: number) => sum + row[label], 0);
    assertAlmostEquals(top1, right / 20, 1e-12);
    assertEquals(top5 >= top1, true);
    assertEquals(classes[7], { name: "crescent", images: 2, accuracy: confusion[7][7] / 2 });
    // Another batch size sums in another order, nothing more.
    assertAlmostEquals(loss, Number(/^Loss +(.*)$/m.exec(text.stdout)![1]), 1e-3);
    assertStringIncludes(text.stdout, `Top-1 accuracy  ${top1.toFixed(4)}`);
  });
});

Deno.test("a matrix of many classes does not fit: the commonest mistakes are told", () => {
  // ImageNet's matrix has more cells than a call may have arguments.
  for (const classes of [100, 1000]) {
    const names = Array.from({ length: classes }, (_, i) => `class number ${i}`);
    const confusion = names.map((_, label) => names.map((_, taken) => label === 3 && taken === 5 ? 7 : 0));
    const report = { images: 7, loss: 1, top1: 0, top5: 0, confusion };
    const { description } = narrowCheckpoint();
    const subject = { file: "a", dataset: "d", imageSize: 32, precision: "f32", device: "x", description } as const;
    const lines = evaluationText(subject, report, names).split("\n");
    assertEquals(lines.at(-1), "     7  class number 3 taken for class number 5");
    assertEquals(lines.filter((line) => line.length > 80), []);
  }
});

Deno.test("classes' names do not steer the terminal", () => {
  for (const classes of [2, 100]) {
    const names = Array.from({ length: classes }, (_, i) => `ca\x1b[31mt\n${i}`);
    const confusion = names.map((_, label) => names.map((_, taken) => label === 1 && taken === 0 ? 7 : 0));
    const { description } = narrowCheckpoint();
    const subject = { file: "a", dataset: "d", imageSize: 32, precision: "f32", device: "x", description } as const;
    const text = evaluationText(subject, { images: 7, loss: 1, top1: 0, top5: 0, confusion }, names);
    assertEquals(text.includes("\x1b"), false);
    assertMatch(text, /ca\u{fffd}\[31mt\u{fffd}1 /u);
  }
});

Deno.test("CIFAR-10's whole test set fits 80 columns", () => {
  const names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
  const report = { images: 10_000, loss: 1, top1: 1, top5: 1, confusion: names.map(() => names.map(() => 1000)) };
  const { description } = narrowCheckpoint();
  const subject = {
    file: "a",
    dataset: "cifar10",
    imageSize: 224,
    precision: "f32",
    device: "x",
    description,
  } as const;
  const text = evaluationText(subject, report, names);
  assertMatch(text, /^1 automobile( +1000){10}$/m);
  assertEquals(text.split("\n").filter((line) => line.length > 80), []);
});

Deno.test("weights are evaluated as a checkpoint is, on a folder of nothing but what is tested as predict sees it", async () => {
  await withFolder(async (folder) => {
    const weights = join(folder, "weights.safetensors"), pictures = join(folder, "pictures");
    await Deno.writeFile(weights, encodeSafetensors({ tensors: narrowCheckpoint().state, metadata: {} }));
    const bare = { settings: undefined, input: undefined, class_names: undefined };
    const shapes = ["--dataset", "shapes", "--image-size", "32", "--test-limit", "20", "--json"];
    const [first, second] = await Promise.all(
      [weights, await writeNarrow(folder, "bare.safetensors", bare)].map((file) => resnext(["eval", file, ...shapes])),
    );
    assertEquals([first.code, first.stderr], [0, ""]);
    const { loss, confusion } = JSON.parse(second.stdout);
    assertEquals(JSON.parse(first.stdout).loss, loss);
    assertEquals(JSON.parse(first.stdout).confusion, confusion);

    const picture = fromFileUrl(new URL("../fixtures/pictures/landscape.jpg", import.meta.url));
    for (let i = 0; i < 10; i++) {
      await Deno.mkdir(join(pictures, `val/c${i}`), { recursive: true });
      await Deno.copyFile(picture, join(pictures, `val/c${i}/1.jpg`));
    }
    const size = ["--image-size", "32", "--resize-size", "64", "--json"];
    const predicted = await resnext(["predict", weights, picture, ...size]);
    const [{ class: taken }] = JSON.parse(predicted.stdout).predictions;
    for (const path of [pictures, join(pictures, "val")]) {
      const tested = await resnext(["eval", weights, "--dataset", `folder:${path}`, "--data-dir", folder, ...size]);
      assertEquals([tested.code, tested.stderr], [0, ""]);
      const { confusion } = JSON.parse(tested.stdout);
      assertEquals(confusion.map((row: number[]) => row[taken]), new Array(10).fill(1));
    }
  });
});

Deno.test("classes that weights are only thought to have may be named by WordNet's numbers", () => {
  const network = { ...NARROW_NETWORK, num_classes: 1000 };
  const numbers = imagenetLabels.map((_, i) => `n${String(i).padStart(8, "0")}`);
  const check = (names: readonly string[], classNames: readonly string[]) => {
    return () => checkClasses("w", "d", { network, class_names: names }, classNames);
  };
  check(imagenetLabels, numbers)();
  check(numbers, numbers)();
  check(imagenetLabels, imagenetLabels)();
  for (const wrong of [numbers.map((name) => `x${name}`), imagenetLabels.toSorted()]) {
    assertThrows(check(imagenetLabels, wrong), UserError, "its classes are");
  }
  assertThrows(check(numbers.toReversed(), numbers), UserError, "its classes are");
  const few = () =>
    checkClasses("w", "d", { network: { ...network, num_classes: 2 }, class_names: ["a", "b"] }, ["b", "a"]);
  assertThrows(few, UserError, "its classes are a, b, not b, a;");
});

Deno.test("logits that are not finite are no result", async () => {
  await withFolder(async (folder) => {
    for (const more of [[], ["--json"]]) {
      const { code, stdout, stderr } = await resnext(["eval", await writeOverflowing(folder), ...more]);
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^error: Cannot judge image 0: the network's logits are not finite; use precision f32 .*\n$/);
    }
  });
});

Deno.test("what cannot be evaluated is one line on stderr", async () => {
  await withFolder(async (folder) => {
    const other = { ...NARROW_NETWORK, num_classes: 7 };
    const names = Array.from({ length: 10 }, (_, i) => `class ${i}`);
    const damaged = await writeNarrow(folder, "damaged.safetensors");
    const bytes = await Deno.readFile(damaged);
    bytes[bytes.length - 1] ^= 1;
    await Deno.writeFile(damaged, bytes);
    const cut = join(folder, "cut.safetensors");
    await Deno.writeFile(cut, bytes.subarray(0, bytes.length >> 1));
    const whole = await writeNarrow(folder, "whole.safetensors");
    const cases: [string[], number, RegExp][] = [
      [[join(folder, "none")], 1, /no such file/],
      [[folder], 1, /it is a folder; name the file/],
      [[damaged], 1, /do not match its checksum; the file is damaged/],
      [[cut], 1, /cut short or damaged/],
      [
        [whole, "--dataset", "cifar10", "--data-dir", folder],
        1,
        /test_batch\.bin: it is missing; run `download cifar10`/,
      ],
      [
        [await writeNarrow(folder, "a", { network: other, class_names: undefined })],
        1,
        /has 7 classes, the data set 10/,
      ],
      [
        [await writeNarrow(folder, "b", { class_names: names })],
        1,
        /its classes are class 0, class 1, class 2, \.\.\./,
      ],
      [[await writeNarrow(folder, "c", { settings: undefined })], 2, /names no data set; choose one with --dataset/],
      [[whole, "--resize-size", "64"], 2, /--resize-size is of folders of pictures alone/],
      [[whole, "--arch", "resnext29_8x64d"], 2, /leave out --arch/],
      [[whole, "--test-limit", "0"], 2, /must be a whole number of at least 1/],
    ];
    for (const [args, wanted, message] of cases) {
      const { code, stdout, stderr } = await resnext(["eval", ...args]);
      assertEquals([code, stdout], [wanted, ""], stderr);
      assertMatch(stderr, message);
      assertMatch(stderr, /^error: [^\n]*\n$/);
    }
  });
});
