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

/** Numbers, and their halves where conversion rounds to nearest and what is too large becomes infinite. */
const SAMPLES: readonly (readonly [number, number])[] = [
  [1.5, 0x3e00],
  [2049, 0x6800],
  [2051, 0x6802],
  [-65519, 0xfbff],
  [65520, 0x7c00],
  [1e6, 0x7c00],
  [-1e30, 0xfc00],
];

/**
 * Makes sure that an adapter's halves are those of IEEE 754. WGSL leaves open what becomes of numbers that no half holds, but
 * loss scaling finds a scale that is too large by their being infinite.
 *
 * @throws {UserError} where they are not.
 */
export async function checkHalves(device: Device): Promise<void> {
  const x = operand("numbers", 8), y = operand("halves", 8, "f16");
  const numbers = new Float32Array([...SAMPLES.map(([number]) => number), NaN]);
  const [bytes] = await runOnce(device, cast({ x, y }, 8, device.capabilities), new Map([[x, numbers]]), [y]);
  const halves = new Uint16Array(bytes), [nan] = halves.slice(-1);
  const wrong = SAMPLES.find(([, half], i) => halves[i] !== half);
  if (!wrong && (nan & 0x7fff) > 0x7c00) return;
  throw new UserError(
    `Cannot compute in f16: ${device.name} turns ${
      wrong?.[0] ?? NaN
    } into another half than IEEE 754; use --precision f32`,
  );
}
