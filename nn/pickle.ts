/**
 * Python's pickle, read as data. A pickle is a program for a small stack machine that can import and call anything; this
 * machine knows plain containers and what the caller lists. Everything else that a pickle names, calls or builds becomes
 * an `Opaque`: a name, and nothing to run. So what lies beside a training script's settings is found, and nothing is ever
 * run that is not in this file or in the caller's list. Names that only a pickle made to do harm has are refused: not
 * for this reader's sake, but because the file's user should know.
 *
 * Opcodes: CPython's `Lib/pickletools.py`; protocols 2 to 5, without buffers outside of the stream.
 */

import { quoted } from "./json.ts";

/** A Python tuple; a list is a plain array. */
export class Tuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A class or function that a pickle names; only listed ones come to be. */
export class Global {
  constructor(
    readonly name: string,
    /** What a call gives; absent for what may be named and not called. */
    readonly call?: (args: readonly PickleValue[]) => PickleValue,
  ) {}
}

/** A class, function or object that nobody listed, a set too. What is called, set or added on it is forgotten. */
export class Opaque {
  constructor(readonly name: string) {}
}

/** Anything that a pickle holds: a dict is a `Map`, an object of the caller's whatever its list makes. */
export type PickleValue = null | boolean | number | bigint | string | object;

/** Why a pickle is not read. The message continues `Cannot read FILE: `. */
export class PickleError extends Error {
  override name = "PickleError";
}

/** The bytes end before the pickle does. */
export class PickleTruncated extends PickleError {
  constructor() {
    super("it is cut short; copy or download it again");
  }
}

/** The bytes are none that anybody can have meant. */
export function damaged(what: string): PickleError {
  return new PickleError(`it is damaged: ${what}; copy or download it again`);
}

/** What to do with a pickle of what is not known here. */
const SAVE_STATE = "save model.state_dict() by torch.save";

/** What a pickle may name, and what its persistent references mean. */
export interface PickleWorld {
  /** By `module.name`; others are opaque. */
  readonly globals: ReadonlyMap<string, Global>;
  persistent(id: PickleValue): PickleValue;
}

/** Modules that reach the system, files or code, and the built-in functions that do: no object is made of them. */
const HARMFUL_MODULES = ["os", "posix", "nt", "subprocess", "pty", "shutil", "ctypes", "importlib", "runpy"];
const HARMFUL_BUILTINS = ["eval", "exec", "execfile", "compile", "open", "__import__"];

function isHarmful(module: string, name: string): boolean {
  const [top] = module.split(".", 1);
  return HARMFUL_MODULES.includes(top) || /^(builtins|__builtin__)$/.test(module) && HARMFUL_BUILTINS.includes(name);
}

/** Integers of more bytes than this have no place in a file of weights. */
const MAX_INTEGER_BYTES = 64;

/**
 * Reads one pickle from `offset`.
 *
 * @returns Its value, and where it ends.
 * @throws {PickleError} for what is refused or malformed.
 */
export function readPickle(
  bytes: Uint8Array,
  world: PickleWorld,
  offset = 0,
): { readonly value: PickleValue; readonly end: number } {
  return new Machine(bytes, world, offset).run();
}

const MARK = Symbol("mark");
type Slot = PickleValue | typeof MARK;

class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #world: PickleWorld;
  readonly #memo = new Map<number, PickleValue>();
  readonly #stack: Slot[] = [];
  #at: number;

  constructor(bytes: Uint8Array, world: PickleWorld, offset: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#world = world;
    this.#at = offset;
  }

  run(): { value: PickleValue; end: number } {
    for (;;) {
      const code = this.#bytes[this.#take(1)];
      if (code === 0x2e) return { value: this.#pop(), end: this.#at };
      this.#step(code);
    }
  }

  /** One instruction. Every one takes at least a byte and makes at most one value, so time and memory are the file's. */
  #step(code: number): void {
    const view = this.#view;
    switch (code) {
      case 0x80: { // PROTO
        const protocol = this.#bytes[this.#take(1)];
        if (protocol < 2 || protocol > 5) {
          throw new PickleError(`it is a pickle of protocol ${protocol}, 2 to 5 are known; ${SAVE_STATE}`);
        }
        return;
      }
      case 0x95: // FRAME
        return void this.#take(8);
      case 0x28: // MARK
        return void this.#stack.push(MARK);
      case 0x30: // POP
        if (this.#stack.pop() === undefined) throw malformed("takes from an empty stack");
        return;
      case 0x31: // POP_MARK
        return void this.#popMark();
      case 0x32: { // DUP
        const top = this.#pop();
        return void this.#stack.push(top, top);
      }
      case 0x4e: // NONE
        return void this.#stack.push(null);
      case 0x88: // NEWTRUE
        return void this.#stack.push(true);
      case 0x89: // NEWFALSE
        return void this.#stack.push(false);
      case 0x4a: // BININT
        return void this.#stack.push(view.getInt32(this.#take(4), true));
      case 0x4b: // BININT1
        return void this.#stack.push(this.#bytes[this.#take(1)]);
      case 0x4d: // BININT2
        return void this.#stack.push(view.getUint16(this.#take(2), true));
      case 0x8a: // LONG1
        return void this.#stack.push(this.#integer(this.#bytes[this.#take(1)]));
      case 0x8b: // LONG4
        return void this.#stack.push(this.#integer(view.getUint32(this.#take(4), true)));
      case 0x47: // BINFLOAT
        return void this.#stack.push(view.getFloat64(this.#take(8)));
      case 0x58: // BINUNICODE
        return void this.#stack.push(this.#text(view.getUint32(this.#take(4), true)));
      case 0x8c: // SHORT_BINUNICODE
        return void this.#stack.push(this.#text(this.#bytes[this.#take(1)]));
      case 0x8d: // BINUNICODE8
        return void this.#stack.push(this.#text(this.#length8()));
      case 0x54: // BINSTRING: Python 2's str
        return void this.#stack.push(this.#text(view.getUint32(this.#take(4), true)));
      case 0x55: // SHORT_BINSTRING
        return void this.#stack.push(this.#text(this.#bytes[this.#take(1)]));
      case 0x42: // BINBYTES
        return void this.#stack.push(this.#raw(view.getUint32(this.#take(4), true)));
      case 0x43: // SHORT_BINBYTES
        return void this.#stack.push(this.#raw(this.#bytes[this.#take(1)]));
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        return void this.#stack.push(this.#raw(this.#length8()));
      case 0x5d: // EMPTY_LIST
        return void this.#stack.push([]);
      case 0x6c: // LIST
        return void this.#stack.push(this.#popMark());
      case 0x61: { // APPEND
        const value = this.#pop();
        return this.#append([value]);
      }
      case 0x65: { // APPENDS
        const values = this.#popMark();
        return this.#append(values);
      }
      case 0x8f: // EMPTY_SET
        return void this.#stack.push(new Opaque("set"));
      case 0x90: // ADDITEMS
        this.#popMark();
        if (!(this.#peek() instanceof Opaque)) throw malformed("adds to what is no set");
        return;
      case 0x91: // FROZENSET
        this.#popMark();
        return void this.#stack.push(new Opaque("frozenset"));
      case 0x29: // EMPTY_TUPLE
        return void this.#stack.push(new Tuple([]));
      case 0x74: // TUPLE
        return void this.#stack.push(new Tuple(this.#popMark()));
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: { // TUPLE3
        const items = Array.from({ length: code - 0x84 }, () => this.#pop());
        return void this.#stack.push(new Tuple(items.reverse()));
      }
      case 0x7d: // EMPTY_DICT
        return void this.#stack.push(new Map());
      case 0x64: { // DICT
        const items = this.#popMark();
        return void this.#stack.push(fill(new Map(), items));
      }
      case 0x73: { // SETITEM
        const value = this.#pop(), key = this.#pop();
        return this.#setItems([key, value]);
      }
      case 0x75: { // SETITEMS
        const items = this.#popMark();
        return this.#setItems(items);
      }
      case 0x71: // BINPUT
        return void this.#memo.set(this.#bytes[this.#take(1)], this.#peek());
      case 0x72: // LONG_BINPUT
        return void this.#memo.set(view.getUint32(this.#take(4), true), this.#peek());
      case 0x94: // MEMOIZE
        return void this.#memo.set(this.#memo.size, this.#peek());
      case 0x68: // BINGET
        return void this.#stack.push(this.#remembered(this.#bytes[this.#take(1)]));
      case 0x6a: // LONG_BINGET
        return void this.#stack.push(this.#remembered(view.getUint32(this.#take(4), true)));
      case 0x63: // GLOBAL
        return void this.#stack.push(this.#global(this.#line(), this.#line()));
      case 0x93: { // STACK_GLOBAL
        const name = this.#pop(), module = this.#pop();
        if (typeof name !== "string" || typeof module !== "string") throw malformed("names a function by no text");
        return void this.#stack.push(this.#global(module, name));
      }
      case 0x52: // REDUCE
      case 0x81: { // NEWOBJ
        const args = this.#pop(), callee = this.#pop();
        return void this.#stack.push(called(callee, args));
      }
      case 0x92: { // NEWOBJ_EX
        this.#pop(); // Arguments by name: nothing listed takes any.
        const args = this.#pop(), callee = this.#pop();
        return void this.#stack.push(called(callee, args));
      }
      case 0x62: { // BUILD: attributes of an object; those of a dict (`_metadata`) tell nothing of tensors
        this.#pop();
        const built = this.#peek();
        if (built instanceof Map || built instanceof Opaque) return;
        throw malformed("sets attributes of what has none");
      }
      case 0x51: // BINPERSID
        return void this.#stack.push(this.#world.persistent(this.#pop()));
      case 0x69: // INST: names a class and calls it
        this.#global(this.#line(), this.#line());
        break;
    }
    const shown = `0x${code.toString(16).padStart(2, "0")}`;
    throw new PickleError(`it holds the pickle instruction ${shown}: refused; ${SAVE_STATE}`);
  }

  /** Where the next `count` bytes begin, which are passed. */
  #take(count: number): number {
    const start = this.#at;
    if (count > this.#bytes.length - start) throw new PickleTruncated();
    this.#at += count;
    return start;
  }

  #length8(): number {
    const length = this.#view.getBigUint64(this.#take(8), true);
    if (length > BigInt(this.#bytes.length)) throw new PickleTruncated();
    return Number(length);
  }

  #text(length: number): string {
    const start = this.#take(length);
    return new TextDecoder().decode(this.#bytes.subarray(start, start + length));
  }

  #raw(length: number): Uint8Array {
    const start = this.#take(length);
    return this.#bytes.slice(start, start + length);
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw new PickleTruncated();
    const text = this.#text(end - this.#at);
    this.#take(1);
    return text;
  }

  /** Two's complement, little-endian. */
  #integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) throw malformed(`holds an integer of ${length} bytes`);
    const start = this.#take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = value << 8n | BigInt(this.#bytes[start + i]);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  #global(module: string, name: string): Global | Opaque {
    const full = `${module}.${name}`, known = this.#world.globals.get(full);
    if (known) return known;
    if (!isHarmful(module, name)) return new Opaque(full);
    const shown = shownName(full);
    const common = /^(posix|nt)\./.test(shown) ? ` (${shown.replace(/^\w+/, "os")})` : "";
    throw new PickleError(
      `it wants to call ${shown}${common}: refused, and nothing of it was run; do not open it in Python`,
    );
  }

  #pop(): PickleValue {
    const top = this.#stack.pop();
    if (top === undefined || top === MARK) throw malformed("takes from an empty stack");
    return top;
  }

  #peek(): PickleValue {
    const top = this.#stack.at(-1);
    if (top === undefined || top === MARK) throw malformed("looks at an empty stack");
    return top;
  }

  #popMark(): PickleValue[] {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) throw malformed("goes back to a mark that is not there");
    const values = this.#stack.slice(mark + 1) as PickleValue[];
    this.#stack.length = mark;
    return values;
  }

  #append(values: readonly PickleValue[]): void {
    const list = this.#peek();
    if (list instanceof Opaque) return;
    if (!Array.isArray(list)) throw malformed("appends to what is no list");
    for (const value of values) list.push(value);
  }

  #setItems(items: readonly PickleValue[]): void {
    const dict = this.#peek();
    if (dict instanceof Opaque) return;
    if (!(dict instanceof Map)) throw malformed("sets an item of what is no dict");
    fill(dict, items);
  }

  #remembered(index: number): PickleValue {
    const value = this.#memo.get(index);
    if (value === undefined) throw malformed(`remembers value ${index}, which it never had`);
    return value;
  }
}

/** What a pickle's call gives: of what is opaque, the same again. */
function called(callee: PickleValue, args: PickleValue): PickleValue {
  if (callee instanceof Opaque) return callee;
  if (!(callee instanceof Global) || !(args instanceof Tuple)) throw malformed("calls what is no function");
  if (!callee.call) throw malformed(`calls ${callee.name}, which is no function`);
  return callee.call(args.items);
}

/** A name out of a pickle, fit to print: files come from anywhere, and their words go to a terminal. */
export function shownName(name: string): string {
  return quoted(name.slice(0, 100)).slice(1, -1);
}

function malformed(what: string): PickleError {
  return damaged(`its pickle ${what}`);
}

function fill(dict: Map<PickleValue, PickleValue>, items: readonly PickleValue[]): Map<PickleValue, PickleValue> {
  if (items.length % 2 !== 0) throw malformed("sets an item without a value");
  for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1]);
  return dict;
}
