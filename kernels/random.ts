/**
 * Seeded random numbers, the same on every machine: xoshiro128** of Blackman and Vigna ("Scrambled linear
 * pseudorandom number generators", 2021), which needs 32-bit integers alone and so is fast in JavaScript.
 *
 * A generator is named by a seed and a stream. What draws independently of something else takes another stream of the
 * same seed, so that one more draw here never changes what is drawn there.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;
  #spare = NaN;

  /** Both numbers are integers in [0, 2^53); any two different pairs give unrelated sequences. */
  constructor(seed: number, stream = 0) {
    for (const [name, value] of [["seed", seed], ["stream", stream]] as const) {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw new RangeError(`Cannot make a random generator: ${name} is ${value}, must be an integer in [0, 2^53)`);
      }
    }
    const high = (value: number) => Math.floor(value / 2 ** 32);
    let hash = 0;
    for (const word of [seed, high(seed), stream, high(stream)]) hash = mix((hash + (word >>> 0) + GOLDEN) | 0);
    // Folding the pair into 32 bits would let two pairs collide: the four words of state take it in one by one.
    this.#a = hash = mix((hash + GOLDEN) | 0);
    this.#b = hash = mix((hash ^ seed) + GOLDEN | 0);
    this.#c = hash = mix((hash ^ stream) + GOLDEN | 0);
    this.#d = mix((hash ^ high(seed) ^ Math.imul(high(stream), GOLDEN)) + GOLDEN | 0);
    if ((this.#a | this.#b | this.#c | this.#d) === 0) this.#d = 1;
  }

  /** A generator in a given state, which must not be all zeros: for comparing with the published sequence. */
  static fromState(state: readonly [number, number, number, number]): Random {
    const random = new Random(0);
    [random.#a, random.#b, random.#c, random.#d] = state;
    return random;
  }

  /** An integer in [0, 2^32). */
  nextUint32(): number {
    const b = this.#b;
    const scaled = Math.imul(b, 5);
    const result = Math.imul((scaled << 7) | (scaled >>> 25), 9);
    this.#c ^= this.#a;
    this.#d ^= b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= b << 9;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result >>> 0;
  }

  /** A number in [0, 1), a multiple of 2^-32. */
  uniform(): number {
    return this.nextUint32() / 2 ** 32;
  }

  /** An integer in [0, `n`), each as likely as any other; `n` is an integer in [1, 2^32]. */
  below(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > 2 ** 32) {
      throw new RangeError(`Cannot draw an integer below ${n}: must be an integer in [1, 2^32]`);
    }
    // The lowest 2^32 mod n values would make some remainders likelier: draw again.
    const unfair = 2 ** 32 % n;
    for (;;) {
      const value = this.nextUint32();
      if (value >= unfair) return value % n;
    }
  }

  /** A standard normal deviate, by Marsaglia's polar method: two at a time, the second one kept for the next call. */
  normal(): number {
    if (!Number.isNaN(this.#spare)) {
      const spare = this.#spare;
      this.#spare = NaN;
      return spare;
    }
    for (;;) {
      const x = 2 * this.uniform() - 1, y = 2 * this.uniform() - 1;
      const square = x * x + y * y;
      if (square >= 1 || square === 0) continue;
      const scale = Math.sqrt(-2 * Math.log(square) / square);
      this.#spare = y * scale;
      return x * scale;
    }
  }
}

/** Streams of a seed from here on are shuffles: one an epoch. */
const SHUFFLE_STREAM = 2 ** 40;

/**
 * The order in which an epoch visits `count` images: a permutation of 0..count-1, each as likely as any other.
 *
 * A pure function: Durstenfeld's form of the Fisher-Yates shuffle of 0, 1, 2, ... over the generator
 * `Random(seed, 2^40 + epoch)`. A resumed run gets the order of its epoch without replaying those before.
 *
 * @example
 * ```ts
 * import { permutation } from "@cardinal/resnext";
 *
 * const order = permutation(5, 1, 0);
 * if ([...order].sort().join() !== "0,1,2,3,4") throw new Error("each image once");
 * ```
 */
export function permutation(count: number, seed: number, epoch: number): Uint32Array<ArrayBuffer> {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  const random = new Random(seed, SHUFFLE_STREAM + epoch);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
  return order;
}

/** 2^32 divided by the golden ratio: the increment of Weyl sequences in Steele's SplitMix. */
const GOLDEN = 0x9e3779b9 | 0;

/** MurmurHash3's finalizer: every bit of the input changes half of the output's. */
function mix(value: number): number {
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return value ^ (value >>> 16);
}
