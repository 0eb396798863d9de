/** The same numbers as another type. */

import type { Capabilities, Device } from "./device.ts";
import { type Dispatch, type Operand, operand, read, write } from "./dispatch.ts";
import { each } from "./elementwise.ts";
import { runOnce } from "./program.ts";
import { UserError } from "./user_error.ts";

/** `y = x`, rounded to nearest where `y` is halves. `elements` are a multiple of four. */
export function cast(
  { x, y }: { readonly x: Operand; readonly y: Operand },
  elements: number,
  caps: Capabilities,
): Dispatch[] {
  return [each("cast", { x: read(x), y: write(y) }, {
    load: (k) => `let x${k} = get_x(at${k});`,
    use: (k) => `set_y(at${k}, x${k});`,
  }, { elements, flops: 0, caps })];
}

/** Numbers, and their halves by IEEE 754: to nearest, ties to even, what is too large infinite, the smallest kept. */
const SAMPLES: readonly (readonly [number, number])[] = [
  [1.5, 0x3e00],
  [2049, 0x6800],
  [2051, 0x6802],
  [-65519, 0xfbff],
  [65520, 0x7c00],
  [1e6, 0x7c00],
  [-1e30, 0xfc00],
  [2 ** -24, 0x0001],
  [3 * 2 ** -25, 0x0002],
  [2 ** -25, 0x0000],
  [2 ** -14 - 2 ** -25, 0x0400],
];

/**
 * Makes sure that an adapter's halves are those of IEEE 754. WGSL leaves open how numbers are rounded and what becomes of
 * those that no half holds, but loss scaling finds a scale that is too large by their being infinite. Where the driver's
 * conversion is another (AMD's under Mesa rounds towards zero), kernels compiled from now on round by themselves.
 *
 * @throws {UserError} where that does not help either.
 */
export async function prepareHalves(device: Device): Promise<void> {
  if (await wronglyRounded(device) === undefined) return;
  device.roundHalvesByBits();
  const wrong = await wronglyRounded(device);
  if (wrong === undefined) return;
  throw new UserError(
    `Cannot compute in f16: ${device.name} turns ${wrong} into another half than IEEE 754; use precision f32`,
  );
}

/** A number that the device turns into another half than it should, or a half into another number. */
async function wronglyRounded(device: Device): Promise<number | undefined> {
  const numbers = new Float32Array([...SAMPLES.map(([number]) => number), NaN]), elements = numbers.length;
  const x = operand("numbers", elements), y = operand("halves", elements, "f16"), back = operand("numbers", elements);
  const caps = device.capabilities;
  const [bytes, floats] = await runOnce(
    device,
    [...cast({ x, y }, elements, caps), ...cast({ x: y, y: back }, elements, caps)],
    new Map([[x, numbers]]),
    [y, back],
  );
  const halves = new Uint16Array(bytes), widened = new Float32Array(floats);
  const wrong = SAMPLES.findIndex(([, half], i) => halves[i] !== half || widened[i] !== new Float16Array(bytes)[i]);
  if (wrong >= 0) return numbers[wrong];
  const last = SAMPLES.length;
  return (halves[last] & 0x7fff) > 0x7c00 && Number.isNaN(widened[last]) ? undefined : NaN;
}
