import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type RowChange, UNCHANGED } from "../../kernels/augment.ts";
import { Random } from "../../kernels/random.ts";
import { UserError } from "../../kernels/user_error.ts";
import {
  AugmentedSource,
  type AugmentSettings,
  beta,
  checkAugment,
  drawChange,
  drawChanges,
  isAugmented,
} from "../../nn/augment.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const all: AugmentSettings = {
  flip: true,
  crop: 4,
  cutout: 8,
  erasing: 0.5,
  brightness: 0.4,
  contrast: 0.4,
  saturation: 0.4,
  hue: 0.1,
  mixup: 0.2,
  cutmix: 1,
};
const at = (image: number, epoch = 3, seed = 1) => ({ seed, epoch, image, count: 1000 });
const draw = (settings: AugmentSettings, image: number, epoch?: number) =>
  drawChange(settings, at(image, epoch), [32, 24], 5);
const many = Array.from({ length: 1000 }, (_, image) => draw(all, image));

Deno.test("what is done to an image depends on seed, epoch and image alone", () => {
  assertEquals(draw(all, 7), draw(all, 7));
  const others = [draw(all, 8), draw(all, 7, 4), drawChange(all, at(7, 3, 2), [32, 24], 5)];
  assert(others.every((other) => JSON.stringify(other) !== JSON.stringify(draw(all, 7))));
  // The same whichever batch the image is in, but for the partner.
  const [a, b] = [[7, 1, 2], [4, 4, 7]].map((batch) => drawChanges(all, batch, at(0), [32, 24]));
  assertEquals(a[0], { ...b[2], partner: 2 });
});

Deno.test("switching one thing on leaves the others as they are", () => {
  const { flip, top, left } = draw({ flip: true, crop: 4 }, 9);
  const more = draw({ flip: true, crop: 4, hue: 0.2, cutout: 4, erasing: 1, mixup: 1 }, 9);
  assertEquals([more.flip, more.top, more.left], [flip, top, left]);
});

Deno.test("draws stay within their limits and fill them", () => {
  const spread = (values: number[], low: number, high: number) => {
    const span = (high - low) / 50;
    assert(Math.min(...values) >= low && Math.min(...values) <= low + span, `${Math.min(...values)} ${low}`);
    assert(Math.max(...values) <= high && Math.max(...values) >= high - span, `${Math.max(...values)} ${high}`);
  };
  spread(many.map(({ top }) => top), -4, 4);
  spread(many.map(({ left }) => left), -4, 4);
  for (const k of [0, 1, 2]) spread(many.map(({ colour }) => colour[k]), 0.6, 1.4);
  spread(many.map(({ colour }) => colour[3]), -0.1, 0.1);
  const share = (test: (change: typeof many[number]) => boolean) => many.filter(test).length / many.length;
  assert(Math.abs(share(({ flip }) => flip) - 0.5) < 0.05);
  assert(Math.abs(share(({ erased }) => erased[2] > 0) - 0.5) < 0.05);
  const erased = many.map(({ erased }) => erased).filter(([, , height]) => height > 0);
  // Sides are whole pixels.
  spread(erased.map(([, , height, width]) => height * width / (32 * 24)), 0.015, 0.345);
  const ratios = erased.map(([, , height, width]) => height / width);
  assert(Math.min(...ratios) > 0.2 && Math.min(...ratios) < 0.5 && Math.max(...ratios) < 4 && Math.max(...ratios) > 2);
  const mixed = many.filter(({ pasted, weight }) => pasted[2] === 0 && weight < 1);
  assert(Math.abs(mixed.length / many.length - 0.5) < 0.05, `${mixed.length} are mixed, the others pasted into`);
  for (const { erased, cutout, pasted, weight } of many) {
    for (const [top, left, height, width] of [erased, cutout, pasted]) {
      assert(top >= 0 && left >= 0 && top + height <= 32 && left + width <= 24);
    }
    assert(weight >= 0 && weight <= 1);
    if (pasted[2] > 0) assertEquals(weight, 1 - pasted[2] * pasted[3] / (32 * 24));
  }
});

Deno.test("beta variates have the distribution's mean and variance", () => {
  for (const alpha of [0.2, 1, 4]) {
    const random = new Random(3, 1), values = Array.from({ length: 4000 }, () => beta(random, alpha));
    const mean = values.reduce((sum, value) => sum + value) / values.length;
    const variance = values.reduce((sum, value) => sum + (value - 0.5) ** 2, 0) / values.length;
    assert(Math.abs(mean - 0.5) < 0.02, `${mean}`);
    assert(Math.abs(variance * 4 * (2 * alpha + 1) - 1) < 0.06, `${alpha}: ${variance}`);
  }
});

Deno.test("nothing is the default, and nonsense is refused", () => {
  assertEquals([{}, undefined, { flip: false, crop: 0 }].map(isAugmented), [false, false, false]);
  assertEquals([{ flip: true }, { mixup: 0.2 }].map(isAugmented), [true, true]);
  for (
    const [settings, text] of [
      ...[[{ hue: 0.6 }, "hue"], [{ erasing: 2 }, "erasing"], [{ reflect: true }, "crop"]],
      ...[[{ crop: 2.5 }, "crop is 2.5, must be a whole number"], [{ cutout: NaN }, "cutout is NaN"]],
      [{ mixup: Infinity }, "mixup is Infinity, must be 0 or more"],
    ] as [AugmentSettings, string][]
  ) {
    assertThrows(() => checkAugment(settings), UserError, text);
  }
});

gpuTest("images of other channels than red, green and blue are not augmented", async (device) => {
  const grey = await FloatSource.create(device, { n: 2, c: 1, h: 8, w: 8 });
  const normalization = { mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] } as const;
  await assertRejects(
    () => AugmentedSource.create(device, grey, { flip: true }, normalization),
    RangeError,
    "images of 1 channels",
  );
  const rgb = await FloatSource.create(device, { n: 1, c: 3, h: 8, w: 8 });
  const source = await AugmentedSource.create(device, rgb, { flip: true }, normalization);
  const batch = {
    batch: { images: new Float32Array(3 * 64), labels: [3] },
    changes: drawChanges({ flip: true }, [1], at(0), [8, 8]),
  };
  assertEquals(source.load(batch, 4), 1);
  assertThrows(() => source.load(batch, 3), RangeError, "label 3");
  await assertRejects(
    () => AugmentedSource.create(device, rgb, { flip: true }, { ...normalization, std: [0, 0, 0] }),
    RangeError,
    "with std [0,0,0]",
  );
  source.destroy();
  grey.destroy();
});

gpuTest("the loss of mixed images is by both labels in evaluation, too", async (device) => {
  const module = resnext50({ layers: [1], channels: [16], cardinality: 4, numClasses: 5 });
  const network = await Network.create(device, module, { seed: 2 });
  const inner = await FloatSource.create(device, { n: 4, c: 3, h: 32, w: 32 });
  const settings = { mixup: 1 }, labels = [0, 3, 1, 4];
  const normalization = { mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] } as const;
  const source = await AugmentedSource.create(device, inner, settings, normalization);
  const step = await evalStep(network, { source });
  const changes = drawChanges(settings, [0, 1, 2, 3], { seed: 1, epoch: 0, count: 4 }, [32, 32]);
  step.run({ batch: { images: formula(4 * 3 * 32 * 32, 1), labels }, changes });
  const logits = await step.logits(), [{ lossSum }] = await step.collect();
  const wanted = changes.reduce((sum, { weight }, row) => {
    const z = [...logits.subarray(row * 5, row * 5 + 5)], all = Math.log(z.reduce((sum, v) => sum + Math.exp(v), 0));
    return sum + all - weight * z[labels[row]] - (1 - weight) * z[labels[3 - row]];
  }, 0);
  assert(changes.every(({ weight }) => weight > 0 && weight < 1));
  assertClose([lossSum], [wanted], 1e-5, "loss");
  for (const each of [step, source, network]) each.destroy();
});

gpuTest("changes that a source was not made for, or that mean nothing, are refused by their row", async (device) => {
  const inner = await FloatSource.create(device, { n: 4, c: 3, h: 8, w: 8 });
  const normalization = { mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] } as const;
  const sources = new Map<string, AugmentedSource<FloatBatch>>();
  for (
    const [name, settings] of Object.entries({ plain: { flip: true }, mixing: { mixup: 1 }, colour: { hue: 0.1 } })
  ) {
    sources.set(name, await AugmentedSource.create(device, inner, settings, normalization));
  }
  const load = (name: string, change: Partial<RowChange>) => {
    const changes = [UNCHANGED, UNCHANGED, { ...UNCHANGED, ...change }, UNCHANGED];
    return sources.get(name)!.load({ batch: { images: new Float32Array(4 * 3 * 64), labels: [0, 1, 2, 3] }, changes });
  };
  const mixed = { weight: 0.3, partner: 3 }, pasted = { pasted: [0, 0, 2, 2], weight: 0.9, partner: 0 } as const;
  const bright = { colour: [0.2, 1, 1, 0] } as const;
  for (const good of [{}, { weight: 0, partner: 3 }, mixed, pasted]) assertEquals(load("mixing", good), 4);
  assertEquals([load("colour", bright), load("plain", { flip: true, top: -3, left: 2 })], [4, 4]);

  const refused = (name: string, change: Partial<RowChange>, message: string) =>
    assertThrows(() => load(name, change), RangeError, message);
  for (const name of ["plain", "colour"]) {
    refused(name, mixed, "Cannot mix row 2: its label would stay as it is");
    refused(name, { ...pasted, weight: 1 }, "Cannot mix row 2: its label would stay as it is");
  }
  for (const partner of [4, 99, -1, 1.5, NaN]) {
    refused("mixing", { ...mixed, partner }, `Cannot mix row 2 with partner ${partner}: the rows are 0 to 3`);
  }
  for (const weight of [NaN, 2, -0.1]) {
    refused("mixing", { ...mixed, weight }, `Cannot mix row 2 with weight ${weight}: it must be from 0 to 1`);
  }
  for (const name of ["plain", "mixing"]) refused(name, bright, "Cannot change the colours of row 2");
  refused("plain", { top: NaN }, "Cannot augment row 2: its change holds NaN");
  for (const each of [...sources.values(), inner]) each.destroy();
});
