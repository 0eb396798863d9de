import { assertThrows } from "@std/assert";
import type { Capabilities } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { runOnce } from "../../kernels/program.ts";
import { sgd } from "../../kernels/sgd.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { UserError } from "../../kernels/user_error.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

for (
  const [momentum, weightDecay, nesterov] of [[0, 0, false], [0.9, 0, false], [0.9, 0.05, false], [
    0.8,
    0.05,
    true,
  ]] as const
) {
  gpuTest(`sgd: momentum ${momentum}, weight decay ${weightDecay}${nesterov ? ", Nesterov" : ""}`, async (device) => {
    const elements = 2 ** 14 + 8;
    // torch/optim/sgd.py, _single_tensor_sgd; float64.
    const expected = Float64Array.from(formula(elements, 1));
    const buffers = new Float64Array(elements);
    let parameters: Float32Array<ArrayBuffer> = formula(elements, 1);
    let buffer: Float32Array<ArrayBuffer> = new Float32Array(elements);
    for (let step = 0; step < 3; step++) {
      const learningRate = 0.1 / (step + 1);
      const gradients = formula(elements, 10 + step);
      for (let i = 0; i < elements; i++) {
        const d = gradients[i] + weightDecay * expected[i];
        buffers[i] = step === 0 ? d : momentum * buffers[i] + d;
        const direction = momentum === 0 ? d : nesterov ? d + momentum * buffers[i] : buffers[i];
        expected[i] -= learningRate * direction;
      }
      const at = {
        parameters: operand("parameters", elements),
        gradients: operand("gradients", elements),
        momentumBuffer: momentum === 0 ? undefined : operand("buffer", elements),
        settings: stepSettingsOperand(),
      };
      const inputs = new Map<typeof at.settings, ArrayBufferView<ArrayBuffer>>([
        [at.parameters, parameters],
        [at.gradients, gradients],
        [at.settings, encodeStepSettings({ learningRate })],
      ]);
      if (at.momentumBuffer) inputs.set(at.momentumBuffer, buffer);
      const dispatches = sgd(at, { elements, momentum, weightDecay, nesterov }, device.capabilities);
      const results = await runOnce(device, dispatches, inputs, [at.parameters, at.momentumBuffer ?? at.parameters]);
      [parameters, buffer] = results.map((bytes) => new Float32Array(bytes));
    }
    assertClose(parameters, expected, 1e-6, "parameters");
    if (momentum !== 0) assertClose(buffer, buffers, 1e-6, "momentum buffer");
  });
}

gpuTest("sgd: weight decay ends where it is told to", async (device) => {
  const elements = 64, decayed = 24;
  const at = { parameters: operand("parameters", elements), gradients: operand("gradients", elements) };
  const settings = stepSettingsOperand(), parameters = formula(elements, 1), gradients = formula(elements, 2);
  const spec = { elements, momentum: 0, weightDecay: 0.5, decayed, nesterov: false };
  const [bytes] = await runOnce(
    device,
    sgd({ ...at, settings }, spec, device.capabilities),
    new Map<typeof settings, ArrayBufferView<ArrayBuffer>>([
      [at.parameters, parameters],
      [at.gradients, gradients],
      [settings, encodeStepSettings({ learningRate: 0.1 })],
    ]),
    [at.parameters],
  );
  const expected = parameters.map((p, i) => p - 0.1 * (gradients[i] + (i < decayed ? 0.5 * p : 0)));
  assertClose(new Float32Array(bytes), expected, 1e-6, "parameters");
});

Deno.test("sgd: Nesterov without momentum is refused", () => {
  const at = { parameters: operand("p", 4), gradients: operand("g", 4), settings: stepSettingsOperand() };
  const spec = { elements: 4, momentum: 0, weightDecay: 0, nesterov: true };
  assertThrows(() => sgd(at, spec, {} as Capabilities), UserError, "Nesterov");
});
