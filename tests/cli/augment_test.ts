import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import sharp from "sharp";
import { contactSheet, type SheetOptions } from "../../cli/augment.ts";
import { shapes } from "../../data/shapes.ts";
import type { Device } from "../../kernels/device.ts";
import type { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import { gpuTest, withFolder } from "../support.ts";
import { EpochBatches } from "../../nn/epoch_batches.ts";
import { NARROW, narrowCheckpoint, resnext } from "./support.ts";

const data = shapes({ train: 2, test: 1, seed: 0 });
const options = { imageSize: 32, epochs: 2, seed: 3 };

gpuTest("a sheet shows each image as it is, then augmented, the same for the same seed", async (device) => {
  const sheet = await contactSheet(device, data, { flip: true, crop: 4 }, options);
  // Two rows of three tiles, each enlarged three times, with gaps of four.
  assertEquals([sheet.width, sheet.height], [3 * 96 + 2 * 4, 2 * 96 + 4]);
  const pixel = (x: number, y: number) => [...sheet.rgba.subarray((y * sheet.width + x) * 4).subarray(0, 4)];
  for (const [row, column] of [[0, 0], [5, 9], [31, 31]]) {
    const stored = data.train.images.subarray((row * 32 + column) * 3).subarray(0, 3);
    assertEquals(pixel(column * 3, row * 3), [...stored, 255]);
  }
  assertEquals(pixel(97, 10)[3], 0, "gaps are clear");
  assertEquals((await contactSheet(device, data, { flip: true, crop: 4 }, options)).rgba, sheet.rgba);
  const other = await contactSheet(device, data, { flip: true, crop: 4 }, { ...options, seed: 4 });
  assertNotEquals(other.rgba, sheet.rgba);
});

gpuTest("a sheet of pictures shows the crops that a run sees of them, and changes those", async (device) => {
  // The right half of an image, or the left one mirrored.
  const crop = (_: number, random: Random) =>
    random.uniform() < 0.5 ? [0, 16, 32, 16] as const : [0, 16, 32, -16] as const;
  const pictures = { ...data, train: { ...data.train, crop } }, many = { ...options, epochs: 6 };
  const { rgba, width } = await contactSheet(device, pictures, undefined, many);
  const { settings, ...rest } = narrowCheckpoint().description;
  const run = { ...rest, settings: { ...settings!, seed: options.seed }, input: rest.input! };
  const batches = new EpochBatches(pictures.train, run), mirrored = [];
  for (let epoch = 0; epoch < 6; epoch++) {
    const { windows } = batches.batch(Uint32Array.of(0, 1), epoch) as { windows: Float32Array };
    for (const image of [0, 1]) {
      const left = windows[image * 4 + 1], wide = windows[image * 4 + 3];
      mirrored.push(wide < 0);
      // The middle of the tile's second column lies at a quarter of the window.
      for (const [row, column] of [[3, 7], [20, 24]]) {
        const at = left + wide * (column + 0.5) / 32 - 0.5, from = Math.floor(at), share = at - from;
        for (const k of [0, 1, 2]) {
          const value = (x: number) => data.train.images[((image * 32 + row) * 32 + x) * 3 + k];
          const wanted = value(from) * (1 - share) + value(from + 1) * share;
          const shown = rgba[((image * 100 + row * 3) * width + (epoch + 1) * 100 + column * 3) * 4 + k];
          assert(Math.abs(shown - wanted) <= 1, `${shown}, not ${wanted}`);
        }
      }
    }
  }
  assertEquals(new Set(mirrored), new Set([true, false]));
  const changed = await contactSheet(device, pictures, { hue: 0.3 }, many);
  assertNotEquals(changed.rgba, rgba);
});

Deno.test("images that no binding or no sheet holds are refused, with how many it would", async () => {
  const refused = async (maxBindingBytes: number, more: Partial<SheetOptions>, why: RegExp) => {
    const device = { capabilities: { maxBindingBytes } } as Device;
    const error = await assertRejects(
      () => contactSheet(device, data, { flip: true }, { ...options, ...more }),
      UserError,
    );
    assertMatch(error.message, why);
  };
  await refused(32 * 32 * 16 * 2 - 1, {}, /^Cannot make a sheet of 2 images of 32x32 .*: 1 fit at most; choose fewer/);
  await refused(2 ** 40, { imageSize: 1024, epochs: 127 }, /in 127 epochs: 1 fit at most;/);
  await refused(2 ** 40, { imageSize: 2 ** 14, epochs: 1 }, / in 1 epoch: /);
  await refused(2 ** 40, { imageSize: 2 ** 14 }, /: not one fits; choose fewer or smaller ones/);
});

Deno.test("augment writes a picture, and says what is missing", async () => {
  await withFolder(async (folder) => {
    const out = join(folder, "sheet.png");
    const args = ["augment", "--images", "2", "--epochs", "3", "--cutout", "8", "--mixup", "0.4", "--out", out];
    const { code, stdout, stderr } = await resnext(args);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Wrote .*sheet\.png: 2 images, .* 3 epochs \(cutout 8, mixup 0\.4\)\n$/);
    const { width, height, format } = await sharp(await Deno.readFile(out)).metadata();
    assertEquals([width, height, format], [4 * 96 + 3 * 4, 2 * 96 + 4, "png"]);
    const again = await resnext(args);
    assert(again.code === 1 && /it exists; choose another file or add --force/.test(again.stderr));
    const text = await resnext([...args, "--out", join(folder, "sheet.txt")]);
    assertEquals(text.code, 2);
    assertMatch(text.stderr, /^error: Option --out must end in \.png/);
    const nothing = await resnext(["augment", "--out", join(folder, "none.png")]);
    assertEquals(nothing.code, 2);
    assertMatch(nothing.stderr, /^error: Nothing is done to the images: choose what, such as/);
  });
});

Deno.test("a folder of classes is split as train splits it", async () => {
  await withFolder(async (folder) => {
    for (const name of ["a", "b"]) {
      await Deno.mkdir(join(folder, "pictures", name), { recursive: true });
      for (const number of [1, 2]) {
        const grey = sharp({ create: { width: 8, height: 8, channels: 3, background: { r: 9, g: 9, b: 9 } } });
        await Deno.writeFile(join(folder, "pictures", name, `${number}.png`), await grey.png().toBuffer());
      }
    }
    const out = join(folder, "sheet.png"), dataset = `folder:${join(folder, "pictures")}`;
    const args = ["augment", "--dataset", dataset, "--image-size", "8", "--out", out, "--data-dir", folder];
    assertMatch((await resnext(args)).stderr, /give --val-split/);
    const { code, stdout, stderr } = await resnext([...args, "--val-split", "0.5"]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /: 2 images, each as it is and in 9 epochs \(random crops, flip\)\n$/);
    const more = await resnext([...args, "--val-split", "0.5", "--hue", "0.1", "--force"]);
    assertMatch(more.stdout, /\(random crops, flip, hue 0\.1\)\n$/, more.stderr);
  });
});

Deno.test("a run's config shows what the run trained on", async () => {
  await withFolder(async (folder) => {
    const run = join(folder, "run"), out = (name: string) => join(folder, `${name}.png`);
    const recipe = ["--cutout", "9", "--flip", "--seed", "3"];
    const length = ["--epochs", "1", "--train-limit", "8", "--test-limit", "4", "--batch-size", "8", "--out", run];
    const trained = await resnext(["train", ...NARROW, ...length, ...recipe, "--image-size", "24"]);
    assertEquals(trained.code, 0, trained.stderr);
    const sheet = ["augment", "--images", "2", "--epochs", "3"];
    const shown = await resnext([...sheet, "--config", join(run, "config.json"), "--out", out("run")]);
    assertEquals([shown.code, shown.stderr], [0, ""]);
    assertMatch(shown.stdout, /: 2 images, each as it is and in 3 epochs \(flip, cutout 9\)\n$/);
    const given = await resnext([...sheet, ...recipe, "--image-size", "24", "--out", out("given")]);
    assertEquals(given.code, 0, given.stderr);
    assertEquals(await Deno.readFile(out("run")), await Deno.readFile(out("given")));
  });
});
