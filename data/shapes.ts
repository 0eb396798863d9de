/**
 * The data set that ships inside: images of ten shapes, drawn from a seed, for a run that needs no download.
 *
 * A shape is a signed distance function on a plane where it has about unit size, negative inside. An image places it
 * by a random rotation, size and offset, and blends its colour over a background by the distance measured in pixels,
 * which smooths its edge over one pixel (Quilez, "2D distance functions"; the formulas here are from geometry).
 */

import { Random } from "../kernels/random.ts";
import type { Dataset, ImageSet } from "./dataset.ts";

/** Distance from (x, y) to a shape's edge, negative inside; y points down. */
type Distance = (x: number, y: number) => number;

const { abs, hypot, max, min, PI, sin, cos } = Math;

/** Distance to a box with half sides `a` and `b`. */
function box(x: number, y: number, a: number, b: number): number {
  const dx = abs(x) - a, dy = abs(y) - b;
  return hypot(max(dx, 0), max(dy, 0)) + min(max(dx, dy), 0);
}

/** Distance to a closed polygon of any form: to its nearest side, negative where an odd number of sides is crossed. */
function polygon(points: readonly (readonly [number, number])[]): Distance {
  const sides = points.map(([ax, ay], i) => {
    const [bx, by] = points[(i + 1) % points.length];
    return { ax, ay, dx: bx - ax, dy: by - ay, square: (bx - ax) ** 2 + (by - ay) ** 2 };
  });
  return (x, y) => {
    let nearest = Infinity, inside = false;
    for (const { ax, ay, dx, dy, square } of sides) {
      const px = x - ax, py = y - ay;
      const t = min(max((px * dx + py * dy) / square, 0), 1);
      nearest = min(nearest, (px - dx * t) ** 2 + (py - dy * t) ** 2);
      if ((ay > y) !== (ay + dy > y) && px < dx * py / dy) inside = !inside;
    }
    return inside ? -Math.sqrt(nearest) : Math.sqrt(nearest);
  };
}

/** The corners of a star, or of a regular polygon where both radii are equal; the first one points up. */
function corners(count: number, outer: number, inner = outer): [number, number][] {
  return Array.from({ length: count }, (_, i) => {
    const angle = 2 * PI * i / count, radius = i % 2 ? inner : outer;
    return [radius * sin(angle), -radius * cos(angle)];
  });
}

/** The shapes, in the order of their labels. */
const SHAPES: Readonly<Record<string, Distance>> = {
  circle: (x, y) => hypot(x, y) - 0.85,
  ring: (x, y) => abs(hypot(x, y) - 0.75) - 0.2,
  square: (x, y) => box(x, y, 0.8, 0.8),
  triangle: polygon(corners(3, 1.1)),
  star: polygon(corners(10, 1.1, 0.45)),
  cross: (x, y) => min(box(x, y, 1, 0.28), box(x, y, 0.28, 1)),
  bar: (x, y) => box(x, y, 1.1, 0.28),
  crescent: (x, y) => max(hypot(x, y) - 0.95, 0.75 - hypot(x - 0.5, y)),
  frame: (x, y) => abs(box(x, y, 0.7, 0.7)) - 0.18,
  dots: (x, y) => hypot(abs(x) - 0.62, y) - 0.42,
};

/** The names of the ten classes, in the order of their labels. */
export const shapeNames: readonly string[] = Object.keys(SHAPES);

/** Mean and standard deviation of each colour over many images. */
export const shapesStatistics = { mean: [0.31, 0.345, 0.285], std: [0.247, 0.278, 0.23] } as const;

/** Largest rotation either way, in radians. */
const TILT = PI / 12;

/** Height and width of an image. */
const SIZE = 32;

/** How many images, and from which seed. */
export interface ShapesOptions {
  /** Training images. */
  readonly train: number;
  /** Test images, drawn from another stream than the training images. */
  readonly test: number;
  /** An integer in [0, 2^53). */
  readonly seed: number;
}

/**
 * Draws the data set: 32x32 images of ten classes, equally many of each, in mixed order.
 *
 * @example
 * ```ts
 * import { shapes } from "@cardinal/resnext";
 *
 * const { train, classNames } = shapes({ train: 20, test: 10, seed: 0 });
 * if (train.images.length !== 20 * 32 * 32 * 3 || classNames.length !== 10) throw new Error("32x32, RGB");
 * ```
 */
export function shapes({ train, test, seed }: ShapesOptions): Dataset {
  const drawn = draw(train, new Random(seed, 1));
  return {
    name: "shapes",
    classNames: shapeNames,
    height: SIZE,
    width: SIZE,
    ...shapesStatistics,
    train: drawn,
    test: draw(test, new Random(seed, 2)),
  };
}

function draw(count: number, random: Random): ImageSet {
  const images = new Uint8Array(count * SIZE * SIZE * 3), labels = new Uint8Array(count);
  const distances = Object.values(SHAPES);
  let deck: number[] = [];
  for (let i = 0; i < count; i++) {
    // Dealt from a shuffled deck of the ten classes, so that any first n images are balanced too.
    if (deck.length === 0) deck = distances.map((_, label) => label);
    labels[i] = deck.splice(random.below(deck.length), 1)[0];
    drawImage(images.subarray(i * SIZE * SIZE * 3, (i + 1) * SIZE * SIZE * 3), distances[labels[i]], random);
  }
  return { count, images, labels };
}

type Colour = readonly [number, number, number];

/** One image of a shape, at a random place. */
function drawImage(out: Uint8Array, distance: Distance, random: Random): void {
  const between = (low: number, high: number) => low + (high - low) * random.uniform();
  const radius = between(11, 13.5);
  const reach = SIZE / 2 - radius;
  const x0 = SIZE / 2 + between(-reach, reach), y0 = SIZE / 2 + between(-reach, reach);
  const angle = between(-TILT, TILT);
  const c = cos(angle) / radius, s = sin(angle) / radius;
  const background = drawBackground(between, random);
  const colour = contrasting(background.colour, between);
  const noise = between(0, 6);
  for (let row = 0, at = 0; row < SIZE; row++) {
    for (let column = 0; column < SIZE; column++, at += 3) {
      const dx = column + 0.5 - x0, dy = row + 0.5 - y0;
      const edge = distance(c * dx + s * dy, c * dy - s * dx) * radius;
      const cover = min(max(0.5 - edge, 0), 1);
      const shade = background.shade(dx, dy);
      for (let k = 0; k < 3; k++) {
        const under = background.colour[k] + shade;
        const grain = noise * (random.uniform() + random.uniform() + random.uniform() - 1.5);
        out[at + k] = min(max(under + (colour[k] - under) * cover + grain, 0), 255) + 0.5;
      }
    }
  }
}

type Between = (low: number, high: number) => number;

/** A plain, graded or striped ground: a colour and what is added to it at each place. */
function drawBackground(between: Between, random: Random) {
  const colour: Colour = [between(0, 100), between(0, 100), between(0, 100)];
  const angle = between(0, 2 * PI), strength = between(6, 20);
  const across = (dx: number, dy: number) => dx * cos(angle) + dy * sin(angle);
  const wave = 2 * PI / between(3, 8), phase = between(0, 2 * PI);
  const shades = [
    () => 0,
    (dx: number, dy: number) => strength * across(dx, dy) / SIZE * 2,
    (dx: number, dy: number) => strength * sin(wave * across(dx, dy) + phase),
  ];
  return { colour, shade: shades[random.below(shades.length)] };
}

/** Brightness as the eye weighs it: Rec. 601's luma. */
function luma([r, g, b]: Colour): number {
  return 0.299 * r + 0.587 * g + 0.114 * b;
}

/** A colour that is clearly lighter than `ground`. */
function contrasting(ground: Colour, between: Between): Colour {
  for (;;) {
    const colour: Colour = [between(0, 255), between(0, 255), between(0, 255)];
    if (luma(colour) - luma(ground) > 100) return colour;
  }
}
