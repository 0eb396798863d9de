/** How many steps an optimizer has done of a network's training, as the device counts them: `kernels/adamw.ts`. */

import { decodeSteps, encodeSteps, stepsOperand } from "../kernels/adamw.ts";
import type { Device } from "../kernels/device.ts";
import type { Operand } from "../kernels/dispatch.ts";
import { type Allowed, between, checkSettings, count } from "./number_check.ts";

/** Which counts there are. */
export const STEPS: Allowed = {
  check: (value) => count(value) && between(0, 2 ** 32 - 1)(value),
  words: "a whole number from 0 to below 2^32",
};

/** A count on a device, beginning at 0. */
export class StepCount {
  /** For dispatches. */
  readonly operand: Operand = stepsOperand();

  private constructor(readonly device: Device, readonly buffer: GPUBuffer) {}

  /** Makes one. */
  static async create(device: Device): Promise<StepCount> {
    return new StepCount(device, await device.buffer("optimizer steps", stepsOperand().byteLength));
  }

  /** The count as it is when it is called. Waits for the device. */
  async read(): Promise<number> {
    return decodeSteps(await this.device.read(this.buffer, 0, this.buffer.size));
  }

  /** Goes on from another one. @throws {RangeError} where it is none. */
  write(step: number): void {
    checkSettings("go on", { step }, STEPS);
    this.device.write(this.buffer, 0, encodeSteps(step));
  }
}
