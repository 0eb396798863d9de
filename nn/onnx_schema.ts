/**
 * As much of ONNX's protocol buffers as a network for images needs, as protobufjs reads it. Names and numbers are those of
 * `onnx/onnx.proto` (IR version 8).
 *
 * Messages are written by protobufjs's smallest part: the whole of it makes code out of the schema, which a page with a
 * content security policy may not, and is half as large as all of this library.
 */

import type { INamespace, IType } from "protobufjs";
import minimal from "protobufjs/minimal.js";

const field = (id: number, type: string) => ({ id, type });
const list = (id: number, type: string) => ({ id, type, rule: "repeated", options: { packed: false } });

/** The messages. */
export const ONNX_SCHEMA: INamespace = {
  nested: {
    ModelProto: {
      fields: {
        irVersion: field(1, "int64"),
        producerName: field(2, "string"),
        producerVersion: field(3, "string"),
        docString: field(6, "string"),
        graph: field(7, "GraphProto"),
        opsetImport: list(8, "OperatorSetIdProto"),
        metadataProps: list(14, "StringStringEntryProto"),
      },
    },
    OperatorSetIdProto: { fields: { domain: field(1, "string"), version: field(2, "int64") } },
    StringStringEntryProto: { fields: { key: field(1, "string"), value: field(2, "string") } },
    GraphProto: {
      fields: {
        node: list(1, "NodeProto"),
        name: field(2, "string"),
        initializer: list(5, "TensorProto"),
        input: list(11, "ValueInfoProto"),
        output: list(12, "ValueInfoProto"),
      },
    },
    NodeProto: {
      fields: {
        input: list(1, "string"),
        output: list(2, "string"),
        name: field(3, "string"),
        opType: field(4, "string"),
        attribute: list(5, "AttributeProto"),
      },
    },
    AttributeProto: {
      fields: {
        name: field(1, "string"),
        f: field(2, "float"),
        i: field(3, "int64"),
        ints: list(8, "int64"),
        type: field(20, "int32"),
      },
    },
    TensorProto: {
      fields: {
        dims: list(1, "int64"),
        dataType: field(2, "int32"),
        name: field(8, "string"),
        rawData: field(9, "bytes"),
      },
    },
    ValueInfoProto: { fields: { name: field(1, "string"), type: field(2, "TypeProto") } },
    TypeProto: { fields: { tensorType: field(1, "TensorTypeProto") } },
    TensorTypeProto: { fields: { elemType: field(1, "int32"), shape: field(2, "TensorShapeProto") } },
    TensorShapeProto: { fields: { dim: list(1, "DimensionProto") } },
    // One of the two is set.
    DimensionProto: { fields: { dimValue: field(1, "int64"), dimParam: field(2, "string") } },
  },
};

/** A size, or the name of one that is open. */
export type Dimension = number | string;

/** An attribute's value: a whole number, whole numbers, or a real one. */
export type Attribute = { readonly i: number } | { readonly ints: readonly number[] } | { readonly f: number };

/** `AttributeProto.AttributeType`. */
export const ATTRIBUTE_TYPES = { f: 1, i: 2, ints: 7 } as const;

/** `TensorProto.DataType.FLOAT`. */
export const FLOAT = 1;

/** Writes a message of {@linkcode ONNX_SCHEMA}; what is absent is left out. */
export function encodeMessage(
  type: string,
  message: Readonly<Record<string, unknown>>,
  writer: minimal.Writer = minimal.Writer.create(),
): minimal.Writer {
  const { fields } = ONNX_SCHEMA.nested![type] as IType;
  for (const [name, { id, type }] of Object.entries(fields)) {
    for (const value of [message[name] ?? []].flat()) {
      if (type in ONNX_SCHEMA.nested!) {
        encodeMessage(type, value as Record<string, unknown>, writer.uint32(id << 3 | 2).fork()).ldelim();
      } else if (type === "int32" || type === "int64") {
        writer.uint32(id << 3)[type](value as number);
      } else if (type === "float") {
        writer.uint32(id << 3 | 5).float(value as number);
      } else if (type === "bytes") {
        writer.uint32(id << 3 | 2).bytes(value as Uint8Array);
      } else {
        writer.uint32(id << 3 | 2).string(value as string);
      }
    }
  }
  return writer;
}
