import { assertEquals } from "@std/assert";
import { crossEntropy, metricsElements } from "../../kernels/cross_entropy.ts";
import type { Device } from "../../kernels/device.ts";
import { type Operand, operand } from "../../kernels/dispatch.ts";
import {
  decodeLossScale,
  encodeLossScale,
  GROWTH_INTERVAL,
  LOSS_SCALE_BOUNDS,
  lossScaleOperand,
  type LossScaleState,
  unscale,
  updateLossScale,
} from "../../kernels/loss_scale.ts";
import { runOnce } from "../../kernels/program.ts";
import { sgd } from "../../kernels/sgd.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { formula, gpuTest } from "../support.ts";

/** An odd number of vec4s, more than one workgroup's. */
const ELEMENTS = 3 * 2 ** 12 + 12;

/** One optimizer step from a state, on gradients as the scaled loss has them. */
async function step(device: Device, state: LossScaleState, gradients: Float32Array<ArrayBuffer>) {
  const elements = gradients.length, caps = device.capabilities;
  const at = {
    parameters: operand("parameters", elements),
    gradients: operand("gradients", elements),
    momentumBuffer: operand("momentum", elements),
    norms: operand("norms", 8),
    settings: stepSettingsOperand(),
    lossScale: lossScaleOperand(),
  };
  const spec = { elements, momentum: 0.9, weightDecay: 0.01, nesterov: true };
  const results = await runOnce(
    device,
    [...unscale(at, elements, caps), ...sgd(at, spec, caps), ...updateLossScale(at)],
    new Map<Operand, ArrayBufferView<ArrayBuffer>>([
      [at.parameters, formula(elements, 1)],
      [at.gradients, gradients],
      [at.momentumBuffer, formula(elements, 2)],
      [at.norms, Float32Array.of(1, 1, 1, 1, Infinity, NaN, 7, 7)],
      [at.settings, encodeStepSettings({ slot: 1, learningRate: 0.1 })],
      [at.lossScale, encodeLossScale(state)],
    ]),
    [at.parameters, at.momentumBuffer, at.gradients, at.norms, at.lossScale],
  );
  const [parameters, momentum, unscaled, norms] = results.map((bytes) => new Float32Array(bytes));
  const words = new Uint32Array(results[4]), [scale, inverse] = new Float32Array(results[4]);
  assertEquals([scale * inverse, words[3]], [1, 0]);
  return { parameters, momentum, unscaled, norms: [...norms], state: decodeLossScale(results[4]) };
}

gpuTest("loss scale: gradients are divided by it, and the step is as without", async (device) => {
  const scale = 1024, gradients = formula(ELEMENTS, 3);
  const scaled = await step(device, { scale, goodSteps: 5 }, gradients.map((g) => g * scale));
  const plain = await step(device, { scale: 1, goodSteps: 0 }, gradients);
  assertEquals(scaled.unscaled, gradients);
  assertEquals([scaled.parameters, scaled.momentum], [plain.parameters, plain.momentum]);
  assertEquals(scaled.state, { scale, goodSteps: 6 });
  // Another slot's entry stays.
  assertEquals(scaled.norms.slice(0, 4), [1, 1, 1, 1]);
  assertEquals(scaled.norms.slice(6), [scale, 0]);
});

gpuTest("loss scale: a step whose gradients overflow changes nothing but the scale", async (device) => {
  for (const [at, value] of [[0, Infinity], [ELEMENTS - 1, NaN], [ELEMENTS / 2 + 1, -Infinity]] as const) {
    const gradients = formula(ELEMENTS, 3);
    gradients[at] = value;
    const { parameters, momentum, norms, state } = await step(device, { scale: 2 ** 40, goodSteps: 1999 }, gradients);
    assertEquals([parameters, momentum], [formula(ELEMENTS, 1), formula(ELEMENTS, 2)]);
    assertEquals(state, { scale: 2 ** 39, goodSteps: 0 });
    // What the norm came to is no norm.
    assertEquals(norms, [1, 1, 1, 1, 0, 0, 2 ** 40, 1]);
  }
  // The largest float32 number is one.
  const largest = new Float32Array(4).fill(3.4028234663852886e38);
  assertEquals((await step(device, { scale: 2, goodSteps: 0 }, largest)).state, { scale: 2, goodSteps: 1 });
});

gpuTest("loss scale: it grows after so many good steps, and stays between its bounds", async (device) => {
  const good = formula(4, 1), bad = Float32Array.of(0, NaN, 0, 0), [least, most] = LOSS_SCALE_BOUNDS;
  const after = async (scale: number, goodSteps: number, gradients = good) =>
    (await step(device, { scale, goodSteps }, gradients)).state;
  assertEquals(GROWTH_INTERVAL, 2000);
  assertEquals(await after(512, 1998), { scale: 512, goodSteps: 1999 });
  assertEquals(await after(512, 1999), { scale: 1024, goodSteps: 0 });
  assertEquals(await after(most, 1999), { scale: most, goodSteps: 0 });
  assertEquals(await after(most, 3, bad), { scale: most / 2, goodSteps: 0 });
  assertEquals(await after(least, 3, bad), { scale: least, goodSteps: 0 });
  assertEquals(await after(2 * least, 3, bad), { scale: least, goodSteps: 0 });
});

gpuTest("loss scale: the loss's gradient is multiplied by it, the loss is not", async (device) => {
  const rows = 3, classes = 5, caps = device.capabilities;
  const run = async (scale?: number) => {
    const at = {
      logits: operand("logits", rows * 8),
      labels: operand("labels", rows),
      dlogits: operand("dlogits", rows * 8),
      metrics: operand("metrics", metricsElements(1)),
      settings: stepSettingsOperand(),
      ...(scale !== undefined && { lossScale: lossScaleOperand() }),
    };
    const inputs = new Map<Operand, ArrayBufferView<ArrayBuffer>>([
      [at.logits, formula(rows * 8, 1, 4)],
      [at.labels, Uint32Array.of(0, 4, 2)],
      [at.settings, encodeStepSettings({ validRows: 2 })],
    ]);
    if (at.lossScale) inputs.set(at.lossScale, encodeLossScale({ scale: scale!, goodSteps: 0 }));
    const results = await runOnce(
      device,
      crossEntropy(at, { rows, classes, labelSmoothing: 0.1 }, caps),
      inputs,
      [at.dlogits, at.metrics],
    );
    return results.map((bytes) => new Float32Array(bytes));
  };
  const [plain, metrics] = await run(), [scaled, same] = await run(256);
  assertEquals(scaled, plain.map((value) => value * 256));
  assertEquals(same, metrics);
});
