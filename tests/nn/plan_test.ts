import { assert, assertEquals, assertThrows } from "@std/assert";
import { type Dispatch, type Operand, operand, read, write } from "../../kernels/dispatch.ts";
import { Random } from "../../kernels/random.ts";
import { assign, type Assignment } from "../../nn/plan.ts";

const ALIGNMENT = 256;
const LIMITS = { alignment: ALIGNMENT, maxSlabBytes: 2 ** 30 };

/** A dispatch that binds these operands and would do nothing. */
function dispatch(reads: readonly Operand[], writes: readonly Operand[]): Dispatch {
  const bindings = Object.fromEntries([
    ...reads.map((each, i) => [`r${i}`, read(each)]),
    ...writes.map((each, i) => [`w${i}`, write(each)]),
  ]);
  return { label: "step", bindings, source: "", workgroups: [1, 1, 1], flops: 0, bytes: 0 };
}

/** First and last use of each transient operand. */
function lives(dispatches: readonly Dispatch[], isPlaced: (each: Operand) => boolean): Map<Operand, [number, number]> {
  const found = new Map<Operand, [number, number]>();
  for (const [index, { bindings }] of dispatches.entries()) {
    for (const { operand } of Object.values(bindings)) {
      if (!isPlaced(operand)) found.set(operand, [found.get(operand)?.[0] ?? index, index]);
    }
  }
  return found;
}

/** Everything a plan must hold to, checked by its definition. */
function checkAssignment(
  dispatches: readonly Dispatch[],
  isPlaced: (each: Operand) => boolean,
  { places, slabBytes, peakBytes }: Assignment,
  maxSlabBytes = LIMITS.maxSlabBytes,
): void {
  const living = lives(dispatches, isPlaced);
  assertEquals(places.size, living.size);
  const all = [...living].map(([each, [first, last]]) => ({ each, first, last, ...places.get(each)! }));
  for (const a of all) {
    assertEquals(a.offset % ALIGNMENT, 0);
    assert(a.offset + a.each.byteLength <= slabBytes[a.slab], `"${a.each.label}" reaches over its slab's end`);
    for (const b of all) {
      if (a === b || a.slab !== b.slab || a.first > b.last || b.first > a.last) continue;
      const apart = a.offset + a.each.byteLength <= b.offset || b.offset + b.each.byteLength <= a.offset;
      assert(apart, `"${a.each.label}" and "${b.each.label}" live at one time in one place`);
    }
  }
  for (const { bindings } of dispatches) {
    const bound = Object.values(bindings).filter(({ operand }) => !isPlaced(operand));
    const slabsOf = (access: string) =>
      new Set(bound.filter((binding) => binding.access === access).map(({ operand }) => places.get(operand)!.slab));
    const both = [...slabsOf("read")].filter((slab) => slabsOf("read_write").has(slab));
    assertEquals(both, [], "a slab is read and written by one dispatch");
  }
  for (const bytes of slabBytes) assert(bytes <= maxSlabBytes);
  const rounded = (each: Operand) => Math.ceil(each.byteLength / ALIGNMENT) * ALIGNMENT;
  const alive = dispatches.map((_, index) =>
    all.filter(({ first, last }) => first <= index && index <= last).reduce((sum, { each }) => sum + rounded(each), 0)
  );
  assertEquals(peakBytes, Math.max(0, ...alive));
  assert(peakBytes <= slabBytes.reduce((sum, bytes) => sum + bytes, 0), "less memory than what lives at one time");
}

Deno.test("a chain needs room for two neighbours, not for all", () => {
  const x = operand("x", 1000), values = Array.from({ length: 20 }, (_, i) => operand(`v${i}`, 1000));
  const dispatches = values.map((each, i) => dispatch([i === 0 ? x : values[i - 1]], [each]));
  const assignment = assign(dispatches, (each) => each === x, LIMITS);
  checkAssignment(dispatches, (each) => each === x, assignment);
  assertEquals(assignment.slabBytes, [4096, 4096]);
  assertEquals(assignment.peakBytes, 8192);
});

Deno.test("what is read later keeps its place", () => {
  const [a, b, c, d] = ["a", "b", "c", "d"].map((label) => operand(label, 64));
  const dispatches = [dispatch([], [a]), dispatch([a], [b]), dispatch([b], [c]), dispatch([a, c], [d])];
  const assignment = assign(dispatches, () => false, LIMITS);
  checkAssignment(dispatches, () => false, assignment);
  assertEquals(assignment.peakBytes, 3 * 256);
});

Deno.test("reading what nothing has written is an error with both names", () => {
  const a = operand("weights", 4), b = operand("b", 4);
  assertThrows(
    () => assign([dispatch([a], [b])], () => false, LIMITS),
    Error,
    '"step" reads "weights" before anything writes it',
  );
});

Deno.test("slabs stay below the largest buffer", () => {
  const values = Array.from({ length: 12 }, (_, i) => operand(`v${i}`, 256));
  const dispatches = [...values.map((each) => dispatch([], [each])), dispatch(values, [])];
  const assignment = assign(dispatches, () => false, { ...LIMITS, maxSlabBytes: 4096 });
  checkAssignment(dispatches, () => false, assignment, 4096);
  assertEquals(assignment.slabBytes.reduce((sum, bytes) => sum + bytes, 0), 12 * 1024);
});

Deno.test("any list of dispatches is placed soundly", () => {
  for (let seed = 0; seed < 300; seed++) {
    const random = new Random(seed, 77);
    const placed = new Set(Array.from({ length: 1 + random.below(3) }, (_, i) => operand(`placed ${i}`, 100)));
    const known: Operand[] = [...placed];
    const dispatches: Dispatch[] = [];
    for (let step = 0, steps = 1 + random.below(40); step < steps; step++) {
      const pick = () => known[random.below(known.length)];
      const reads = new Set(Array.from({ length: random.below(4) }, pick));
      const writes = new Set<Operand>();
      for (let i = 0, count = 1 + random.below(3); i < count; i++) {
        // Mostly something new; now and then something written again, in place.
        const old = pick();
        if (random.below(5) === 0 && !reads.has(old)) writes.add(old);
        else writes.add(operand(`v${step}.${i}`, 1 + random.below(5000)));
      }
      known.push(...[...writes].filter((each) => !known.includes(each)));
      dispatches.push(dispatch([...reads], [...writes]));
    }
    const isPlaced = (each: Operand) => placed.has(each);
    checkAssignment(dispatches, isPlaced, assign(dispatches, isPlaced, LIMITS));
  }
});
