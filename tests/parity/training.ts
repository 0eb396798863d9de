/** Whole networks: steps of training and logits, as the files `narrow_training` and `full_networks` hold them. */

import type { Device } from "../../kernels/device.ts";
import type { ElementType } from "../../kernels/dispatch.ts";
import { FIRST_LOSS_SCALE } from "../../kernels/loss_scale.ts";
import type { Shape } from "../../kernels/layout.ts";
import { type FloatBatch, FloatSource } from "../../nn/batch_source.ts";
import { HOPELESS_LOSS_SCALE } from "../../nn/loss_scale.ts";
import type { Module } from "../../nn/module.ts";
import { Network } from "../../nn/network.ts";
import { type Architecture, ARCHITECTURES, ResNeXt, resnext } from "../../nn/resnext.ts";
import { type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import { evalStep } from "../../nn/eval_step.ts";
import { trainStep } from "../../nn/train_step.ts";
import type { SgdSettings } from "../../nn/optimizers.ts";
import type { StateDict } from "../../nn/weights.ts";
import { formula } from "../support.ts";
import { formulaState } from "./formula_state.ts";
import type { Form } from "./operations.ts";
import { biasScale, Findings, largestOf, type ParityCase, type Settings, TOLERANCES } from "./parity_case.ts";
import { roundings } from "./roundings.ts";

/** A network, where it starts from, and what is done with it. */
export interface Experiment {
  readonly module: () => Module;
  readonly shape: Shape;
  /** Used in turn. */
  readonly batches: readonly FloatBatch[];
  readonly steps: number;
  readonly optimizer: SgdSettings;
  readonly labelSmoothing?: number;
  /** Default `f32`. */
  readonly precision?: ElementType;
  /** When the first batch is evaluated, if at all. */
  readonly evaluate?: "before" | "after";
}

/** What an experiment starts from. */
export interface Start {
  readonly state: StateDict;
  readonly learningRate: number;
}

/** What came of an experiment. */
export interface Outcome {
  readonly losses: readonly number[];
  readonly logits?: Float32Array;
  readonly state: ReadonlyMap<string, TensorData>;
}

/**
 * Runs an experiment. In half precision a step may be left out because gradients overflow, where PyTorch's in float32 has
 * none: then all of it is run again with the loss scaled less.
 */
export async function runExperiment(device: Device, experiment: Experiment, start: Start): Promise<Outcome> {
  for (let scale = FIRST_LOSS_SCALE.scale; scale > HOPELESS_LOSS_SCALE; scale /= 16) {
    const outcome = await tryExperiment(device, experiment, start, scale);
    if (outcome) return outcome;
  }
  throw new Error("its gradients overflow whatever the loss is scaled by");
}

async function tryExperiment(
  device: Device,
  experiment: Experiment,
  start: Start,
  scale: number,
): Promise<Outcome | undefined> {
  const { shape, batches, steps, optimizer, labelSmoothing, precision, evaluate } = experiment;
  const network = await Network.create(device, experiment.module());
  const source = await FloatSource.create(device, shape);
  try {
    network.loadStateDict(start.state);
    const evaluation = async () => {
      const step = await evalStep(network, { source, precision });
      step.run(batches[0]);
      const logits = await step.logits();
      step.destroy();
      return logits;
    };
    let logits = evaluate === "before" ? await evaluation() : undefined;
    const losses: number[] = [];
    if (steps > 0) {
      const step = await trainStep(network, { source, optimizer, labelSmoothing, precision });
      if (precision === "f16") (await network.weights.prepareLossScale()).write({ scale, goodSteps: 0 });
      let skipped = false;
      for (let i = 0; i < steps && !skipped; i++) {
        step.run(batches[i % batches.length], { learningRate: start.learningRate });
        for (const { lossSum, rows, ...more } of await step.collect()) {
          losses.push(lossSum / rows);
          skipped ||= more.skipped === true;
        }
      }
      step.destroy();
      if (skipped) return undefined;
    }
    if (evaluate === "after") logits = await evaluation();
    return { losses, logits, state: steps > 0 ? await network.stateDict() : new Map() };
  } finally {
    source.destroy();
    network.destroy();
  }
}

/** What one value of an outcome is compared with. */
interface Expectation {
  readonly what: string;
  readonly expected: Float32Array;
  readonly tolerance: number;
  readonly scale: number;
  /** Whether weights changed before: what comes of the start alone is held to its tolerance whatever training does. */
  readonly trained: boolean;
  readonly actual: (outcome: Outcome) => ArrayLike<number>;
}

/** How often a training that misses is run again, and after how many runs that all go elsewhere their range may be enough. */
const RERUNS = 12, ENOUGH = 6;

/** The largest number that a half holds. */
const LARGEST_HALF = 65504;

/** A run that misses at most one value in so many has gone PyTorch's way: what it misses is wrong. */
const SAME_WAY = 50;

/**
 * Compares an outcome with what a case expects.
 *
 * Training can be chaotic (see `roundings.ts`): a float32 sum in another order is then the start of another run. So a
 * training that misses is run again from starts that differ by rounding. If one of these runs agrees in everything
 * within the plain tolerances, PyTorch's is a run that ours could have been; if one agrees in all but very few values,
 * these are wrong. If none comes near, each value may be off by twice what it moves by among all our runs, of which
 * there are as many as that takes, up to a limit. Where rounding moves nothing, all this comes to the plain tolerances.
 */
export async function checkExperiment(
  device: Device,
  it: ParityCase,
  experiment: Experiment,
  start: Start,
): Promise<Findings> {
  const expectations = expectationsOf(it, experiment);
  const compare = (outcome: Outcome, spreads: readonly number[] = []) => {
    const findings = new Findings(it.precision);
    for (const [i, { what, expected, tolerance, scale, trained, actual }] of expectations.entries()) {
      const allowed = trained ? Math.max(tolerance, 2 * (spreads[i] ?? 0)) : tolerance;
      findings.compare(what, actual(outcome), expected, allowed, scale);
    }
    return findings;
  };
  const outcome = await runExperiment(device, experiment, start);
  const strict = compare(outcome);
  if (strict.ok || experiment.steps === 0) return strict;
  const outcomes = [outcome];
  const withinSpread = () => {
    const spreads = expectations.map((expectation) => spreadOf(expectation, outcomes));
    const findings = compare(outcome, spreads);
    if (findings.ok) findings.note = `rounding of the start alone moves it by ${exponential(Math.max(...spreads))}`;
    return findings;
  };
  let nearest = strict;
  for (const state of roundings(start.state, RERUNS, it.precision)) {
    outcomes.push(await runExperiment(device, experiment, { ...start, state }));
    const findings = compare(outcomes.at(-1)!);
    if (findings.misses < nearest.misses) nearest = findings;
    if (findings.ok) {
      const { what, error } = strict.worst!;
      findings.note = `from a start rounded otherwise; rounding of the start alone moves ${what} by ${
        exponential(error)
      }`;
      return findings;
    }
    if (outcomes.length > ENOUGH && nearest.misses * 4 > expectations.length) {
      const spread = withinSpread();
      if (spread.ok) return spread;
    }
  }
  return nearest.misses * SAME_WAY <= expectations.length ? nearest : withinSpread();
}

/** How far runs are from one another in one value, at most: as errors are, against the expected values' own size. */
function spreadOf({ expected, scale, actual }: Expectation, outcomes: readonly Outcome[]): number {
  const size = Math.max(scale, largestOf(expected)) || 1, runs = outcomes.map(actual);
  let spread = 0;
  for (let i = 0; i < expected.length; i++) {
    const values = runs.map((run) => run[i]);
    spread = Math.max(spread, (Math.max(...values) - Math.min(...values)) / size);
  }
  return spread;
}

function exponential(value: number): string {
  return value.toExponential(1);
}

/** All that a case holds of an outcome: each step's loss, logits, state. */
function expectationsOf(it: ParityCase, { evaluate }: Experiment): Expectation[] {
  const all: Expectation[] = [], tolerances = TOLERANCES[it.precision];
  if (it.has("losses")) {
    const losses = it.values("losses"), scale = largestOf(losses);
    for (let i = 0; i < losses.length; i++) {
      all.push({
        what: `losses[${i}]`,
        expected: losses.subarray(i, i + 1),
        tolerance: tolerances.deep,
        scale,
        actual: (outcome) => [outcome.losses[i]],
        // In half precision batch norms of a handful of values a channel make much of a rounding, forward too.
        trained: i > 0 || it.precision === "f16",
      });
    }
  }
  // Random weights make activations of any size; those larger than a half holds are infinite.
  if (it.has("eval_logits") && (it.precision === "f32" || largestOf(it.values("eval_logits")) < LARGEST_HALF)) {
    all.push({
      what: "eval_logits",
      expected: it.values("eval_logits"),
      tolerance: tolerances.deep,
      scale: 0,
      trained: evaluate === "after",
      actual: ({ logits }) => logits!,
    });
  }
  const after = it.under("after");
  for (const [key, tensor] of after) {
    // `NAME_FROM_TO` holds these rows of a tensor alone.
    const [, name = key, from, to] = key.match(/^(.*)_(\d+)_(\d+)$/) ?? [];
    all.push({
      what: `after.${key}`,
      expected: toFloat32(tensor),
      tolerance: tolerances.trained,
      trained: true,
      scale: biasScale(key, after, (other) => toFloat32(after.get(other)!)),
      actual({ state }) {
        const found = state.get(name);
        if (!found) throw new Error(`the network has no "${name}"`);
        const values = toFloat32(found), row = values.length / found.shape[0];
        return from ? values.subarray(Number(from) * row, Number(to) * row) : values;
      },
    });
  }
  return all;
}

/** PyTorch's names of an optimizer's settings. */
function optimizerOf({ momentum = 0.9, nesterov = false, weight_decay: weightDecay = 0 }: Settings): SgdSettings {
  return { momentum, nesterov, weightDecay };
}

/** A narrow ResNeXt whose state stands in the file. */
const narrow: Form = {
  name: "narrow_training",
  matches: (it) => it.has("x", "y", "before.conv1.weight", "before.fc.weight"),
  check(device, it) {
    const { settings } = it;
    const [count, n, c, h, w] = it.shape("x");
    const images = it.values("x"), labels = it.values("y"), size = n * c * h * w;
    const state = it.under("before");
    const shortcut = [...state.keys()].find((name) => /^layer1\.0\..*\.0\.weight$/.test(name));
    const experiment: Experiment = {
      module: () =>
        new ResNeXt({
          layers: settings.layers,
          channels: settings.channels,
          cardinality: settings.cardinality,
          baseWidth: settings.base_width,
          numClasses: settings.num_classes,
          inChannels: c,
          bias: it.has("before.layer1.0.conv1.bias"),
          shortcutName: shortcut?.split(".")[2],
        }),
      shape: { n, c, h, w },
      batches: Array.from({ length: count }, (_, i) => ({
        images: images.subarray(i * size, (i + 1) * size),
        labels: labels.subarray(i * n, (i + 1) * n),
      })),
      steps: settings.steps ?? (it.has("losses") ? it.shape("losses")[0] : 0),
      optimizer: optimizerOf(settings),
      labelSmoothing: settings.label_smoothing,
      precision: it.precision,
      evaluate: it.has("eval_logits") ? "after" : undefined,
    };
    return checkExperiment(device, it, experiment, { state, learningRate: settings.lr });
  },
};

/** A named network whose state and input are the formula's. */
const full: Form = {
  name: "full_networks",
  matches: (it) => "stream_base" in it.settings && "x_stream" in it.settings && it.has("eval_logits"),
  check(device, it) {
    const { batch: n, size, stream_base, x_stream, lr: learningRate = 0.01 } = it.settings;
    const numClasses = it.shape("eval_logits")[1];
    const architecture = architectureOf(it, numClasses);
    const shape = { n, c: 3, h: size, w: size };
    const images = formula(n * 3 * size * size, x_stream);
    const labels = it.has("labels") ? it.values("labels") : new Float32Array(n);
    const experiment: Experiment = {
      module: () => resnext(architecture, { numClasses }),
      shape,
      batches: [{ images, labels }],
      steps: it.has("losses") ? it.shape("losses")[0] : 0,
      optimizer: optimizerOf(it.settings),
      precision: it.precision,
      evaluate: "before",
    };
    const state = formulaState(experiment.module(), stream_base);
    return checkExperiment(device, it, experiment, { state, learningRate });
  },
};

/** Which network a case is of: the one that has its count of parameters, else the one its name starts with. */
function architectureOf({ name, settings: { params } }: ParityCase, numClasses: number): Architecture {
  const names = (Object.keys(ARCHITECTURES) as Architecture[]).sort((a, b) => b.length - a.length);
  const found = names.find((each) => resnext(each, { numClasses }).parameterCount === params) ??
    names.find((each) => name.startsWith(each));
  if (!found) throw new Error(`no known network has ${params} parameters`);
  return found;
}

/** In the order in which they are tried. */
export const trainingForms: readonly Form[] = [narrow, full];
