/**
 * Networks as ONNX models, which most other runtimes read: opset 17, float32, the batch's size open.
 *
 * Operators: https://onnx.ai/onnx/operators/
 */

import { UserError } from "../kernels/user_error.ts";
import { trace, useCounts } from "./graph.ts";
import type { Module } from "./module.ts";
import { checkSettings, SIZE } from "./number_check.ts";
import { type Attribute, ATTRIBUTE_TYPES, type Dimension, encodeMessage, FLOAT } from "./onnx_schema.ts";
import { BatchNormOperation } from "./ops/batch_norm.ts";
import { Conv2dOperation } from "./ops/conv2d.ts";
import { GlobalAvgPoolOperation, MaxPoolOperation } from "./ops/pool.ts";
import { ReluOperation } from "./ops/relu.ts";
import { AddOperation } from "./ops/sum.ts";
import { toFloat32 } from "./safetensors.ts";
import { Counter, type Parameter, type StateBuffer } from "./state.ts";
import { wrongForEntry } from "./state_check.ts";
import type { Operation, Tensor } from "./tensor.ts";
import type { StateDict } from "./weights.ts";

/** Settings of {@linkcode encodeOnnx}. */
export interface OnnxOptions {
  /** Channels of the images. Default 3. */
  readonly channels?: number;
  /** Height and width of the images. Default: any. */
  readonly imageSize?: number;
  /** Puts batch norms into the convolutions before them: fewer operations, the same values but for rounding. Default false. */
  readonly fold?: boolean;
  /** Stands in the model's metadata. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Name of the model's input, `[batch, channels, height, width]`. */
export const ONNX_INPUT = "images";

/** Name of the model's output, `[batch, classes]`. */
export const ONNX_OUTPUT = "logits";

const OPSET = 17, IR_VERSION = 8;

/** A size to trace with where it is left open; no operation's attributes depend on it. */
const ANY_SIZE = 224;

/**
 * The bytes of an `.onnx` file of a network in evaluation mode.
 *
 * @param state Values of the module's entries by name, PyTorch's layouts.
 * @throws {UserError} for an operation that has no counterpart, and for a value that is missing or not of the module.
 * @throws {RangeError} for sizes that are no positive whole numbers, and when the module's layers do not fit such images.
 *
 * @example
 * ```ts
 * import { encodeOnnx, Network, openDevice, resnext50 } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1], channels: [32], cardinality: 4 }));
 * const bytes = encodeOnnx(network.module, await network.stateDict(), { fold: true });
 * if (bytes.length < 40_000) throw new Error("the weights are missing");
 * device.close();
 * ```
 */
export function encodeOnnx(module: Module, state: StateDict, options: OnnxOptions = {}): Uint8Array<ArrayBuffer> {
  const { channels = 3, imageSize, fold = false, metadata = {} } = options;
  const size = imageSize ?? ANY_SIZE;
  checkSettings("write ONNX", { channels, imageSize: size }, SIZE);
  const graph = trace(module, { n: 1, c: channels, h: size, w: size });
  const writer = new GraphWriter(module, state, fold ? useCounts(graph) : undefined);
  writer.values.set(graph.input, ONNX_INPUT);
  for (const node of graph.nodes) writer.add(node.operation, node.inputs, node.output);
  const [height, width] = imageSize ? [size, size] : ["height", "width"];
  const input = valueInfo(ONNX_INPUT, ["batch", channels, height, width]);
  const output = writer.finish(graph.output);
  const { h, w, c } = graph.output.shape;
  const outputShape: Dimension[] = writer.isMatrix(graph.output)
    ? ["batch", c]
    : ["batch", c, ...(imageSize ? [h, w] : ["h", "w"])];
  const model = {
    irVersion: IR_VERSION,
    producerName: "resnext",
    opsetImport: [{ version: OPSET }],
    metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
    graph: {
      name: "network",
      node: writer.nodes,
      initializer: writer.initializers,
      input: [input],
      output: [valueInfo(output, outputShape)],
    },
  };
  const bytes = encodeMessage("ModelProto", model).finish();
  return new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
}

function valueInfo(name: string, shape: readonly Dimension[]): Record<string, unknown> {
  const dim = shape.map((size) => typeof size === "number" ? { dimValue: size } : { dimParam: size });
  return { name, type: { tensorType: { elemType: FLOAT, shape: { dim } } } };
}

/** A convolution that waits for the batch norm behind it. */
interface Pending {
  readonly operation: Conv2dOperation;
  readonly input: Tensor;
}

class GraphWriter {
  readonly nodes: Record<string, unknown>[] = [];
  readonly initializers: Record<string, unknown>[] = [];
  /** Names of values. */
  readonly values = new Map<Tensor, string>();
  readonly #matrices = new Set<Tensor>();
  readonly #names = new Map<Parameter | StateBuffer, string>();
  readonly #written = new Set<string>();
  readonly #state: StateDict;
  readonly #uses: ReadonlyMap<Tensor, number> | undefined;
  readonly #pending = new Map<Tensor, Pending>();
  readonly #counts = new Map<string, number>();

  /** @param uses How many nodes use each tensor, to fold batch norms; absent: none are. */
  constructor(module: Module, state: StateDict, uses: ReadonlyMap<Tensor, number> | undefined) {
    for (const [name, entry] of module.stateEntries()) if (!(entry instanceof Counter)) this.#names.set(entry, name);
    this.#state = state;
    this.#uses = uses;
  }

  /** Whether a tensor is `[n, c]` in the model: what comes of a linear layer. */
  isMatrix(tensor: Tensor): boolean {
    return this.#matrices.has(tensor);
  }

  /** Names the output. */
  finish(output: Tensor): string {
    const from = this.#value(output);
    const last = this.nodes.findLast((node) => (node.output as string[])[0] === from);
    // Something else in the graph may read it under its own name.
    if (!last || this.nodes.some((node) => (node.input as string[]).includes(from))) {
      this.#emit("Identity", [from], ONNX_OUTPUT);
    } else last.output = [ONNX_OUTPUT];
    return ONNX_OUTPUT;
  }

  /** Writes what computes `output`; its inputs have been added before. */
  add(operation: Operation, inputs: readonly Tensor[], output: Tensor): void {
    if (operation instanceof Conv2dOperation) {
      // Only a convolution that nothing but one batch norm reads can take it in; whether it does, the next nodes tell.
      if (this.#uses?.get(output) === 1 && operation.weight.shape.length === 4) {
        this.#pending.set(output, { operation, input: inputs[0] });
      } else this.#convolve(operation, inputs[0], output);
    } else if (operation instanceof BatchNormOperation && !operation.relu && !operation.residual) {
      const pending = this.#pending.get(inputs[0]);
      if (pending) {
        this.#pending.delete(inputs[0]);
        this.#convolve(pending.operation, pending.input, output, operation);
      } else this.#normalize(operation, inputs[0], output);
    } else if (operation instanceof ReluOperation) this.#plain("Relu", inputs, output);
    else if (operation instanceof AddOperation) this.#plain("Add", inputs, output);
    else if (operation instanceof MaxPoolOperation) {
      const { kernel, stride, padding } = operation.settings;
      this.#plain("MaxPool", this.#images(inputs), output, {
        kernel_shape: { ints: [kernel, kernel] },
        strides: { ints: [stride, stride] },
        pads: { ints: [padding, padding, padding, padding] },
      });
    } else if (operation instanceof GlobalAvgPoolOperation) {
      this.#plain("GlobalAveragePool", this.#images(inputs), output);
    } else throw new UserError(`Cannot write ONNX: the operation "${operation.name}" has no counterpart there`);
  }

  #convolve(operation: Conv2dOperation, input: Tensor, output: Tensor, norm?: BatchNormOperation): void {
    const { weight, bias, settings: { stride, padding, groups } } = operation;
    const [name, values] = this.#entry(weight);
    if (weight.shape.length === 2) {
      const flat = this.#emit("Flatten", [this.#value(input)], undefined, { axis: { i: 1 } });
      const inputs = [flat, this.#constant(name, weight.shape, values)];
      if (bias) inputs.push(this.#vector(bias));
      this.#matrices.add(output);
      this.values.set(output, this.#emit("Gemm", inputs, undefined, { transB: { i: 1 } }));
      return;
    }
    this.#images([input]);
    const inputs = [this.#value(input)];
    if (norm) {
      const folded = this.#fold(values, bias && this.#entry(bias)[1], norm);
      // A convolution may stand before several batch norms, each of which makes other weights of it, and before none.
      const suffix = this.#written.has(`${name}.folded`) ? `.folded.${this.#written.size}` : ".folded";
      inputs.push(this.#constant(name + suffix, weight.shape, folded.weight));
      inputs.push(this.#constant(name.replace(/weight$/, "bias") + suffix, [weight.shape[0]], folded.bias));
    } else {
      inputs.push(this.#constant(name, weight.shape, values));
      if (bias) inputs.push(this.#vector(bias));
    }
    const [, , kernelHeight, kernelWidth] = weight.shape;
    this.values.set(
      output,
      this.#emit("Conv", inputs, undefined, {
        kernel_shape: { ints: [kernelHeight, kernelWidth] },
        strides: { ints: [stride, stride] },
        pads: { ints: [padding, padding, padding, padding] },
        group: { i: groups },
      }),
    );
  }

  /** w' = w s, b' = (b - mean) s + beta, where s = gamma / sqrt(var + eps), by output channel. */
  #fold(weight: Float32Array, bias: Float32Array | undefined, { state, settings: { eps } }: BatchNormOperation) {
    const [gamma, beta, mean, variance] = [state.weight, state.bias, state.running_mean, state.running_var]
      .map((entry) => this.#entry(entry)[1]);
    const out = { weight: new Float32Array(weight.length), bias: new Float32Array(gamma.length) };
    const perChannel = weight.length / gamma.length;
    for (let channel = 0; channel < gamma.length; channel++) {
      const scale = gamma[channel] / Math.sqrt(variance[channel] + eps);
      for (let i = channel * perChannel; i < (channel + 1) * perChannel; i++) out.weight[i] = weight[i] * scale;
      out.bias[channel] = ((bias?.[channel] ?? 0) - mean[channel]) * scale + beta[channel];
    }
    return out;
  }

  #normalize({ state, settings: { eps } }: BatchNormOperation, input: Tensor, output: Tensor): void {
    if (this.isMatrix(input)) this.#matrices.add(output);
    const vectors = [state.weight, state.bias, state.running_mean, state.running_var].map((it) => this.#vector(it));
    this.values.set(
      output,
      this.#emit("BatchNormalization", [this.#value(input), ...vectors], undefined, { epsilon: { f: eps } }),
    );
  }

  #plain(
    type: string,
    inputs: readonly Tensor[],
    output: Tensor,
    attributes?: Readonly<Record<string, Attribute>>,
  ): void {
    if (inputs.some((input) => this.isMatrix(input))) {
      if (!inputs.every((input) => this.isMatrix(input))) {
        throw new UserError(
          "Cannot write ONNX: a linear layer's output meets one of 1x1 pixels, which there are other things",
        );
      }
      this.#matrices.add(output);
    }
    this.values.set(output, this.#emit(type, inputs.map((input) => this.#value(input)), undefined, attributes));
  }

  #images(inputs: readonly Tensor[]): readonly Tensor[] {
    if (inputs.some((input) => this.isMatrix(input))) {
      throw new UserError("Cannot write ONNX: a linear layer's output goes into an operation on images");
    }
    return inputs;
  }

  /** A value's name; a convolution that waited for a batch norm in vain is written now. */
  #value(tensor: Tensor): string {
    const pending = this.#pending.get(tensor);
    if (pending) {
      this.#pending.delete(tensor);
      this.#convolve(pending.operation, pending.input, tensor);
    }
    return this.values.get(tensor)!;
  }

  #emit(
    type: string,
    input: readonly string[],
    output?: string,
    attributes: Readonly<Record<string, Attribute>> = {},
  ): string {
    const count = this.#counts.get(type) ?? 0;
    this.#counts.set(type, count + 1);
    const name = `${type}_${count}`, made = output ?? `${name}_output`;
    const attribute = Object.entries(attributes).map(([name, value]) => ({
      name,
      type: ATTRIBUTE_TYPES[Object.keys(value)[0] as keyof typeof ATTRIBUTE_TYPES],
      ...value,
    }));
    this.nodes.push({ name, opType: type, input: [...input], output: [made], attribute });
    return made;
  }

  #entry(entry: Parameter | StateBuffer): [name: string, values: Float32Array<ArrayBuffer>] {
    const name = this.#names.get(entry), tensor = name === undefined ? undefined : this.#state.get(name);
    if (name === undefined || !tensor) throw new UserError(`Cannot write ONNX: "${name}" has no value`);
    const wrong = wrongForEntry(tensor, entry);
    if (wrong) throw new UserError(`Cannot write ONNX: "${name}" ${wrong}`);
    return [name, toFloat32(tensor, name)];
  }

  #vector(entry: Parameter | StateBuffer): string {
    const [name, values] = this.#entry(entry);
    return this.#constant(name, entry.shape, values);
  }

  #constant(name: string, dims: readonly number[], values: Float32Array<ArrayBuffer>): string {
    if (this.#written.has(name)) return name;
    this.#written.add(name);
    this.initializers.push({ name, dims: [...dims], dataType: FLOAT, rawData: new Uint8Array(values.buffer) });
    return name;
  }
}
