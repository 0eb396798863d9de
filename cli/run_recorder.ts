/** Writes what a run is and how it goes beside its checkpoints; see `run_files.ts`. */

import { dirname, join } from "@std/path";
import config from "../deno.json" with { type: "json" };
import type { Device } from "../kernels/device.ts";
import type { TrainEvent } from "../nn/train_events.ts";
import { SilentReport } from "./reports.ts";
import { CONFIG_FILE, type EpochRecord, METRICS_FILE, parseEpochs, type RunConfig } from "./run_files.ts";
import { optionsToRepeat } from "./run_options.ts";
import type { TrainPlan } from "./train_plan.ts";

/**
 * A report that goes to the run's folder, from its first checkpoint on: a folder that takes none stays empty. The files are
 * of use and not of need: where the disk refuses them, training goes on.
 */
export class RunRecorder extends SilentReport {
  #folder = "";
  #config: RunConfig | undefined;
  #begun = false;
  #known: readonly EpochRecord[] = [];
  #rates: { readonly lr?: number; readonly images_per_second?: number } = {};
  #warned = false;
  /** The last write of the epochs' lines failed, perhaps within one. */
  #cut = false;

  override start(plan: TrainPlan, device: Device, folder: string): void {
    this.#folder = folder;
    const { description, data, parameters, from, resumed, options, lengthened } = plan;
    this.#config = {
      ...description,
      ...(options && { options: optionsToRepeat(options, description.settings) }),
      ...(lengthened && { lengthened }),
      class_names: data.classNames,
      parameters,
      train_images: data.train.count,
      test_images: data.test.count,
      device: device.name,
      software: device.capabilities.software,
      version: config.version,
      deno: Deno.version.deno,
      started: new Date().toISOString(),
    };
    // Lines of epochs that the run will do again are not its any more.
    const told = resumed === undefined ? [] : readLines(join(dirname(resumed), METRICS_FILE));
    this.#known = (from?.description.progress?.history ?? []).map((metrics) =>
      told.find(({ epoch, test_loss }) => epoch === metrics.epoch && test_loss === metrics.test_loss) ?? metrics
    );
  }

  override smallerBatch({ description }: TrainPlan): void {
    const options = this.#config?.options && optionsToRepeat(this.#config.options, description.settings);
    this.#config = { ...this.#config!, ...description, ...(options && { options }) };
  }

  override saved(): void {
    if (this.#begun) return;
    this.#begun = true;
    this.#try(CONFIG_FILE, (path) => Deno.writeTextFileSync(path, `${JSON.stringify(this.#config, null, 2)}\n`));
    const lines = this.#known.map((line) => `${JSON.stringify(line)}\n`).join("");
    this.#cut = !this.#try(METRICS_FILE, (path) => Deno.writeTextFileSync(path, lines));
  }

  override event(event: TrainEvent): void {
    if (event.type === "step") {
      this.#rates = { lr: event.learningRate, images_per_second: Number(event.imagesPerSecond.toPrecision(5)) };
    }
    if (event.type !== "epoch") return;
    const record: EpochRecord = { ...event.metrics, seconds: Number(event.seconds.toFixed(3)), ...this.#rates };
    // A line that a full disk cut off is ended, so that it takes no other with it.
    const line = `${this.#cut ? "\n" : ""}${JSON.stringify(record)}\n`;
    this.#cut = !this.#try(METRICS_FILE, (path) => Deno.writeTextFileSync(path, line, { append: true }));
  }

  /** Whether a file was written. */
  #try(name: string, write: (path: string) => void): boolean {
    try {
      write(join(this.#folder, name));
      return true;
    } catch (error) {
      if (this.#warned) return false;
      this.#warned = true;
      console.error(`warning: Cannot write ${name} in "${this.#folder}": ${(error as Error).message.split("\n")[0]}`);
      return false;
    }
  }
}

function readLines(path: string): EpochRecord[] {
  try {
    return parseEpochs(Deno.readTextFileSync(path));
  } catch {
    return [];
  }
}
