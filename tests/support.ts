/** What the tests share: PyTorch's reference values, the device, and the measure of agreement. */

import { AssertionError } from "@std/assert";
import { preferVulkan } from "../cli/vulkan.ts";
import type { Capabilities, Device } from "../kernels/device.ts";
import { openDevice } from "../kernels/open_device.ts";
import { parseSafetensors, type Safetensors, toFloat32 } from "../nn/safetensors.ts";

/** Reads `tests/goldens/NAME.safetensors`; its README tells what each case holds. */
export function goldens(name: string): Golden {
  return new Golden(parseSafetensors(Deno.readFileSync(new URL(`goldens/${name}.safetensors`, import.meta.url)), name));
}

/** A golden file: tensors by `case.what`, settings by case. */
export class Golden {
  constructor(readonly file: Safetensors) {}

  /** The cases, in the file's order of settings. */
  get cases(): string[] {
    return Object.keys(this.file.metadata);
  }

  // deno-lint-ignore no-explicit-any
  settings(name: string): any {
    return JSON.parse(this.file.metadata[name]);
  }

  has(key: string): boolean {
    return this.file.tensors.has(key);
  }

  shape(key: string): number[] {
    return [...this.#tensor(key).shape];
  }

  values(key: string): Float32Array<ArrayBuffer> {
    return toFloat32(this.#tensor(key), key);
  }

  #tensor(key: string) {
    const tensor = this.file.tensors.get(key);
    if (!tensor) throw new Error(`No tensor "${key}" in the golden file`);
    return tensor;
  }
}

// As the program does.
preferVulkan();

let opened: Promise<Device> | undefined;

/** The device of this test file; opened once, never closed: it goes with the process. */
export function testDevice(): Promise<Device> {
  return opened ??= openDevice();
}

/** The device's capabilities, as a GPU's: its kernels run on a software adapter, too, barriers and all. */
export function asGpu({ capabilities }: Device): Capabilities {
  return { ...capabilities, software: false };
}

/** A test that uses the GPU: Deno's leak checks are off, as the device outlives the test. */
export function gpuTest(name: string, run: (device: Device) => Promise<void>): void {
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn: async () => await run(await testDevice()) });
}

/** PyTorch's measure of agreement: `max|a - b| / max|b|`. NaN where a value is not finite. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return NaN;
  let difference = 0, scale = 0;
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]));
    scale = Math.max(scale, Math.abs(expected[i]));
  }
  return difference === 0 ? 0 : difference / (scale || 1);
}

/** Throws unless {@linkcode relativeError} is within `tolerance`. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  const error = relativeError(actual, expected);
  if (!(error <= tolerance)) {
    throw new AssertionError(
      `${what}: relative error ${error}, allowed ${tolerance} (${actual.length} of ${expected.length} values)`,
    );
  }
}

/** Seeded values in [-1, 1), the formula of `tests/goldens/README.md`. */
export function formula(count: number, stream: number, scale = 1): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  const offset = (Math.imul(stream, 2891336453) + 1) >>> 0;
  for (let i = 0; i < count; i++) {
    let x = (Math.imul(i, 747796405) + offset) >>> 0;
    x = Math.imul((x >>> ((x >>> 28) + 4)) ^ x, 277803737) >>> 0;
    x = ((x >>> 22) ^ x) >>> 0;
    out[i] = (x / 2 ** 32 * 2 - 1) * scale;
  }
  return out;
}

/** An object that behaves as another, but for what it has of its own. */
export function standIn<T extends object>(target: T, own: Partial<T>): T {
  return new Proxy(target, {
    get(target, key) {
      if (key in own) return Reflect.get(own, key);
      const found = Reflect.get(target, key, target);
      return typeof found === "function" ? found.bind(target) : found;
    },
  });
}

/** Runs `body` with a new folder, which goes with it. */
export async function withFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "resnext-test-" });
  try {
    return await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Counts the buffers that a device makes from here on, and tells those that have not been destroyed. */
export function trackBuffers({ gpu }: Device): Disposable & { readonly made: number; readonly left: Set<GPUBuffer> } {
  const create = gpu.createBuffer, left = new Set<GPUBuffer>();
  let made = 0;
  gpu.createBuffer = (descriptor) => {
    const buffer = create.call(gpu, descriptor), { destroy } = buffer;
    made++;
    left.add(buffer);
    buffer.destroy = () => {
      left.delete(buffer);
      destroy.call(buffer);
    };
    return buffer;
  };
  return {
    left,
    get made() {
      return made;
    },
    [Symbol.dispose]: () => void (gpu.createBuffer = create),
  };
}
