/** Safetensors files read by range: the header first, then one tensor at a time. */

import type { ByteSource } from "./byte_source.ts";
import {
  HEADER_LENGTH_BYTES,
  parseSafetensorsHeader,
  type Safetensors,
  safetensorsHeaderEnd,
  type TensorData,
  type TensorPlace,
} from "./safetensors.ts";

/** A file whose header has been read. */
export class SafetensorsReader {
  readonly #source: ByteSource;
  readonly #places: ReadonlyMap<string, TensorPlace>;

  private constructor(
    source: ByteSource,
    places: readonly TensorPlace[],
    readonly metadata: Readonly<Record<string, string>>,
  ) {
    this.#source = source;
    this.#places = new Map(places.map((place) => [place.name, place]));
  }

  /**
   * Reads and checks the header.
   *
   * @param name Stands in error messages.
   * @throws {UserError} when it does not describe the file.
   */
  static async open(source: ByteSource, name = "input"): Promise<SafetensorsReader> {
    const head = await source.read(0, Math.min(HEADER_LENGTH_BYTES, source.size));
    const end = safetensorsHeaderEnd(head, source.size, name);
    const { places, metadata } = parseSafetensorsHeader(await source.read(0, end), source.size, name);
    return new SafetensorsReader(source, places, metadata);
  }

  /** What the file holds and where, in the order of its data. */
  get places(): readonly TensorPlace[] {
    return [...this.#places.values()];
  }

  /** Reads one tensor; `undefined` where the file has none of the name. */
  async tensor(name: string): Promise<TensorData | undefined> {
    const place = this.#places.get(name);
    if (!place) return undefined;
    const { dtype, shape, offset, length } = place;
    return { dtype, shape, bytes: await this.#source.read(offset, length) };
  }

  /** Reads all tensors, each into memory of its own. */
  async all(): Promise<Safetensors> {
    const tensors = new Map<string, TensorData>();
    for (const name of this.#places.keys()) tensors.set(name, (await this.tensor(name))!);
    return { tensors, metadata: this.metadata };
  }
}
