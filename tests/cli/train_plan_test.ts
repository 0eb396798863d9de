import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { readArguments } from "../../cli/command.ts";
import { configArguments } from "../../cli/config.ts";
import { optionsToRepeat } from "../../cli/run_options.ts";
import { trainCommand } from "../../cli/train.ts";
import { type TrainInvocation, trainOptions } from "../../cli/train_options.ts";
import { planTraining, withImages } from "../../cli/train_plan.ts";
import type { FolderDataset } from "../../data/folder.ts";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import type { AugmentSettings } from "../../nn/augment.ts";
import { encodeCheckpoint, type RunSettings } from "../../nn/checkpoint.ts";
import type { RunDescription } from "../../nn/run_description.ts";
import { weightsMetadata } from "../../cli/weights_metadata.ts";
import { encodeSafetensors } from "../../nn/safetensors.ts";
import { withFolder } from "../support.ts";
import { NARROW, narrowCheckpoint, printedOn, writeNarrow, writePictures } from "./support.ts";

/** What such arguments make `train` do; without a device and images. */
const plan = (args: readonly string[]) => {
  const read = readArguments({ options: trainOptions, positionals: [] }, args, "resnext train");
  return planTraining(read as unknown as TrainInvocation);
};

/** The same with the images. */
const planWithImages = async (args: readonly string[]) => await withImages(await plan(args));

/** A value of each option that a run's description holds, none of them its default. */
const VALUES = {
  ...{ dataset: "shapes", "train-limit": "40", "test-limit": "30", "num-classes": "10", seed: "6" },
  ...{ arch: "resnext101", layers: "1,2", channels: "16,32", cardinality: "2", "base-width": "16", stem: "cifar" },
  ...{ "image-size": "24", "batch-size": "20", accumulate: "2", precision: "f16", epochs: "9", freeze: "stem,layer1" },
  ...{ lr: "0.3", momentum: "0.7", "weight-decay": "0.01", nesterov: "true", "label-smoothing": "0.15" },
  ...{ "clip-grad-norm": "1.5", schedule: "multistep", "schedule-by": "step", warmup: "2", "warmup-start": "0.25" },
  ...{ milestones: "4,6", gamma: "0.5", "vector-decay": "false", ema: "0.95", patience: "4" },
  ...{ flip: "true", crop: "2", reflect: "true", cutout: "6", erasing: "0.35", jitter: "0.4", hue: "0.2" },
  ...{ mixup: "0.6", cutmix: "0.8" },
};

/** In place of SGD's. */
const ADAMW_VALUES = { optimizer: "adamw", betas: "0.8,0.99", eps: "0.001" };

/** Those that go into no description, or not beside those above. */
const OTHERS = [
  ...["val-split", "workers", "strict", "weights", "depths", "min-lr", "out", "resume", "tune", "data-dir"],
  ...["checkpoint-every", "keep-going", "detect-anomaly", "on-device-lost", "tensorboard", "quiet", "json"],
];

const DESCRIPTION: Omit<RunDescription, "input"> = {
  network: {
    ...{ arch: "resnext101", num_classes: 10, layers: [1, 2], channels: [16, 32], cardinality: 2, base_width: 16 },
    stem: "cifar",
  },
  settings: {
    ...{ dataset: "shapes", train_limit: 40, test_limit: 30, val_split: undefined, weights: undefined, seed: 6 },
    ...{ batch_size: 20, accumulate: 2, precision: "f16", epochs: 9, frozen: ["stem", "layer1"] },
    ...{ lr: 0.3, momentum: 0.7, weight_decay: 0.01, nesterov: true, label_smoothing: 0.15, clip_grad_norm: 1.5 },
    schedule: {
      ...{ kind: "multistep", by: "step", warmup: 2, warmup_start: 0.25, milestones: [4, 6], gamma: 0.5 },
    },
    ...{ decay_vectors: false, ema_decay: 0.95, patience: 4 },
    augment: {
      ...{ flip: true, crop: 2, reflect: true, cutout: 6, erasing: 0.35, hue: 0.2, mixup: 0.6, cutmix: 0.8 },
      ...{ brightness: 0.4, contrast: 0.4, saturation: 0.4 },
    },
  },
};

/** What a run's config holds beside its description. */
const RECORDED = { parameters: 1, device: "x", version: "1", started: "2026" };

/** The values with AdamW's in place of SGD's. */
const adamwValues = () => {
  const { momentum: _, nesterov: __, ...others } = VALUES;
  return { ...others, ...ADAMW_VALUES };
};

/** Options in the words of a command line. */
const words = (values: Record<string, string>) => Object.entries(values).map(([flag, value]) => `--${flag}=${value}`);

Deno.test("every option of train reaches the run's description", async () => {
  const flags = Object.keys(trainOptions).map((key) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`));
  assertEquals(
    new Set([...Object.keys({ ...VALUES, ...ADAMW_VALUES }), ...OTHERS]),
    new Set(flags),
    "a new option needs a value here",
  );
  const { description: { network, input, settings } } = await plan(words(VALUES));
  assertEquals({ network, settings }, DESCRIPTION);
  assertEquals(input.image_size, 24);
  const adamw = (await plan(words({ ...adamwValues(), lr: "0.2" }))).description.settings;
  assertEquals([adamw.optimizer, adamw.betas, adamw.eps, adamw.lr], ["adamw", [0.8, 0.99], 0.001, 0.2]);
  const { lr, weight_decay } = (await plan(["--dataset=shapes", "--optimizer=adamw"])).description.settings;
  assertEquals([lr, weight_decay], [0.001, 0.01], "PyTorch's defaults");
  const cosine = await plan(["--dataset=shapes", "--schedule=cosine", "--min-lr=0.001", "--depths=1,2"]);
  assertEquals(cosine.description.settings.schedule, { kind: "cosine", min_lr: 0.001 });
  assertEquals(cosine.description.network.layers, [1, 2]);
  await withFolder(async (folder) => {
    const weights = await writeNarrow(folder);
    assertEquals((await plan([`--weights=${weights}`, "--dataset=shapes"])).description.settings.weights, weights);
  });
});

Deno.test("the options that a run was begun with make the same run", async () => {
  await withFolder(async (folder) => {
    const narrow = await writeNarrow(folder), pictures = await writePictures(folder, "pictures");
    const exported = join(folder, "exported.safetensors");
    const { state, description } = narrowCheckpoint();
    await Deno.writeFile(exported, encodeSafetensors({ tensors: state, metadata: weightsMetadata(description) }));
    const elsewhere = [`--data-dir=${folder}`, "--json"];
    const again = async (args: readonly string[], more: readonly string[] = []) => {
      const { description, options } = await plan([...args, ...elsewhere]);
      const repeated = optionsToRepeat(options!, description.settings);
      const config = configArguments(
        JSON.stringify({ ...description, options: repeated }),
        "config.json",
        trainCommand,
      );
      const second = await plan([...config, ...more, ...elsewhere]);
      if (more.length === 0) assertEquals(second.description, description);
      return second.description;
    };
    const shapes = "--dataset=shapes";
    await again(words(VALUES));
    await again(words(adamwValues()));
    await again([shapes, "--optimizer=adamw"]);
    await again([shapes]);
    await again([shapes, "--schedule=constant", "--schedule-by=step", "--warmup=1"]);
    await again([shapes, "--schedule=cosine", "--min-lr=0.001", "--depths=1,2"]);
    await again([shapes, "--schedule=one-cycle", "--train-limit=30"]);
    for (const weights of [narrow, exported]) await again([shapes, `--weights=${weights}`, "--freeze=stem"]);
    for (const flip of [[], ["--flip"], ["--no-flip"]]) await again([`--dataset=folder:${pictures}`, ...flip]);
    // What the user did not say then, other options may say now.
    const other = await again([shapes, "--seed=3"], ["--arch=resnext101_64x4d", "--lr=0.5"]);
    assertEquals([other.network.cardinality, other.settings.lr, other.settings.seed], [64, 0.5, 3]);
    assertEquals((await again([shapes], [`--weights=${narrow}`])).network.layers, [1, 1]);
    assertEquals((await again([shapes], [`--dataset=folder:${pictures}`])).network.num_classes, 2);
  });
});

Deno.test("a run that goes on keeps the options it was begun with, and tells when it was made longer", async () => {
  await withFolder(async (folder) => {
    const { description, options } = await plan(["--dataset=shapes", "--lr=0.02", "--epochs=2", "--schedule=cosine"]);
    const progress = (epoch: number) => ({ epoch, step: 0, loss_sum: 0, rows: 0, history: history(epoch) });
    const history = (epochs: number) =>
      Array.from({ length: epochs }, (_, i) => ({ epoch: i + 1, train_loss: 1, test_loss: 1, test_acc: 0.5 }));
    const resumed = async (
      begun: Partial<RunSettings>,
      epoch: number,
      args: readonly string[],
      recorded: typeof options | null = options,
    ) => {
      const settings = { ...description.settings, train_limit: 32, test_limit: 20, ...begun };
      const file = await writeNarrow(folder, "last.safetensors", {
        settings,
        progress: progress(epoch),
        input: description.input,
      });
      const config = { ...description, settings, ...RECORDED, ...(recorded && { options: recorded }) };
      await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(config));
      const { options: kept, lengthened } = await plan([`--resume=${file}`, ...args]);
      return { kept, lengthened: Boolean(lengthened) };
    };
    const kept = { ...options, epochs: 2 };
    assertEquals(await resumed({}, 1, []), { kept, lengthened: false });
    assertEquals(await resumed({}, 0, ["--epochs=4"]), { kept: { ...kept, epochs: 4 }, lengthened: false });
    assertEquals(await resumed({}, 1, ["--epochs=4"]), { kept: { ...kept, epochs: 4 }, lengthened: true });
    const constant = { schedule: undefined };
    assertEquals((await resumed(constant, 1, ["--epochs=4"])).lengthened, false);
    assertEquals((await resumed(constant, 1, ["--patience=1"])).lengthened, true);
    assertEquals((await resumed({ ...constant, patience: 1 }, 1, ["--patience=3"])).lengthened, false);
    // Of another run, or of one that was not begun by options, nothing is known.
    assertEquals(await resumed({}, 1, [], null), { kept: undefined, lengthened: false });
    await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify({ ...description, ...RECORDED, options }));
    assertEquals((await plan([`--resume=${join(folder, "last.safetensors")}`])).options, undefined);
  });
});

Deno.test("what is of no use is refused, what may not be meant told", async () => {
  const shapes = "--dataset=shapes";
  const cases: [string[], string][] = [
    [["--schedule=multistep", "--milestones=5,9"], "--milestones has no use in 5 epochs: the first must be below that"],
    [["--schedule=multistep", "--milestones=2", "--epochs=1"], "--milestones has no use in 1 epoch: the first must be"],
    [["--schedule=cosine", "--min-lr=0.5"], "--min-lr must be at most the learning rate, 0.004"],
  ];
  for (const [args, message] of cases) await assertRejects(() => plan([shapes, ...args]), UserError, message);
  await plan([shapes, "--schedule=multistep", "--milestones=4,9", "--epochs=5"]);
  await plan([shapes, "--min-lr=0.004"]);
  assertEquals((await plan([shapes])).warning, undefined);
  const { warning } = await plan([shapes, "--freeze=stem,layer1"]);
  assertEquals(warning, "stem, layer1 will stay as the seed drew them: --freeze is meant for --weights");
});

Deno.test("what holds no run to go on with is refused with the file that does, if there is one", async () => {
  await withFolder(async (folder) => {
    const { description, state } = narrowCheckpoint(), best = join(folder, "best.safetensors");
    await Deno.writeFile(best, await encodeCheckpoint({ description, state }));
    await assertRejects(() => plan([`--resume=${best}`]), UserError, "go on with; begin a run with it by --weights");
    const last = await writeNarrow(folder);
    await assertRejects(() => plan([`--resume=${best}`]), UserError, `go on from ${last}`);
    await assertRejects(() => plan([`--resume=${folder}`]), UserError, `it is a folder; name the file in it: ${last}`);
  });
});

Deno.test("a run that goes on takes the options that it was begun with, and no others", async () => {
  await withFolder(async (folder) => {
    const input = { image_size: 24, mean: [0.3, 0.3, 0.3], std: [0.25, 0.25, 0.25] } as const;
    const resume = `--resume=${await writeNarrow(folder, "last.safetensors", { ...DESCRIPTION, input })}`;
    const { description } = await plan([resume, ...words(VALUES)]);
    assertEquals(description, JSON.parse(JSON.stringify({ ...DESCRIPTION, input })));
    const { settings } = (await plan([resume, "--epochs=20", "--patience=8"])).description;
    assertEquals([settings.epochs, settings.patience], [20, 8], "a run may be made longer");
    const { epochs: _, patience: __, ...fixed } = VALUES;
    const changed = {
      ...fixed,
      ...{ dataset: "cifar10", arch: "resnext50", layers: "2,2", channels: "16,64", stem: "imagenet" },
      ...{ precision: "f32", freeze: "stem", schedule: "constant", "schedule-by": "epoch", milestones: "4,7" },
      ...{ nesterov: "false", "vector-decay": "true", flip: "false", reflect: "false" },
    };
    for (const [flag, value] of Object.entries(changed)) {
      const other = value === fixed[flag as keyof typeof fixed] ? String(Number(value) / 2) : value;
      await assertRejects(() => plan([resume, `--${flag}=${other}`]), UserError, `${flag}: the run was begun`);
    }
  });
});

Deno.test("a folder's pictures are mirrored unless the run, or the one that goes on, was begun with --no-flip", async () => {
  await withFolder(async (folder) => {
    const dataset = `folder:${await writePictures(folder, "pictures")}`;
    const planned = async (...args: string[]) => {
      const { data, description: { settings } } = await planWithImages([
        ...args,
        `--data-dir=${folder}`,
        "--workers=1",
        "--json",
      ]);
      const widths = Array.from({ length: 30 }, (_, seed) => data.train.crop!(0, new Random(seed))[3]);
      (data as unknown as FolderDataset).close();
      return [settings.augment, widths.some((width) => width < 0)];
    };
    const begin = [`--dataset=${dataset}`, "--image-size=24", ...NARROW];
    assertEquals(await planned(...begin), [undefined, true]);
    assertEquals(await planned(...begin, "--no-flip"), [{ flip: false }, false]);
    assertEquals(await planned(...begin, "--no-flip", "--crop=2"), [{ crop: 2, flip: false }, false]);
    const resume = async (augment?: AugmentSettings) => {
      const settings = { ...narrowCheckpoint().description.settings!, dataset, augment };
      return `--resume=${await writeNarrow(folder, "last.safetensors", { class_names: ["a", "b"], settings })}`;
    };
    const mirrored = await resume();
    assertEquals(await planned(mirrored, "--flip"), [undefined, true]);
    await assertRejects(() => planned(mirrored, "--no-flip"), UserError, "--no-flip: the run was begun with it");
    const plain = await resume({ flip: false });
    assertEquals(await planned(plain, "--no-flip"), [{ flip: false }, false]);
    await assertRejects(() => planned(plain, "--flip"), UserError, "--flip: the run was begun without it");
  });
});

Deno.test("what is wrong with the options is told before a picture is decoded", async () => {
  await withFolder(async (folder) => {
    const pictures = await writePictures(folder, "pictures"), data = join(folder, "data");
    await Deno.mkdir(join(pictures, "val/c"));
    const unknown = await assertRejects(() => plan([`--dataset=folder:${pictures}`]), UserError);
    assertStringIncludes(unknown.message, 'the class "c" of val is not one of train');
    await Deno.mkdir(join(pictures, "train/c"));
    const empty = await assertRejects(() => plan([`--dataset=folder:${pictures}`, `--data-dir=${data}`]), UserError);
    assertStringIncludes(empty.message, 'the class "c" has no picture to train on');
    for (const part of ["train", "val"]) await Deno.remove(join(pictures, part, "c"));

    const weights = await writeNarrow(folder, "weights.safetensors"), part = join(folder, "part.safetensors");
    const tensors = new Map(narrowCheckpoint().state);
    tensors.delete("layer1.0.bn2.bias");
    await Deno.writeFile(part, encodeSafetensors({ tensors, metadata: {} }));
    const settings = { ...narrowCheckpoint().description.settings!, dataset: `folder:${pictures}` };
    const resumed = await writeNarrow(folder, "last.safetensors", { class_names: ["a", "c"], settings });
    const cases: [string[], string][] = [
      [["--num-classes=3"], "--num-classes must be 2"],
      [["--freeze=stem,layr1"], "layr1"],
      [["--schedule=multistep"], "milestones"],
      [["--schedule=multistep", "--milestones=20"], "--milestones has no use in 10 epochs"],
      [["--channels=16,x"], "--channels must be"],
      [["--layers=1", "--channels=15"], "Cannot build resnext50"],
      [["--min-lr=1", "--schedule=cosine"], "--min-lr must be at most"],
      [["--nesterov", "--momentum=0"], "--nesterov needs a momentum"],
      [[`--weights=${join(folder, "none.pth")}`], "none.pth"],
      [[`--weights=${weights}`, "--arch=resnext101"], "leave out --arch"],
      [[`--weights=${part}`, "--arch=resnext50"], "they are of another network"],
      [[`--resume=${resumed}`], "are not those it was trained on"],
    ];
    for (const [args, message] of cases) {
      const dataset = args[0].startsWith("--resume") ? [] : [`--dataset=folder:${pictures}`];
      await assertRejects(() => plan([...dataset, `--data-dir=${data}`, ...args]), UserError, message);
    }
    await assertRejects(() => Deno.stat(data), Deno.errors.NotFound, undefined, "nothing has been decoded");
  });
});

Deno.test("a run goes on with a folder that has moved, if it is of the same classes and as many pictures", async () => {
  await withFolder(async (folder) => {
    const moved = await writePictures(folder, "moved"), from = join(folder, "gone");
    const settings = { ...narrowCheckpoint().description.settings!, dataset: `folder:${from}` };
    const write = (...names: string[]) => writeNarrow(folder, "last.safetensors", { class_names: names, settings });
    const resume = async (names: string[], dataset = `folder:${moved}`) =>
      await planWithImages([
        `--resume=${await write(...names)}`,
        `--dataset=${dataset}`,
        `--data-dir=${folder}`,
        "--json",
      ]);
    const { data, description } = await resume(["a", "b"]);
    (data as unknown as FolderDataset).close();
    assertEquals(description.settings.dataset, `folder:${moved}`);
    await assertRejects(() => resume(["a", "c"]), UserError, "are not those it was trained on");
    await assertRejects(() => resume(["a", "b"], "shapes"), UserError, "--dataset: the run was begun with folder:");
    const config = { ...narrowCheckpoint().description, settings, ...RECORDED, train_images: 3 };
    await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(config));
    await assertRejects(() => resume(["a", "b"]), UserError, "has 2 images to train on, the run was begun with 3");
  });
});

Deno.test("a run that goes on with other pictures than it recorded is warned of", async () => {
  await withFolder(async (folder) => {
    const dataset = `folder:${await writePictures(folder, "pictures")}`;
    const settings = { ...narrowCheckpoint().description.settings!, dataset };
    const resume = `--resume=${await writeNarrow(folder, "last.safetensors", { class_names: ["a", "b"], settings })}`;
    const warned = async () => {
      const { data, warning } = await planWithImages([resume, `--data-dir=${folder}`, "--json"]);
      (data as unknown as FolderDataset).close();
      return warning;
    };
    const record = (counts: Record<string, unknown>) => {
      const config = { ...narrowCheckpoint().description, settings, ...RECORDED, ...counts };
      return Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(config));
    };
    assertEquals(await warned(), undefined, "nothing is recorded");
    for (const counts of [{}, { train_images: 2, test_images: 1 }, { train_images: 42, test_images: "15" }]) {
      await record(counts);
      assertEquals(await warned(), undefined);
    }
    const now = `${dataset} has 2 and 1 now: what follows is another run's`;
    await record({ train_images: 42, test_images: 15 });
    assertEquals(await warned(), `The run trained on 42 images and tested on 15, ${now}`);
    await record({ train_images: 2, test_images: 15 });
    assertEquals(await warned(), `The run trained on 2 images and tested on 15, ${now}`);
  });
});

Deno.test("--quiet and --json decode pictures silently, in a run that goes on too", async () => {
  await withFolder(async (folder) => {
    const dataset = `folder:${await writePictures(folder, "pictures")}`;
    const settings = { ...narrowCheckpoint().description.settings!, dataset };
    const last = await writeNarrow(folder, "last.safetensors", { class_names: ["a", "b"], settings });
    const said = (...args: string[]) =>
      printedOn(Deno.stderr, async () => {
        const place = `--data-dir=${await Deno.makeTempDir({ dir: folder })}`;
        const { data } = await planWithImages([...args, place, "--workers=1"]);
        (data as unknown as FolderDataset).close();
      });
    for (const args of [[`--dataset=${dataset}`, "--image-size=24", ...NARROW], [`--resume=${last}`]]) {
      assertStringIncludes(await said(...args), "Decoding pictures");
      for (const flag of ["--quiet", "--json"]) assertEquals(await said(...args, flag), "", `${args[0]} ${flag}`);
    }
  });
});
