/**
 * Cardinal: ResNeXt on any GPU, in TypeScript, through WebGPU. Networks compose as in PyTorch, weights travel as
 * safetensors under PyTorch's names, and training steps are compiled into plans of WGSL kernels.
 *
 * What differs from PyTorch:
 * - SGD's momentum is 0.9 where none is named, not 0.
 * - AdamW counts its steps for all parameters together, not for each; its `eps` is at least 1e-30.
 * - Weights of convolutions and linear layers begin as Kaiming normal deviates (fan in, gain of ReLU), biases as zeros.
 * - `new MaxPool2d({ kernel, stride, padding })` takes its settings by name; `eps` of a batch norm is positive.
 * - Weight decay also takes parameters that `forward` does not use; PyTorch leaves those alone that have no gradient.
 * - `num_batches_tracked` counts a batch once, however often a batch norm is applied to it.
 * - A label that is none of the classes is an error: none is left out of the loss, -100 neither.
 *
 * @example Train a narrow ResNeXt on a batch
 * ```ts
 * import { FloatSource, Network, openDevice, resnext50, trainStep } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1, 1], channels: [32, 64], cardinality: 4 }));
 * const source = await FloatSource.create(device, { n: 8, c: 3, h: 32, w: 32 });
 * const step = await trainStep(network, { source, optimizer: { momentum: 0.9 } });
 *
 * const images = Float32Array.from({ length: 8 * 3 * 32 * 32 }, Math.random);
 * const labels = [0, 1, 2, 3, 4, 5, 6, 7];
 * for (let i = 0; i < 3; i++) step.run({ images, labels }, { learningRate: 0.01 });
 * const losses = (await step.collect()).map(({ lossSum, rows }) => lossSum / rows);
 * if (losses.length !== 3) throw new Error("three steps were run");
 * device.close();
 * ```
 *
 * @module
 */

export { type Capabilities, Device, DeviceLostError, OutOfMemoryError, type Suspect } from "./kernels/device.ts";
export { type DeviceOptions, NoAdapterError, openDevice } from "./kernels/open_device.ts";
export {
  type Binding,
  type Dispatch,
  type ElementType,
  type Operand,
  operand,
  read,
  readScalars,
  write,
} from "./kernels/dispatch.ts";
export type { LoadNorm } from "./kernels/load_norm.ts";
export type { GradientSums, RowChunks } from "./kernels/row_sums.ts";
export type { StepSettings } from "./kernels/step_settings.ts";
export { type Around as AroundProgram, type Placement, Program } from "./kernels/program.ts";
export { Tuning, type TuningEntries } from "./kernels/tuning.ts";
export { each } from "./kernels/elementwise.ts";
export { type Shape, storedElements } from "./kernels/layout.ts";
export { UserError } from "./kernels/user_error.ts";

export { Module, Sequential } from "./nn/module.ts";
export { Counter, type Entry, type Initial, Parameter, StateBuffer, type StateEntry } from "./nn/state.ts";
export { apply, type Backward, type Loaded, type Lowering, type Node, type Operation, Tensor } from "./nn/tensor.ts";
export { BatchNorm2d, Conv2d, type Conv2dOptions, GlobalAvgPool2d, Linear, MaxPool2d, ReLU } from "./nn/layers.ts";
export { batchNorm, type BatchNormSettings, type BatchNormState } from "./nn/ops/batch_norm.ts";
export { conv2d, type Conv2dSettings } from "./nn/ops/conv2d.ts";
export { globalAvgPool, maxPool, type MaxPoolSettings } from "./nn/ops/pool.ts";
export { relu } from "./nn/ops/relu.ts";
export { add, addToGradient } from "./nn/ops/sum.ts";

export {
  type Architecture,
  ARCHITECTURES,
  isArchitecture,
  ResNeXt,
  resnext,
  resnext101,
  resnext50,
  ResNeXtBlock,
  type ResNeXtBlockOptions,
  type ResNeXtOptions,
  type Stem,
  STEMS,
} from "./nn/resnext.ts";
export {
  KNOWN_NETWORKS,
  type KnownNetwork,
  NETWORK_FACTS,
  type NetworkFacts,
  type PublishedWeights,
} from "./nn/networks.ts";
export { summarize, type Summary, type SummaryRow } from "./nn/summary.ts";
export { type StepMemory, stepMemory, TYPICAL_GPU } from "./nn/memory.ts";

export { type BatchSource, type FloatBatch, FloatSource } from "./nn/batch_source.ts";
export { DeviceImages, type ImageBatch, type ImageInput, ImageSource } from "./nn/image_source.ts";
export type { LabelledImages, StoredPixels } from "./nn/labelled_images.ts";
export { BatchSizeError } from "./nn/batch_size.ts";
export type { HalfWeights, Matrices } from "./nn/half_weights.ts";
export type { LossScale } from "./nn/loss_scale.ts";
export { Network } from "./nn/network.ts";
export { Arena, type Assignment, Plan, type SlabPlace } from "./nn/plan.ts";
export type { OptimizerChunk, TrainingOptions } from "./nn/training_memory.ts";
export { type StateDict, type WeightBuffer, Weights, type WeightsOptions } from "./nn/weights.ts";
export { type EvalStep, evalStep, type EvalStepOptions, type Evaluation } from "./nn/eval_step.ts";
export { type Around, RING_SLOTS, type RingStep, type Step, type StepResult } from "./nn/step.ts";
export {
  type GradientStep,
  gradientStep,
  type GradientStepOptions,
  type LearningStep,
  type TrainingStepOptions,
  type TrainStep,
  trainStep,
  type TrainStepOptions,
  type UpdateStep,
  updateStep,
  type UpdateStepOptions,
} from "./nn/train_step.ts";
export {
  type AdamWSettings,
  type Moment,
  type OptimizerKind,
  OPTIMIZERS,
  type OptimizerSettings,
  type SgdSettings,
} from "./nn/optimizers.ts";
export type { AdamWState } from "./nn/optimizer_memory.ts";
export type { UpdateSettings } from "./nn/update.ts";
export { type EvaluationReport, Evaluator } from "./nn/evaluator.ts";
export { Classifier, type ClassifierOptions, type Prediction, rank } from "./nn/classifier.ts";
export { confusionOf, judge, type Judgement, type JudgeOptions, softmax } from "./nn/judge.ts";
export { NO_CLASS } from "./kernels/cross_entropy.ts";
export { NonFiniteError } from "./nn/non_finite.ts";
export { MovingAverage } from "./nn/ema.ts";
export { learningRate, type ScheduledRun, type ScheduleKind, SCHEDULES, type ScheduleSettings } from "./nn/schedule.ts";
export {
  type AugmentedBatch,
  type AugmentedImage,
  AugmentedSource,
  type AugmentSettings,
  drawChange,
  drawChanges,
  type Normalization,
} from "./nn/augment.ts";
export type { Rectangle, RowChange } from "./kernels/augment.ts";
export type { ImageWindow } from "./kernels/batch.ts";
export { imageInput, type RunDescription, type TrainingData } from "./nn/run_description.ts";
export { DivergedError, type TrainEvent } from "./nn/train_events.ts";
export { Trainer, type TrainerOptions } from "./nn/trainer.ts";

export {
  type Checkpoint,
  type CheckpointDescription,
  decodeCheckpoint,
  encodeCheckpoint,
  type EpochMetrics,
  type InputDescription,
  type NetworkDescription,
  type RunProgress,
  type RunSettings,
  testedState,
} from "./nn/checkpoint.ts";
export { recognise, type RecogniseOptions } from "./nn/recognise.ts";
export { type FineTuning, fineTuning } from "./nn/fine_tune.ts";
export type { LossScaleState } from "./kernels/loss_scale.ts";
export type { StatePlaces } from "./nn/lowering.ts";
export { describedNetwork } from "./nn/described_network.ts";
export {
  type Dtype,
  encodeSafetensors,
  float32Tensor,
  parseSafetensors,
  type Safetensors,
  type TensorData,
  toFloat32,
} from "./nn/safetensors.ts";
export { type ByteSource, bytesSource } from "./nn/byte_source.ts";
export { readWeightsFile, type WeightsFile } from "./nn/weights_file.ts";
export { encodeOnnx, ONNX_INPUT, ONNX_OUTPUT, type OnnxOptions } from "./nn/onnx.ts";

export { permutation, Random } from "./kernels/random.ts";
export { type AnyImageSet, type Dataset, type ImageFile, type ImageSet, limit } from "./data/dataset.ts";
export { shapeNames, shapes, type ShapesOptions } from "./data/shapes.ts";
