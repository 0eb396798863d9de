import { assert, assertEquals, assertThrows } from "@std/assert";
import { UserError } from "../../kernels/user_error.ts";
import { checkSchedule, learningRate, type ScheduleSettings, shouldStop } from "../../nn/schedule.ts";

/** Rates of PyTorch 1.13's schedulers at lr 0.1, one a time unit. */
const PYTORCH: Record<string, { schedule: ScheduleSettings; epochs?: number; every?: number; rates: number[] }> = {
  // LinearLR(start_factor=0.2, total_iters=4)
  "warm-up, constant": {
    schedule: { kind: "constant", warmup: 4, warmup_start: 0.2 },
    epochs: 8,
    rates: [0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.1],
  },
  // MultiStepLR([3, 7], gamma=0.1)
  multistep: {
    schedule: { kind: "multistep", milestones: [3, 7] },
    rates: [0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001],
  },
  // SequentialLR([LinearLR(start_factor=0.1, total_iters=2), MultiStepLR([2, 5], gamma=0.2)], [2])
  "warm-up, multistep": {
    schedule: { kind: "multistep", milestones: [4, 7], gamma: 0.2, warmup: 2, warmup_start: 0.1 },
    rates: [0.01, 0.055, 0.1, 0.1, 0.02, 0.02, 0.02, 0.004, 0.004, 0.004],
  },
  // CosineAnnealingLR(T_max=10)
  cosine: {
    schedule: { kind: "cosine" },
    rates: [
      ...[0.1, 0.09755282581475769, 0.09045084971874738, 0.07938926261462367, 0.06545084971874739, 0.05],
      ...[0.03454915028125264, 0.020610737385376353, 0.009549150281252635, 0.002447174185242324],
    ],
  },
  // CosineAnnealingLR(T_max=10, eta_min=0.001)
  "cosine to a floor": {
    schedule: { kind: "cosine", min_lr: 0.001 },
    rates: [
      ...[0.1, 0.09757729755661011, 0.0905463412215599, 0.07959536998847742, 0.0657963412215599, 0.0505],
      ...[0.03520365877844011, 0.02140463001152259, 0.010453658778440109, 0.0034227024433899004],
    ],
  },
  // SequentialLR([LinearLR(start_factor=0.01, total_iters=3), CosineAnnealingLR(T_max=9)], [3])
  "warm-up, cosine": {
    schedule: { kind: "cosine", warmup: 3 },
    epochs: 12,
    rates: [
      ...[0.001, 0.034, 0.067, 0.1, 0.09698463103929543, 0.08830222215594889, 0.075, 0.058682408883346526],
      ...[0.041317591116653486, 0.025, 0.011697777844051105, 0.0030153689607045845],
    ],
  },
  // OneCycleLR(max_lr=0.1, total_steps=12)
  "one-cycle": {
    schedule: { kind: "one-cycle" },
    epochs: 12,
    rates: [
      ...[0.004, 0.0349789654219583, 0.08792851591221287, 0.09944154354509119, 0.09330129698414118, 0.0811745653949763],
      ...[0.06473789976951033, 0.046263710266697504, 0.028306099820869922, 0.01334775301888306, 0.0034566987425395223],
      4e-7,
    ],
  },
  // OneCycleLR(max_lr=0.1, total_steps=12, pct_start=0.4, div_factor=10, final_div_factor=100, anneal_strategy="linear")
  "one-cycle, linear": {
    schedule: { kind: "one-cycle", rise: 0.4, div_factor: 10, final_div_factor: 100, anneal: "linear" },
    epochs: 12,
    rates: [
      ...[0.01, 0.03368421052631579, 0.057368421052631575, 0.08105263157894736, 0.097225, 0.08335, 0.069475, 0.0556],
      ...[0.041725, 0.02785, 0.013975, 0.0001],
    ],
  },
  // OneCycleLR(max_lr=0.1, total_steps=100), each ninth
  "one-cycle of 100": {
    schedule: { kind: "one-cycle" },
    epochs: 100,
    every: 9,
    rates: [
      ...[
        0.004,
        0.025063020862605645,
        0.0697666314563159,
        0.09887778667408416,
        0.09755283560345443,
        0.08765362268588736,
      ],
      ...[0.07169430017913009, 0.05224343254455968, 0.03243152907089768, 0.015447205763186566, 0.004023995277981982],
      4e-7,
    ],
  },
};

Deno.test("schedules give PyTorch's rates, by epoch and by step", () => {
  for (const [name, { schedule, epochs = 10, every = 1, rates }] of Object.entries(PYTORCH)) {
    const ways = [
      { by: "epoch", run: { epochs, stepsPerEpoch: 7 }, steps: 7, unit: 1 },
      // The same list over steps: an epoch is one of them.
      { by: "step", run: { epochs, stepsPerEpoch: 1 }, steps: 1, unit: 1 },
    ] as const;
    for (const { by, run, steps } of ways) {
      rates.forEach((rate, i) => {
        const found = learningRate({ ...schedule, by }, { lr: 0.1, ...run }, i * every * steps + steps - 1);
        assert(Math.abs(found - rate) <= 1e-15 + rate * 1e-12, `${name} ${by} ${i}: ${found}, PyTorch has ${rate}`);
      });
    }
  }
});

Deno.test("by step, epochs of warm-up and milestones are counted in steps", () => {
  const run = { lr: 1, epochs: 4, stepsPerEpoch: 10 };
  const warm: ScheduleSettings = { kind: "constant", by: "step", warmup: 0.5, warmup_start: 0.5 };
  assertEquals([0, 1, 4, 5, 39].map((step) => learningRate(warm, run, step)), [0.5, 0.6, 0.9, 1, 1]);
  const falls: ScheduleSettings = { kind: "multistep", by: "step", milestones: [1.5, 3], gamma: 0.5 };
  assertEquals([14, 15, 29, 30].map((step) => learningRate(falls, run, step)), [1, 0.5, 0.5, 0.25]);
  assertEquals(learningRate(undefined, run, 17), 1);
});

Deno.test("a cycle of one or two steps is no division by zero", () => {
  for (const epochs of [1, 2, 3, 4]) {
    for (let step = 0; step < epochs; step++) {
      const rate = learningRate({ kind: "one-cycle" }, { lr: 0.1, epochs, stepsPerEpoch: 1 }, step);
      assert(rate > 0 && rate <= 0.1, `${rate}`);
    }
  }
});

Deno.test("what makes no schedule is refused", () => {
  const refused = (schedule: ScheduleSettings, text: string) =>
    assertThrows(() => checkSchedule(schedule, 10), UserError, text);
  refused({ kind: "multistep" }, "needs milestones");
  refused({ kind: "multistep", milestones: [5, 3] }, "must rise");
  refused({ kind: "multistep", milestones: [2], warmup: 3 }, "lies in warm-up");
  refused({ kind: "cosine", milestones: [3] }, "belong to multistep");
  refused({ kind: "cosine", warmup: 10 }, "fills the run");
  refused({ kind: "cosine", warmup: 1.5 }, "by step");
  checkSchedule({ kind: "cosine", warmup: 1.5, by: "step" }, 10);
});

Deno.test("a run stops when its best epoch lies `patience` epochs back", () => {
  const stops = (accuracies: number[], patience: number) =>
    shouldStop(accuracies.map((test_acc) => ({ test_acc })), patience);
  assertEquals(stops([0.1, 0.5, 0.4], 2), false);
  assertEquals(stops([0.1, 0.5, 0.4, 0.5], 2), true);
  assertEquals(stops([0.1], 1), false);
  assertEquals(stops([], 1), false);
});

Deno.test("a kind that no type has checked is refused, not a rate of nothing", () => {
  const schedule = JSON.parse('{ "kind": "cosin" }'), run = { lr: 0.1, epochs: 2, stepsPerEpoch: 5 };
  const { message } = assertThrows(() => learningRate(schedule, run, 3), UserError);
  assertEquals(message, 'No schedule is called "cosin": they are constant, multistep, cosine, one-cycle');
});
