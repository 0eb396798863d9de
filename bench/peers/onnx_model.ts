/** Writes ONNX models: as much of its protocol buffers as convolutional networks need (onnx.proto3, IR version 8). */

const encoder = new TextEncoder();

function varint(value: number): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  while (value >= 0x80) {
    bytes.push(value % 0x80 | 0x80);
    value = Math.floor(value / 0x80);
  }
  return Uint8Array.of(...bytes, value);
}

function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** A field of varint, bytes (text, message) or 32-bit float kind. */
const int = (field: number, value: number) => concat([varint(field << 3), varint(value)]);
const bytes = (field: number, value: Uint8Array) => concat([varint(field << 3 | 2), varint(value.length), value]);
const text = (field: number, value: string) => bytes(field, encoder.encode(value));
const message = (field: number, parts: readonly Uint8Array[]) => bytes(field, concat(parts));

const FLOAT = 1, INT_ATTRIBUTE = 2, INTS_ATTRIBUTE = 7;

/** A graph under construction: values are known by name. */
export class OnnxModel {
  readonly #nodes: Uint8Array[] = [];
  readonly #initializers: Uint8Array[] = [];
  #count = 0;

  /** A constant. */
  constant(name: string, shape: readonly number[], data: Float32Array<ArrayBuffer>): string {
    this.#initializers.push(
      message(5, [
        ...shape.map((size) => int(1, size)),
        int(2, FLOAT),
        text(8, name),
        bytes(9, new Uint8Array(data.buffer)),
      ]),
    );
    return name;
  }

  /** Applies an operator; returns its output's name. */
  node(
    operator: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, number | readonly number[]>> = {},
  ): string {
    const output = `v${this.#count++}`;
    const attribute = ([name, value]: [string, number | readonly number[]]) =>
      message(5, [
        text(1, name),
        ...(typeof value === "number"
          ? [int(3, value), int(20, INT_ATTRIBUTE)]
          : [...value.map((each) => int(8, each)), int(20, INTS_ATTRIBUTE)]),
      ]);
    this.#nodes.push(message(1, [
      ...inputs.map((input) => text(1, input)),
      text(2, output),
      text(3, `n${this.#count}`),
      text(4, operator),
      ...Object.entries(attributes).map(attribute),
    ]));
    return output;
  }

  /** The file's bytes: one float input `x`, one float output. */
  encode(input: readonly number[], output: string, outputShape: readonly number[]): Uint8Array<ArrayBuffer> {
    const value = (field: number, name: string, shape: readonly number[]) =>
      message(field, [
        text(1, name),
        message(2, [message(1, [int(1, FLOAT), message(2, shape.map((size) => message(1, [int(1, size)])))])]),
      ]);
    const graph = [
      ...this.#nodes,
      text(2, "network"),
      ...this.#initializers,
      value(11, "x", input),
      value(12, output, outputShape),
    ];
    return concat([int(1, 8), message(7, graph), message(8, [text(1, ""), int(2, 17)])]);
  }
}
