import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { readNetworkFile } from "../../cli/network_file.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { imagenetStatistics } from "../../data/folder.ts";
import { encodeSafetensors, parseSafetensors } from "../../nn/safetensors.ts";
import { withFolder } from "../support.ts";
import { NARROW_NETWORK, narrowCheckpoint, resnext, writeNarrow, writeSpoilt } from "./support.ts";

const checkpoint = (...args: string[]) => resnext(["checkpoint", ...args]);

Deno.test("inspect shows network, settings, progress and tensors; in JSON the same", async () => {
  await withFolder(async (folder) => {
    const history = [{ epoch: 1, train_loss: 2.25, test_loss: 2.5, test_acc: 0.25 }];
    const progress = { epoch: 1, step: 0, loss_sum: 0, rows: 0, history };
    const recipe = { schedule: { kind: "one-cycle" }, augment: { flip: true, mixup: 0.2 } } as const;
    const settings = { ...narrowCheckpoint().description.settings!, ...recipe };
    const file = await writeNarrow(folder, "last.safetensors", { progress, settings });
    const text = await checkpoint("inspect", file);
    assertEquals([text.code, text.stderr], [0, ""]);
    for (
      const line of [
        "  arch             resnext50",
        "  batch_size       16",
        "  class_names      circle, ring, square",
        "  schedule         kind one-cycle",
        "  augment          flip true, mixup 0.2",
      ]
    ) {
      assertStringIncludes(text.stdout, `\n${line}`);
    }
    assertStringIncludes(text.stdout, "\n  Epoch  1/2 | Train Loss: 2.2500 | Test Loss: 2.5000 | Test Acc: 0.2500\n");
    assertMatch(text.stdout, /^conv1\.weight +F32 +\[64, 3, 7, 7\] +9,408$/m);
    const json = await checkpoint("inspect", file, "--json");
    const shown = JSON.parse(json.stdout);
    assertEquals([shown.network, shown.progress], [{ ...NARROW_NETWORK }, progress]);
    assertEquals(shown.tensors[0], { name: "conv1.weight", dtype: "F32", shape: [64, 3, 7, 7] });
  });
});

Deno.test("weights go out under PyTorch's names and come in again as they were", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder);
    const weights = join(folder, "weights.safetensors"), back = join(folder, "back.safetensors");
    const out = await checkpoint("export", file, "--to", weights);
    assertEquals([out.code, out.stderr], [0, ""]);
    const { tensors, metadata } = parseSafetensors(await Deno.readFile(weights));
    const { state, description: { input: told, class_names } } = narrowCheckpoint();
    assertEquals([...tensors.keys()], [...state.keys()]);
    // A network of whole small images: the side that a checkpoint's settings imply is said.
    const input = { ...told!, resize_size: 32 };
    const words = { image_size: "32", resize_size: "32", mean: "[0.3,0.3,0.3]", std: "[0.25,0.25,0.25]" };
    assertEquals(metadata, { format: "pt", ...words, class_names: JSON.stringify(class_names) });
    assertEquals((await readNetworkFile(weights)).description, {
      ...{ network: { ...NARROW_NETWORK, stem: "imagenet" }, input, class_names },
    });

    const shown = await checkpoint("inspect", weights);
    assertMatch(shown.stdout, /safetensors without a description, \d+ tensors/);

    // Classes and groups are read off the shapes.
    const network = ["--arch", "resnext50", "--layers", "1,1", "--channels", "16,32"];
    const into = await checkpoint("import", weights, ...network, "--to", back);
    assertEquals([into.code, into.stderr], [0, ""]);
    const read = await decodeCheckpoint(await Deno.readFile(back), back);
    assertEquals(read.description, { network: NARROW_NETWORK, input, class_names });
    assertEquals(read.state, new Map(state));
    // So is the rest of the network, if it is not named.
    const own = join(folder, "own.safetensors"), recognised = await checkpoint("import", weights, "--to", own);
    assertEquals([recognised.code, recognised.stderr], [0, ""]);
    const { description } = await decodeCheckpoint(await Deno.readFile(own), own);
    assertEquals(description, { network: { ...NARROW_NETWORK, stem: "imagenet" }, input, class_names });

    // What is there stays, unless it is said that it may go.
    for (const args of [["export", file, "--to", weights], ["import", weights, ...network, "--to", back]]) {
      const before = await Deno.readFile(args.at(-1)!);
      const refused = await checkpoint(...args);
      assertEquals([refused.code, refused.stdout], [1, ""]);
      assertMatch(refused.stderr, /^error: Cannot write .*: it exists; choose another file or add --force\n$/);
      assertEquals(await Deno.readFile(args.at(-1)!), before);
    }
    assertEquals((await checkpoint("export", file, "--to", weights, "--force")).code, 0);
  });
});

Deno.test("pictures are shown to exported and imported weights as to what they came from", async () => {
  await withFolder(async (folder) => {
    const picture = fromFileUrl(new URL("../fixtures/pictures/landscape.jpg", import.meta.url));
    const predicted = async (file: string, ...args: string[]) => {
      const { code, stdout, stderr } = await resnext(["predict", file, picture, "--json", ...args]);
      assertEquals([code, stderr], [0, ""]);
      return JSON.parse(stdout).predictions;
    };
    const done = async (...args: string[]) => assertEquals((await checkpoint(...args)).code, 0);
    const [weights, back] = ["weights.safetensors", "back.safetensors"].map((name) => join(folder, name));
    // One run on whole small images, one on photographs; at their own size and at another.
    for (const dataset of ["shapes", "folder:/photographs"]) {
      const settings = { ...narrowCheckpoint().description.settings!, dataset };
      const file = await writeNarrow(folder, "run.safetensors", { settings });
      await done("export", file, "--to", weights, "--force");
      await done("import", weights, "--to", back, "--force");
      for (const args of [[], ["--image-size", "64"]]) {
        const own = await predicted(file, ...args);
        assertEquals(await predicted(weights, ...args), own);
        assertEquals(await predicted(back, ...args), own);
      }
    }
    // What weights are tested with is known by their file's published name.
    const published = join(folder, "resnext50_32x4d-1a0047aa.pth");
    await Deno.writeFile(published, encodeSafetensors({ tensors: narrowCheckpoint().state, metadata: {} }));
    await done("import", published, "--to", back, "--force");
    const { description: { input } } = await decodeCheckpoint(await Deno.readFile(back), back);
    assertEquals(input, { image_size: 224, resize_size: 232, ...imagenetStatistics });
    assertEquals(await predicted(back), await predicted(published));
    await done("import", published, "--to", back, "--force", "--image-size", "448");
    const larger = await decodeCheckpoint(await Deno.readFile(back), back);
    assertEquals(larger.description.input, { image_size: 448, resize_size: 464, ...imagenetStatistics });
  });
});

Deno.test("classes and size of weights that do not tell them are given by options", async () => {
  await withFolder(async (folder) => {
    const [weights, labels, to] = ["weights.safetensors", "labels.txt", "to.safetensors"].map((name) =>
      join(folder, name)
    );
    // Another's words under the same names are left alone.
    const metadata = { image_size: "large", mean: "[1]", std: "[]", class_names: "cat, dog" };
    await Deno.writeFile(weights, encodeSafetensors({ tensors: narrowCheckpoint().state, metadata }));
    const names = Array.from({ length: 10 }, (_, i) => `a ${i}`);
    const described = async (...args: string[]) => {
      const { code, stderr } = await checkpoint("import", weights, "--to", to, "--force", ...args);
      assertEquals([code, stderr], [0, ""]);
      return (await decodeCheckpoint(await Deno.readFile(to), to)).description;
    };
    const { network, ...rest } = await described();
    assertEquals([network.num_classes, rest], [10, {}]);
    await Deno.writeTextFile(labels, `${names.join("\r\n")}\r\n`);
    const { input, class_names } = await described("--labels", labels, "--image-size", "64");
    assertEquals([input, class_names], [{ image_size: 64, resize_size: 73, ...imagenetStatistics }, names]);
    await Deno.writeTextFile(labels, "one\ntwo");
    const few = await checkpoint("import", weights, "--to", join(folder, "x.safetensors"), "--labels", labels);
    assertEquals(few.code, 1);
    assertMatch(
      few.stderr,
      /^error: Cannot use ".*labels\.txt": it has 2 lines, a class's name each, and the network 10 classes\n$/,
    );
  });
});

Deno.test("verify finds a whole checkpoint, a damaged one, and one whose weights are another network's", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder);
    const whole = await checkpoint("verify", file);
    assertEquals([whole.code, whole.stderr], [0, ""]);
    assertMatch(whole.stdout, /is whole: \d+ tensors match the checksum and the network\n$/);
    const bytes = await Deno.readFile(file);
    bytes[bytes.length - 100] ^= 0x80;
    await Deno.writeFile(file, bytes);
    const damaged = await checkpoint("verify", file);
    assertEquals([damaged.code, damaged.stdout], [1, ""]);
    assertMatch(
      damaged.stderr,
      /^error: .*; the file is damaged: copy it again, or use another checkpoint of its run\n$/,
    );
  });
});

Deno.test("what cannot be inspected or imported is one line on stderr, and nothing is written", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder), text = join(folder, "text");
    const to = join(folder, "to.safetensors");
    const run = join(folder, "run");
    await Deno.mkdir(run);
    await writeNarrow(run, "best.safetensors");
    const weights = join(folder, "weights.safetensors");
    await Deno.writeTextFile(text, "no tensors here");
    await Deno.writeFile(weights, encodeSafetensors({ tensors: narrowCheckpoint().state, metadata: {} }));
    const spoilt = await writeSpoilt(folder), spoiltWeights = join(folder, "spoilt_weights.safetensors");
    const { state: tensors } = await decodeCheckpoint(await Deno.readFile(spoilt), spoilt);
    await Deno.writeFile(spoiltWeights, encodeSafetensors({ tensors, metadata: {} }));
    const cases: [string[], number, RegExp][] = [
      [
        ["inspect", text],
        1,
        /Cannot read .* as safetensors: it is of another kind, or damaged; safetensors and files of torch\.save are read$/m,
      ],
      [["inspect", folder], 1, /it is a folder; name the file in it$/m],
      [["inspect", run], 1, /it is a folder; name the file in it: .*best\.safetensors$/m],
      [["inspekt", text], 2, /Unknown command "inspekt"; did you mean inspect\?/],
      [["verify", weights], 1, /without a description; `checkpoint import`/],
      [["export", file], 2, /Missing option --to/],
      [["export", file, "--to", join(folder, "none", "x.onnx")], 1, /no such file or directory/],
      [["export", file, "--to", weights], 1, /it exists/],
      [
        ["export", file, "--to", join(folder, "x.pth")],
        2,
        /--to must end in \.safetensors or \.onnx, not as ".*x\.pth"/,
      ],
      [["verify", spoilt], 1, /"fc\.bias" in it is NaN or infinite/],
      [["import", spoiltWeights, "--to", to], 1, /Cannot use ".*": "fc\.bias" in it is NaN or infinite, as after/],
      [["import", weights, "--to", join(folder, "x.pth")], 2, /--to must end in \.safetensors, not as ".*x\.pth"/],
      [["import", file, "--arch", "resnext50", "--to", to], 1, /it is a checkpoint already/],
      [["import", weights, "--arch", "resnext50", "--to", to], 1, /"layer1.0.conv1.weight" has shape \[4,64,1,1\]/],
      [["import", weights, "--layers", "1,1", "--to", to], 2, /--layers needs --arch/],
      [["import", weights, "--arch", "resnet50", "--to", to], 2, /did you mean resnext50\?/],
    ];
    for (const [args, wanted, message] of cases) {
      const { code, stdout, stderr } = await checkpoint(...args);
      assertEquals([code, stdout], [wanted, ""], stderr);
      assertMatch(stderr, message);
      assertMatch(stderr, /^error: [^\n]*\n$/);
    }
    assertEquals([...Deno.readDirSync(folder)].length, 6);
  });
});

Deno.test("no checkpoint is replaced by what is made of it, by whatever name", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder), link = join(folder, "link.safetensors");
    const weights = join(folder, "weights.safetensors");
    await Deno.symlink(file, link);
    await Deno.writeFile(weights, encodeSafetensors({ tensors: narrowCheckpoint().state, metadata: {} }));
    for (
      const args of [["export", file, "--to", file], ["export", file, "--to", link], [
        "import",
        weights,
        "--to",
        weights,
      ]]
    ) {
      const before = await Deno.readFile(args[1]);
      const { code, stdout, stderr } = await checkpoint(...args, "--force");
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^error: Cannot write ".*": it is the file that is read; choose another file\n$/);
      assertEquals(await Deno.readFile(args[1]), before);
    }
  });
});
