/** The command line as a user meets it: a process, its exit code, its two streams. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { readArguments } from "../../cli/command.ts";
import { configSchema } from "../../cli/config.ts";
import { completionScript } from "../../cli/completions.ts";

const fixture = fromFileUrl(new URL("fixtures/program.ts", import.meta.url));
const main = fromFileUrl(new URL("../../main.ts", import.meta.url));

async function call(args: string[], script = fixture): Promise<{ code: number; out: string; err: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--quiet", script, ...args],
    env: { NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

/** One line on stderr, nothing on stdout, exit 2. */
async function refused(args: string[], line: string): Promise<void> {
  assertEquals(await call(args), { code: 2, out: "", err: `error: ${line}\n` });
}

Deno.test("options not given have their defaults, or are absent", async () => {
  const { code, out } = await call(["train"]);
  assertEquals(code, 0);
  assertEquals(JSON.parse(out), {
    arch: "resnext50",
    batchSize: 64,
    lr: 0.01,
    momentum: 0.9,
    nesterov: false,
    shuffle: true,
    given: [],
  });
});

Deno.test("values come behind a space or an equal sign, negative and with exponents", async () => {
  const words = "train --lr 1e-4 --shift -0.5 --batch-size=16 --momentum=.5 --dataset cifar10 --nesterov --no-shuffle";
  const { code, out } = await call([...words.split(" "), "--out", "a b"]);
  assertEquals(code, 0);
  assertEquals(JSON.parse(out), {
    dataset: "cifar10",
    arch: "resnext50",
    batchSize: 16,
    lr: 0.0001,
    momentum: 0.5,
    shift: -0.5,
    nesterov: true,
    shuffle: false,
    out: "a b",
    given: ["dataset", "batchSize", "lr", "momentum", "shift", "nesterov", "shuffle", "out"],
  });
});

Deno.test("a flag written counts as given, whatever it says", async () => {
  const { out } = await call([
    "train",
    "--no-nesterov",
    "--shuffle",
    "--batch-size",
    "64",
    "--lr",
    "1",
    "--no-shuffle",
  ]);
  const { nesterov, shuffle, given } = JSON.parse(out);
  assertEquals([nesterov, shuffle, given], [false, false, ["batchSize", "lr", "nesterov", "shuffle"]]);
});

Deno.test("the last of a repeated option counts, and a flag takes no word that follows it", async () => {
  assertEquals(JSON.parse((await call(["train", "--lr", "1", "--lr", "-0", "--lr=2"])).out).lr, 2);
  await refused(["train", "--nesterov", "true"], 'Unexpected argument "true" (see prog train --help)');
  await refused(["train", "--nesterov=0"], 'Option --nesterov takes no value, it got "0" (see prog train --help)');
});

Deno.test("positional arguments keep their text, and -- ends the options", async () => {
  const { code, out } = await call(["checkpoint", "inspect", "007", "--to=x", "--", "--part"]);
  assertEquals(code, 3);
  assertEquals(JSON.parse(out), { file: "007", part: "--part", to: "x" });
});

Deno.test("an unknown command or option is one line with the nearest known name", async () => {
  await refused(["trian"], 'Unknown command "trian"; did you mean train? (see prog --help)');
  await refused(["xyzzy"], 'Unknown command "xyzzy" (see prog --help)');
  await refused(["--verson"], 'Unknown option "--verson" (see prog --help)');
  await refused(
    ["checkpoint", "inspct"],
    'Unknown command "inspct"; did you mean inspect? (see prog checkpoint --help)',
  );
  await refused(
    ["train", "--bach-size=3"],
    'Unknown option "--bach-size"; did you mean --batch-size? (see prog train --help)',
  );
  await refused(["train", "-x"], 'Unknown option "-x" (see prog train --help)');
});

Deno.test("a value that does not fit is one line that says what would", async () => {
  const see = "(see prog train --help)";
  await refused(
    ["train", "--batch-size", "0"],
    `Option --batch-size must be a whole number from 1 to 4096, not "0" ${see}`,
  );
  await refused(
    ["train", "--batch-size=1.5"],
    `Option --batch-size must be a whole number from 1 to 4096, not "1.5" ${see}`,
  );
  await refused(["train", "--lr", "fast"], `Option --lr must be a number above 0, not "fast" ${see}`);
  await refused(["train", "--lr", "-1e-4"], `Option --lr must be a number above 0, not "-1e-4" ${see}`);
  await refused(["train", "--lr=Infinity"], `Option --lr must be a number above 0, not "Infinity" ${see}`);
  await refused(
    ["train", "--lr=1e39"],
    `Option --lr must be a number that float32 holds, at most 3.4028234e+38, not "1e39" ${see}`,
  );
  await refused(
    ["train", "--momentum=1"],
    `Option --momentum must be a number of at least 0 and below 1, not "1" ${see}`,
  );
  await refused(
    ["train", "--arch", "resnext5"],
    `Option --arch must be resnext50 or resnext101, not "resnext5"; did you mean resnext50? ${see}`,
  );
  for (const args of [["--lr"], ["--lr="], ["--lr", "--nesterov"]]) {
    await refused(["train", ...args], `Option --lr needs a value ${see}`);
  }
});

Deno.test("missing and superfluous arguments are one line", async () => {
  await refused(["train", "x"], 'Unexpected argument "x" (see prog train --help)');
  await refused(["download"], "Missing argument DATASET: which (see prog download --help)");
  await refused(
    ["checkpoint", "inspect", "--to", "x"],
    "Missing argument FILE: the checkpoint (see prog checkpoint inspect --help)",
  );
  await refused(
    ["checkpoint", "inspect", "f"],
    "Missing option --to: it is required (see prog checkpoint inspect --help)",
  );
});

Deno.test("help lists commands; a command's help its usage, every option with its default, an example", async () => {
  const top = await call(["--help"]);
  assertEquals([top.code, top.err], [0, ""]);
  for (const text of ["prog COMMAND", "train ", "checkpoint ", "Trains a network"]) assertStringIncludes(top.out, text);

  const train = await call(["train", "--lr", "bad", "--help"]);
  assertEquals([train.code, train.err], [0, ""]);
  assertEquals(
    train.out,
    `Trains a network.

A paragraph whose words are more than stand on one line, so that the help has to break it between
two of its words.

The last paragraph.

Usage:
  prog train [options]

Options:
  --dataset NAME  Images (shapes or cifar10; default: cifar10 where downloaded)
  --arch NAME     Network (resnext50 or resnext101; default: resnext50)
  --batch-size N  Images a step (a whole number from 1 to 4096; default: 64)
  --lr X          Learning rate (a number above 0; default: 0.01)
  --momentum X    Momentum (a number of at least 0 and below 1; default: 0.9)
  --shift X       Any number (default: none)
  --nesterov      Nesterov's momentum (default: off)
  --[no-]shuffle  Take the images in an order drawn (default: on)
  --out DIR       Where the checkpoints go (default: a new folder in runs/)
  --help          Show this help

Examples:
  prog train --epochs 2
`,
  );
  assertEquals(await call(["help", "train"]), await call(["train", "-h"]));

  const nested = await call(["checkpoint", "inspect", "--help"]);
  assertEquals(nested.code, 0);
  assertStringIncludes(nested.out, "prog checkpoint inspect FILE [PART] --to FILE [options]");
  assertStringIncludes((await call(["checkpoint", "--help"])).out, "inspect  Shows a file");
});

Deno.test("no command is a wrong call: the help goes to stderr", async () => {
  for (const args of [[], ["checkpoint"]]) {
    const { code, out, err } = await call(args);
    assertEquals([code, out], [2, ""]);
    assertStringIncludes(err, "Commands:");
  }
});

Deno.test("a user's error is its message and its exit code", async () => {
  const message = "error: Cannot do it: it is late; try tomorrow\n";
  assertEquals(await call(["fail", "user"]), { code: 1, out: "", err: message });
  assertEquals(await call(["fail", "usage"]), { code: 2, out: "", err: "error: Cannot do both\n" });
});

Deno.test("what the system refuses is one line, a closed pipe none", async () => {
  const full = "error: write failed: the disk is full; make room and try again\n";
  assertEquals(await call(["fail", "disk"]), { code: 1, out: "", err: full });
  assertEquals(await call(["fail", "pipe"]), { code: 0, out: "", err: "" });
});

Deno.test("a bug shows its stack", async () => {
  const { code, out, err } = await call(["fail", "bug"]);
  assertEquals([code, out], [1, ""]);
  assertMatch(err, /bug[^]*TypeError: undefined is not a kernel\n +at .*program\.ts:\d+/);
});

Deno.test("the version is that of deno.json", async () => {
  const config = JSON.parse(Deno.readTextFileSync(new URL("../../deno.json", import.meta.url)));
  assertEquals(await call(["--version"], main), { code: 0, out: `resnext ${config.version}\n`, err: "" });
});

Deno.test("what the help shows as an example is a right call", async () => {
  const { commands } = await import("../../cli/commands.ts");
  for (const { load } of commands) {
    const listed = await load();
    const single = listed.kind === "command" ? [listed] : listed.commands;
    for (const command of single) {
      const name = listed.kind === "command" ? listed.name : `${listed.name} ${command.name}`;
      assert(command.examples.length > 0, name);
      for (const example of command.examples) {
        assert(`${example} `.startsWith(`${name} `), example);
        const words = example.slice(name.length).split(" ").filter(Boolean);
        // Options may come from a file first, which who calls the command reads.
        const file = command.config ? words.indexOf("--config") : -1;
        readArguments(command, file < 0 ? words : words.toSpliced(file, 2), example);
      }
    }
  }
});

Deno.test("completions and schema print what editors and shells read", async () => {
  const { commands } = await import("../../cli/commands.ts");
  const augmentCommand = commands.find(({ name }) => name === "augment")!;
  const script = await call(["completions", "bash"], main);
  assertEquals(script, { code: 0, out: await completionScript("bash", "resnext", commands), err: "" });
  const { code, out, err } = await call(["schema", "augment"], main), augment = await augmentCommand.load();
  assert(augment.kind === "command");
  assertEquals({ code, schema: JSON.parse(out), err }, { code: 0, schema: configSchema(augment), err: "" });
});

Deno.test("every listed command is what its module says it is", async () => {
  const { commands } = await import("../../cli/commands.ts");
  assert(commands.length > 0);
  const loaded = await Promise.all(commands.map(({ load }) => load()));
  assertEquals(
    commands.map(({ name, summary, config = false }) => ({ name, summary, config })),
    loaded.map((command) => {
      const { name, summary } = command;
      return { name, summary, config: command.kind === "command" && command.config };
    }),
  );
});
