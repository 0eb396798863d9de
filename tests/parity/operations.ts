/** The forms of single operations and blocks: `conv2d`, `batch_norm`, `ops`, `block`. */

import { crossEntropy, metricsElements } from "../../kernels/cross_entropy.ts";
import type { Device } from "../../kernels/device.ts";
import { operand } from "../../kernels/dispatch.ts";
import { fromNhwc, type Shape, storedElements, toNhwc } from "../../kernels/layout.ts";
import { runOnce } from "../../kernels/program.ts";
import { resizeBilinear } from "../../kernels/resize.ts";
import { encodeStepSettings, stepSettingsOperand } from "../../kernels/step_settings.ts";
import { BatchNorm2d, GlobalAvgPool2d, MaxPool2d } from "../../nn/layers.ts";
import { Module } from "../../nn/module.ts";
import { conv2d, type Conv2dSettings } from "../../nn/ops/conv2d.ts";
import { ResNeXtBlock } from "../../nn/resnext.ts";
import { type TensorData, toFloat32 } from "../../nn/safetensors.ts";
import { Parameter } from "../../nn/state.ts";
import type { Tensor } from "../../nn/tensor.ts";
import { resizedBytes } from "../kernels/resize_support.ts";
import { biasScale, casesOf, Findings, type ParityCase } from "./parity_case.ts";
import { type ModuleOutput, runModule } from "./run_module.ts";

/** One form of case: how it is recognized by what it holds, and what is compared. */
export interface Form {
  readonly name: string;
  matches(it: ParityCase): boolean;
  check(device: Device, it: ParityCase): Promise<Findings>;
}

/** An NCHW or NC shape. */
function shapeOf([n, c, h = 1, w = 1]: readonly number[]): Shape {
  return { n, h, w, c };
}

/** One number, given as such or for both directions. */
function square(value: number | number[] | undefined, otherwise: number, what: string): number {
  const [a, b = a] = [value ?? otherwise].flat();
  if (a !== b) throw new Error(`${what} differs by direction: [${value}]`);
  return a;
}

/** The case's own entries of a `state_dict`, out of `names`. */
function stateOf(it: ParityCase, ...names: string[]): Map<string, TensorData> {
  return new Map([...it.under()].filter(([name]) => names.includes(name)));
}

/** Compares what the case has of `y` and the gradients. */
function comparePasses(it: ParityCase, { y, dx, gradients }: ModuleOutput): Findings {
  const findings = new Findings(it.precision);
  if (it.has("y")) findings.compare("y", y, it.values("y"));
  if (it.has("dx") && dx) findings.compareGradient("dx", dx, it.values("dx"));
  for (const what of ["weight", "bias"]) {
    const gradient = gradients.get(what);
    if (it.has("dy", `d${what}`) && gradient) {
      findings.compare(`d${what}`, toFloat32(gradient), it.values(`d${what}`));
    }
  }
  return findings;
}

/** A convolution of any kernel size, or a linear layer. */
class AnyConv2d extends Module {
  readonly weight: Parameter;
  readonly bias?: Parameter;
  readonly #settings: Conv2dSettings;

  constructor(shape: readonly number[], bias: boolean, settings: Conv2dSettings) {
    super();
    this.weight = new Parameter(shape, { constant: 0 }, settings.groups);
    if (bias) this.bias = new Parameter([shape[0]], { constant: 0 });
    this.#settings = settings;
  }

  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, this.bias, this.#settings);
  }
}

const convolution: Form = {
  name: "conv2d",
  matches: (it) => it.has("x", "weight") && [2, 4].includes(it.shape("weight").length),
  async check(device, it) {
    const shape = shapeOf(it.shape("x")), weight = it.shape("weight");
    const { dilation, groups = shape.c / weight[1] } = it.settings;
    if (square(dilation, 1, "dilation") !== 1) throw new Error(`dilation ${dilation} has no kernel`);
    const settings = {
      stride: square(it.settings.stride, 1, "stride"),
      padding: square(it.settings.padding, 0, "padding"),
      groups,
    };
    const module = new AnyConv2d(weight, it.has("bias"), settings), { precision } = it;
    const dy = it.has("dy") ? it.values("dy") : undefined;
    const state = stateOf(it, "weight", "bias");
    return comparePasses(it, await runModule(device, module, { state, shape, x: it.values("x"), dy, precision }));
  },
};

const batchNorm: Form = {
  name: "batch_norm",
  matches: (it) => it.has("x", "before.weight", "before.running_mean"),
  async check(device, it) {
    const shape = shapeOf(it.shape("x")), x = it.values("x"), state = it.under("before");
    const module = new BatchNorm2d(shape.c, it.settings), { precision } = it;
    const dy = it.has("dy") ? it.values("dy") : undefined;
    const trained = await runModule(device, module, { state, shape, x, dy, precision });
    const findings = comparePasses(it, trained);
    for (const what of ["running_mean", "running_var"]) {
      if (!it.has(`after.${what}`)) continue;
      findings.compare(`after.${what}`, toFloat32(trained.state.get(what)!), it.values(`after.${what}`));
    }
    if (it.has("y_eval")) {
      // By the running statistics from before the training step.
      const { y } = await runModule(device, module, { state, shape, x, training: false, precision });
      findings.compare("y_eval", y, it.values("y_eval"));
    }
    return findings;
  },
};

const block: Form = {
  name: "block",
  matches: (it) => it.has("x", "before.conv1.weight", "before.conv3.weight", "before.bn3.weight"),
  async check(device, it) {
    const { settings, precision } = it;
    const state = it.under("before");
    const shortcut = [...state.keys()].find((name) => name.endsWith(".0.weight"));
    const module = new ResNeXtBlock({
      inChannels: settings.in_channels,
      bottleneckChannels: settings.bottleneck_channels,
      outChannels: settings.out_channels,
      stride: settings.stride,
      cardinality: settings.cardinality,
      bias: it.has("before.conv1.bias"),
      shortcutName: shortcut?.split(".", 1)[0],
    });
    const dy = it.has("dy") ? it.values("dy") : undefined;
    const input = { state, shape: shapeOf(it.shape("x")), x: it.values("x"), dy, precision };
    const output = await runModule(device, module, input);
    const findings = comparePasses(it, output);
    const gradients = it.under("grad");
    for (const [name, expected] of dy ? gradients : []) {
      const scale = biasScale(name, gradients, (other) => toFloat32(gradients.get(other)!));
      findings.compareGradient(`grad.${name}`, toFloat32(output.gradients.get(name)!), toFloat32(expected), scale);
    }
    for (const [name, expected] of it.under("after")) {
      if (!name.includes("running")) continue;
      findings.compare(`after.${name}`, toFloat32(output.state.get(name)!), toFloat32(expected));
    }
    return findings;
  },
};

/** An operation that learns nothing. */
function stateless(name: string, matches: Form["matches"], module: (it: ParityCase) => Module): Form {
  return {
    name,
    matches,
    async check(device, it) {
      const dy = it.has("dy") ? it.values("dy") : undefined;
      const { precision } = it;
      const input = { state: new Map(), shape: shapeOf(it.shape("x")), x: it.values("x"), dy, precision };
      return comparePasses(it, await runModule(device, module(it), input));
    },
  };
}

const maxPool = stateless(
  "max_pool",
  (it) => it.has("x") && "kernel" in it.settings,
  ({ settings }) =>
    new MaxPool2d({
      kernel: square(settings.kernel, 1, "kernel"),
      stride: square(settings.stride, square(settings.kernel, 1, "kernel"), "stride"),
      padding: square(settings.padding, 0, "padding"),
    }),
);

const globalAvgPool = stateless(
  "global_avg_pool",
  (it) =>
    it.has("x") && it.shape("x").length === 4 &&
    ["y", "dy"].some((what) => it.has(what) && it.shape(what).slice(2).every((size) => size === 1)),
  () => new GlobalAvgPool2d(),
);

const resize: Form = {
  name: "resize",
  matches: (it) => it.has("x") && !it.settings.antialias && sizesOf(it).length > 0,
  async check(device, it) {
    const findings = new Findings();
    const input = shapeOf(it.shape("x")), pixels = toNhwc(it.values("x"), input);
    for (const { what, height, width } of sizesOf(it)) {
      const output = { ...input, h: height, w: width };
      const x = operand("x", storedElements(input)), y = operand("y", storedElements(output));
      const dispatches = resizeBilinear({ x, y }, { input, height, width }, device.capabilities);
      const [bytes] = await runOnce(device, dispatches, new Map([[x, pixels]]), [y]);
      const all = fromNhwc(new Float32Array(bytes), output);
      // Of a large image the file may keep every so many rows and columns.
      const [, , rows, columns] = it.shape(what), down = height / rows, across = width / columns;
      const kept = all.filter((_, i) => i % width % across === 0 && Math.floor(i / width) % height % down === 0);
      findings.compare(what, kept, it.values(what));
    }
    return findings;
  },
};

const antialiased: Form = {
  name: "antialias",
  matches: (it) => it.has("x") && it.shape("x")[1] === 3 && it.settings.antialias && sizesOf(it).length > 0,
  async check(device, it) {
    const findings = new Findings();
    const input = shapeOf(it.shape("x")), x = it.values("x");
    for (const { what, height, width } of sizesOf(it)) {
      findings.compare(what, await resizedBytes(device, x, input, height, width), it.values(what));
    }
    return findings;
  },
};

/** The sizes a case resizes to, from its keys `toSIZE` or `toHEIGHTxWIDTH`. */
function sizesOf(it: ParityCase): { what: string; height: number; width: number }[] {
  return [...it.under().keys()].flatMap((what) => {
    const [, height, width = height] = what.match(/^to(\d+)(?:x(\d+))?$/) ?? [];
    return height ? [{ what, height: Number(height), width: Number(width) }] : [];
  });
}

const loss: Form = {
  name: "cross_entropy",
  matches: (it) => it.has("loss") && logitsFor(it) !== undefined,
  async check(device, it) {
    const from = logitsFor(it)!;
    const [rows, classes] = from.shape("logits");
    const shape = { n: rows, h: 1, w: 1, c: classes };
    const logits = operand("logits", storedElements(shape)), dlogits = operand("dlogits", storedElements(shape));
    const labels = operand("labels", rows), metrics = operand("metrics", metricsElements(1));
    const settings = stepSettingsOperand();
    const [gradient, sums] = await runOnce(
      device,
      crossEntropy(
        { logits, labels, dlogits, metrics, settings },
        { rows, classes, labelSmoothing: it.settings.label_smoothing ?? 0 },
        device.capabilities,
      ),
      new Map<typeof logits, ArrayBufferView<ArrayBuffer>>([
        [logits, toNhwc(from.values("logits"), shape)],
        [labels, Uint32Array.from(from.values("labels"))],
        [settings, encodeStepSettings({ validRows: rows, slot: 0 })],
      ]),
      [dlogits, metrics],
    );
    const findings = new Findings();
    findings.compare("loss", [new Float32Array(sums)[0] / rows], it.values("loss"));
    if (it.has("dlogits")) {
      findings.compare("dlogits", fromNhwc(new Float32Array(gradient), shape), it.values("dlogits"));
    }
    return findings;
  },
};

/** The case that holds the logits: itself, or the one whose name this one's goes on from. */
function logitsFor(it: ParityCase): ParityCase | undefined {
  if (it.has("logits", "labels")) return it;
  return casesOf(it.golden).filter((other) => it.name.startsWith(other.name) && other.has("logits", "labels"))
    .sort((a, b) => b.name.length - a.name.length)[0];
}

/** In the order in which they are tried: what is more particular first. */
export const operationForms: readonly Form[] = [
  block,
  batchNorm,
  convolution,
  resize,
  antialiased,
  maxPool,
  globalAvgPool,
  loss,
];
