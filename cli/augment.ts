/** `resnext augment`: a sheet of augmented images, to be looked at. */

import type { Capabilities, Device } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import type { Operand } from "../kernels/dispatch.ts";
import { type Placement, Program } from "../kernels/program.ts";
import { AugmentedSource, type AugmentSettings, type Normalization } from "../nn/augment.ts";
import type { BatchSource } from "../nn/batch_source.ts";
import { DeviceImages, ImageSource } from "../nn/image_source.ts";
import { type TrainBatch, trainBatch } from "../nn/epoch_batches.ts";
import { imageInput, type TrainingData } from "../nn/run_description.ts";
import { counted } from "./columns.ts";
import { checkEnding, defineCommand, usageError } from "./command.ts";
import { dataDirOption } from "./invocation.ts";
import {
  datasetForms,
  datasetNames,
  isPictures,
  loadDataset,
  readDatasetName,
  runDefaults,
  valSplitOption,
} from "./dataset.ts";
import { writeNewFile } from "./files.ts";
import { augmentOptions, augmentSettings, augmentText } from "./recipe_options.ts";
import { png, type Sheet, tiled } from "./report/pictures.ts";

const PATH = "resnext augment";

/** The command. */
export const augmentCommand = defineCommand({
  name: "augment",
  summary: "Write a sheet of augmented images, to check them by eye",
  details:
    "A row is an image: first as it is, then as the network would see it, an epoch each. Options of augmentation are " +
    "those of `train`. A folder's pictures are cropped at random, and mirrored unless --no-flip, as always in " +
    "`train`.\n\n" +
    "--config takes the config.json of a run, too, and shows what that run trains on, but for what other options say.",
  options: {
    dataset: {
      type: "string",
      placeholder: "NAME",
      suggestions: datasetNames,
      default: "shapes",
      doc: `Images: ${datasetForms}`,
    },
    valSplit: valSplitOption,
    out: { type: "string", placeholder: "FILE.png", default: "augment.png", doc: "The picture to write" },
    images: { type: "integer", min: 1, max: 64, default: 8, doc: "Images, the first ones" },
    epochs: { type: "integer", min: 1, max: 32, default: 9, doc: "Times that each is augmented" },
    imageSize: { type: "integer", min: 8, max: 1024, otherwise: "the data set's default", doc: "Size of the images" },
    seed: { type: "integer", min: 0, default: 0, doc: "Of what is drawn" },
    ...augmentOptions,
    dataDir: dataDirOption,
    force: { type: "boolean", doc: "Overwrite the file" },
  },
  examples: [
    "augment --flip --crop 4 --cutout 8",
    "augment --dataset cifar10 --mixup 0.2 --cutmix 1 --out mixed.png",
    "augment --config runs/first/config.json",
  ],
  config: true,
  fromRuns: [
    "dataset",
    "valSplit",
    "imageSize",
    "seed",
    ...Object.keys(augmentOptions) as (keyof typeof augmentOptions)[],
  ],
  run: async ({ options, given }) => {
    const settings = augmentSettings(options);
    const name = readDatasetName(options.dataset, PATH), { images, epochs, seed, out, force, valSplit } = options;
    if (!settings && !isPictures(name)) {
      throw usageError("Nothing is done to the images: choose what, such as --flip --crop 4", PATH);
    }
    checkEnding("out", out, [".png"], PATH);
    const imageSize = options.imageSize ?? runDefaults(name)!.imageSize;
    const data = await loadDataset(name, {
      trainLimit: images,
      testLimit: 1,
      dataDir: options.dataDir,
      imageSize,
      valSplit,
      seed,
      flip: options.flip || !given.has("flip"),
    });
    const device = await openDevice();
    try {
      const sheet = await contactSheet(device, data, settings, { imageSize, epochs, seed });
      await writeNewFile(out, await png(sheet.rgba, sheet.width, sheet.height), { force });
      const { count, crop } = data.train;
      // A folder's are mirrored where nothing is said.
      const done = [crop && "random crops", crop && !given.has("flip") && "flip", settings && augmentText(settings)];
      console.log(
        `Wrote ${out}: ${count} images, each as it is and in ${counted(epochs, "epoch")} (${
          done.filter(Boolean).join(", ")
        })`,
      );
    } finally {
      device.close();
    }
  },
});

/** Pixels of the largest sheet: half a gigabyte of them. */
const MOST_PIXELS = 2 ** 27;

/** @throws {UserError} where the images are more than a binding of the device or a sheet holds. */
function checkRoom(images: number, { imageSize, epochs }: SheetOptions, { maxBindingBytes }: Capabilities): void {
  const pixels = imageSize ** 2, binding = maxBindingBytes / (pixels * 4 * Float32Array.BYTES_PER_ELEMENT);
  const most = Math.floor(Math.min(binding, MOST_PIXELS / (pixels * (epochs + 1))));
  if (images <= most) return;
  throw usageError(
    `Cannot make a sheet of ${images} images of ${imageSize}x${imageSize} pixels in ${counted(epochs, "epoch")}: ` +
      `${most === 0 ? "not one fits" : `${most} fit at most`}; choose fewer or smaller ones`,
    PATH,
  );
}

/** What is drawn of each image. */
export interface SheetOptions {
  readonly imageSize: number;
  readonly epochs: number;
  readonly seed: number;
}

/**
 * A row for each training image: as it is, then as training sees it, an epoch each.
 *
 * @throws {UserError} where they are too large.
 */
export async function contactSheet(
  device: Device,
  data: TrainingData & Normalization,
  settings: AugmentSettings | undefined,
  { imageSize, epochs, seed }: SheetOptions,
): Promise<Sheet> {
  const { count } = data.train, normalization = { mean: data.mean, std: data.std };
  checkRoom(count, { imageSize, epochs, seed }, device.capabilities);
  const images = await DeviceImages.create(device, data.train);
  const input = imageInput(data, { ...normalization, image_size: imageSize }, data.train);
  const whole = await ImageSource.create(images, input, count);
  const seen = await ImageSource.create(images, input, count, { windows: data.train.crop !== undefined });
  const source: BatchSource<TrainBatch> = settings
    ? await AugmentedSource.create(device, seen, settings, normalization)
    : seen;
  try {
    const indices = Uint32Array.from({ length: count }, (_, i) => i);
    const tilesOf = (pixels: Float32Array) => Array.from(indices, (row) => tile(pixels, row, imageSize, data));
    const columns = [tilesOf(await made(device, whole, indices))];
    for (let epoch = 0; epoch < epochs; epoch++) {
      const batch = trainBatch(data.train, indices, { seed, epoch }, settings, imageSize);
      columns.push(tilesOf(await made(device, source, batch)));
    }
    const tiles = Array.from(indices, (row) => columns.map((column) => column[row])).flat();
    const scale = Math.max(1, Math.floor(96 / imageSize));
    return tiled(tiles, { width: imageSize, height: imageSize, columns: columns.length, gap: 4, scale });
  } finally {
    source.destroy();
    whole.destroy();
    images.destroy();
  }
}

/** The input that a source makes of a batch. */
async function made<B>(device: Device, source: BatchSource<B>, batch: B): Promise<Float32Array> {
  const buffers = new Map<Operand, GPUBuffer>(), dispatches = source.dispatches(device.capabilities);
  let program: Program | undefined;
  try {
    for (const { operand } of dispatches.flatMap(({ bindings }) => Object.values(bindings))) {
      if (source.place(operand) || buffers.has(operand)) continue;
      buffers.set(operand, await device.buffer(operand.label, operand.byteLength));
    }
    const place = (operand: Operand): Placement =>
      source.place(operand) ?? { buffer: buffers.get(operand)!, offset: 0 };
    program = await Program.create(device, dispatches, place);
    source.load(batch);
    program.submit(device);
    return new Float32Array(await device.read(place(source.x).buffer, 0, source.x.byteLength));
  } finally {
    program?.destroy();
    for (const buffer of buffers.values()) buffer.destroy();
  }
}

/** A row of a batch as bytes. */
function tile(pixels: Float32Array, row: number, size: number, { mean, std }: Normalization): Uint8Array {
  const bytes = new Uint8Array(size * size * 3), first = row * size * size;
  for (let pixel = 0; pixel < size * size; pixel++) {
    for (let k = 0; k < 3; k++) {
      const value = pixels[(first + pixel) * 4 + k] * std[k] + mean[k];
      bytes[pixel * 3 + k] = Math.round(Math.min(Math.max(value, 0), 1) * 255);
    }
  }
  return bytes;
}
