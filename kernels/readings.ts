/**
 * Copies from the device to the host. What is large passes piece by piece, so that the host's side takes little memory, and
 * comes as it was at one moment all the same: before anything else is submitted, what is not copied yet is copied.
 */

/** Bytes that are on their way to or from the device at a time. */
export const STAGED_BYTES = 2 ** 24;

/** A part of a buffer. */
export interface Stretch {
  /** In which buffer. */
  readonly buffer: GPUBuffer;
  /** From which byte on. */
  readonly offset: number;
  /** How many bytes. */
  readonly byteLength: number;
}

/** What is mapped at a time. */
interface Piece {
  byteLength: number;
  readonly parts: { readonly buffer: GPUBuffer; readonly offset: number; readonly into: Uint8Array<ArrayBuffer> }[];
  staging?: GPUBuffer;
}

/** A device's readings. */
export class Readings {
  readonly #gpu: GPUDevice;
  /** Of all readings under way. */
  readonly #pieces = new Set<Piece>();

  /** None yet. */
  constructor(gpu: GPUDevice) {
    this.#gpu = gpu;
  }

  /**
   * What stretches hold now.
   *
   * @param settled Waits for a mapping, and tells what is against it.
   */
  async read(
    stretches: readonly Stretch[],
    settled: (mapping: Promise<void>) => Promise<void>,
  ): Promise<ArrayBuffer[]> {
    const results = stretches.map(({ byteLength }) => new Uint8Array(byteLength)), pieces = cut(stretches, results);
    for (const piece of pieces) this.#pieces.add(piece);
    try {
      for (const piece of pieces) {
        const staging = this.#copy(piece);
        await settled(staging.mapAsync(GPUMapMode.READ));
        const mapped = new Uint8Array(staging.getMappedRange());
        let at = 0;
        for (const { into } of piece.parts) into.set(mapped.subarray(at, at += into.length));
        this.#free(piece);
      }
    } finally {
      for (const piece of pieces) this.#free(piece);
    }
    return results.map(({ buffer }) => buffer);
  }

  /** Copies what readings under way have not copied yet: called before anything that may change it. */
  copyAll(): void {
    for (const piece of this.#pieces) this.#copy(piece);
  }

  #copy(piece: Piece): GPUBuffer {
    if (piece.staging) return piece.staging;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = piece.staging = this.#gpu.createBuffer({ size: piece.byteLength, usage });
    const encoder = this.#gpu.createCommandEncoder();
    let at = 0;
    for (const { buffer, offset, into } of piece.parts) {
      encoder.copyBufferToBuffer(buffer, offset, staging, at, into.length);
      at += into.length;
    }
    this.#gpu.queue.submit([encoder.finish()]);
    return staging;
  }

  #free(piece: Piece): void {
    if (this.#pieces.delete(piece)) piece.staging?.destroy();
  }
}

/** Cuts stretches into pieces that are staged at a time; small ones share one, as each mapping costs time. */
function cut(stretches: readonly Stretch[], results: readonly Uint8Array<ArrayBuffer>[]): Piece[] {
  const pieces: Piece[] = [];
  for (const [i, { buffer, offset, byteLength }] of stretches.entries()) {
    for (let at = 0; at < byteLength;) {
      let piece = pieces.at(-1);
      if (!piece || piece.byteLength === STAGED_BYTES) pieces.push(piece = { byteLength: 0, parts: [] });
      const bytes = Math.min(STAGED_BYTES - piece.byteLength, byteLength - at);
      piece.parts.push({ buffer, offset: offset + at, into: results[i].subarray(at, at + bytes) });
      piece.byteLength += bytes;
      at += bytes;
    }
  }
  return pieces;
}
