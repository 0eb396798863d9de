import { assert, assertEquals } from "@std/assert";
import { adamw, type AdamWSpec, countStep, decodeSteps, encodeSteps, stepsOperand } from "../../kernels/adamw.ts";
import type { Device } from "../../kernels/device.ts";
import { type Operand, operand } from "../../kernels/dispatch.ts";
import { encodeLossScale, lossScaleOperand, unscale, updateLossScale } from "../../kernels/loss_scale.ts";
import { runOnce } from "../../kernels/program.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { assertClose, formula, gpuTest } from "../support.ts";

/** What a step reads and writes. */
interface State {
  readonly parameters: Float32Array<ArrayBuffer>;
  readonly expAvg: Float32Array<ArrayBuffer>;
  readonly expAvgSq: Float32Array<ArrayBuffer>;
  readonly count: number;
}

const begin = (parameters: Float32Array<ArrayBuffer>): State => {
  const zeros = () => new Float32Array(parameters.length);
  return { parameters, expAvg: zeros(), expAvgSq: zeros(), count: 0 };
};

/** One step; with a scale, of gradients that were multiplied by it. */
async function step(
  device: Device,
  state: State,
  gradients: Float32Array<ArrayBuffer>,
  { learningRate, scale, ...settings }: Omit<AdamWSpec, "elements"> & { learningRate: number; scale?: number },
): Promise<State> {
  const elements = gradients.length, caps = device.capabilities;
  const at = {
    parameters: operand("parameters", elements),
    gradients: operand("gradients", elements),
    expAvg: operand("exp_avg", elements),
    expAvgSq: operand("exp_avg_sq", elements),
    steps: stepsOperand(),
    norms: operand("norms", 8),
    settings: stepSettingsOperand(),
    ...(scale !== undefined && { lossScale: lossScaleOperand() }),
  };
  const { lossScale } = at;
  const inputs = new Map<Operand, ArrayBufferView<ArrayBuffer>>([
    [at.parameters, state.parameters],
    [at.gradients, gradients],
    [at.expAvg, state.expAvg],
    [at.expAvgSq, state.expAvgSq],
    [at.steps, encodeSteps(state.count)],
    [at.settings, encodeStepSettings({ learningRate })],
  ]);
  if (lossScale) inputs.set(lossScale, encodeLossScale({ scale: scale!, goodSteps: 0 }));
  const dispatches = [
    ...(lossScale ? unscale({ ...at, lossScale }, elements, caps) : []),
    ...countStep(at, settings.betas),
    ...adamw(at, { elements, ...settings }, caps),
    ...(lossScale ? updateLossScale({ ...at, lossScale }) : []),
  ];
  const results = await runOnce(device, dispatches, inputs, [at.parameters, at.expAvg, at.expAvgSq, at.steps]);
  const [parameters, expAvg, expAvgSq] = results.map((bytes) => new Float32Array(bytes));
  return { parameters, expAvg, expAvgSq, count: decodeSteps(results[3]) };
}

/** Made by `torch.optim.AdamW` (1.13) in float64: after four steps of rate 0.1 / step on gradients `formula(6, 9 + step)`. */
const TORCH = [
  {
    settings: { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 },
    parameters: [-0.712127451, 0.615223576, -0.141215553, 0.212419184, -0.614170005, 0.318196561],
    expAvg: [0.0230129908, -0.0935603453, 0.0516667551, -0.092114687, -0.0817272804, -0.115326432],
    expAvgSq: [0.000216046655, 0.000741721742, 0.00129942863, 0.00112021467, 0.00256467916, 0.00147815756],
  },
  {
    settings: { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 },
    parameters: [-0.710847556, 0.614159632, -0.140839353, 0.212074383, -0.612920164, 0.317771837],
    expAvg: [0.0230129908, -0.0935603453, 0.0516667551, -0.092114687, -0.0817272804, -0.115326432],
    expAvgSq: [0.000216046655, 0.000741721742, 0.00129942863, 0.00112021467, 0.00256467916, 0.00147815756],
  },
  {
    settings: { betas: [0.8, 0.95], eps: 1e-3, weightDecay: 0.5 },
    parameters: [-0.64515646, 0.559935293, -0.128973051, 0.191037098, -0.549041688, 0.293905345],
    expAvg: [0.0268555241, -0.150193672, 0.111356387, -0.176607375, -0.13675231, -0.174713599],
    expAvgSq: [0.0096911821, 0.0324056718, 0.0589772719, 0.053277835, 0.118296646, 0.0659041453],
  },
  {
    settings: { betas: [0, 0], eps: 1e-8, weightDecay: 0.1 },
    parameters: [-0.597564685, 0.545888217, -0.16967129, 0.226943964, -0.583965154, 0.27330631],
    expAvg: [-0.187532991, -0.248425752, 0.525642812, -0.346149445, 0.43163088, -0.208999544],
    expAvgSq: [0.0351686228, 0.0617153542, 0.276300366, 0.119819438, 0.186305216, 0.0436808096],
  },
] as const;

gpuTest("adamw: PyTorch's values, and padding that stays zero", async (device) => {
  for (const { settings, ...expected } of TORCH) {
    const padded = (values: Float32Array) => Float32Array.of(...values, 0, 0);
    let state = begin(padded(formula(6, 1)));
    for (let i = 0; i < 4; i++) {
      state = await step(device, state, padded(formula(6, 10 + i)), { ...settings, learningRate: 0.1 / (i + 1) });
    }
    assertEquals(state.count, 4);
    for (const what of ["parameters", "expAvg", "expAvgSq"] as const) {
      assertClose(state[what].subarray(0, 6), expected[what], 5e-7, `${what} ${JSON.stringify(settings)}`);
      assertEquals([...state[what].subarray(6)], [0, 0], "padding");
    }
  }
});

gpuTest(
  "adamw: many elements, in a length that no workgroup divides, and weight decay of the first ones",
  async (device) => {
    const elements = 2 ** 14 + 12, decayed = 2 ** 13 + 4, betas = [0.9, 0.99] as const, eps = 1e-6, weightDecay = 0.3;
    // torch/optim/adamw.py, _single_tensor_adamw; float64.
    const expected = Float64Array.from(formula(elements, 1)),
      m = new Float64Array(elements),
      v = new Float64Array(elements);
    let state = begin(formula(elements, 1));
    for (let t = 1; t <= 3; t++) {
      const learningRate = 0.02 / t, gradients = formula(elements, 10 + t, 10 ** -t);
      for (const [i, g] of gradients.entries()) {
        if (i < decayed) expected[i] *= 1 - learningRate * weightDecay;
        m[i] = betas[0] * m[i] + (1 - betas[0]) * g;
        v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g;
        const denominator = Math.sqrt(v[i]) / Math.sqrt(1 - betas[1] ** t) + eps;
        expected[i] -= learningRate / (1 - betas[0] ** t) * m[i] / denominator;
      }
      state = await step(device, state, gradients, { betas, eps, weightDecay, decayed, learningRate });
    }
    assertClose(state.parameters, expected, 1e-6, "parameters");
    assertClose(state.expAvg, m, 1e-6, "average");
    assertClose(state.expAvgSq, v, 1e-6, "average of squares");
  },
);

gpuTest(
  "adamw: the averages' corrections are right to float32's last digits, at the first step and far on",
  async (device) => {
    for (const beta of [0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999]) {
      for (const count of [1, 2, 3, 10, 1000, 1023, 100_000, 2 ** 32 - 1]) {
        const steps = stepsOperand();
        const inputs = new Map([[steps, encodeSteps(count - 1)]]);
        const [bytes] = await runOnce(device, countStep({ steps }, [beta, beta]), inputs, [steps]);
        const [, first, second] = new Float32Array(bytes);
        const missing = -Math.expm1(count * Math.log(beta));
        assertEquals(decodeSteps(bytes), count);
        assertClose([first], [1 / missing], 5e-7, `first of ${beta}, step ${count}`);
        assertClose([second], [1 / Math.sqrt(missing)], 5e-7, `second of ${beta}, step ${count}`);
      }
    }
  },
);

gpuTest("adamw: a step whose gradients overflow changes nothing and does not count", async (device) => {
  const elements = 2 ** 12 + 4, settings = { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 } as const;
  const scale = 1024, learningRate = 0.01;
  const first = await step(device, begin(formula(elements, 1)), formula(elements, 2), { ...settings, learningRate });
  const bad = formula(elements, 3, scale);
  bad[elements - 1] = Infinity;
  const skipped = await step(device, first, bad, { ...settings, learningRate, scale });
  assertEquals(skipped, first);
  const second = await step(device, skipped, formula(elements, 3, scale), { ...settings, learningRate, scale });
  assertEquals(second, await step(device, first, formula(elements, 3), { ...settings, learningRate }));
  assertEquals(second.count, 2);
  assert(second.parameters.every((value, i) => value !== first.parameters[i]));
});
