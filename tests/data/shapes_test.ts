import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { shapeNames, shapes } from "../../data/shapes.ts";

Deno.test("the shapes are the same for the same seed, and others for another", () => {
  const a = shapes({ train: 20, test: 10, seed: 1 });
  assertEquals(a, shapes({ train: 20, test: 10, seed: 1 }));
  assertNotEquals(a.train.images, shapes({ train: 20, test: 10, seed: 2 }).train.images);
});

Deno.test("fewer images are the first of more, and the training set does not depend on the test set's size", () => {
  const many = shapes({ train: 30, test: 10, seed: 1 }), few = shapes({ train: 20, test: 4, seed: 1 });
  assertEquals(few.train.images, many.train.images.slice(0, 20 * 3072));
  assertEquals(few.test.labels, many.test.labels.slice(0, 4));
});

Deno.test("classes are equally frequent and no test image is a training image", () => {
  const { train, test, classNames } = shapes({ train: 200, test: 100, seed: 3 });
  for (const [set, each] of [[train, 20], [test, 10]] as const) {
    const counts = new Array(classNames.length).fill(0);
    for (const label of set.labels) counts[label]++;
    assertEquals(counts, new Array(10).fill(each));
  }
  const keys = (set: typeof train) =>
    Array.from({ length: set.count }, (_, i) => set.images.subarray(i * 3072, (i + 1) * 3072).toHex());
  assertEquals(new Set([...keys(train), ...keys(test)]).size, 300);
  assertEquals(new Set(shapeNames).size, 10);
});

Deno.test("mean and standard deviation are those of the images", () => {
  const { train, mean, std } = shapes({ train: 1000, test: 0, seed: 4 });
  for (let k = 0; k < 3; k++) {
    const values = train.images.filter((_, i) => i % 3 === k);
    const m = values.reduce((sum, v) => sum + v / 255, 0) / values.length;
    const s = Math.sqrt(values.reduce((sum, v) => sum + (v / 255 - m) ** 2, 0) / values.length);
    assert(Math.abs(m - mean[k]) < 0.02 && Math.abs(s - std[k]) < 0.02, `channel ${k}: ${m}, ${s}`);
  }
});

Deno.test("a shape stands out of its ground", () => {
  // The classes differ by where they cover: circles cover their centre of mass, rings leave it free. So the images of
  // both differ in the middle, averaged over many.
  const { train } = shapes({ train: 2000, test: 0, seed: 5 });
  const brightness = (label: number) => {
    let sum = 0, count = 0;
    for (let i = 0; i < train.count; i++) {
      if (train.labels[i] !== label) continue;
      sum += train.images[i * 3072 + (16 * 32 + 16) * 3 + 1];
      count++;
    }
    return sum / count;
  };
  const circle = brightness(shapeNames.indexOf("circle")), ring = brightness(shapeNames.indexOf("ring"));
  assert(circle - ring > 50, `${circle} ${ring}`);
});
