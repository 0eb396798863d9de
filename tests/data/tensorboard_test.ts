import { assert, assertEquals } from "@std/assert";
import protobuf from "protobufjs";
import {
  crc32c,
  EVENT_SCHEMA,
  EventFile,
  eventRecord,
  type EventValue,
  fileHeader,
  histogram,
} from "../../data/tensorboard.ts";
import { withFolder } from "../support.ts";

/** Reads the records of a file, checksums checked by a plain loop over bits. */
function events(bytes: Uint8Array): Record<string, unknown>[] {
  const type = protobuf.Root.fromJSON(EVENT_SCHEMA).lookupType("Event");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), found = [];
  const sum = (part: Uint8Array) => {
    let crc = 0xffffffff;
    for (const byte of part) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
    crc = ~crc >>> 0;
    return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
  };
  for (let at = 0; at < bytes.length;) {
    const length = Number(view.getBigUint64(at, true));
    assertEquals(view.getUint32(at + 8, true), sum(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    assertEquals(view.getUint32(at + 12 + length, true), sum(data));
    found.push(type.toObject(type.decode(data), { longs: Number }));
    at += length + 16;
  }
  return found;
}

Deno.test("CRC-32C is RFC 3720's", () => {
  assertEquals(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assertEquals(crc32c(new Uint8Array(32)), 0x8a9136aa);
});

Deno.test("an event file holds scalars, pictures and histograms by step", async () => {
  await withFolder(async (folder) => {
    const file = EventFile.create(folder);
    const png = new Uint8Array([137, 80, 78, 71]);
    file.write(0, [{ tag: "loss", scalar: 0 }]);
    file.write(2 ** 40, [{ tag: "loss", scalar: 1.5 }, { tag: "images", png, width: 3, height: 2 }]);
    file.write(3, [{ tag: "weights", values: Float32Array.of(-1, 0, 0.5, 1, NaN) }]);
    const [head, zero, two, three] = events(await Deno.readFile(file.path));
    assertEquals(head.fileVersion, "brain.Event:2");
    assert(Math.abs(head.wallTime as number - Date.now() / 1000) < 60);
    assertEquals(zero.summary, { value: [{ tag: "loss", simpleValue: 0 }] });
    assertEquals([two.step, (two.summary as { value: { simpleValue: number }[] }).value[0].simpleValue], [
      2 ** 40,
      1.5,
    ]);
    const { image } = (two.summary as { value: { image: Record<string, unknown> }[] }).value[1];
    assertEquals([image.height, image.width, [...image.encodedImageString as Uint8Array]], [2, 3, [...png]]);
    const { histo } = (three.summary as { value: { histo: { num: number; bucket: number[] } }[] }).value[0];
    assertEquals([histo.num, histo.bucket.reduce((a, b) => a + b)], [4, 4]);
  });
});

Deno.test("events have the bytes of TensorFlow's event.proto and summary.proto", () => {
  const message = (record: Uint8Array) => record.subarray(12, -4).toHex();
  // A byte says field and kind: of field 1 09 a double, 0a what has a length, of field 2 15 a float.
  const time = "09000000000000f03f";
  assertEquals(message(fileHeader(1)), time + "1a0d" + "627261696e2e4576656e743a32");
  const event = (value: EventValue) => message(eventRecord(1, 3, [value]));
  assertEquals(event({ tag: "a", scalar: 1.5 }), time + "1003" + "2a0a" + "0a08" + "0a0161" + "150000c03f");
  assertEquals(
    event({ tag: "a", png: Uint8Array.of(7), width: 2, height: 1 }),
    time + "1003" + "2a10" + "0a0e" + "0a0161" + "2209" + "0801" + "1002" + "1803" + "220107",
  );
  const doubles = (...values: number[]) => new Uint8Array(Float64Array.from(values).buffer).toHex();
  const limits = Array.from({ length: 30 }, (_, i) => i + 4), counts = [1, ...new Array<number>(29).fill(0)];
  const sums = ["09" + doubles(3), "11" + doubles(3), "19" + doubles(1), "21" + doubles(3), "29" + doubles(9)].join("");
  const buckets = "32f001" + doubles(...limits) + "3af001" + doubles(...counts);
  assertEquals(
    event({ tag: "a", values: Float32Array.of(3) }),
    time + "1003" + "2a9c04" + "0a9904" + "0a0161" + "2a9304" + sums + buckets,
  );
});

Deno.test("a histogram has a bucket for each number, of equal numbers and of none too", () => {
  const { bucketLimit, bucket, sum, sumSquares } = histogram(Float32Array.of(0, 1, 2, 3));
  assertEquals([bucket[0], bucket.at(-1), bucketLimit.at(-1), sum, sumSquares], [1, 1, 3, 6, 14]);
  assertEquals(histogram(Float32Array.of(2, 2)).bucket[0], 2);
  assertEquals(histogram(Float32Array.of(NaN)).num, 0);
});
