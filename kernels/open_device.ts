/**
 * Opens the GPU: the default adapter, with all that it gives.
 *
 * This and `device.ts` are the only files of `kernels/` that ask the host for anything but WebGPU: whether it is Deno, and
 * one environment variable of Deno's, below.
 */

import { adapterName, Device } from "./device.ts";
import { UserError } from "./user_error.ts";

/** Options of {@linkcode openDevice}. */
export interface DeviceOptions {
  /** Ask for the software adapter. Default false. */
  readonly software?: boolean;
}

const NO_ADAPTER =
  "No GPU adapter found. On Linux install a Vulkan driver (`apt-get install mesa-vulkan-drivers` gives a software one), " +
  "or set DENO_WEBGPU_BACKEND=gl where there is OpenGL alone; " +
  "on macOS and Windows a current system has one; in a browser, enable WebGPU";

/** There is no adapter at all. */
export class NoAdapterError extends UserError {
  /** Tells it from other errors in a log. */
  override name = "NoAdapterError";
  /** Says how to get one. */
  constructor() {
    super(NO_ADAPTER);
  }
}

/**
 * Opens the default adapter with its own limits, and subgroups and timestamps where it grants them.
 *
 * @throws {NoAdapterError} where there is no adapter.
 * @throws {UserError} where WebGPU is missing, or the adapter does not open.
 *
 * @example
 * ```ts
 * import { openDevice } from "@cardinal/resnext";
 *
 * const device = await openDevice();
 * console.log(device.name, device.capabilities.software ? "(software)" : "");
 * device.close();
 * ```
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  quietMesa();
  const gpu = globalThis.navigator?.gpu;
  if (!gpu) {
    throw new UserError(
      (globalThis as { isSecureContext?: boolean }).isSecureContext === false
        ? "This page gets no WebGPU: browsers give it to pages from https:// and from localhost only"
        : "This JavaScript runtime has no WebGPU: use Deno 2.9 or newer, or a browser that has it",
    );
  }
  const request = { powerPreference: "high-performance", forceFallbackAdapter: options.software ?? false } as const;
  let adapter = await gpu.requestAdapter(request);
  if (!adapter) throw new NoAdapterError();
  const { limits, info } = adapter;
  const wanted = {
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    maxBufferSize: limits.maxBufferSize,
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
    maxComputeWorkgroupSizeY: limits.maxComputeWorkgroupSizeY,
    maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    minStorageBufferOffsetAlignment: limits.minStorageBufferOffsetAlignment,
  };
  // An adapter may grant subgroups without listing them, so the only way to know is to ask. A refused request uses the
  // adapter up: each attempt takes a fresh one.
  const timestamps = adapter.features.has("timestamp-query");
  const subgroups = "subgroups" as GPUFeatureName;
  const attempts: GPUFeatureName[][] = timestamps
    ? [[subgroups, "timestamp-query"], ["timestamp-query"], []]
    : [[subgroups], []];
  let failure: unknown;
  for (const requiredFeatures of attempts) {
    adapter ??= await gpu.requestAdapter(request);
    if (!adapter) throw new NoAdapterError();
    try {
      const opened = await adapter.requestDevice({ label: "cardinal", requiredFeatures, requiredLimits: wanted });
      const device = new Device(adapter.info, opened);
      if ("Deno" in globalThis && !device.capabilities.software) await device.findLargestBuffer();
      return device;
    } catch (error) {
      failure = error;
      adapter = null;
    }
  }
  const reason = failure instanceof Error ? failure.message : failure;
  throw new UserError(`Cannot open ${adapterName(info)}: ${reason}`, { cause: failure });
}

/** Mesa complains on stderr, once a thread, when this is unset; it is used for windows alone. */
function quietMesa(): void {
  const deno = (globalThis as {
    Deno?: { build: { os: string }; env: { get(k: string): string | undefined; set(k: string, v: string): void } };
  }).Deno;
  try {
    if (deno?.build.os === "linux" && !deno.env.get("XDG_RUNTIME_DIR")) deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  } catch {
    // Without permission for the variable the complaint is printed, nothing more.
  }
}
