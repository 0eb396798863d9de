/**
 * Fine-tuning: weights that somebody trained become the beginning of a network for pictures of one's own, whose first
 * stages stay as they are.
 *
 *     deno run -A examples/fine_tune.ts PICTURES WEIGHTS OUT [EPOCHS] [IMAGE_SIZE]
 *
 * PICTURES holds a folder of pictures for each class, or `train` and `val` with those; WEIGHTS are a `.safetensors` or `.pth` file of
 * a ResNeXt, such as torchvision's resnext50_32x4d; OUT is the checkpoint to write.
 */

import {
  bytesSource,
  describedNetwork,
  encodeCheckpoint,
  fineTuning,
  type NetworkDescription,
  openDevice,
  readWeightsFile,
  recognise,
  type RunDescription,
  Trainer,
} from "@cardinal/resnext";
import { dataDirectory, readFolder } from "@cardinal/resnext/data";

const [pictures, weights, out, epochs = "5", size = "224"] = Deno.args;
if (!out) {
  console.error("usage: fine_tune.ts PICTURES WEIGHTS OUT [EPOCHS] [IMAGE_SIZE]");
  Deno.exit(2);
}
const imageSize = Number(size);
// A folder of classes alone: a fifth of each is for testing.
const valSplit = await Deno.stat(`${pictures}/train`).then(() => undefined, () => 0.2);
const data = await readFolder({ path: pictures, dataDirectory: dataDirectory(), imageSize, valSplit });

const { tensors } = await readWeightsFile(bytesSource(await Deno.readFile(weights)), weights);
const classes = data.classNames.length;
const network: NetworkDescription = { ...recognise(tensors, weights, { headless: true }), num_classes: classes };
const { state, replacedClasses } = fineTuning(describedNetwork(network), tensors);
console.log(
  `${network.arch}, ${data.train.count} pictures of ${classes} classes; the head was for ${replacedClasses ?? classes}`,
);

const run: RunDescription = {
  network,
  input: { image_size: imageSize, mean: data.mean, std: data.std },
  settings: {
    ...{ dataset: `folder:${pictures}`, batch_size: 16, epochs: Number(epochs), lr: 0.01, seed: 0 },
    ...{ momentum: 0.9, weight_decay: 1e-4, nesterov: false, label_smoothing: 0.1 },
    schedule: { kind: "cosine", by: "step" },
    // `eval` and `train --resume` split the folder as it was split here, by this and the seed.
    val_split: valSplit,
    frozen: ["stem", "layer1"],
  },
};
const device = await openDevice();
const trainer = await Trainer.create(device, data, run, { description: { network }, state });
for await (const event of trainer.run()) {
  if (event.type !== "epoch") continue;
  const { epoch, train_loss, test_acc } = event.metrics;
  console.log(`Epoch ${epoch} | Train Loss: ${train_loss.toFixed(4)} | Test Acc: ${test_acc.toFixed(4)}`);
}
await Deno.writeFile(out, await encodeCheckpoint(await trainer.checkpoint()));
console.log(`Wrote ${out}`);
trainer.destroy();
device.close();
data.close();
