/**
 * How fast pictures are made ready, beside what sharp alone does with the same files on the same processors:
 *
 *     deno run -A bench/loader.ts [FOLDER] [--workers N] [--repeats N]
 *
 * FOLDER holds pictures; without it 300 photograph-like JPEGs of 500x375 are drawn. "sharp" decodes and resizes as
 * training does, so many at a time; "loader" is the whole way into the cache: workers, resizing, writing. Medians of
 * interleaved repeats.
 */

import { parseArgs } from "@std/cli";
import { join } from "@std/path";
import sharp from "sharp";
import { cachePictures, type PictureFile } from "../data/pictures/cache.ts";
import { PicturePool } from "../data/pictures/pool.ts";
import { trainTransform } from "../data/pictures/transform.ts";
import { Random } from "../kernels/random.ts";

const TRANSFORM = trainTransform(224);

/** JPEGs with the spectrum of photographs, roughly: coarse noise enlarged, and finer noise on it. */
async function draw(folder: string, count: number): Promise<void> {
  const random = new Random(1);
  const noise = (width: number, height: number) => {
    const data = Uint8Array.from({ length: width * height * 3 }, () => random.below(256));
    return sharp(data, { raw: { width, height, channels: 3 } });
  };
  for (let i = 0; i < count; i++) {
    const size = i % 2 ? { width: 500, height: 375 } : { width: 375, height: 500 };
    const fine = await noise(125, 94).resize(size.width, size.height, { fit: "fill" }).ensureAlpha(0.25).png()
      .toBuffer();
    const coarse = await noise(8, 6).resize(size.width, size.height, { fit: "fill" }).png().toBuffer();
    await sharp(coarse).composite([{ input: fine }]).jpeg({ quality: 90 }).toFile(join(folder, `${i}.jpg`));
  }
}

async function list(folder: string): Promise<PictureFile[]> {
  const files: PictureFile[] = [];
  for await (const { name, isFile } of Deno.readDir(folder)) {
    if (!isFile) continue;
    const { size, mtime } = await Deno.stat(join(folder, name));
    files.push({ path: name, size, changed: mtime?.getTime() ?? 0 });
  }
  return files.sort((a, b) => a.path < b.path ? -1 : 1);
}

/** Sharp alone, `atATime` pictures in its threads; pictures that it refuses are left out as the loader does. */
async function sharpAlone(folder: string, files: readonly PictureFile[], atATime: number): Promise<void> {
  let next = 0;
  await Promise.all(Array.from({ length: atATime }, async () => {
    while (next < files.length) {
      const { size } = TRANSFORM, path = join(folder, files[next++].path);
      await sharp(path, { ignoreIcc: true, autoOrient: true, sequentialRead: true, failOn: "error" })
        .resize({ width: size, height: size, fit: "fill", kernel: "linear" })
        .toColourspace("srgb").removeAlpha().raw().toBuffer().catch(() => {});
    }
  }));
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

const args = parseArgs(Deno.args, { string: ["workers", "repeats", "_"] });
const workers = Number(args.workers ?? navigator.hardwareConcurrency), repeats = Number(args.repeats ?? 5);
const scratch = await Deno.makeTempDir({ prefix: "resnext-loader-" });
try {
  const folder = args._[0] === undefined ? join(scratch, "pictures") : String(args._[0]);
  if (args._[0] === undefined) {
    await Deno.mkdir(folder);
    await draw(folder, 300);
  }
  const files = await list(folder);
  sharp.concurrency(1);
  sharp.cache(false);
  using pool = new PicturePool(workers);
  const rates: Record<"sharp" | "loader", number[]> = { sharp: [], loader: [] };
  const measure = async (kind: keyof typeof rates, run: () => Promise<void>, counted: boolean) => {
    const started = performance.now();
    await run();
    if (counted) rates[kind].push(files.length / (performance.now() - started) * 1000);
  };
  for (let repeat = -1; repeat < repeats; repeat++) {
    // As many pictures at a time as the loader has, which read while others are decoded.
    await measure("sharp", () => sharpAlone(folder, files, pool.depth), repeat >= 0);
    await measure("loader", async () => {
      const cache = join(scratch, `cache-${repeat}`);
      const present = new Set(files.map(({ path }) => path));
      const cached = await cachePictures({ folder, files, present, transform: TRANSFORM, cache }, pool);
      cached.close();
      await Deno.remove(`${cache}.pixels`);
    }, repeat >= 0);
  }
  const [alone, loader] = [median(rates.sharp), median(rates.loader)];
  console.log(`${files.length} pictures, ${workers} workers, medians of ${repeats}`);
  console.log(`sharp alone  ${alone.toFixed(0)} img/s`);
  console.log(`loader       ${loader.toFixed(0)} img/s`);
  // Of neighbours in time: what else the machine does changes from minute to minute.
  const ratios = rates.loader.map((rate, repeat) => rate / rates.sharp[repeat]);
  console.log(
    `ratio        ${median(ratios).toFixed(2)} (${ratios.toSorted().map((ratio) => ratio.toFixed(2)).join(" ")})`,
  );
} finally {
  await Deno.remove(scratch, { recursive: true });
}
