/**
 * Convolution by its definition, for any geometry: uneven groups, depthwise with a multiplier, any kernel. Element by
 * element, nothing shared or reused: what the faster kernels do not take runs here, and runs slowly.
 */

import { convFilter, convFlops, type ConvGeometry, convOutput } from "./conv_geometry.ts";
import type { Capabilities } from "./device.ts";
import type { Binding, Dispatch } from "./dispatch.ts";
import { operand, readScalars, write } from "./dispatch.ts";
import type { ForwardOperands, InputGradientOperands } from "./grouped_conv.ts";
import type { WeightGradientOperands } from "./grouped_weight_gradient.ts";
import { padded, storedElements, storedFilterElements, storedInputChannels } from "./layout.ts";
import { partialSums } from "./partial_sums.ts";
import { ceilDiv, eachItem, itemGrid } from "./wgsl.ts";

const WORKGROUP_SIZE = 64;

/** `y = conv(x, weight) + bias`. */
export function directForward(
  { x, weight, bias, y }: ForwardOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  const output = convOutput(geometry);
  return [directDispatch(
    {
      label: "conv2d.direct.forward",
      bindings: {
        x: readScalars(x),
        weight: readScalars(weight),
        ...(bias && { bias: readScalars(bias) }),
        result: write(y),
      },
      items: storedElements(output),
      element: /* wgsl */ `
  let o = item % Y_STORED;
  if (o >= Y_CHANNELS) { return 0.0; }
  let ow = item / Y_STORED % Y_COLUMNS;
  let oh = item / (Y_STORED * Y_COLUMNS) % Y_ROWS;
  let n = item / (Y_STORED * Y_COLUMNS * Y_ROWS);
  let first = o / OUTS * INS;
  var sum = ${bias ? "get_bias(o)" : "0.0"};
  for (var kh = 0u; kh < KERNEL_ROWS; kh++) {
    let h = oh * STRIDE + kh;
    if (h < PADDING || h >= PADDING + X_ROWS) { continue; }
    for (var kw = 0u; kw < KERNEL_COLUMNS; kw++) {
      let w = ow * STRIDE + kw;
      if (w < PADDING || w >= PADDING + X_COLUMNS) { continue; }
      let pixel = ((n * X_ROWS + h - PADDING) * X_COLUMNS + w - PADDING) * X_STORED + first;
      let tap = (kh * KERNEL_COLUMNS + kw) * WEIGHT_ROWS;
      for (var i = 0u; i < INS; i++) {
        sum += get_x(pixel + i) * get_weight((tap + i) * Y_STORED + o);
      }
    }
  }
  return sum;`,
    },
    geometry,
    caps,
  )];
}

/** `dx = conv^T(dy, weight) + addend`. */
export function directInputGradient(
  { dy, weight, dx, addend }: InputGradientOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  return [directDispatch(
    {
      label: "conv2d.direct.dx",
      bindings: {
        dy: readScalars(dy),
        weight: readScalars(weight),
        ...(addend && { addend: readScalars(addend) }),
        result: write(dx),
      },
      items: storedElements(geometry.input),
      element: /* wgsl */ `
  let c = item % X_STORED;
  if (c >= X_CHANNELS) { return 0.0; }
  let w = item / X_STORED % X_COLUMNS;
  let h = item / (X_STORED * X_COLUMNS) % X_ROWS;
  let n = item / (X_STORED * X_COLUMNS * X_ROWS);
  let first = c / INS * OUTS;
  var sum = ${addend ? "get_addend(item)" : "0.0"};
  for (var kh = 0u; kh < KERNEL_ROWS; kh++) {
    if (h + PADDING < kh || (h + PADDING - kh) % STRIDE != 0u) { continue; }
    let oh = (h + PADDING - kh) / STRIDE;
    if (oh >= Y_ROWS) { continue; }
    for (var kw = 0u; kw < KERNEL_COLUMNS; kw++) {
      if (w + PADDING < kw || (w + PADDING - kw) % STRIDE != 0u) { continue; }
      let ow = (w + PADDING - kw) / STRIDE;
      if (ow >= Y_COLUMNS) { continue; }
      let pixel = ((n * Y_ROWS + oh) * Y_COLUMNS + ow) * Y_STORED + first;
      let tap = ((kh * KERNEL_COLUMNS + kw) * WEIGHT_ROWS + c % INS) * Y_STORED + first;
      for (var o = 0u; o < OUTS; o++) {
        sum += get_dy(pixel + o) * get_weight(tap + o);
      }
    }
  }
  return sum;`,
    },
    geometry,
    caps,
  )];
}

/** Invocations the weight gradient wants; images are shared out to reach them. */
const INVOCATIONS = { software: 128, gpu: 132 * 256 };

/**
 * `dweight`, and `dbias` (the column sum of `dy`) when asked for. Sums row by row, image by image, share by share of the
 * images: in a fixed order, and with less rounding than one long sum.
 */
export function directWeightGradient(
  { x, dy, dweight, dbias }: WeightGradientOperands,
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch[] {
  const weights = storedFilterElements(convFilter(geometry)), biases = dbias ? padded(geometry.outChannels) : 0;
  const images = geometry.input.n;
  const wanted = ceilDiv(caps.software ? INVOCATIONS.software : INVOCATIONS.gpu, weights + biases);
  const imagesEach = ceilDiv(images, Math.min(images, wanted));
  const chunks = ceilDiv(images, imagesEach);
  const partial = operand("partial dweight", chunks * (weights + biases));
  const gradient = directDispatch(
    {
      label: "conv2d.direct.dweight",
      bindings: { x: readScalars(x), dy: readScalars(dy), result: write(partial) },
      constants: { WEIGHTS: weights, ELEMENTS: weights + biases, IMAGES_EACH: imagesEach },
      items: chunks * (weights + biases),
      element: /* wgsl */ `
  let element = item % ELEMENTS;
  let first_image = item / ELEMENTS * IMAGES_EACH;
  let is_bias = element >= WEIGHTS;
  let o = element % Y_STORED;
  let i = element / Y_STORED % WEIGHT_ROWS;
  let kw = element / (Y_STORED * WEIGHT_ROWS) % KERNEL_COLUMNS;
  let kh = element / (Y_STORED * WEIGHT_ROWS * KERNEL_COLUMNS);
  if (o >= Y_CHANNELS || (!is_bias && i >= INS)) { return 0.0; }
  let c = o / OUTS * INS + i;
  var total = 0.0;
  for (var n = first_image; n < min(first_image + IMAGES_EACH, IMAGES); n++) {
    var image = 0.0;
    for (var oh = 0u; oh < Y_ROWS; oh++) {
      let h = oh * STRIDE + kh;
      if (!is_bias && (h < PADDING || h >= PADDING + X_ROWS)) { continue; }
      var row = 0.0;
      for (var ow = 0u; ow < Y_COLUMNS; ow++) {
        let gradient = get_dy(((n * Y_ROWS + oh) * Y_COLUMNS + ow) * Y_STORED + o);
        if (is_bias) { row += gradient; continue; }
        let w = ow * STRIDE + kw;
        if (w < PADDING || w >= PADDING + X_COLUMNS) { continue; }
        row += gradient * get_x(((n * X_ROWS + h - PADDING) * X_COLUMNS + w - PADDING) * X_STORED + c);
      }
      image += row;
    }
    total += image;
  }
  return total;`,
    },
    geometry,
    caps,
  );
  const outputs = [{ operand: dweight, vecs: weights / 4 }, ...(dbias ? [{ operand: dbias, vecs: biases / 4 }] : [])];
  return [gradient, ...partialSums(partial, chunks, outputs, caps)];
}

/** A dispatch of one invocation for four elements of `result`, with the geometry's sizes as constants. */
function directDispatch(
  kernel: {
    label: string;
    bindings: Record<string, Binding>;
    constants?: Record<string, number>;
    /** Elements of `result`, a multiple of four. */
    items: number;
    /** WGSL that returns element `item`. */
    element: string;
  },
  geometry: ConvGeometry,
  caps: Capabilities,
): Dispatch {
  const { input, outChannels, kernelHeight, kernelWidth, stride, padding, groups } = geometry;
  const output = convOutput(geometry), filter = convFilter(geometry);
  return {
    label: kernel.label,
    bindings: kernel.bindings,
    constants: {
      ...kernel.constants,
      ITEMS: kernel.items / 4,
      IMAGES: input.n,
      X_ROWS: input.h,
      X_COLUMNS: input.w,
      X_CHANNELS: input.c,
      X_STORED: padded(input.c),
      Y_ROWS: output.h,
      Y_COLUMNS: output.w,
      Y_CHANNELS: outChannels,
      Y_STORED: padded(outChannels),
      KERNEL_ROWS: kernelHeight,
      KERNEL_COLUMNS: kernelWidth,
      STRIDE: stride,
      PADDING: padding,
      INS: filter.i,
      OUTS: outChannels / groups,
      WEIGHT_ROWS: storedInputChannels(filter),
    },
    source: /* wgsl */ `
fn element_of(item: u32) -> f32 {${kernel.element}
}
${eachItem(WORKGROUP_SIZE)}
  // Not a vector's elements: the compiler of Direct3D 12 takes no index that varies there.
  var elements: array<f32, 4>;
  for (var i = 0u; i < 4u; i++) { elements[i] = element_of(item * 4u + i); }
  set_result(item, vec4f(elements[0], elements[1], elements[2], elements[3]));
}`,
    workgroups: itemGrid(kernel.items / 4, WORKGROUP_SIZE, caps.maxWorkgroupsPerDimension),
    flops: convFlops(geometry),
    bytes: Object.values(kernel.bindings).reduce((sum, { operand }) => sum + operand.byteLength, 0),
  };
}
