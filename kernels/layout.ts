/**
 * How tensors lie in GPU memory, and the way there and back.
 *
 * Activations are NHWC, their channels padded to a multiple of four so that every kernel can load `vec4f`. The padding
 * is zero, always: weights, biases and batch norm's scale are zero there, so it stays zero through any network, and no
 * gradient arises from it. Convolution weights are HWIO (kernel row, kernel column, input channel of the group, output
 * channel), with both channel axes padded for `groups = 1` and the output axis alone for grouped ones.
 */

/** Channels as stored: rounded up to a multiple of four. */
export function padded(channels: number): number {
  return Math.ceil(channels / 4) * 4;
}

/** The size of an activation. `h` and `w` are 1 for a matrix of `n` rows. */
export interface Shape {
  /** Images of a batch. */
  readonly n: number;
  /** Height. */
  readonly h: number;
  /** Width. */
  readonly w: number;
  /** Channels. */
  readonly c: number;
}

/** Elements an activation takes in memory, padding included. */
export function storedElements(shape: Shape): number {
  return shape.n * shape.h * shape.w * padded(shape.c);
}

/** PyTorch's NCHW to the padded NHWC of the GPU. */
export function toNhwc(data: Float32Array, { n, c, h, w }: Shape): Float32Array<ArrayBuffer> {
  const stride = padded(c), plane = h * w;
  const out = new Float32Array(n * plane * stride);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < c; k++) {
      const from = (i * c + k) * plane;
      for (let p = 0; p < plane; p++) out[(i * plane + p) * stride + k] = data[from + p];
    }
  }
  return out;
}

/** The GPU's padded NHWC back to PyTorch's NCHW. */
export function fromNhwc(data: Float32Array, { n, c, h, w }: Shape): Float32Array<ArrayBuffer> {
  const stride = padded(c), plane = h * w;
  const out = new Float32Array(n * plane * c);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < c; k++) {
      const to = (i * c + k) * plane;
      for (let p = 0; p < plane; p++) out[to + p] = data[(i * plane + p) * stride + k];
    }
  }
  return out;
}

/** The size of a convolution's weight as PyTorch tells it: OIHW, `i` being input channels of one group. */
export interface FilterShape {
  readonly o: number;
  readonly i: number;
  readonly h: number;
  readonly w: number;
  readonly groups: number;
}

/** Input channels of a group as stored: padded only for a dense convolution. */
export function storedInputChannels({ i, groups }: FilterShape): number {
  return groups === 1 ? padded(i) : i;
}

/** Elements a convolution's weight takes in memory, padding included. */
export function storedFilterElements(shape: FilterShape): number {
  return shape.h * shape.w * storedInputChannels(shape) * padded(shape.o);
}

/** PyTorch's OIHW to the padded HWIO of the GPU. */
export function toHwio(data: Float32Array, shape: FilterShape): Float32Array<ArrayBuffer> {
  const out = new Float32Array(storedFilterElements(shape));
  eachWeight(shape, (oihw, hwio) => out[hwio] = data[oihw]);
  return out;
}

/** The GPU's padded HWIO back to PyTorch's OIHW. */
export function fromHwio(data: Float32Array, shape: FilterShape): Float32Array<ArrayBuffer> {
  const out = new Float32Array(shape.o * shape.i * shape.h * shape.w);
  eachWeight(shape, (oihw, hwio) => out[oihw] = data[hwio]);
  return out;
}

function eachWeight(shape: FilterShape, visit: (oihw: number, hwio: number) => void): void {
  const { o, i, h, w } = shape;
  const rows = storedInputChannels(shape), columns = padded(o), taps = h * w;
  for (let k = 0; k < o; k++) {
    for (let c = 0; c < i; c++) {
      for (let t = 0; t < taps; t++) visit((k * i + c) * taps + t, (t * rows + c) * columns + k);
    }
  }
}

/** A vector of one value a channel, padded with zeros. */
export function toPaddedVector(data: Float32Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(padded(data.length));
  out.set(data);
  return out;
}
