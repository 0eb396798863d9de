import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { type OptionSpecs, readArguments } from "../../cli/command.ts";
import { configArguments, configSchema, withConfig } from "../../cli/config.ts";
import { UserError } from "../../kernels/user_error.ts";
import { withFolder } from "../support.ts";

const options = {
  arch: { type: "choice", choices: ["a", "b"], default: "a", doc: "Network" },
  batchSize: { type: "integer", min: 1, max: 64, default: 8, doc: "Images a step" },
  lr: { type: "number", above: 0, otherwise: "the data set's", doc: "Rate" },
  layers: { type: "string", items: "number", otherwise: "the network's", doc: "Blocks" },
  freeze: { type: "string", items: "string", otherwise: "none", doc: "Stages" },
  out: { type: "string", otherwise: "a new one", doc: "Folder" },
  nesterov: { type: "boolean", doc: "Nesterov" },
  shuffle: { type: "boolean", default: true, doc: "In an order drawn" },
} as const satisfies OptionSpecs;

const read = (args: string[]) => readArguments({ options, positionals: [] }, args, "prog train");

Deno.test("a config's values count as written, and flags win", async () => {
  await withFolder(async (folder) => {
    const file = join(folder, "run.json");
    const values = {
      $schema: "x",
      arch: "b",
      "batch-size": 16,
      lr: 0.5,
      layers: [3, 4],
      freeze: ["stem", "layer1"],
      nesterov: true,
      shuffle: false,
    };
    await Deno.writeTextFile(file, JSON.stringify(values));
    const found = read(await withConfig(["--lr", "2", `--config=${file}`, "--no-nesterov"], { options }, "prog train"));
    assertEquals(found.options, {
      ...{ arch: "b", batchSize: 16, lr: 2, layers: "3,4", freeze: "stem,layer1", out: undefined },
      ...{ nesterov: false, shuffle: false },
    });
    assertEquals([...found.given], ["arch", "batchSize", "lr", "layers", "freeze", "nesterov", "shuffle"]);
    assertEquals(await withConfig(["--lr", "1"], { options }, "prog train"), ["--lr", "1"]);
    assertEquals(await withConfig(["--", "--config", file], { options }, "prog train"), ["--", "--config", file]);
  });
});

Deno.test("what a config says for one choice is left out where the command line chooses another", async () => {
  const options = {
    optimizer: { type: "choice", choices: ["sgd", "adamw"], default: "sgd", doc: "What updates" },
    momentum: { type: "number", default: 0.9, onlyWith: ["optimizer", "sgd"], doc: "Momentum" },
    nesterov: { type: "boolean", onlyWith: ["optimizer", "sgd"], doc: "Nesterov" },
    lr: { type: "number", default: 1, doc: "Rate" },
  } as const satisfies OptionSpecs;
  await withFolder(async (folder) => {
    const file = join(folder, "run.json");
    await Deno.writeTextFile(file, '{"momentum": 0.8, "nesterov": true, "optimizer": "sgd", "lr": 2}');
    const all = ["--momentum=0.8", "--nesterov=true", "--optimizer=sgd", "--lr=2"];
    const from = (...more: string[]) => withConfig(["--config", file, ...more], { options }, "prog train");
    assertEquals(await from("--lr", "3"), [...all, "--lr", "3"]);
    assertEquals(await from("--optimizer", "sgd"), [...all, "--optimizer", "sgd"]);
    for (
      const adamw of [["--optimizer", "adamw"], ["--optimizer=adamw"], ["--optimizer=sgd", "--optimizer", "adamw"]]
    ) {
      assertEquals(await from(...adamw), ["--optimizer=sgd", "--lr=2", ...adamw]);
    }
  });
});

Deno.test("a value out of range is refused as on the command line", () => {
  const args = configArguments('\uFEFF{"batch-size": 65}', "run.json", { options });
  assertThrows(() => read(args), UserError, 'Option --batch-size must be a whole number from 1 to 64, not "65"');
});

Deno.test("what a config cannot hold is refused, with the nearest known key", () => {
  const refused = (text: string, message: string) =>
    assertThrows(() => configArguments(text, "run.json", { options }), UserError, `Cannot use "run.json": ${message}`);
  refused('{"bach-size": 3}', 'unknown key "bach-size"; did you mean "batch-size"?');
  refused('{"batchSize": 3}', 'unknown key "batchSize"; did you mean "batch-size"?');
  refused('{"batch_size": 3}', 'unknown key "batch_size"; did you mean "batch-size"?');
  refused('{"xyzzy": 3}', 'unknown key "xyzzy"');
  refused('{"batch-size": "3"}', '"batch-size" must be a number, not "3"');
  refused('{"nesterov": 1}', '"nesterov" must be true or false, not 1');
  refused('{"arch": 5}', '"arch" must be one of a, b, not 5');
  refused('{"layers": [true]}', '"layers" must be text or a list of numbers, not [true]');
  refused('{"freeze": [1]}', '"freeze" must be text or a list of strings, not [1]');
  refused('{"out": ["a"]}', '"out" must be text, not ["a"]');
  refused("[1]", "it must hold one JSON object");
  refused(
    '{"network": {"arch": "a"}, "settings": {"lr": 1}}',
    "it is what a run wrote of itself, and holds no options",
  );
  refused(
    '{"lr": 1\n "arch": 2}',
    "it is not JSON: Expected ',' or '}' after property value in JSON at position 10 (line 2",
  );
  refused('{"lr":\n.5}', `it is not JSON: Unexpected token '.', "{"lr": .5}" is not valid JSON`);
  assertEquals(configArguments('{"lr": null}', "run.json", { options }), []);
});

Deno.test("what a run wrote of itself stands for the options that it was begun with", () => {
  const run = { network: { arch: "b" }, settings: { lr: 1 }, class_names: ["x"] };
  const warnings: string[] = [];
  const read = (more: object) =>
    configArguments(
      JSON.stringify({ ...run, ...more }),
      "config.json",
      { options, fromRuns: "all" },
      { warn: (message) => warnings.push(message) },
    );
  assertEquals(read({ options: { arch: "b", "batch-size": 16, nesterov: true } }), [
    "--arch=b",
    "--batch-size=16",
    "--nesterov=true",
  ]);
  assertEquals(warnings, []);
  assertEquals(read({ options: { lr: 2 }, lengthened: true }), ["--lr=2"]);
  assertStringIncludes(warnings.join(), "other --epochs or --patience on its way");
  const refused = (more: object, message: string) =>
    assertThrows(() => read(more), UserError, `Cannot use "config.json": ${message}`);
  for (const options of [undefined, null, 3, []]) {
    refused({ options }, "it is what a run wrote of itself, and lacks the options");
  }
  refused({ options: { lrr: 1 } }, 'unknown key "lrr"');
});

Deno.test("a command that does no run again takes what it knows of a run, which may have its size from elsewhere", () => {
  const own = {
    arch: options.arch,
    lr: options.lr,
    imageSize: { type: "integer", otherwise: "own", doc: "Size" },
  } as const;
  const run = { network: { arch: "b" }, settings: { lr: 1 }, input: { image_size: 24 }, lengthened: true };
  const read = (written: object, keys: readonly string[]) =>
    configArguments(
      JSON.stringify({ ...run, options: written }),
      "config.json",
      { options: own, fromRuns: keys },
      {
        warn() {
          throw new Error("it repeats nothing");
        },
      },
    );
  assertEquals(read({ arch: "b", lr: 2, nesterov: true }, ["arch", "imageSize"]), ["--image-size=24", "--arch=b"]);
  assertEquals(read({ "image-size": 48 }, ["imageSize"]), ["--image-size=48"]);
  assertEquals(read({ "image-size": 48 }, ["lr"]), []);
});

Deno.test("a missing file or name is told", async () => {
  const failure = async (args: string[]) =>
    await withConfig(args, { options }, "prog train").then(() => "", ({ message }) => message);
  assertEquals(await failure(["--config", "no.json"]), 'Cannot read "no.json": no such file or directory');
  assertEquals(await failure(["--config"]), "Option --config needs a value (see prog train --help)");
});

Deno.test("the schema says what the declarations say", () => {
  const { properties, additionalProperties } = configSchema({ name: "train", summary: "Trains", options });
  assertEquals(additionalProperties, false);
  assertEquals(properties, {
    $schema: { type: "string" },
    arch: { enum: ["a", "b", null], description: "Network.", default: "a" },
    "batch-size": { type: ["integer", "null"], description: "Images a step.", default: 8, minimum: 1, maximum: 64 },
    lr: { type: ["number", "null"], description: "Rate (default: the data set's).", exclusiveMinimum: 0 },
    layers: {
      type: ["string", "number", "array", "null"],
      items: { type: "number" },
      minItems: 1,
      description: "Blocks (default: the network's).",
    },
    freeze: {
      type: ["string", "array", "null"],
      items: { type: "string" },
      minItems: 1,
      description: "Stages (default: none).",
    },
    out: { type: ["string", "null"], description: "Folder (default: a new one)." },
    nesterov: { type: ["boolean", "null"], description: "Nesterov.", default: false },
    shuffle: { type: ["boolean", "null"], description: "In an order drawn.", default: true },
  });
});
