/** A checkpoint for tests of files: small, and whole. */

import type { Checkpoint } from "../nn/checkpoint.ts";
import { describedNetwork } from "../nn/described_network.ts";
import { float32Tensor, type TensorData } from "../nn/safetensors.ts";
import { Counter } from "../nn/state.ts";
import { formula } from "./support.ts";

/** A checkpoint of the smallest network, with a run in it. */
export function smallCheckpoint(epoch = 1, step = 2): Checkpoint {
  const network = { arch: "resnext50", num_classes: 2, cardinality: 2, layers: [1], channels: [8] };
  const state = new Map<string, TensorData>(), momenta = new Map<string, TensorData>();
  for (const [name, entry] of describedNetwork(network).stateEntries()) {
    if (entry instanceof Counter) {
      state.set(name, { dtype: "I64", shape: [], bytes: new Uint8Array(8) });
      continue;
    }
    const values = () => float32Tensor(formula(entry.shape.reduce((a, b) => a * b, 1), state.size), entry.shape);
    state.set(name, values());
    if (!/running/.test(name)) momenta.set(name, values());
  }
  const settings = {
    dataset: "shapes",
    batch_size: 8,
    epochs: 3,
    lr: 0.01,
    momentum: 0.9,
    weight_decay: 0,
    nesterov: false,
    label_smoothing: 0,
    seed: 1,
  };
  const history = Array.from({ length: epoch }, (_, i) => (
    { epoch: i + 1, train_loss: 2.3, test_loss: 2.2, test_acc: 0.25 }
  ));
  return {
    description: {
      network,
      input: { image_size: 16, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] },
      class_names: ["a", "b"],
      settings,
      progress: { epoch, step, loss_sum: 5, rows: 16, history },
    },
    state,
    momenta,
  };
}
