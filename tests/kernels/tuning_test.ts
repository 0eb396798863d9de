import { assert, assertEquals } from "@std/assert";
import type { ConvGeometry } from "../../kernels/conv_geometry.ts";
import { denseForward, denseInputGradient, denseWeightGradient } from "../../kernels/dense_conv.ts";
import { type Capabilities, Device } from "../../kernels/device.ts";
import { type Dispatch, type Operand, operand } from "../../kernels/dispatch.ts";
import type { GemmVariant } from "../../kernels/gemm_problem.ts";
import { runOnce } from "../../kernels/program.ts";
import { passTimes } from "../../kernels/timestamps.ts";
import { tune, winnerOf } from "../../kernels/tuner.ts";
import { type Choice, chosenDispatches, ForcedVariant, Tuning } from "../../kernels/tuning.ts";
import { formula, gpuTest, standIn } from "../support.ts";
import { choicesOf, gemmVariant, LARGE_POINTWISE, RAGGED_POINTWISE } from "./conv_support.ts";

/** Its weight gradient is cut into five pieces on a GPU, the last one short. */
const LONG_SUMS: ConvGeometry = { ...RAGGED_POINTWISE, input: { n: 2, h: 23, w: 29, c: 20 } };
/** All sums are of whole tiles; its weight gradient's are cut as well. */
const WHOLE_SUMS: ConvGeometry = { ...RAGGED_POINTWISE, input: { n: 2, h: 24, w: 28, c: 32 }, outChannels: 80 };

/** Operands of all three passes, with seeded values. */
function operands({ input: { n, h, w, c }, outChannels: o } = RAGGED_POINTWISE) {
  const pixels = n * h * w;
  const sizes = { x: pixels * c, weight: c * o, bias: o, dy: pixels * o, y: pixels * o, dx: pixels * c };
  const places = Object.fromEntries(
    Object.entries({ ...sizes, dweight: c * o, dbias: o }).map(([name, size]) => [name, operand(name, size)]),
  );
  const inputs = new Map(
    ["x", "weight", "bias", "dy"].map((name, stream) =>
      [places[name], formula(places[name].byteLength / 4, stream + 1)] as const
    ),
  );
  return { places, inputs };
}

/** The choices of all three passes. */
function choices(geometry: ConvGeometry, caps: Capabilities): readonly Choice[] {
  const { places: { x, weight, bias, dy, y, dx, dweight, dbias } } = operands(geometry);
  return choicesOf((noting) => {
    denseForward({ x, weight, bias, y }, geometry, noting);
    denseInputGradient({ dy, weight, dx }, geometry, noting);
    denseWeightGradient({ x, dy, dweight, dbias }, geometry, noting);
  }, caps);
}

async function results(
  device: Device,
  geometry: ConvGeometry,
  caps: Capabilities,
  variant: GemmVariant,
): Promise<Uint8Array[]> {
  const { places: { x, weight, bias, dy, y, dx, dweight, dbias }, inputs } = operands(geometry);
  const wanted: Operand[] = [y, dx, dweight, dbias];
  const dispatches = [
    ...denseForward({ x, weight, bias, y }, geometry, caps, { variant }),
    ...denseInputGradient({ dy, weight, dx }, geometry, caps, { variant }),
    ...denseWeightGradient({ x, dy, dweight, dbias }, geometry, caps, { variant }),
  ];
  return (await runOnce(device, dispatches, inputs, wanted)).map((bytes) => new Uint8Array(bytes));
}

gpuTest("every variant of a product gives the same bits, in software and as on a GPU", async (device) => {
  for (const software of [true, false]) {
    const caps = { ...device.capabilities, software };
    // Those of larger products: tiles that reach far beyond a result must agree as well.
    const variants = new Set(choices(LARGE_POINTWISE, caps).flatMap(({ variants }) => [...variants.keys()]));
    // Shared and registers have three each; of subgroups, those of 16 rows need 16 lanes at most.
    const { subgroupSize } = caps, count = subgroupSize < 4 || subgroupSize > 32 ? 6 : subgroupSize > 16 ? 8 : 10;
    assertEquals(variants.size, count, `${[...variants]}`);
    const [first, ...others] = variants;
    for (const geometry of [RAGGED_POINTWISE, LONG_SUMS, WHOLE_SUMS]) {
      const expected = await results(device, geometry, caps, gemmVariant(first));
      for (const name of others) {
        const what = `${name}, software ${software}, ${geometry.input.h} rows`;
        assertEquals(await results(device, geometry, caps, gemmVariant(name)), expected, what);
      }
    }
  }
});

Deno.test("a tuning notes what it does not know, and chooses what it has learned", () => {
  const dispatch = (
    label: string,
  ): Dispatch[] => [{ label, bindings: {}, source: "", workgroups: [1, 1, 1], flops: 0, bytes: 0 }];
  const variants = new Map(["a", "b", "c 1x2"].map((name) => [name, () => dispatch(name)]));
  const choice: Choice = { key: "sum", variants, likely: 2 };
  const labels = (tuning?: Tuning) => chosenDispatches(choice, tuning).map(({ label }) => label);
  const tuning = new Tuning();
  assertEquals(labels(), ["a"]);
  assertEquals(labels(tuning), ["a"]);
  assertEquals(tuning.unknown, [choice]);
  tuning.learn("sum", "c 1x2");
  assertEquals(labels(tuning), ["c 1x2"]);
  assertEquals([tuning.unknown, tuning.used], [[], ["sum"]]);
  assertEquals(labels(new Tuning(tuning.entries)), ["c 1x2"], "entries come back from a file");
  assertEquals(labels(new Tuning({ sum: "warp 9x9" })), ["a"]);
  assertEquals(["b", "d", "c", "c 1"].map((name) => labels(new ForcedVariant(name))), [["b"], ["a"], ["c 1x2"], ["a"]]);
  const sole = new Tuning();
  assertEquals(sole.choose({ ...choice, likely: 1 }), undefined);
  assertEquals(sole.unknown, [], "there is nothing to measure");
});

gpuTest("the tuner measures each product once, and what it found is what kernels then do", async (device) => {
  const tuning = new Tuning();
  const caps = { ...device.capabilities, tuning };
  const { places: { x, weight, y } } = operands();
  denseForward({ x, weight, y }, RAGGED_POINTWISE, caps);
  const trials = await tune(device, tuning, { likelyOnly: true });
  assertEquals(trials.length, 1);
  const [{ key, tried, won }] = trials;
  assert(tried.length > 1 && tried.every(({ milliseconds }) => milliseconds > 0));
  assert(tried.some(({ variant }) => variant === won));
  assertEquals(tuning.entries, { [key]: won });
  assertEquals(await tune(device, tuning), []);
  assertEquals(
    denseForward({ x, weight, y }, RAGGED_POINTWISE, caps)[0].source,
    denseForward({ x, weight, y }, RAGGED_POINTWISE, device.capabilities, { variant: gemmVariant(won) })[0].source,
  );
});

gpuTest("all is compiled before anything is measured, in software and on a GPU", async (device) => {
  for (const software of [true, false]) {
    const events: string[] = [], pipelines = new Set<Promise<GPUComputePipeline>>();
    const watched: Device = standIn(device, {
      capabilities: { ...device.capabilities, software },
      pipeline: (dispatch) => {
        const pipeline = device.pipeline(dispatch);
        if (!pipelines.has(pipeline)) events.push("pipeline");
        pipelines.add(pipeline);
        return pipeline;
      },
      buffer: (...args) => {
        events.push("buffer");
        return device.buffer(...args);
      },
    });
    const tuning = new Tuning(), caps = { ...watched.capabilities, tuning };
    const { places: { x, weight, y, dy, dx } } = operands();
    denseForward({ x, weight, y }, RAGGED_POINTWISE, caps);
    denseInputGradient({ dy, weight, dx }, RAGGED_POINTWISE, caps);
    const told: string[] = [];
    const trials = await tune(watched, tuning, {
      onCompile: (done, all) => told.push(`compiled ${done}/${all}, ${events.includes("buffer") ? "late" : "first"}`),
      onTrial: (_, done, all) => told.push(`measured ${done}/${all}`),
    });
    assertEquals(told, ["compiled 1/2, first", "compiled 2/2, first", "measured 1/2", "measured 2/2"]);
    const variants = trials.reduce((sum, { tried }) => sum + tried.length, 0);
    assert(events.indexOf("buffer") >= variants, `${events}`);
    assert(events.lastIndexOf("pipeline") < events.indexOf("buffer"), `${events}`);
  }
});

Deno.test("the quickest wins, if by more than noise", () => {
  assertEquals([[10, 9.4, 9], [10, 9.6, 9.7], [10, 12], [10]].map(winnerOf), [2, 0, 0, 0]);
});

gpuTest("where there are no timestamps the tuner measures by the host's clock", async () => {
  const adapter = (await navigator.gpu.requestAdapter())!;
  const device = new Device(adapter.info, await adapter.requestDevice());
  try {
    assert(!device.capabilities.timestamps);
    assertEquals(await passTimes(device, []), undefined);
    const tuning = new Tuning();
    const { places: { x, weight, y } } = operands();
    denseForward({ x, weight, y }, RAGGED_POINTWISE, { ...device.capabilities, tuning });
    const [{ tried, won }] = await tune(device, tuning);
    assert(tried.length > 1 && tried.every(({ milliseconds }) => milliseconds > 0));
    assert(tried.some(({ variant }) => variant === won));
  } finally {
    device.close();
  }
});

gpuTest("products of halves are told from those of floats", ({ capabilities }) => {
  const tuning = new Tuning();
  for (const type of ["f32", "f16"] as const) {
    const [x, y] = [operand("x", 2 * 9 * 23 * 20, type), operand("y", 2 * 9 * 23 * 36, type)];
    denseForward({ x, weight: operand("weight", 720, type), y }, RAGGED_POINTWISE, { ...capabilities, tuning });
  }
  const keys = tuning.unknown.map(({ key }) => key);
  assertEquals(keys, ["gemm kn 414x36x20", "gemm kn 414x36x20 f16"]);
  return Promise.resolve();
});
