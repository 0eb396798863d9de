import { assertEquals } from "@std/assert";
import {
  AUGMENT_VECTORS,
  augmentBatch,
  type AugmentSpec,
  encodeChange,
  type Rectangle,
  type RowChange,
  UNCHANGED,
} from "../../kernels/augment.ts";
import { operand } from "../../kernels/dispatch.ts";
import { runOnce } from "../../kernels/program.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

const H = 9, W = 7;
const mean = [0.49, 0.48, 0.45] as const, std = [0.25, 0.24, 0.26] as const;
type Pixel = [number, number, number];

/** The reference: plain loops over one row, images from 0 to 1, as torchvision's functions. */
function reference(images: Float32Array, rows: readonly RowChange[], { reflect, colour }: AugmentSpec): number[] {
  const stored = (row: number, y: number, x: number): Pixel => {
    const at = ((row * H + y) * W + x) * 3;
    return [images[at], images[at + 1], images[at + 2]];
  };
  const mirror = (at: number, length: number) => {
    const period = 2 * (length - 1), wrapped = ((at % period) + period) % period;
    return reflect ? Math.min(wrapped, period - wrapped) : at;
  };
  const placed = (row: number, y: number, x: number): Pixel => {
    const { flip, top, left } = rows[row];
    const fy = mirror(y + top, H), fx = mirror((flip ? W - 1 - x : x) + left, W);
    return fy < 0 || fx < 0 || fy >= H || fx >= W ? [0, 0, 0] : stored(row, fy, fx);
  };
  const grey = ([r, g, b]: Pixel) => 0.2989 * r + 0.587 * g + 0.114 * b;
  const clamp = (value: number) => Math.min(1, Math.max(0, value));
  const blend = (pixel: Pixel, other: number, factor: number) =>
    pixel.map((value) => clamp(factor * value + (1 - factor) * other)) as Pixel;
  const jittered = (row: number, pixel: Pixel): Pixel => {
    const [brightness, contrast, saturation, hue] = rows[row].colour;
    const bright = (pixel: Pixel) => pixel.map((value) => clamp(value * brightness)) as Pixel;
    let sum = 0;
    for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) sum += grey(bright(placed(row, y, x)));
    let out = blend(bright(pixel), sum / (H * W), contrast);
    out = blend(out, grey(out), saturation);
    return turned(out, hue);
  };
  const within = ([top, left, height, width]: Rectangle, y: number, x: number) =>
    y >= top && y < top + height && x >= left && x < left + width;
  const seen = (row: number, y: number, x: number): Pixel => {
    if (within(rows[row].erased, y, x) || within(rows[row].cutout, y, x)) return [0, 0, 0];
    const pixel = placed(row, y, x);
    return (colour ? jittered(row, pixel) : pixel).map((value, k) => (value - mean[k]) / std[k]) as Pixel;
  };
  const out: number[] = [];
  rows.forEach(({ partner, weight, pasted }, row) => {
    for (let y = 0; y < H; y++) {
      for (let x = 0; x < W; x++) {
        const own = seen(row, y, x), other = seen(partner, y, x);
        if (pasted[2] > 0) out.push(...(within(pasted, y, x) ? other : own), 0);
        else out.push(...own.map((value, k) => weight * value + (1 - weight) * other[k]), 0);
      }
    }
  });
  return out;
}

/** Hue by way of HSV, by Python's `colorsys`. */
function turned([r, g, b]: Pixel, shift: number): Pixel {
  const v = Math.max(r, g, b), range = v - Math.min(r, g, b);
  if (range === 0) return [r, g, b];
  const s = range / v, rc = (v - r) / range, gc = (v - g) / range, bc = (v - b) / range;
  const sixths = r === v ? bc - gc : g === v ? 2 + rc - bc : 4 + gc - rc;
  const h = ((sixths / 6 + shift) % 1 + 1) % 1, i = Math.floor(h * 6), f = h * 6 - i;
  const p = v * (1 - s), q = v * (1 - s * f), t = v * (1 - s * (1 - f));
  return ([[v, t, p], [q, v, p], [p, v, t], [p, q, v], [t, p, v], [v, p, q]] as Pixel[])[i % 6];
}

const CHANGES: Record<string, { changes: Partial<RowChange>[]; reflect?: boolean; colour?: boolean }> = {
  nothing: { changes: [{}, {}] },
  "crop and mirror": { changes: [{ top: 2, left: -3 }, { flip: true }, { flip: true, top: -2, left: 1 }] },
  "crop with reflection": { changes: [{ top: 4, left: -4 }, { flip: true, top: -3, left: 5 }], reflect: true },
  "erased rectangles": { changes: [{ erased: [1, 2, 3, 4] }, { cutout: [0, 0, 2, 2], erased: [5, 5, 4, 2] }] },
  colour: {
    changes: [
      { colour: [1.3, 1, 1, 0] },
      { colour: [0.8, 0.5, 1, 0], top: 1 },
      { colour: [1, 1.4, 0.2, 0], flip: true },
      { colour: [1, 1, 1, 0.3] },
      { colour: [1.1, 0.9, 1.5, -0.45] },
      {},
    ],
    colour: true,
  },
  mixup: { changes: [{ partner: 1, weight: 0.7 }, { partner: 0, weight: 0.2, flip: true }, { partner: 0 }] },
  CutMix: { changes: [{ partner: 1, weight: 0.8, pasted: [2, 1, 3, 3] }, { top: 1, erased: [3, 3, 2, 2] }] },
};

for (const [name, { changes, reflect = false, colour = false }] of Object.entries(CHANGES)) {
  gpuTest(`augment: ${name}`, async (device) => {
    const rows = changes.map((change) => ({ ...UNCHANGED, ...change }));
    const images = formula(rows.length * H * W * 3, 4).map((value) => (value + 1) / 2);
    const x = new Float32Array(rows.length * H * W * 4);
    images.forEach((value, i) => x[Math.floor(i / 3) * 4 + i % 3] = (value - mean[i % 3]) / std[i % 3]);
    const encoded = new Float32Array(rows.length * AUGMENT_VECTORS * 4);
    rows.forEach((change, row) => encodeChange(change, row, encoded));
    const labels = Uint32Array.from(rows, (_, i) => 100 + i);
    const at = {
      x: operand("x", x.length),
      labels: operand("labels", rows.length),
      changes: operand("changes", encoded.length),
      y: operand("y", x.length),
      mixes: operand("mixes", rows.length * 4),
    };
    const spec = { rows: rows.length, height: H, width: W, mean, std, reflect, colour };
    for (const software of colour ? [true, false] : [device.capabilities.software]) {
      const results = await runOnce(
        device,
        augmentBatch(at, spec, { ...device.capabilities, software }),
        new Map<typeof at.x, ArrayBufferView<ArrayBuffer>>([[at.x, x], [at.labels, labels], [at.changes, encoded]]),
        [at.y, at.mixes],
      );
      assertClose(new Float32Array(results[0], 0, x.length), reference(images, rows, spec), 3e-6, name);
      assertEquals(
        [...new Float32Array(results[1])],
        rows.flatMap(({ partner, weight }) => [Math.fround(weight), labels[partner], 0, 0]),
      );
    }
  });
}
