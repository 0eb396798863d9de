import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { cifarFiles } from "../../data/cifar.ts";
import { cifar10 } from "../../data/cifar10.ts";
import { shapes } from "../../data/shapes.ts";
import { TextReport } from "../../cli/train_report.ts";
import type { Device } from "../../kernels/device.ts";
import { withFolder } from "../support.ts";
import { NARROW, narrowCheckpoint, printedOn, program, resnext, writeNarrow, writePictures } from "./support.ts";

const SMALL = [...NARROW, "--dataset", "shapes", "--batch-size", "16", "--train-limit", "48", "--test-limit", "20"];
const names = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

Deno.test("train shows what it does, a line an epoch, and keeps the last and the best checkpoint", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run");
    const { code, stdout, stderr } = await resnext(["train", ...SMALL, "--epochs", "2", "--out", out]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Images {4}shapes, .*: 48 to train on, 20 to test on$/m);
    assertMatch(stdout, /^Network {3}resnext50, [\d,]+ parameters, input 32x32$/m);
    assertMatch(stdout, /^Device {4}\S/m);
    assertMatch(stdout, /^Memory {4}[\d.]+ MB: weights [\d.]+ /m);
    const line = (epoch: number) =>
      new RegExp(
        `^Epoch  ${epoch}/2 \\| Train Loss: \\d+\\.\\d{4} \\| Test Loss: \\d+\\.\\d{4} \\| Test Acc: [01]\\.\\d{4}$`,
        "m",
      );
    assertMatch(stdout, line(1));
    assertMatch(stdout, line(2));
    assertMatch(stderr, /^Epoch {2}1\/2 \[[#.]{12}\] \d\/3 {2}loss \d/m);
    assertEquals(names(out), ["best.safetensors", "config.json", "last.safetensors", "metrics.jsonl"]);

    const again = await resnext(["train", ...SMALL, "--out", out]);
    assertEquals([again.code, again.stdout], [2, ""]);
    assertMatch(again.stderr, /^error: Cannot train into .*holds a run already; .*--resume .*last\.safetensors.*\n$/);
    const done = await resnext(["train", "--resume", join(out, "last.safetensors")]);
    assertEquals([done.code, done.stdout], [0, ""]);
    assertMatch(done.stderr, /^Nothing to do: .* has done \d epochs; go on with --epochs N, more than these$/m);
    const elsewhere = join(folder, "elsewhere");
    const more = await resnext([
      "train",
      "--resume",
      join(out, "last.safetensors"),
      "--epochs",
      "3",
      "--out",
      elsewhere,
    ]);
    assertEquals(more.code, 0, more.stderr);
    assertMatch(more.stdout, /^Going on after epoch 2/m);
    assertMatch(more.stdout, /^Epoch {2}3\/3 \| /m);
    assertEquals(names(elsewhere), ["best.safetensors", "config.json", "last.safetensors", "metrics.jsonl"]);
  });
});

Deno.test("a run gone on with apart from its best checkpoint ends with the name of one that is there", async () => {
  await withFolder(async (folder) => {
    const history = [{ epoch: 1, train_loss: 2.25, test_loss: 2.5, test_acc: 1 }];
    const progress = { epoch: 1, step: 0, loss_sum: 0, rows: 0, history };
    const settings = { ...narrowCheckpoint().description.settings!, train_limit: 16, test_limit: 8, epochs: 2 };
    const last = await writeNarrow(folder, "last.safetensors", { progress, settings });
    const { code, stdout, stderr } = await resnext(["train", "--resume", last]);
    assertEquals(code, 0, stderr);
    assertEquals(names(folder).includes("best.safetensors"), false);
    assertMatch(stdout, /; best test accuracy 1\.0000 in epoch 1\.\nSee the last epoch's classes with: .*/);
    assertMatch(stdout, / eval \S+last\.safetensors\b/);
    assertEquals(stdout.includes("best.safetensors"), false);
    const json = await resnext(["train", "--resume", last, "--epochs", "3", "--json"]);
    assertEquals(json.code, 0, json.stderr);
    const end = JSON.parse(json.stdout.trimEnd().split("\n").at(-1)!);
    assertEquals([end.type, end.last, end.best, end.best_epoch], ["end", last, null, 1]);
  });
});

Deno.test({
  name: "a run that a link leads to is gone on with in its own folder, not beside the link",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await withFolder(async (folder) => {
      const run = join(folder, "run"), link = join(folder, "newest.safetensors");
      await Deno.mkdir(run);
      const settings = { ...narrowCheckpoint().description.settings!, train_limit: 16, test_limit: 8, epochs: 1 };
      await Deno.symlink(await writeNarrow(run, "last.safetensors", { settings }), link);
      const { code, stderr } = await resnext(["train", "--resume", link, "--quiet"]);
      assertEquals([code, stderr], [0, ""]);
      assertEquals(names(folder), ["newest.safetensors", "run"]);
      assertEquals(names(run), ["best.safetensors", "config.json", "last.safetensors", "metrics.jsonl"]);
      const again = await resnext(["train", "--resume", link]);
      assertMatch(again.stderr, /^Nothing to do: .* has done 1 epoch; /);
      await Deno.remove(run, { recursive: true });
      assertEquals(
        (await resnext(["train", "--resume", link])).stderr,
        `error: Cannot read "${link}": no such file or directory\n`,
      );
    });
  },
});

Deno.test("train --config with what a run wrote of itself ends with the same bits", async () => {
  await withFolder(async (folder) => {
    const [first, second] = [join(folder, "first"), join(folder, "second")];
    const recipe = ["--epochs", "1", "--seed", "3", "--crop", "2", "--ema", "0.9"];
    const begun = await resnext(["train", ...SMALL, ...recipe, "--out", first]);
    assertEquals(begun.code, 0, begun.stderr);
    const again = await resnext(["train", "--config", join(first, "config.json"), "--out", second]);
    assertEquals(again.code, 0, again.stderr);
    for (const name of ["last.safetensors", "best.safetensors"]) {
      assertEquals(await Deno.readFile(join(second, name)), await Deno.readFile(join(first, name)), name);
    }
  });
});

/** Reads a process's lines until one says what is looked for. */
function linesUntil(stream: ReadableStream<Uint8Array<ArrayBuffer>>, found: (line: string) => boolean) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", told = false;
  return {
    /** Resolves when it was seen; `rest` goes on reading. */
    seen: (async () => {
      while (!told) {
        const { done, value } = await reader.read();
        if (done) throw new Error(`Not seen in:\n${text}`);
        text += value;
        told = text.split("\n").slice(0, -1).some(found);
      }
    })(),
    rest: async () => {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return text;
        text += value;
      }
    },
  };
}

Deno.test({
  name: "a request to end finishes the step, saves, and says how to go on",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await withFolder(async (folder) => {
      const out = join(folder, "run");
      const place = ["--data-dir", join(folder, "data")];
      const process = program(["train", ...SMALL, "--epochs", "10000", "--out", out, ...place]).spawn();
      const stdout = linesUntil(process.stdout, (line) => line.startsWith("Epoch"));
      await stdout.seen;
      process.kill("SIGTERM");
      const [text, { code }] = await Promise.all([
        stdout.rest(),
        process.status,
        process.stderr.pipeTo(new WritableStream()),
      ]);
      assertEquals(code, 143);
      assertMatch(
        text,
        /Stopped after step \d of epoch \d+, saved in .*last\.safetensors\. Go on with:\n {2}.*resnext train --resume .* --data-dir .*data$/m,
      );
    });
  },
});

/** Lines of a folder's cache that tell a picture. */
async function decoded(data: string): Promise<number> {
  const cache = join(data, "pictures"), index = names(cache).find((name) => name.endsWith(".json"));
  return index === undefined ? 0 : JSON.parse(await Deno.readTextFile(join(cache, index))).entries.length;
}

Deno.test({
  name:
    "a folder is claimed before pictures are decoded; whoever stops the decoding keeps what is done, and no empty run",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await withFolder(async (folder) => {
      const picture = join(folder, "picture.jpg"), COUNT = 4000;
      await Deno.copyFile(new URL("../fixtures/pictures/landscape.jpg", import.meta.url), picture);
      for (const name of ["a", "b"]) await Deno.mkdir(join(folder, "pictures", name), { recursive: true });
      for (let i = 0; i < COUNT; i++) await Deno.link(picture, join(folder, "pictures", i % 2 ? "a" : "b", `${i}.jpg`));
      const data = join(folder, "data"), out = join(folder, "run"), file = join(folder, "file");
      await Deno.writeTextFile(file, "");
      const args = ["train", ...NARROW, "--dataset", `folder:${join(folder, "pictures")}`, "--val-split", "0.1"];
      const place = ["--data-dir", data, "--workers", "1", "--out"];
      const taken = await resnext([...args, ...place, file]);
      assertEquals([taken.code, taken.stdout], [2, ""]);
      assertMatch(taken.stderr, /^error: Cannot make the folder ".*": it is a file; choose another --out\n$/);

      const process = program([...args, ...place, out]).spawn(), stdout = new Response(process.stdout).text();
      const stderr = linesUntil(process.stderr, (line) => line.startsWith("Decoding pictures"));
      await stderr.seen;
      const other = await resnext([...args, ...place, out]);
      assertEquals(other.code, 1);
      assertMatch(other.stderr, /^error: Cannot train into ".*": process \d+ .* has been training into it since/);
      process.kill("SIGINT");
      const [{ code }, said] = await Promise.all([process.status, stderr.rest()]);
      assertEquals([code, await stdout], [
        130,
        "Stopped before the first step; pictures that have been decoded need not be again\n",
      ]);
      assertMatch(said, /\nStopping: what was begun is being finished and saved; once more to stop at once\n$/);
      assertEquals(names(folder).includes("run"), false);
      const done = await decoded(data);
      assert(done > 0 && done < COUNT, String(done));
    });
  },
});

/** What a report prints on stdout about a job on a software adapter that takes so many seconds. */
async function estimated(seconds: number, imageSize: number, trainImages: number): Promise<string[]> {
  const { description: { network, input, settings } } = narrowCheckpoint();
  const data = shapes({ train: trainImages, test: 10, seed: 0 });
  const description = { network, input: { ...input!, image_size: imageSize }, settings: settings! };
  const plan = { description, data, parameters: 1, foundDataset: false, batchSizeChosen: true };
  const device = { name: "llvmpipe", capabilities: { software: true } } as Device;
  const printed = await printedOn(Deno.stdout, () => {
    const report = new TextReport();
    report.start(plan, device, "runs/a");
    report.event({ type: "estimate", seconds, imagesPerSecond: 12 });
    report.close();
  });
  const lines = printed.trimEnd().split("\n");
  return lines.slice(lines.findIndex((line) => line.startsWith("Time")));
}

Deno.test("a software adapter's user learns how long the job takes, and what would be quicker", async () => {
  assertEquals(await estimated(90, 32, 100), [
    "Time      about 1m 30s on this software adapter (12.0 img/s, batches of 16)",
  ]);
  const [time, quicker] = await estimated(90_000, 224, 2001);
  assertMatch(time, /^Time {6}about 1d 01h on this software adapter/);
  assertMatch(quicker, /^ {10}quicker: .*resnext train --dataset shapes --image-size 32 --train-limit 2000$/);
});

Deno.test("--json prints one object a line, of the types that the help names", async () => {
  await withFolder(async (folder) => {
    const help = (await resnext(["train", "--help"])).stdout;
    const out = join(folder, "run");
    const { code, stdout, stderr } = await resnext(["train", ...SMALL, "--epochs", "2", "--out", out, "--json"]);
    assertEquals([code, stderr], [0, ""]);
    const objects = stdout.trim().split("\n").map((line) => JSON.parse(line));
    for (const { type } of objects) assert(help.replaceAll(/\s+/g, " ").includes(type), type);
    const first = objects[0];
    assertEquals([first.type, first.settings.train_limit, first.train_images], ["start", 48, 48]);
    const epochs = objects.filter(({ type }) => type === "epoch");
    assertEquals(epochs.map(({ epoch }) => epoch), [1, 2]);
    const end = objects.at(-1);
    assertEquals([end.type, end.last], ["end", join(out, "last.safetensors")]);
    assertEquals(end.best_test_acc, Math.max(...epochs.map(({ test_acc }) => test_acc)));
  });
});

Deno.test("an image that each epoch leaves out, as its batch cannot be normalized, is told", async () => {
  await withFolder(async (folder) => {
    const deep = ["--layers", "1,1,1,1", "--channels", "16,16,16,16", "--cardinality", "2", "--tune", "off"];
    const args = ["train", ...deep, "--dataset", "shapes", "--epochs", "1", "--test-limit", "4", "--batch-size", "4"];
    const run = (images: string, ...more: string[]) =>
      resnext([...args, "--train-limit", images, "--out", join(folder, images + more), ...more]);
    const told =
      /1 of the 9 images is left out of each epoch, .* cannot be normalized; another --batch-size leaves none out/;
    for (const more of ["--quiet", "--json"]) {
      const { code, stdout, stderr } = await run("9", more);
      assertEquals(code, 0, stderr);
      const warnings = more === "--json"
        ? stdout.split("\n").filter((line) => line.startsWith('{"type":"warning"'))
        : stderr.split("\n").filter((line) => line.startsWith("warning: "));
      assertEquals(warnings.length, 1, stderr);
      assertMatch(warnings[0], told);
    }
    assertEquals((await run("10", "--quiet")).stderr, "");
  });
});

Deno.test("a loss that is not finite ends the run; the last good checkpoint is kept and named", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "run");
    const { code, stderr } = await resnext(["train", ...SMALL, "--lr", "1e30", "--out", out]);
    assertEquals(code, 1);
    assertMatch(
      stderr,
      /error: The loss is not finite any more at step \d of epoch 1: .*; the last good checkpoint is .*last\.safetensors\n$/,
    );
    assertEquals((await resnext(["checkpoint", "verify", join(out, "last.safetensors")])).code, 0);
  });
});

Deno.test("downloaded CIFAR-10 makes the notebook's job, with what the options change", async () => {
  await withFolder(async (folder) => {
    const files = cifarFiles(cifar10), data = join(folder, files.folder);
    await Deno.mkdir(data);
    for (const { name, size } of files.files) {
      // Sparse: black images of class 0.
      await Deno.writeFile(join(data, name), new Uint8Array());
      await Deno.truncate(join(data, name), size);
    }
    const run = [...NARROW, "--image-size", "32", "--train-limit", "64", "--test-limit", "10", "--epochs", "1"];
    const place = ["--data-dir", folder, "--out", join(folder, "run")];
    const { code, stdout, stderr } = await resnext(["train", ...run, ...place]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^CIFAR-10 has been downloaded: this is the notebook's job\.$/m);
    assertMatch(stdout, /^Training {2}1 epoch, batch size 64, seed 0$/m);

    await Deno.truncate(join(data, "data_batch_1.bin"), 1000);
    const short = await resnext([
      "train",
      "--dataset",
      "cifar10",
      "--data-dir",
      folder,
      "--out",
      join(folder, "short"),
    ]);
    assertEquals([short.code, short.stdout], [1, ""]);
    assertMatch(short.stderr, /^error: Cannot read .*data_batch_1\.bin: it has 1000 bytes, must have 30730000; .*\n$/);
  });
});

Deno.test("what cannot be trained is one line on stderr, and leaves nothing", async () => {
  await withFolder(async (folder) => {
    const last = await writeNarrow(folder), file = join(folder, "file");
    await Deno.writeTextFile(file, "text");
    const large = join(folder, "large");
    await Deno.writeFile(large, new Uint8Array(1_000_001));
    const weights = await writeNarrow(folder, "weights.safetensors", { settings: undefined, progress: undefined });
    const cases: [string[], number, RegExp][] = [
      [["--lr", "-1"], 2, /Option --lr must be a number of at least 0, not "-1"/],
      [["--arch", "resnet50"], 2, /Option --arch must be .*; did you mean resnext50\?/],
      [["--bach-size", "4"], 2, /did you mean --batch-size\?/],
      [["--cardinality", "3"], 2, /Cannot build resnext50/],
      [["--layers", "1,x"], 2, /Option --layers must be whole numbers/],
      [["--nesterov", "--momentum", "0"], 2, /--nesterov needs a momentum/],
      [["--dataset", "cifar10", "--data-dir", folder], 1, /data_batch_1\.bin: it is missing; run `download cifar10`/],
      [["--dataset", "shapes", "--out", file], 2, /it is a file/],
      [["--dataset", "shapes", "--train-limit", "4000000000"], 2, /500000 at most; choose a smaller --train-limit/],
      [["--layers", "65536"], 2, /whole numbers from 1 to 1024/],
      [["--config", folder], 1, /it is a folder/],
      [["--config", large], 1, /it is larger than 1000000 bytes/],
      [["--data-dir", "x".repeat(300)], 1, /the name is too long/],
      [["--resume", join(folder, "none")], 1, /no such file/],
      [["--resume", folder], 1, /it is a folder; name the file in it/],
      [["--resume", file], 1, /as safetensors: 4 bytes are too few/],
      [["--resume", weights], 1, /no run to go on with/],
      [["--resume", last, "--lr", "0.5"], 2, /Cannot resume with --lr: the run was begun with 0\.01/],
      [["--resume", last, "--layers", "1,1,1"], 2, /begun with 1,1;/],
      [
        [...NARROW, "--image-size", "2048", "--batch-size", "512", "--dataset", "shapes", "--out", join(folder, "x")],
        1,
        /Cannot run batches of 512: .*; use a (batch size of \d+ or less|smaller)/,
      ],
    ];
    const before = names(folder);
    // Two at a time: the machine that tests may be small.
    const queue = [...cases];
    const worker = async () => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        const [args, wanted, message] = next;
        const { code, stderr } = await resnext(["train", ...args]);
        assertEquals(code, wanted, `${args.join(" ")}: ${stderr}`);
        assertMatch(stderr, message);
        assertMatch(stderr, /^error: [^\n]*\n$/);
      }
    };
    await Promise.all([worker(), worker()]);
    assertEquals(names(folder), before);
  });
});

Deno.test({
  name: "without an adapter one line says what to install, before a picture is decoded",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await withFolder(async (folder) => {
      const environment = {
        VK_DRIVER_FILES: "/nonexistent",
        VK_ICD_FILENAMES: "/nonexistent",
        DENO_WEBGPU_BACKEND: "vulkan",
      };
      const dataset = `folder:${await writePictures(folder, "pictures")}`;
      const places = ["--dataset", dataset, "--data-dir", join(folder, "data"), "--out", join(folder, "run")];
      const { code, stderr } = await resnext(["train", ...NARROW, ...places], environment);
      assertEquals(code, 1);
      assertMatch(stderr, /^error: No GPU adapter found\. .*mesa-vulkan-drivers.*\n$/);
      assertEquals(names(folder), ["pictures"]);
    });
  },
});

Deno.test("a run on shapes needs no data directory", async () => {
  await withFolder(async (folder) => {
    const sizes = ["--train-limit", "32", "--test-limit", "16", "--batch-size", "16", "--epochs", "1"];
    const args = ["train", ...NARROW, ...sizes, "--dataset", "shapes", "--out", join(folder, "run")];
    // Empty variables name no place.
    const { code, stderr } = await resnext(args, { HOME: "", XDG_CACHE_HOME: "", LOCALAPPDATA: "", RESNEXT_DATA: "" });
    assertEquals(code, 0, stderr);
  });
});
