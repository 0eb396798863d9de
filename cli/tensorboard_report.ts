/** A training run as TensorBoard shows it; see `data/tensorboard.ts`. */

import { EventFile, type EventValue } from "../data/tensorboard.ts";
import type { Device } from "../kernels/device.ts";
import { parseSafetensors, toFloat32 } from "../nn/safetensors.ts";
import type { TrainEvent } from "../nn/train_events.ts";
import { SilentReport } from "./reports.ts";
import { imageBytes, png, tiled } from "./report/pictures.ts";
import type { TrainPlan } from "./train_plan.ts";
import type { Prepared } from "./train_report.ts";

/** Images of the sample. */
const SAMPLE = 32;

/** Writes an event file into the run's folder: scalars by step and epoch, a sample of the images, histograms of the weights. */
export class TensorBoardReport extends SilentReport {
  #plan!: TrainPlan;
  #folder = "";
  #stepsPerEpoch = 1;
  #file: EventFile | undefined;
  #epochDone = 0;
  #warned = false;

  override start(plan: TrainPlan, _device: Device, folder: string): void {
    this.#plan = plan;
    this.#folder = folder;
  }

  override prepared({ stepsPerEpoch }: Prepared): void {
    this.#stepsPerEpoch = stepsPerEpoch;
  }

  override event(event: TrainEvent): void {
    if (event.type === "step") {
      const { epoch, step, loss, learningRate, imagesPerSecond } = event;
      this.#write((epoch - 1) * this.#stepsPerEpoch + step, [
        { tag: "loss/step", scalar: loss },
        { tag: "learning_rate", scalar: learningRate },
        { tag: "images_per_second", scalar: imagesPerSecond },
      ]);
    } else if (event.type === "epoch") {
      const { epoch, train_loss, test_loss, test_acc } = event.metrics;
      this.#epochDone = epoch;
      this.#write(epoch * this.#stepsPerEpoch, [
        { tag: "loss/train", scalar: train_loss },
        { tag: "loss/test", scalar: test_loss },
        { tag: "accuracy/test", scalar: test_acc },
        { tag: "epoch_seconds", scalar: event.seconds },
      ]);
    }
  }

  override saved(path: string, best: boolean): void {
    if (!this.#file) {
      this.#try(() => this.#file = EventFile.create(this.#folder));
      this.#sample();
    }
    // The file that was just written has the weights; its best copy the same ones.
    if (best || this.#epochDone === 0) return;
    const step = this.#epochDone * this.#stepsPerEpoch;
    this.#epochDone = 0;
    this.#try(() => this.#file?.write(step, histograms(Deno.readFileSync(path), path)));
  }

  /** The first training images side by side; made meanwhile. */
  #sample(): void {
    const { data } = this.#plan, { height, width } = data.train.size ?? data;
    const images = Math.min(SAMPLE, data.train.count);
    const tiles = Array.from({ length: images }, (_, image) => imageBytes(data.train, image, height * width * 3));
    const { rgba, ...size } = tiled(tiles, { width, height, columns: 8 });
    png(rgba, size.width, size.height).then(
      (png) => this.#write(0, [{ tag: "images", png, ...size }]),
      (error) => this.#warn(error),
    );
  }

  #write(step: number, values: readonly EventValue[]): void {
    this.#try(() => this.#file?.write(step, values));
  }

  #try(write: () => void): void {
    try {
      write();
    } catch (error) {
      this.#warn(error);
    }
  }

  #warn(error: unknown): void {
    if (this.#warned) return;
    this.#warned = true;
    console.error(`warning: Cannot write for TensorBoard: ${(error as Error).message.split("\n")[0]}`);
  }
}

function histograms(bytes: Uint8Array<ArrayBuffer>, name: string): EventValue[] {
  const { tensors } = parseSafetensors(bytes, name);
  return [...tensors].filter(([name, { dtype }]) => dtype === "F32" && !name.startsWith("optimizer."))
    .map(([name, tensor]) => ({ tag: `weights/${name}`, values: toFloat32(tensor) }));
}
