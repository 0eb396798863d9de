/**
 * A network of your own: the ResNet-20 for small images of He, Zhang, Ren and Sun, "Deep Residual Learning for Image
 * Recognition" (2015), section 4.2, composed from modules, trained on a few images and evaluated.
 *
 *     deno run -A examples/resnet20.ts [STEPS] [IMAGES]
 */

import {
  add,
  BatchNorm2d,
  Conv2d,
  DeviceImages,
  Evaluator,
  GlobalAvgPool2d,
  ImageSource,
  Linear,
  Module,
  Network,
  openDevice,
  relu,
  Sequential,
  shapes,
  type Tensor,
  trainStep,
} from "@cardinal/resnext";

/** Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the size changes. */
class BasicBlock extends Module {
  conv1: Conv2d;
  bn1: BatchNorm2d;
  conv2: Conv2d;
  bn2: BatchNorm2d;
  shortcut?: Sequential;

  constructor(inChannels: number, channels: number, stride: number) {
    super();
    this.conv1 = new Conv2d(inChannels, channels, 3, { stride, padding: 1, bias: false });
    this.bn1 = new BatchNorm2d(channels);
    this.conv2 = new Conv2d(channels, channels, 3, { padding: 1, bias: false });
    this.bn2 = new BatchNorm2d(channels);
    if (stride !== 1 || inChannels !== channels) {
      const projection = new Conv2d(inChannels, channels, 1, { stride, bias: false });
      this.shortcut = new Sequential(projection, new BatchNorm2d(channels));
    }
  }

  forward(x: Tensor): Tensor {
    const y = relu(this.bn1.forward(this.conv1.forward(x)));
    return relu(add(this.bn2.forward(this.conv2.forward(y)), this.shortcut ? this.shortcut.forward(x) : x));
  }
}

/** Three stages of three blocks: 16 channels at 32x32, 32 at 16x16, 64 at 8x8. */
class ResNet20 extends Module {
  conv1 = new Conv2d(3, 16, 3, { padding: 1, bias: false });
  bn1 = new BatchNorm2d(16);
  layer1 = new Sequential(new BasicBlock(16, 16, 1), new BasicBlock(16, 16, 1), new BasicBlock(16, 16, 1));
  layer2 = new Sequential(new BasicBlock(16, 32, 2), new BasicBlock(32, 32, 1), new BasicBlock(32, 32, 1));
  layer3 = new Sequential(new BasicBlock(32, 64, 2), new BasicBlock(64, 64, 1), new BasicBlock(64, 64, 1));
  pool = new GlobalAvgPool2d();
  fc = new Linear(64, 10);

  forward(x: Tensor): Tensor {
    const y = relu(this.bn1.forward(this.conv1.forward(x)));
    const features = this.layer3.forward(this.layer2.forward(this.layer1.forward(y)));
    return this.fc.forward(this.pool.forward(features));
  }
}

const [steps = 32, count = 64] = Deno.args.map(Number);
const batchSize = 16;

// Any labelled RGB images will do; these are generated.
const { train, height, width, mean, std } = shapes({ train: count, test: 0, seed: 1 });
const input = { height, width, mean, std, imageSize: 32 };

const device = await openDevice();
const module = new ResNet20();
const network = await Network.create(device, module, { seed: 1 });
console.log(`ResNet-20: ${module.parameterCount} parameters, on ${device.name}`);

const images = await DeviceImages.create(device, train);
const source = await ImageSource.create(images, input, batchSize);
const step = await trainStep(network, { source, optimizer: { momentum: 0.9, weightDecay: 1e-4 } });
for (let done = 0; done < steps;) {
  // Steps are queued, and their results read some at a time.
  for (let queued = 0; queued < 8 && done < steps; queued++, done++) {
    const batch = Uint32Array.from({ length: batchSize }, (_, i) => (done * batchSize + i) % count);
    step.run(batch, { learningRate: 0.05 * (1 - done / steps) });
  }
  const results = await step.collect();
  const loss = results.reduce((sum, { lossSum, rows }) => sum + lossSum / rows, 0) / results.length;
  console.log(`Step ${String(done).padStart(3)} | Loss: ${loss.toFixed(4)}`);
}

const evaluator = await Evaluator.create(network, train, input, batchSize);
const report = await evaluator.run();
console.log(`Evaluation on the same images | Loss: ${report!.loss.toFixed(4)} | Acc: ${report!.top1.toFixed(4)}`);
device.close();
