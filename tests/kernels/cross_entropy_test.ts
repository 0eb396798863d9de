import { assertEquals } from "@std/assert";
import { crossEntropy, type CrossEntropySpec, metricsElements, NO_CLASS } from "../../kernels/cross_entropy.ts";
import type { Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { padded, toNhwc } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { assertClose, formula, goldens, gpuTest } from "../support.ts";

const SLOTS = 3, SLOT = 1;

async function run(
  device: Device,
  spec: CrossEntropySpec,
  logits: Float32Array,
  labels: Uint32Array<ArrayBuffer>,
  { validRows = spec.rows, software = device.capabilities.software, mixes, gradientScale }: {
    validRows?: number;
    gradientScale?: number;
    software?: boolean;
    mixes?: Float32Array<ArrayBuffer>;
  } = {},
) {
  const { rows, classes } = spec;
  const stride = padded(classes);
  const at = {
    logits: operand("logits", rows * stride),
    labels: operand("labels", rows),
    mixes: mixes && operand("mixes", rows * 4),
    dlogits: operand("dlogits", rows * stride),
    metrics: operand("metrics", metricsElements(SLOTS)),
    settings: stepSettingsOperand(),
    predictions: operand("predictions", rows),
  };
  // Padding that is not zero shows whether it is left out.
  const stored = toNhwc(logits, { n: rows, h: 1, w: 1, c: classes });
  for (let i = 0; i < stored.length; i++) if (i % stride >= classes) stored[i] = 100;
  const results = await runOnce(
    device,
    crossEntropy(at, spec, { ...device.capabilities, software }),
    new Map<typeof at.logits, ArrayBufferView<ArrayBuffer>>([
      [at.logits, stored],
      [at.labels, labels],
      ...(mixes ? [[at.mixes!, mixes] as const] : []),
      [at.settings, encodeStepSettings({ validRows, slot: SLOT, gradientScale })],
    ]),
    [at.dlogits, at.metrics, at.predictions],
  );
  const metrics = new Float32Array(results[1]);
  assertEquals([...metrics.subarray(0, 4), ...metrics.subarray(8)], Array(8).fill(0), "the other slots are untouched");
  const [lossSum, correct, top5, counted] = metrics.subarray(4, 8);
  const all = new Float32Array(results[0]);
  assertEquals(all.find((value, i) => i % stride >= classes && value !== 0), undefined, "the gradient's padding");
  return {
    lossSum,
    correct,
    top5,
    counted,
    dlogits: all.filter((_, i) => i % stride < classes),
    predictions: new Uint32Array(results[2], 0, rows),
  };
}

function reference(spec: CrossEntropySpec, logits: Float32Array, labels: Uint32Array, validRows: number) {
  const { rows, classes, labelSmoothing: s } = spec;
  let lossSum = 0, correct = 0, top5 = 0;
  const dlogits = new Float64Array(rows * classes);
  const predictions = new Uint32Array(rows);
  for (let row = 0; row < validRows; row++) {
    const z = [...logits.subarray(row * classes, (row + 1) * classes)], label = labels[row];
    const largest = Math.max(...z);
    const logSum = largest + Math.log(z.reduce((sum, value) => sum + Math.exp(value - largest), 0));
    lossSum += (1 - s) * (logSum - z[label]) + s / classes * z.reduce((sum, value) => sum + logSum - value, 0);
    predictions[row] = z.indexOf(largest);
    if (predictions[row] === label) correct++;
    const order = z.map((value, i) => ({ value, i })).sort((a, b) => b.value - a.value || a.i - b.i);
    if (order.slice(0, 5).some(({ i }) => i === label)) top5++;
    z.forEach((value, i) => {
      dlogits[row * classes + i] = (Math.exp(value - logSum) - s / classes - (i === label ? 1 - s : 0)) / validRows;
    });
  }
  return { lossSum, correct, top5, counted: validRows, dlogits, predictions };
}

const golden = goldens("ops");
for (const name of ["cross_entropy", "cross_entropy_smooth"]) {
  gpuTest(`cross-entropy: PyTorch's case "${name}"`, async (device) => {
    const [rows, classes] = golden.shape("cross_entropy.logits");
    const labelSmoothing = name.endsWith("smooth") ? golden.settings(name).label_smoothing : 0;
    const labels = Uint32Array.from(golden.values("cross_entropy.labels"));
    const spec = { rows, classes, labelSmoothing };
    const got = await run(device, spec, golden.values("cross_entropy.logits"), labels);
    assertClose([got.lossSum / rows], golden.values(`${name}.loss`), 1e-5, "loss");
    assertClose(got.dlogits, golden.values(`${name}.dlogits`), 1e-5, "dlogits");
  });
}

for (
  const [rows, classes, labelSmoothing, validRows] of [
    [1, 1, 0, 1],
    [13, 10, 0.1, 9],
    [70, 3, 0, 70],
    [9, 1001, 0.2, 7],
    [3, 67, 0, 0],
    [
      2049,
      10,
      0,
      2048,
    ],
  ]
) {
  gpuTest(
    `cross-entropy: ${validRows} of ${rows} rows, ${classes} classes, smoothing ${labelSmoothing}`,
    async (device) => {
      const spec = { rows, classes, labelSmoothing };
      // Rounded: ties, of which the first counts.
      const logits = formula(rows * classes, 1, 8).map(Math.round);
      const labels = Uint32Array.from({ length: rows }, (_, row) => row * 7 % classes);
      const expected = reference(spec, logits, labels, validRows);
      for (const software of [true, false]) {
        const got = await run(device, spec, logits, labels, { validRows, software });
        assertClose([got.lossSum], [expected.lossSum], 1e-5, "loss");
        assertClose(got.dlogits, expected.dlogits, 1e-5, "dlogits");
        const { correct, top5, counted, predictions } = got;
        assertEquals(
          { correct, top5, counted, predictions: [...predictions] },
          {
            correct: expected.correct,
            top5: expected.top5,
            counted: expected.counted,
            predictions: [...expected.predictions],
          },
        );
      }
    },
  );
}

gpuTest("cross-entropy: large logits do not overflow", async (device) => {
  const spec = { rows: 2, classes: 4, labelSmoothing: 0 };
  const logits = new Float32Array([1e4, 0, -1e4, 1, -3e4, -3e4, -3e4, -3e4]);
  const got = await run(device, spec, logits, new Uint32Array([1, 2]));
  assertClose([got.lossSum], [1e4 + Math.log(4)], 1e-6, "loss");
  assertClose(got.dlogits, [0.5, -0.5, 0, 0, 0.125, 0.125, -0.375, 0.125], 1e-6, "dlogits");
});

for (const bad of [NaN, Infinity]) {
  gpuTest(`cross-entropy: a logit of ${bad} makes the loss and its row's gradient NaN`, async (device) => {
    for (const classes of [1, 10, 100]) {
      const logits = formula(2 * classes, 1);
      logits[0] = bad;
      for (const software of [true, false]) {
        const spec = { rows: 2, classes, labelSmoothing: 0 };
        const { lossSum, dlogits } = await run(device, spec, logits, new Uint32Array([0, classes - 1]), { software });
        assertEquals(lossSum, NaN);
        assertEquals([...dlogits].map(Number.isNaN), [...dlogits].map((_, i) => i < classes));
      }
    }
  });
}

gpuTest(
  "cross-entropy: a row whose logits have no softmax is taken for no class, and never right",
  async (device) => {
    for (const classes of [7, 100]) {
      const spec = { rows: 6, classes, labelSmoothing: 0 }, logits = new Float32Array(6 * classes);
      const label = classes - 2, labels = new Uint32Array(6).fill(label);
      // Each row's largest logit is its label's, or one that is not finite.
      for (let row = 0; row < 6; row++) logits[row * classes + label] = 9;
      logits.fill(NaN, 0, classes);
      logits[classes + label] = NaN;
      logits[2 * classes + label + 1] = NaN;
      logits[3 * classes + label] = Infinity;
      logits.fill(-Infinity, 4 * classes, 5 * classes);
      logits[5 * classes] = -Infinity;
      for (const software of [true, false]) {
        const { correct, top5, counted, predictions } = await run(device, spec, logits, labels, { software });
        assertEquals([correct, top5, counted], [1, 1, 6]);
        assertEquals([...predictions], [...new Array(5).fill(NO_CLASS), label]);
        const few = await run(device, spec, logits, labels, { software, validRows: 1 });
        assertEquals([few.correct, few.top5, ...few.predictions], [0, 0, NO_CLASS, 0, 0, 0, 0, 0]);
      }
    }
  },
);

gpuTest("cross-entropy: a target of two labels is the weighted sum of both losses", async (device) => {
  const spec = { rows: 9, classes: 70, labelSmoothing: 0.1 };
  const logits = formula(spec.rows * spec.classes, 3, 4);
  const labels = Uint32Array.from({ length: spec.rows }, (_, i) => i * 7);
  const others = labels.map((label) => (label + 13) % spec.classes), weight = 0.3;
  const mixes = new Float32Array(spec.rows * 4);
  others.forEach((label, row) => mixes.set([weight, label], row * 4));
  for (const software of [true, false]) {
    const found = await run(device, spec, logits, labels, { software, mixes });
    const own = reference(spec, logits, labels, spec.rows), other = reference(spec, logits, others, spec.rows);
    const mixed = (a: number, b: number) => weight * a + (1 - weight) * b;
    assertClose([found.lossSum], [mixed(own.lossSum, other.lossSum)], 1e-6, "loss");
    assertClose(found.dlogits, own.dlogits.map((value, i) => mixed(value, other.dlogits[i])), 1e-5, "dlogits");
    assertEquals([found.correct, found.top5], [own.correct, own.top5]);
  }
});

gpuTest("cross-entropy: the gradient is scaled by the settings, the loss is not", async (device) => {
  const spec = { rows: 5, classes: 7, labelSmoothing: 0.1 }, logits = formula(35, 1, 4);
  const labels = Uint32Array.of(0, 6, 3, 3, 1);
  const plain = await run(device, spec, logits, labels),
    one = await run(device, spec, logits, labels, {
      gradientScale: 1,
    });
  assertEquals(one, plain);
  const half = await run(device, spec, logits, labels, { gradientScale: 0.5 });
  assertEquals(half.lossSum, plain.lossSum);
  assertEquals(half.dlogits, plain.dlogits.map((value) => value / 2));
});
