import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { DeviceLostError } from "../../kernels/device.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { BatchSizeError } from "../../nn/batch_size.ts";
import { Classifier, type ClassifierOptions, rank } from "../../nn/classifier.ts";
import { DeviceImages, ImageSource } from "../../nn/image_source.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { Network } from "../../nn/network.ts";
import { resnext50 } from "../../nn/resnext.ts";
import { NonFiniteError } from "../../nn/non_finite.ts";
import { RING_SLOTS } from "../../nn/step.ts";
import { shapes } from "../../data/shapes.ts";
import { gpuTest } from "../support.ts";

const { test: { images }, mean, std } = shapes({ train: 0, test: 5, seed: 0 });
const BYTES = 32 * 32 * 3;
const pictures = Array.from({ length: 5 }, (_, i) => images.subarray(i * BYTES, (i + 1) * BYTES));

gpuTest("a classifier gives each picture the logits of evaluation, whatever it stands with", async (device) => {
  const network = await Network.create(
    device,
    resnext50({ layers: [1], channels: [16], cardinality: 4, numClasses: 7 }),
  );
  const set = await DeviceImages.create(device, { count: 5, images, labels: new Uint8Array(5) });
  const source = await ImageSource.create(set, { height: 32, width: 32, imageSize: 32, mean, std }, 5);
  const step = await evalStep(network, { source });
  step.run(Uint32Array.of(0, 1, 2, 3, 4));
  const wanted = await step.logits();

  const classifier = await Classifier.create(network, { imageSize: 32, mean, std, batchSizes: [1, 4] });
  assertEquals(classifier.batchSize, 4);
  assertEquals(await classifier.classify([]), []);
  const four = await classifier.classify(pictures.slice(0, 4)), [last] = await classifier.classify([pictures[4]]);
  assertEquals(
    [...four, last].map((logits) => [...logits]),
    Array.from({ length: 5 }, (_, i) => [...wanted.slice(i * 7, i * 7 + 7)]),
  );
  // More calls than a step keeps results of.
  for (let i = 0; i <= RING_SLOTS; i++) await classifier.classify([pictures[i % 5]]);

  const refused = (options: Partial<ClassifierOptions>, message: string) =>
    assertRejects(() => Classifier.create(network, { imageSize: 32, mean, std, ...options }), RangeError, message);
  for (const sizes of [[], [4, 1], [2, 2], [0], [-1], [1.5], [NaN]]) {
    await refused({ batchSizes: sizes }, `Cannot classify with batchSizes [${sizes}]: it must be ascending positive`);
  }
  for (const imageSize of [0, -32, 1.5, NaN]) await refused({ imageSize }, `with imageSize ${imageSize}`);
  await refused(
    { std: [1, 0, 1] },
    "Cannot normalize images with std [1,0,1]: it must be three finite numbers above 0",
  );
  // At the same time.
  const together = await Promise.all(pictures.map((picture) => classifier.classify([picture])));
  assertEquals(together.map(([logits]) => [...logits]), [...four, last].map((logits) => [...logits]));

  await assertRejects(
    () => Classifier.create(network, { imageSize: 32, mean, std, batchSizes: [1, Number.MAX_SAFE_INTEGER] }),
    BatchSizeError,
    "images of 32x32 pixels; choose smaller ones",
  );

  await assertRejects(() => classifier.classify(pictures), RangeError, "5 pictures at a time: 4 at most");
  await assertRejects(() => classifier.classify([images]), RangeError, "a picture of 15360 bytes: it must have 3072");
  for (const [wrong, kind] of [[new Float32Array(BYTES), "Float32Array"], [undefined, "undefined"]] as const) {
    const message = `Cannot classify a picture in ${kind}: give a Uint8Array of RGB bytes`;
    await assertRejects(() => classifier.classify([wrong as unknown as Uint8Array]), TypeError, message);
  }
  for (const each of [classifier, step, source, set, network]) each.destroy();
});

gpuTest("a picture whose step the device leaves out gets no other picture's logits", async () => {
  const device = await openDevice(), { queue } = device.gpu, submit = queue.submit;
  const network = await Network.create(device, resnext50({ layers: [1], channels: [16], cardinality: 4 }));
  const classifier = await Classifier.create(network, { imageSize: 32, mean, std });
  await classifier.classify([pictures[0]]);
  queue.submit = () => void (queue.submit = submit);
  await assertRejects(() => classifier.classify([pictures[1]]), DeviceLostError, "it left out work of a step");
  device.close();
});

Deno.test("classes are ranked by their probability; of equal ones the first comes first", () => {
  const ranking = rank([0, Math.log(3), 0, -Infinity], 3, ["a", "b"]);
  assertEquals(ranking.map(({ label, class: index }) => [label, index]), [["b", 1], ["a", 0], ["class 2", 2]]);
  assertEquals(ranking.map(({ probability }) => probability.toFixed(6)), ["0.600000", "0.200000", "0.200000"]);
  for (const bad of [[0, NaN], [Infinity, 0], [-Infinity, -Infinity], []]) {
    assertThrows(() => rank(bad, 1), NonFiniteError, "Cannot rank the classes: the network's logits are not finite;");
  }
});
