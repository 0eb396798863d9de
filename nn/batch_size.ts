/** Whether batches fit a device; where they do not, how many images would. */

import { OutOfMemoryError } from "../kernels/device.ts";
import type { Dispatch, ElementType, Operand } from "../kernels/dispatch.ts";
import type { Shape } from "../kernels/layout.ts";
import { UserError } from "../kernels/user_error.ts";
import { stepMemory } from "./memory.ts";
import type { Network } from "./network.ts";
import type { Plan } from "./plan.ts";

/** A batch that the device does not hold. */
export class BatchSizeError extends UserError {
  /** Tells it from other errors in a log. */
  override name = "BatchSizeError";
  /**
   * Says what did not fit.
   *
   * @param fits The largest batch that would fit; 0 where even one row is too large.
   */
  constructor(message: string, readonly fits: number) {
    super(message);
  }
}

/**
 * No binding may be larger than the device allows: said before anything is allocated.
 *
 * @throws {BatchSizeError} with the batch that would fit.
 * @throws {UserError} where a weight is too large, whatever the batch.
 */
export function checkBindings({ device, weights }: Network, dispatches: readonly Dispatch[], batchSize: number): void {
  const { maxBindingBytes } = device.capabilities;
  const tooLarge = dispatches.flatMap(({ bindings }) => Object.values(bindings).map(({ operand }) => operand))
    .filter(({ byteLength }) => byteLength > maxBindingBytes);
  if (tooLarge.length === 0) return;
  const why = ({ label, byteLength }: Operand) =>
    `"${label}" would take ${mib(byteLength)}, ${device.name} binds at most ${mib(maxBindingBytes)}`;
  const weight = tooLarge.find((operand) => weights.place(operand));
  if (weight) throw new UserError(`Cannot run this network: ${why(weight)}`);
  const largest = tooLarge.reduce((a, b) => b.byteLength > a.byteLength ? b : a);
  const fits = Math.floor(batchSize * maxBindingBytes / largest.byteLength);
  throw new BatchSizeError(`Cannot run batches of ${batchSize}: ${why(largest)}; ${advice(fits)}`, fits);
}

/**
 * Gives a plan its memory.
 *
 * @param input Of a whole batch.
 * @throws {BatchSizeError} where the device has no room: with what was asked, what it gives, and the largest batch whose
 * plan fits into that. The network cannot run any more then.
 */
export async function allocate(
  network: Network,
  plan: Plan,
  input: Shape,
  options: { readonly training: boolean; readonly precision: ElementType },
): Promise<void> {
  const { device, module, arena } = network;
  try {
    await arena.add(plan);
  } catch (error) {
    if (!(error instanceof OutOfMemoryError)) throw error;
    const wanted = plan.assignment.slabBytes.reduce((sum, bytes) => sum + bytes, 0);
    await arena.clear();
    const given = await device.roomFor(wanted);
    const bytes = (rows: number) =>
      stepMemory(module, { ...input, n: rows }, { ...options, caps: device.capabilities }).activationBytes;
    const fits = largest(input.n - 1, (rows) => bytes(rows) <= given);
    throw new BatchSizeError(
      `Cannot run batches of ${input.n}: they would take ${mib(wanted)} beside weights and images, ` +
        `${device.name} gives ${mib(given)}; ${advice(fits)}`,
      fits,
    );
  }
}

/** The largest number from 1 to `most` that fits, what fits being all up to some number; else 0. */
export function largest(most: number, fits: (n: number) => boolean): number {
  let low = 0, high = most;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

function advice(fits: number): string {
  return fits >= 1 ? `use a batch size of ${fits} or less` : "use a smaller image size";
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
