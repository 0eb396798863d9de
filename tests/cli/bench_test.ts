import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { dirname, fromFileUrl, join, toFileUrl } from "@std/path";
import { type Idle, measureIdle } from "../../bench/idle.ts";
import { digits, interleave, mapSpread, spread } from "../../bench/measure.ts";
import { networkSpec } from "../../bench/peers/protocol.ts";
import { byLayer, byOperation, shapeOf } from "../../bench/profile.ts";
import { idleText } from "../../bench/report.ts";
import { fileName } from "../../bench/results.ts";
import { columns } from "../../cli/columns.ts";
import { openWorkload } from "../../bench/throughput.ts";
import { openDevice } from "../../kernels/open_device.ts";
import { type Dispatch, operand, read } from "../../kernels/dispatch.ts";
import { ResNeXt, resnext } from "../../nn/resnext.ts";
import { withFolder } from "../support.ts";

const NARROW = [
  "--layers",
  "1,1",
  "--channels",
  "16,32",
  "--cardinality",
  "4",
  "--image-size",
  "16",
  "--batch-size",
  "4",
];

/** Runs `bench ...` as a process on a narrow network; gives its exit code and what it prints. */
async function bench(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const main = fromFileUrl(new URL("../../main.ts", import.meta.url));
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", main, "bench", ...args],
    env: { NO_COLOR: "1", XDG_RUNTIME_DIR: "/tmp" },
  });
  const { code, stdout, stderr } = await command.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

Deno.test("bench tells throughput, memory, limits and where the time goes, as JSON lines", async () => {
  const { code, stdout, stderr } = await bench(...NARROW, "--repeats", "1", "--steps", "2", "--profile", "--json");
  assertEquals([code, stderr], [0, ""]);
  const results = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(results.map(({ kind }) => kind), ["device", "throughput", "limits", "profile", "profile"]);
  const [device, { measured: [train, infer] }, limits, profile] = results;
  assertEquals([device.layers, device.batchSize], [[1, 1], 4]);
  assertEquals([train.mode, train.repeats, train.stepsPerRepeat, infer.mode], ["train", 1, 2, "infer"]);
  assert(train.imagesPerSecond.median > 0 && infer.flopsPerSecond > 0);
  assert(train.memory.gradients > 0 && train.memory.gradients === train.memory.momenta);
  assert(train.memory.activations >= train.memory.activationsPeak && infer.memory.gradients === 0);
  assert(limits.flopsPerSecond > 0 && limits.bytesPerSecond > 0);
  const dispatches = (rows: { count: number }[]) => rows.reduce((sum, { count }) => sum + count, 0);
  for (const rows of [profile.operations, profile.layers, profile.shapes]) {
    // All but the one that counts the submission.
    assertEquals(dispatches(rows), train.dispatches - 1);
    assert(Math.abs(rows.reduce((sum: number, { share }: { share: number }) => sum + share, 0) - 1) < 1e-6);
  }
  assert(profile.layers.some(({ label }: { label: string }) => label === "layer2.0"));
  for (const { idle } of results.slice(3)) {
    assert(["device", "host"].includes(idle.clock));
    assert(idle.stepMs > 0 && idle.dispatchesMs > 0 && idle.readyMs >= 0 && idle.submitMs > 0 && idle.readMs >= 0);
    assert(idle.stepsPerRead >= 4);
    for (const share of [idle.share, idle.betweenSteps]) assert(share <= 1 && Number.isFinite(share));
    assert(idle.readShare >= 0 && idle.readShare < 1);
  }
});

Deno.test("bench ops tells each distinct operation of a step, of any network", async () => {
  const { code, stdout, stderr } = await bench("ops", ...NARROW, "--stem", "cifar", "--repeats", "1");
  assertEquals([code, stderr], [0, ""]);
  assertStringIncludes(
    stdout.split("\n")[0],
    "; resnext50, layers 1,1, channels 16,32, cardinality 4, stem cifar, 16x16,",
  );
  for (const text of ["GFLOP/s", "conv2d.forward", "conv2d.grouped.dweight", "sgd"]) assertStringIncludes(stdout, text);
  const infer = await bench("ops", ...NARROW, "--mode", "infer", "--repeats", "1", "--json");
  const told = infer.stdout.trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(told.map(({ kind, mode }) => [kind, mode]).slice(2), [["operations", "infer"]]);
  assert(told[2].operations.every(({ label }: { label: string }) => !/sgd|dweight/.test(label)));
});

Deno.test("what cannot be measured is a wrong call", async () => {
  for (
    const [args, message] of [
      [["--layers", "1,x"], "--layers must be whole numbers"],
      [["--layers", "1,1", "--channels", "16"], "2 stages have 1 widths"],
      [["--channels", "16,32,64,128", "--cardinality", "3"], "3"],
      [["--arch", "resnext50_32x4d", "--peers"], "Cannot run the peers on resnext50_32x4d"],
      [["--stem", "cifar", "--peers"], "they know resnext50 and resnext101 without --base-width and --stem"],
      [["--peers", "--only", "tfjs,pytorhc"], 'no peer is named "pytorhc"'],
      [["--only", "tfjs"], "--only needs --peers"],
    ] as const
  ) {
    const { code, stdout, stderr } = await bench(...args);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, message);
  }
});

const IDLE: Idle = {
  ...{ clock: "device", stepMs: 10, dispatchesMs: 9.5, share: 0.05, readyMs: 9.8, betweenSteps: 0.02 },
  ...{ submitMs: 0.5, submitShare: 0.05, readMs: 12, stepsPerRead: 50, readShare: 12 / 512 },
};

Deno.test("how long the device waits is told in shares of a step", () => {
  const text = idleText(IDLE);
  assertStringIncludes(text, "by the device's clock");
  assert(/idle between dispatches +0\.50 +5\.0 %/.test(text), text);
  assert(/while results are read +12\.0 +2\.3 % +every 50 steps/.test(text), text);
  assertEquals(text.includes("less than nothing"), false);
  assertStringIncludes(idleText({ ...IDLE, share: -0.3 }), "less than nothing");
});

Deno.test("a step's dispatches and its own time agree, by whichever clock", async () => {
  const device = await openDevice();
  const module = resnext("resnext50", { layers: [1, 1], channels: [16, 32], cardinality: 4 });
  const workload = await openWorkload(device, module, { mode: "train", imageSize: 32, batchSize: 8 });
  try {
    const idle = await measureIdle(device, workload, { dispatchesMs: 20, latencyMs: 1 });
    assertEquals(idle.stepsPerRead, 25);
    assert(idle.share > -9 && idle.share < 1, `${idle.share}`);
    Object.defineProperty(device, "capabilities", { value: { ...device.capabilities, timestamps: false } });
    const host = await measureIdle(device, workload, { dispatchesMs: 20, latencyMs: 1 });
    assertEquals([host.clock, host.dispatchesMs, host.readMs], ["host", 20, 1]);
    assert(host.stepMs > 0);
  } finally {
    workload.destroy();
    device.close();
  }
});

Deno.test("a spread is the median and the extremes, whichever way it is turned", () => {
  assertEquals(spread([3, 1, 2]), { median: 2, min: 1, max: 3 });
  assertEquals(spread([4, 1, 2, 3]).median, 2.5);
  assertEquals(mapSpread({ median: 2, min: 1, max: 4 }, (ms) => 8 / ms), { median: 4, min: 2, max: 8 });
});

Deno.test("repeats take turns", async () => {
  const order: string[] = [];
  const task = (name: string) => () => Promise.resolve(order.push(name));
  assertEquals(await interleave([task("a"), task("b")], 2), [[1, 3], [2, 4]]);
  assertEquals(order, ["a", "b", "a", "b"]);
});

Deno.test("numbers keep three digits, tables their columns", () => {
  assertEquals([1234.5, 99.96, 9.996, 0.01234, 0, NaN].map(digits), ["1235", "100.0", "10.00", "0.012", "0", "-"]);
  assertEquals(columns([["", "ms"], ["sgd", "1.25"]]), ["       ms", "sgd  1.25"]);
});

Deno.test("a device's file is named after it", () => {
  assertEquals(fileName("llvmpipe (LLVM 15.0.6, 256 bits)"), "llvmpipe-llvm-15-0-6-256-bits");
});

Deno.test("results are kept beside the program, whatever its folder is called", async () => {
  await withFolder(async (folder) => {
    const moved = join(folder, "größer 100 %", "results.ts");
    await Deno.mkdir(dirname(moved));
    await Deno.copyFile(new URL("../../bench/results.ts", import.meta.url), moved);
    const { saveResults }: typeof import("../../bench/results.ts") = await import(toFileUrl(moved).href);
    assertEquals(saveResults("X", ["bench"], []), join(dirname(moved), "results", "x.json"));
    assertEquals([...Deno.readDirSync(join(dirname(moved), "results"))].map(({ name }) => name), ["x.json"]);
  });
});

function dispatch(label: string, names: string[], flops: number, bytes: number): Dispatch {
  const bindings = Object.fromEntries(names.map((name, i) => [`b${i}`, read(operand(name, 4))]));
  return { label, bindings, constants: { K: flops, TILE: 8 }, source: "", workgroups: [1, 1, 1], flops, bytes };
}

const LIMITS = { flopsPerSecond: 1e6, bytesPerSecond: 1e6, copyBytesPerSecond: 1e6, latencyMs: 0, dispatchMs: 0 };

Deno.test("a profile's rows tell what binds them, the most lost time first", () => {
  const plan = [dispatch("a", [], 1000, 0), dispatch("b", [], 0, 500), dispatch("a", [], 1000, 0)];
  const [a, b] = byOperation(plan, [2, 1, 6], LIMITS);
  assertEquals([a.label, a.count, a.ms, a.bound, a.ofLimit, a.gapMs], ["a", 2, 8, "arithmetic", 0.25, 6]);
  assertEquals([b.label, b.share, b.bound, b.ofLimit], ["b", 1 / 9, "memory", 0.5]);
  assertEquals(shapeOf(plan[0]), "K=1000");
});

Deno.test("a dispatch without parameters belongs to the layer before it", () => {
  const plan = [
    dispatch("batch.make", [], 0, 0),
    dispatch("conv2d.forward", ["input", "conv1.weight"], 0, 0),
    dispatch("max_pool.forward", [], 0, 0),
    dispatch("conv2d.forward", ["layer1.0.conv1.weight"], 0, 0),
    dispatch("sgd", ["parameters"], 0, 0),
  ];
  const rows = byLayer(plan, [1, 1, 1, 1, 1], LIMITS).map(({ label, count }) => `${label} ${count}`);
  assertEquals(rows.sort(), ["conv1 2", "input 1", "layer1.0 1", "optimizer 1"]);
});

Deno.test("the peers' network is ours", () => {
  const settings = { layers: [3, 4, 6, 3], channels: [256, 512, 1024, 2048], cardinality: 32, classes: 10 };
  const { stem, blocks, width } = networkSpec({ ...settings, imageSize: 32, batchSize: 16 });
  const elements = [stem, ...blocks.flatMap((block) => Object.values(block))].map(({ o, i, k, groups, bias }) =>
    o * i / groups * k * k + (bias ? o : 0) + 2 * o
  );
  const ours = [...new ResNeXt(settings).stateEntries()]
    .filter(([name]) => /(weight|bias)$/.test(name))
    .map(([, entry]) => "shape" in entry ? entry.shape.reduce((product, size) => product * size, 1) : 0);
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  assertEquals(sum(elements) + (width + 1) * settings.classes, sum(ours));
});
