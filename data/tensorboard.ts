/**
 * Event files that TensorBoard reads: records framed as TensorFlow frames them, each a protocol buffer of `event.proto` and
 * `summary.proto`.
 */

import protobuf from "protobufjs";

const field = (id: number, type: string) => ({ id, type });
const packed = (id: number, type: string) => ({ id, type, rule: "repeated", options: { packed: true } });

/** As much of TensorFlow's `event.proto` and `summary.proto` as is written here. */
export const EVENT_SCHEMA: protobuf.INamespace = {
  nested: {
    Event: {
      fields: {
        wallTime: field(1, "double"),
        step: field(2, "int64"),
        fileVersion: field(3, "string"),
        summary: field(5, "Summary"),
      },
    },
    Summary: { fields: { value: { id: 1, type: "Value", rule: "repeated" } } },
    Value: {
      fields: {
        tag: field(1, "string"),
        simpleValue: field(2, "float"),
        image: field(4, "Image"),
        histo: field(5, "HistogramProto"),
      },
      // One of them: a scalar of 0 must be written too.
      oneofs: { kind: { oneof: ["simpleValue", "image", "histo"] } },
    },
    Image: {
      fields: {
        height: field(1, "int32"),
        width: field(2, "int32"),
        colorspace: field(3, "int32"),
        encodedImageString: field(4, "bytes"),
      },
    },
    HistogramProto: {
      fields: {
        min: field(1, "double"),
        max: field(2, "double"),
        num: field(3, "double"),
        sum: field(4, "double"),
        sumSquares: field(5, "double"),
        bucketLimit: packed(6, "double"),
        bucket: packed(7, "double"),
      },
    },
  },
};

const EVENT = protobuf.Root.fromJSON(EVENT_SCHEMA).lookupType("Event");

/** What is shown under a tag at a step. */
export type EventValue =
  | { readonly tag: string; readonly scalar: number }
  /** A PNG. */
  | { readonly tag: string; readonly png: Uint8Array; readonly width: number; readonly height: number }
  /** Numbers whose distribution is shown. */
  | { readonly tag: string; readonly values: Float32Array };

/** The first record of a file. */
export function fileHeader(seconds: number): Uint8Array<ArrayBuffer> {
  return record(EVENT.encode({ wallTime: seconds, fileVersion: "brain.Event:2" }).finish());
}

/** A record with values of one step. `seconds` since 1970. */
export function eventRecord(seconds: number, step: number, values: readonly EventValue[]): Uint8Array<ArrayBuffer> {
  const value = values.map((each) => {
    const { tag } = each;
    if ("scalar" in each) return { tag, simpleValue: each.scalar };
    if ("values" in each) return { tag, histo: histogram(each.values) };
    return { tag, image: { height: each.height, width: each.width, colorspace: 3, encodedImageString: each.png } };
  });
  return record(EVENT.encode(EVENT.fromObject({ wallTime: seconds, step, summary: { value } })).finish());
}

/** Buckets of a histogram. */
const BUCKETS = 30;

/** A histogram of equal buckets from the least to the largest number; those that are not finite are left out. */
export function histogram(values: Float32Array) {
  let min = Infinity, max = -Infinity, num = 0, sum = 0, sumSquares = 0;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    min = Math.min(min, value);
    max = Math.max(max, value);
    num++;
    sum += value;
    sumSquares += value * value;
  }
  if (num === 0) return { min: 0, max: 0, num: 0, sum: 0, sumSquares: 0, bucketLimit: [0], bucket: [0] };
  const bucket = new Array<number>(BUCKETS).fill(0), width = (max - min) / BUCKETS || 1;
  for (const value of values) {
    if (Number.isFinite(value)) bucket[Math.min(BUCKETS - 1, Math.floor((value - min) / width))]++;
  }
  return { min, max, num, sum, sumSquares, bucketLimit: bucket.map((_, i) => min + (i + 1) * width), bucket };
}

/** Length, its checksum, the bytes, their checksum: TensorFlow's record format. */
function record(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(16 + bytes.length), view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(bytes.length), true);
  view.setUint32(8, masked(crc32c(out.subarray(0, 8))), true);
  out.set(bytes, 12);
  view.setUint32(12 + bytes.length, masked(crc32c(bytes)), true);
  return out;
}

/** A checksum of data that holds checksums would be weak: TensorFlow rotates it and adds a constant. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Castagnoli's polynomial, bits reversed. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (RFC 3720). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * A file of events in a folder; each write is on the disk when it returns, so that TensorBoard shows a run as it goes.
 *
 * @example
 * ```ts
 * import { EventFile } from "@cardinal/resnext/data";
 *
 * const folder = await Deno.makeTempDir();
 * EventFile.create(folder).write(1, [{ tag: "loss", scalar: 0.5 }]);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export class EventFile {
  private constructor(readonly path: string) {}

  /** A new file, named as TensorBoard expects. @throws The system's errors. */
  static create(folder: string): EventFile {
    const seconds = Date.now() / 1000;
    const file = new EventFile(`${folder}/events.out.tfevents.${Math.floor(seconds)}.resnext.${Deno.pid}`);
    Deno.writeFileSync(file.path, fileHeader(seconds));
    return file;
  }

  /** Adds values of a step. */
  write(step: number, values: readonly EventValue[]): void {
    if (values.length > 0) {
      Deno.writeFileSync(this.path, eventRecord(Date.now() / 1000, step, values), { append: true });
    }
  }
}
