/** Tensors as PyTorch's pickles tell them: views of storages, by offset, shape and strides. */

import { PickleError } from "./pickle.ts";
import type { Dtype, TensorData } from "./safetensors.ts";

/** Storage types by their names, with the element type as safetensors calls it and its bytes. */
export const STORAGES: Readonly<Record<string, readonly [Dtype, number]>> = {
  DoubleStorage: ["F64", 8],
  FloatStorage: ["F32", 4],
  HalfStorage: ["F16", 2],
  BFloat16Storage: ["BF16", 2],
  LongStorage: ["I64", 8],
  IntStorage: ["I32", 4],
  ShortStorage: ["I16", 2],
  CharStorage: ["I8", 1],
  ByteStorage: ["U8", 1],
  BoolStorage: ["BOOL", 1],
};

/** A stretch of elements that tensors look at. */
export class Storage {
  constructor(readonly dtype: Dtype, readonly itemBytes: number, readonly key: string, readonly elements: number) {}
}

/** A tensor as the pickle tells it. */
export class View {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}

  get elements(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }
}

/**
 * The tensors that views show, each row-major.
 *
 * @param load Gives a storage's bytes.
 * @param fileBytes Of the whole file.
 * @throws {PickleError} where they ask for more memory than such a file may.
 */
export async function loadViews(
  views: ReadonlyMap<string, View>,
  load: (storage: Storage) => Promise<Uint8Array<ArrayBuffer>>,
  fileBytes: number,
): Promise<Map<string, TensorData>> {
  // A tensor with a stride of zero may be larger than any file: a file may ask for somewhat more than it is, not more.
  let wanted = 0;
  for (const view of views.values()) wanted += view.elements * view.storage.itemBytes;
  if (!(wanted <= 16 * fileBytes + 2 ** 24)) {
    throw new PickleError(
      `its tensors would take ${wanted} bytes, the file has ${fileBytes}: refused; save each tensor's .clone()`,
    );
  }
  const loaded = new Map<string, Uint8Array<ArrayBuffer>>();
  const tensors = new Map<string, TensorData>();
  for (const [name, view] of views) {
    const { storage, shape } = view;
    const bytes = loaded.get(storage.key) ?? await load(storage);
    loaded.set(storage.key, bytes);
    tensors.set(name, { dtype: storage.dtype, shape, bytes: rowMajor(view, bytes) });
  }
  return tensors;
}

/** The view's elements in order; where they lie so already, without a copy. */
function rowMajor({ storage, offset, shape, strides, elements }: View, bytes: Uint8Array<ArrayBuffer>) {
  const { itemBytes } = storage;
  let step = 1, contiguous = true;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== step) contiguous = false;
    step *= shape[axis];
  }
  if (contiguous || elements === 0) return bytes.subarray(offset * itemBytes, (offset + elements) * itemBytes);
  const out = new Uint8Array(elements * itemBytes);
  const index = shape.map(() => 0);
  let from = offset;
  for (let to = 0; to < elements; to++) {
    for (let b = 0; b < itemBytes; b++) out[to * itemBytes + b] = bytes[from * itemBytes + b];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis];
      if (++index[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return out;
}
