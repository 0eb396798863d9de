/**
 * PyTorch's own files (`torch.save`): a zip archive of a pickle and one record a storage, or, before PyTorch 1.6, pickles
 * and storages one after the other. Tensors and plain containers are read; what else a training script saves beside them
 * is passed over, and nothing is run (see `pickle.ts`).
 *
 * Formats: PyTorch's `torch/serialization.py`, `_save` and `_legacy_save`.
 */

import { UserError } from "../kernels/user_error.ts";
import type { ByteSource } from "./byte_source.ts";
import { quoted } from "./json.ts";
import {
  damaged,
  Global,
  Opaque,
  PickleError,
  PickleTruncated,
  type PickleValue,
  type PickleWorld,
  readPickle,
  shownName,
  Tuple,
} from "./pickle.ts";
import type { TensorData } from "./safetensors.ts";
import { loadViews, Storage, STORAGES, View } from "./torch_tensor.ts";
import { readZipDirectory, readZipEntry, type ZipEntry, ZipError } from "./zip_directory.ts";

/** What a file of PyTorch's holds. */
export interface TorchFile {
  /** The state's tensors, row-major, in the file's order and under its names. */
  readonly tensors: ReadonlyMap<string, TensorData>;
  /** What was done to find them, for people: `took "state_dict" of the checkpoint`. */
  readonly notes: readonly string[];
}

const DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"];

/** What to do with numbers in another order. */
const LITTLE_ENDIAN = "save it again on a machine that is little-endian";

/** A pickle of weights is small: names and sizes. */
const MAX_PICKLE_BYTES = 256 * 2 ** 20;

/** Whether bytes begin as a file of `torch.save` does. */
export function isTorchFile(head: Uint8Array): boolean {
  return isZip(head) || LEGACY_HEAD.every((byte, i) => head[i] === byte);
}

const isZip = (head: Uint8Array) => head[0] === 0x50 && head[1] === 0x4b && head[2] === 3 && head[3] === 4;
/** The pickle of the old form's magic number, 0x1950a86a20f9469cfc6c. */
const LEGACY_HEAD = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e];

/**
 * Reads the weights of a file of PyTorch's: a `state_dict`, or a checkpoint that has one inside.
 *
 * @param name Stands in error messages.
 * @throws {UserError} for other files, damaged ones, and what is refused, by its name.
 */
export async function readTorchFile(source: ByteSource, name: string): Promise<TorchFile> {
  try {
    const head = await source.read(0, Math.min(source.size, LEGACY_HEAD.length));
    const { value, load } = isZip(head) ? await readArchive(source) : await readLegacy(source);
    const { views, notes } = findState(value);
    return { tensors: await loadViews(views, load, source.size), notes };
  } catch (error) {
    if (!(error instanceof PickleError || error instanceof ZipError)) throw error;
    throw new UserError(`Cannot read "${name}" as PyTorch's: ${error.message}`, { cause: error });
  }
}

interface Loaded {
  readonly value: PickleValue;
  /** A storage's bytes. */
  readonly load: (storage: Storage) => Promise<Uint8Array<ArrayBuffer>>;
}

// ---------------------------------------------------------------------------------------------------------------------
// The two forms
// ---------------------------------------------------------------------------------------------------------------------

async function readArchive(source: ByteSource): Promise<Loaded> {
  const entries = await readZipDirectory(source);
  const pickles = [...entries.keys()].filter((name) => /(^|\/)data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    throw new ZipError(
      `it is a zip archive, but none of torch.save's: it has ${pickles.length} entries data.pkl, not one; ` +
        "unpack it and name the file in it",
    );
  }
  const prefix = pickles[0].slice(0, -"data.pkl".length);
  const entry = entries.get(pickles[0])!;
  if (entry.size > MAX_PICKLE_BYTES) {
    throw new PickleError(
      `its pickle of ${entry.size} bytes is larger than any of weights: save model.state_dict() alone`,
    );
  }
  const order = entries.get(`${prefix}byteorder`);
  if (order && order.size <= 16) {
    const text = new TextDecoder().decode(await readZipEntry(source, order));
    if (text !== "little") {
      throw new PickleError(`its numbers are ${quoted(text)}-endian, little is known; ${LITTLE_ENDIAN}`);
    }
  }
  const storageOf = (key: string): ZipEntry => {
    const found = entries.get(`${prefix}data/${key}`);
    if (!found) throw damaged(`its storage ${quoted(key)} is missing`);
    return found;
  };
  const { value } = readPickle(await readZipEntry(source, entry), world());
  return {
    value,
    load: async (storage) => {
      const found = storageOf(storage.key);
      if (found.size !== storage.elements * storage.itemBytes) {
        throw damaged(`its storage ${quoted(storage.key)} has ${found.size} bytes`);
      }
      return await readZipEntry(source, found);
    },
  };
}

async function readLegacy(source: ByteSource): Promise<Loaded> {
  const storages = new Map<string, Storage>();
  const known = world(storages);
  // How long the pickles are, nobody tells: read on until they end.
  for (let length = Math.min(source.size, 2 ** 20);; length = Math.min(source.size, 4 * length)) {
    const bytes = await source.read(0, length);
    try {
      storages.clear();
      let at = 0;
      const next = () => {
        const { value, end } = readPickle(bytes, known, at);
        at = end;
        return value;
      };
      if (next() !== 0x1950a86a20f9469cfc6cn) throw damaged("it does not begin as torch.save's files do");
      const version = next(), system = next();
      if (version !== 1001) {
        throw new PickleError("it is of an unknown version of PyTorch's old form: save it again by a newer PyTorch");
      }
      if (!(system instanceof Map) || system.get("little_endian") !== true) {
        throw new PickleError(`its numbers are not little-endian; ${LITTLE_ENDIAN}`);
      }
      const value = next(), keys = next();
      if (!Array.isArray(keys)) throw damaged("it does not list its storages");
      const places = await placeStorages(source, at, keys, storages);
      return {
        value,
        load: async ({ key, elements, itemBytes }) => {
          const offset = places.get(key);
          if (offset === undefined) throw damaged(`its storage ${quoted(key)} is missing`);
          return await source.read(offset, elements * itemBytes);
        },
      };
    } catch (error) {
      if (!(error instanceof PickleTruncated) || length >= Math.min(source.size, MAX_PICKLE_BYTES)) throw error;
    }
  }
}

/** Storages follow in the order of the list, each an int64 of its elements, then those. */
async function placeStorages(
  source: ByteSource,
  start: number,
  keys: readonly PickleValue[],
  storages: ReadonlyMap<string, Storage>,
): Promise<Map<string, number>> {
  const places = new Map<string, number>();
  let at = start;
  for (const key of keys) {
    const storage = typeof key === "string" ? storages.get(key) : undefined;
    if (!storage) {
      throw new PickleError(
        "it lists a storage that is of no tensor known here, such as a quantized one: save it again without that",
      );
    }
    if (at + 8 > source.size) throw new PickleTruncated();
    const count = await source.read(at, 8);
    const elements = new DataView(count.buffer, count.byteOffset, 8).getBigInt64(0, true);
    if (elements !== BigInt(storage.elements)) {
      throw damaged(`a storage of ${storage.elements} elements says it has ${elements}`);
    }
    places.set(storage.key, at + 8);
    at += 8 + storage.elements * storage.itemBytes;
    if (at > source.size) throw new PickleTruncated();
  }
  return places;
}

// ---------------------------------------------------------------------------------------------------------------------
// What a pickle of weights may name
// ---------------------------------------------------------------------------------------------------------------------

/** Items that calls may copy in all: a list that is remembered once could else be copied once a byte. */
const MAX_COPIED = 2 ** 22;

/** @param storages Collects the storages referred to, by key. */
function world(storages = new Map<string, Storage>()): PickleWorld {
  const globals = new Map<string, Global>();
  let copied = 0;
  const spend = (items: readonly PickleValue[]) => {
    copied += items.length;
    if (copied > MAX_COPIED) {
      throw new PickleError("it copies its lists over and over, as no file of torch.save's does: refused");
    }
    return items;
  };
  const allow = (name: string, call?: Global["call"]) => void globals.set(name, new Global(name, call));
  for (const name of Object.keys(STORAGES)) allow(`torch.${name}`);
  for (const name of DTYPES) allow(`torch.${name}`);
  allow("collections.OrderedDict", ([pairs]) => pairs === undefined ? new Map() : orderedDict(spend(sequence(pairs))));
  allow("torch.Size", ([items]) => new Tuple([...spend(sequence(items))]));
  allow("torch._utils._rebuild_tensor", (args) => view(args));
  allow("torch._utils._rebuild_tensor_v2", (args) => view(args));
  for (const name of ["_rebuild_parameter", "_rebuild_parameter_with_state"]) {
    allow(`torch._utils.${name}`, ([tensor]) => {
      if (tensor instanceof View || tensor instanceof Opaque) return tensor;
      throw damaged("a parameter is no tensor");
    });
  }
  return {
    globals,
    persistent: (id) => {
      const [what, type, key, , elements, part] = id instanceof Tuple ? id.items : [];
      // "module" is the old form's way to name a class.
      if (type instanceof Opaque && (what === "module" || what === "storage")) return type;
      if (what !== "storage") throw damaged("it refers to what is no storage");
      const kind = type instanceof Global ? STORAGES[type.name.slice("torch.".length)] : undefined;
      if (!kind || typeof key !== "string" || !isCount(elements)) {
        throw damaged("it refers to no valid storage");
      }
      if (part !== undefined && part !== null) {
        throw new PickleError("its storages are parts of others: save it again by a newer PyTorch");
      }
      const before = storages.get(key);
      if (before && (before.dtype !== kind[0] || before.elements !== elements)) {
        throw damaged(`it tells two sizes of the storage ${quoted(key)}`);
      }
      const storage = before ?? new Storage(...kind, key, elements);
      storages.set(key, storage);
      return storage;
    },
  };
}

function orderedDict(pairs: readonly PickleValue[]): PickleValue {
  const dict = new Map<PickleValue, PickleValue>();
  for (const pair of pairs) {
    const [key, value] = sequence(pair);
    if (key === undefined || value === undefined) throw damaged("a dict's item is no pair");
    dict.set(key, value);
  }
  return dict;
}

function view([storage, offset, shape, strides]: readonly PickleValue[]): View | Opaque {
  if (storage instanceof Opaque) return storage;
  const sizes = sequence(shape), steps = sequence(strides);
  if (
    !(storage instanceof Storage) || !isCount(offset) || sizes.length > 16 || sizes.length !== steps.length ||
    !sizes.every(isCount) || !steps.every(isCount)
  ) throw damaged("a tensor has no valid size");
  const made = new View(storage, offset, sizes, steps);
  const last = sizes.reduce((sum, size, axis) => sum + (size - 1) * steps[axis], offset);
  if (made.elements > 0 && !(last < storage.elements)) {
    throw damaged(`a tensor reaches to element ${last} of a storage of ${storage.elements}`);
  }
  return made;
}

function sequence(value: PickleValue | undefined): readonly PickleValue[] {
  if (value instanceof Tuple) return value.items;
  if (Array.isArray(value)) return value;
  throw damaged("a tuple is missing");
}

function isCount(value: PickleValue | undefined): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Where the state is
// ---------------------------------------------------------------------------------------------------------------------

/** Under which names training scripts keep the average of the weights: timm's and torchvision's. */
const AVERAGES = ["state_dict_ema", "model_ema"];
/** Under which names they keep the state. The average comes first, as where timm loads a checkpoint. */
const WRAPPERS = [...AVERAGES, "state_dict", "model_state_dict", "model", "net", "module"];

function findState(value: PickleValue): { views: Map<string, View>; notes: string[] } {
  if (isState(value)) return { views: value, notes: [] };
  const wrapped = value instanceof Map ? value : new Map<PickleValue, PickleValue>();
  for (const key of WRAPPERS) {
    const found = wrapped.get(key);
    if (!isState(found)) continue;
    const average = AVERAGES.includes(key) ? ", the average of the weights" : "";
    return { views: found, notes: [`took "${key}" of the checkpoint${average}`] };
  }
  for (const found of [value, ...WRAPPERS.map((key) => wrapped.get(key))]) {
    if (found instanceof Opaque) {
      throw new PickleError(
        `it holds a model as an object of ${shownName(found.name)}, which only Python can make: ` +
          "save model.state_dict() instead of the model",
      );
    }
    // Such as quantized, sparse and complex ones.
    const strange = [...found instanceof Map ? found.values() : []].find(isUnknownTensor);
    if (strange) {
      throw new PickleError(
        `it holds a tensor of ${
          shownName(strange.name)
        }, which is not known: save dense tensors of numbers, not quantized`,
      );
    }
  }
  const names = WRAPPERS.slice(AVERAGES.length).slice(0, 3).map((key) => `"${key}"`).join(", ");
  const keys = [...wrapped.keys()].filter((key) => typeof key === "string");
  const shown = [...keys.slice(0, 5).map((key) => quoted(key)), ...(keys.length > 5 ? ["..."] : [])].join(", ");
  const has = keys.length > 0 ? `, but ${shown}` : "";
  throw new PickleError(`it holds no state_dict, neither itself nor as ${names}, ...${has}: save model.state_dict()`);
}

function isUnknownTensor(value: PickleValue): value is Opaque {
  return value instanceof Opaque && /^torch\.(_utils\._rebuild_|\w*Storage$)/.test(value.name);
}

function isState(value: PickleValue | undefined): value is Map<string, View> {
  return value instanceof Map && value.size > 0 &&
    [...value].every(([key, item]) => typeof key === "string" && item instanceof View);
}
