/** Whether a network can read the batches of a source: said before anything is compiled, in words that WebGPU has not. */

import type { BatchSource } from "./batch_source.ts";
import type { Network } from "./network.ts";

/**
 * Refuses a source whose memory is another device's.
 *
 * @throws {TypeError} where there is no source at all.
 * @throws {Error} naming what lies elsewhere.
 */
export function checkSource<B>({ device }: Network, source: BatchSource<B>): void {
  if (!source) throw new TypeError(`Cannot compile a step without a source of batches: give one as \`source\``);
  const { x, labels, mixes } = source;
  const bound = source.dispatches(device.capabilities).flatMap(({ bindings }) => Object.values(bindings));
  for (const operand of [x, labels, ...(mixes ? [mixes] : []), ...bound.map(({ operand }) => operand)]) {
    const place = source.place(operand);
    if (!place || !device.isForeign(place.buffer)) continue;
    throw new Error(
      `Cannot take batches from a source on another device: "${operand.label}" does not lie on the network's ` +
        `(${device.name}); make network and source on one device`,
    );
  }
}
