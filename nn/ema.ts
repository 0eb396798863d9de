/** An exponential moving average of a network's weights, kept on the device, as PyTorch's `AveragedModel` keeps it. */

import { type Operand, operand } from "../kernels/dispatch.ts";
import { average } from "../kernels/average.ts";
import { type Placement, Program } from "../kernels/program.ts";
import { Lifetime } from "./lifetime.ts";
import type { Network } from "./network.ts";
import { checkSettings, COUNT } from "./number_check.ts";
import type { StateDict, WeightBuffer } from "./weights.ts";

/**
 * The average of all floats of a network's state, parameters and running statistics:
 *
 *     average = decay * average + (1 - decay) * weights
 *
 * The first update copies the weights, as PyTorch's `get_ema_multi_avg_fn` with `use_buffers=True` does.
 *
 * @example Average while training, evaluate with the average
 * ```ts
 * import { FloatSource, MovingAverage, Network, openDevice, resnext50, trainStep } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * const network = await Network.create(device, resnext50({ layers: [1, 1], channels: [32, 64], cardinality: 4 }));
 * const source = await FloatSource.create(device, { n: 2, c: 3, h: 32, w: 32 });
 * const step = await trainStep(network, { source });
 * const average = await MovingAverage.create(network, 0.999);
 *
 * step.run({ images: new Float32Array(2 * 3 * 32 * 32).fill(1), labels: [0, 1] }, { learningRate: 0.01 });
 * average.update();
 * await average.use(async () => {
 *   // The network has the averaged weights here.
 *   await network.stateDict();
 * });
 * device.close();
 * ```
 */
export class MovingAverage {
  readonly #network: Network;
  readonly #pairs: readonly Pair[];
  readonly #program: Program;
  readonly #life: Lifetime;
  #updates = 0;
  /** The network has the average, and its own weights wait. */
  #taken = false;

  private constructor(network: Network, pairs: readonly Pair[], program: Program) {
    this.#network = network;
    this.#pairs = pairs;
    this.#program = program;
    this.#life = new Lifetime("the moving average", [network.weights]);
  }

  /**
   * Makes room for an average of a network's weights.
   *
   * @param decay What is kept of the average at each update, from 0 to below 1.
   * @throws {RangeError} for another decay.
   * @throws {UserError} when the device has no room.
   */
  static async create(network: Network, decay: number): Promise<MovingAverage> {
    if (!(decay >= 0 && decay < 1)) throw new RangeError(`Cannot average with a decay of ${decay}: from 0 to below 1`);
    const { device, weights } = network;
    weights.check();
    const caps = device.capabilities;
    const made = await device.buffers(weights.buffers.flatMap(({ label, buffer: { size: byteLength } }) => [
      { label: `averaged ${label}`, byteLength },
      { label: `spare ${label}`, byteLength },
    ]));
    const pairs = weights.buffers.map(({ buffer: source }, i): Pair => (
      { source, average: made[2 * i], spare: made[2 * i + 1] }
    ));
    const places = new Map<Operand, Placement>(), most = Math.floor(caps.maxBindingBytes / 256) * 256;
    const dispatches = pairs.flatMap(({ source, average: target }) =>
      Array.from({ length: Math.ceil(source.size / most) }, (_, i) => {
        const offset = i * most, elements = Math.min(most, source.size - offset) / 4;
        const x = operand("weights", elements), y = operand("average", elements);
        places.set(x, { buffer: source, offset });
        places.set(y, { buffer: target, offset });
        return average({ x, y }, { elements, decay }, caps);
      }).flat()
    );
    const program = await Program.create(device, dispatches, (operand) => places.get(operand)!);
    return new MovingAverage(network, pairs, program);
  }

  /**
   * Takes the weights as they are now into the average; returns at once.
   *
   * @throws {Error} while the network has the average.
   */
  update(): void {
    this.#checkOwn();
    if (this.#updates++ === 0) this.#copy(["source", "average"]);
    else this.#program.submit(this.#network.device);
  }

  /** Updates so far. */
  get updates(): number {
    return this.#updates;
  }

  /**
   * Gives the network the averaged weights until the function that it returns is called; before the first update it keeps
   * its own. Meanwhile steps that train refuse to run, and weights that are loaded into the network do not last: its own
   * come back.
   *
   * @throws {Error} while the network has them.
   */
  take(): () => void {
    this.#checkOwn();
    if (this.#updates === 0) return () => {};
    const { standIns } = this.#network.weights;
    this.#taken = true;
    standIns.add(this);
    this.#copy(["source", "spare"], ["average", "source"]);
    return () => {
      // Where either is destroyed, there is nothing to give back: a loop that was left may come here late.
      if (this.#taken && !this.#life.over) this.#copy(["spare", "source"]);
      this.#taken = false;
      standIns.delete(this);
    };
  }

  /** Whatever changes the average needs the network to have its own weights. */
  #checkOwn(): void {
    this.#life.check();
    // Those of another average of the network, too.
    if (this.#network.weights.standIns.size > 0) {
      throw new Error("Cannot average: the network has the averaged weights; give it its own back first");
    }
  }

  /** Runs `work` while the network has the averaged weights: see {@linkcode take}. */
  async use<T>(work: () => Promise<T>): Promise<T> {
    const restore = this.take();
    try {
      return await work();
    } finally {
      restore();
    }
  }

  /** The averaged weights under PyTorch's names, before the first update the network's own. Waits for the device. */
  stateDict(): Promise<StateDict> {
    return this.#read(this.#updates > 0 ? "average" : "source");
  }

  /** The network's own weights, also while it has the averaged ones. Waits for the device. */
  ownStateDict(): Promise<StateDict> {
    return this.#read(this.#taken ? "spare" : "source");
  }

  async #read(which: keyof Pair): Promise<StateDict> {
    this.#life.check();
    return await this.#network.weights.stateDict(this.#pairs.map((pair) => pair[which]));
  }

  /**
   * Goes on from an average that was saved after `updates` of them; returns at once. The network's own weights stay as they
   * are.
   *
   * @throws {UserError} as `Network.loadStateDict`.
   * @throws {RangeError} for updates that are no whole number from 0 on.
   * @throws {Error} while the network has the average.
   */
  load(state: StateDict, updates: number): void {
    this.#checkOwn();
    checkSettings("load an average", { updates }, COUNT);
    this.#network.weights.loadStateDict(state, this.#pairs.map(({ average }) => average));
    this.#updates = updates;
  }

  #copy(...copies: readonly [keyof Pair, keyof Pair][]): void {
    const { device } = this.#network;
    const encoder = device.gpu.createCommandEncoder();
    for (const [from, to] of copies) copy(encoder, this.#pairs, from, to);
    device.submit(encoder);
  }

  /** Bytes on the device. */
  get bytes(): number {
    return this.#pairs.reduce((sum, { source }) => sum + 2 * source.size, 0);
  }

  /** Frees the device's memory. */
  destroy(): void {
    this.#life.end();
    // What it would have put back is gone: the network stays with what it has, and may learn from there.
    this.#network.weights.standIns.delete(this);
    this.#program.destroy();
    this.#network.device.free(...this.#pairs.flatMap(({ average, spare }) => [average, spare]));
  }
}

/** One of the network's buffers, its average, and where it waits while the average stands in for it. */
interface Pair {
  readonly source: WeightBuffer["buffer"];
  readonly average: GPUBuffer;
  readonly spare: GPUBuffer;
}

function copy(encoder: GPUCommandEncoder, pairs: readonly Pair[], from: keyof Pair, to: keyof Pair): void {
  for (const pair of pairs) encoder.copyBufferToBuffer(pair[from], 0, pair[to], 0, pair[from].size);
}
