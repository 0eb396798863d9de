/** The loss scale of a training in half precision as the device and a checkpoint hold it; what it does: `kernels/loss_scale.ts`. */

import type { Device } from "../kernels/device.ts";
import type { Operand } from "../kernels/dispatch.ts";
import {
  decodeLossScale,
  encodeLossScale,
  FIRST_LOSS_SCALE,
  LOSS_SCALE_BOUNDS,
  lossScaleOperand,
  type LossScaleState,
} from "../kernels/loss_scale.ts";
import { float32Tensor, int64Scalar, scalarOf, type TensorData } from "./safetensors.ts";

/**
 * A step left out although the scale is so small has gradients that no scale will help: training has diverged. `GradScaler`
 * would go on leaving out steps.
 */
export const HOPELESS_LOSS_SCALE = 2 ** -14;

/** A loss scale on a device, beginning as `GradScaler` does. */
export class LossScale {
  /** For dispatches. */
  readonly operand: Operand = lossScaleOperand();

  private constructor(readonly device: Device, readonly buffer: GPUBuffer) {}

  /** Makes one. */
  static async create(device: Device): Promise<LossScale> {
    const found = new LossScale(device, await device.buffer("loss scale", lossScaleOperand().byteLength));
    found.write(FIRST_LOSS_SCALE);
    return found;
  }

  /** The scale as it is after all steps submitted. Waits for them. */
  async read(): Promise<LossScaleState> {
    return decodeLossScale(await this.device.read(this.buffer, 0, this.buffer.size));
  }

  /** Goes on from another one. @throws {RangeError} where it is no power of two within the bounds, or its steps no count. */
  write(state: LossScaleState): void {
    if (!isLossScale({ ...state, goodSteps: 0 })) {
      const [least, most] = LOSS_SCALE_BOUNDS;
      throw new RangeError(
        `Cannot scale the loss by ${state.scale}: powers of two from ${least} to ${most} are scales`,
      );
    }
    if (!isLossScale(state)) {
      throw new RangeError(`Cannot scale the loss after ${state.goodSteps} good steps: give a whole number from 0 on`);
    }
    this.device.write(this.buffer, 0, encodeLossScale(state));
  }
}

/** As tensors of a checkpoint, under the names of `GradScaler.state_dict()`. */
export function lossScaleTensors({ scale, goodSteps }: LossScaleState): Map<string, TensorData> {
  return new Map([
    ["scale", float32Tensor(Float32Array.of(scale), [])],
    ["growth_tracker", int64Scalar(goodSteps)],
  ]);
}

/** Reads {@linkcode lossScaleTensors}. @param refuse Called with what is wrong where something else is there. */
export function lossScaleOf(
  tensors: ReadonlyMap<string, TensorData>,
  refuse: (why: string) => never,
): LossScaleState {
  const [scale, goodSteps] = ["scale", "growth_tracker"].map((name) => {
    const tensor = tensors.get(name);
    return tensor ? scalarOf(tensor) : NaN;
  });
  const state = { scale, goodSteps };
  return isLossScale(state) ? state : refuse("its loss scale is no power of two that GradScaler reaches");
}

function isLossScale({ scale, goodSteps }: LossScaleState): boolean {
  const [least, most] = LOSS_SCALE_BOUNDS;
  const counts = Number.isInteger(goodSteps) && goodSteps >= 0 && goodSteps < 2 ** 31;
  return counts && scale >= least && scale <= most && Number.isInteger(Math.log2(scale));
}
