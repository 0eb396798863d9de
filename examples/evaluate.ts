/**
 * Somebody's weights on one's own pictures: how often they are right, and where they are most surely wrong.
 *
 *     deno run -A examples/evaluate.ts CHECKPOINT PICTURES
 *
 * CHECKPOINT is a file of `train` or of `checkpoint import`; PICTURES holds a folder for each class, or
 * `val` with those.
 */

import {
  decodeCheckpoint,
  describedNetwork,
  imageInput,
  type InputDescription,
  judge,
  type Judgement,
  Network,
  openDevice,
  testedState,
} from "@cardinal/resnext";
import { dataDirectory, imagenetStatistics, readFolder } from "@cardinal/resnext/data";

const [file, pictures] = Deno.args;
if (!pictures) {
  console.error("usage: evaluate.ts CHECKPOINT PICTURES");
  Deno.exit(2);
}
const checkpoint = await decodeCheckpoint(await Deno.readFile(file), file), { description } = checkpoint;
const input: InputDescription = description.input ?? { image_size: 224, ...imagenetStatistics };
const { image_size: imageSize, resize_size: resizeSize } = input;
const data = await readFolder({ path: pictures, dataDirectory: dataDirectory(), imageSize, resizeSize, trainLimit: 0 });
if (description.network.num_classes !== data.classNames.length) {
  console.error(`The network has ${description.network.num_classes} classes, the folder ${data.classNames.length}`);
  Deno.exit(1);
}

const device = await openDevice();
const network = await Network.create(device, describedNetwork(description.network));
network.loadStateDict(testedState(checkpoint));
const judgements: Judgement[] = [];
for await (const batch of judge(network, data.test, imageInput(data, input, data.test), 16)) judgements.push(...batch);

const wrong = judgements.filter(({ label, prediction }) => label !== prediction);
console.log(`${judgements.length - wrong.length} of ${judgements.length} pictures are named right`);
for (const { image, label, prediction, confidence } of wrong.sort((a, b) => b.confidence - a.confidence).slice(0, 5)) {
  const [taken, is] = [data.classNames[prediction], data.classNames[label]];
  console.log(`Picture ${image} is ${is}, taken for ${taken} with ${(confidence * 100).toFixed(0)} %`);
}
device.close();
data.close();
