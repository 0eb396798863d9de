import { assert, assertEquals, assertMatch } from "@std/assert";
import { dirname, fromFileUrl, join, relative } from "@std/path";
import { withFolder } from "./support.ts";

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const config = JSON.parse(Deno.readTextFileSync(join(ROOT, "deno.json")));
const { exports } = config as { exports: Record<string, string> };

async function deno(args: string[], cwd = ROOT): Promise<{ code: number; out: string; err: string }> {
  const command = new Deno.Command(Deno.execPath(), { args, cwd, env: { NO_COLOR: "1", XDG_RUNTIME_DIR: "/tmp" } });
  const { code, stdout, stderr } = await command.output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

Deno.test("every public symbol of all exports is documented, by types that are public too", async () => {
  const { code, err } = await deno(["doc", "--lint", ...Object.values(exports)]);
  assertEquals(code, 0, err);
});

Deno.test("errors that a program may want to catch are exported", async () => {
  const names = Object.keys(await import("../mod.ts"));
  const errors = [
    "UserError",
    "BatchSizeError",
    "DeviceLostError",
    "DivergedError",
    "NoAdapterError",
    "OutOfMemoryError",
  ];
  assertEquals([...errors, "RING_SLOTS"].filter((name) => !names.includes(name)), []);
});

Deno.test("the examples in the documentation run", async () => {
  const { code, out, err } = await deno(["test", "--doc", "-A", "--no-check", "mod.ts", "data", "kernels", "nn"]);
  assertEquals(code, 0, out + err);
  assertMatch(out, /^ok \| \d{2} passed/m);
});

let listed: Promise<string[]> | undefined;

/** The files that would be published; asked for once. */
function published(): Promise<string[]> {
  return listed ??= (async () => {
    const { code, err } = await deno(["publish", "--dry-run", "--allow-dirty"]);
    assertEquals(code, 0, err);
    assertMatch(err, new RegExp(`Simulating publish of ${config.name}@${config.version} with files`));
    return [...err.matchAll(/^ +file:\/\/(\S+) \(/gm)].map(([, path]) => decodeURI(path));
  })();
}

Deno.test("the package could be published, its types told without inference", async () => {
  const names = (await published()).map((path) => relative(ROOT, path));
  for (const file of [...Object.values(exports), "resnext", "LICENSE", "deno.json"]) {
    assert(names.includes(join(file)), file);
  }
  assertEquals(names.filter((name) => /^(tests|bench\/results)\/|^\./.test(name)), []);
});

Deno.test("what the published documents link to is published too", async () => {
  const paths = new Set((await published()).map((path) => relative(ROOT, path)));
  const documents = [...paths].filter((path) => path.endsWith(".md"));
  assert(documents.includes("README.md") && documents.some((path) => dirname(path) === "docs"), documents.join());
  const broken: string[] = [];
  for (const document of documents) {
    const text = await Deno.readTextFile(join(ROOT, document));
    for (const [, link] of text.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)) {
      const target = join(dirname(document), link);
      if (!paths.has(target) && ![...paths].some((path) => path.startsWith(`${target}/`))) {
        broken.push(`${document}: ${link}`);
      }
    }
  }
  assertEquals(broken, []);
});

Deno.test("the library is for browsers too: it needs nothing of Deno's or Node's", async () => {
  await withFolder(async (folder) => {
    const bundle = join(folder, "library.js");
    const { code, err } = await deno(["bundle", "--quiet", "--platform", "browser", "--output", bundle, exports["."]]);
    assertEquals(code, 0, err);
    const text = await Deno.readTextFile(bundle);
    assertEquals(text.match(/\bDeno\.\w+|"node:\w+"|^import .*/gm), null);
    const lines = [
      "for (const name of ['Deno', 'process', 'Buffer', 'global']) delete globalThis[name];",
      `const { describedNetwork, shapes, UserError } = await import(${JSON.stringify(bundle)});`,
      "const network = { arch: 'resnext50_32x4d', num_classes: 1000, cardinality: 32 };",
      "console.log(describedNetwork(network).parameterCount, shapes({ train: 10, test: 0, seed: 0 }).train.count);",
    ];
    const { out, err: told } = await deno(["eval", lines.join("\n")]);
    assertEquals(out, "25028904 10\n", told);
  });
});

/** A program that uses the library from elsewhere. */
const PROGRAM = `
import { describedNetwork, learningRate, summarize, type Shape } from "@cardinal/resnext";
import { shapes } from "@cardinal/resnext/data";

const network = describedNetwork({ arch: "resnext50_32x4d", num_classes: 1000, cardinality: 32 });
const input: Shape = { n: 1, c: 3, h: 32, w: 32 };
const rate: number = learningRate({ kind: "cosine" }, { lr: 1, epochs: 2, stepsPerEpoch: 1 }, 1);
const { train } = shapes({ train: 10, test: 0, seed: 0 });
console.log(JSON.stringify([summarize(network, input).total.parameters, rate.toFixed(3), train.count]));
`;

/** Runs the program in a project of its own that finds the package in a folder. */
async function use(project: string, place: string): Promise<void> {
  const imports: Record<string, string> = { ...config.imports };
  for (const [name, file] of Object.entries(exports)) imports[config.name + name.slice(1)] = join(place, file);
  // Where JSR cannot be reached, as in this repository, the stand-ins that the package has along take its place.
  const links = config.links?.map((path: string) => join(place, path));
  const { compilerOptions } = config;
  await Deno.writeTextFile(join(project, "deno.json"), JSON.stringify({ imports, links, compilerOptions }));
  await Deno.writeTextFile(join(project, "program.ts"), PROGRAM);
  const { code, out, err } = await deno(["run", "-A", "--check", "--quiet", "program.ts"], project);
  assertEquals([code, out], [0, '[25028904,"0.500",10]\n'], err);
}

Deno.test("another project imports the library by its path", async () => {
  await withFolder((project) => use(project, ROOT));
});

Deno.test("another project imports a packed copy: what is published is all that is needed", async () => {
  await withFolder(async (folder) => {
    const copy = join(folder, "package"), project = join(folder, "project");
    await Deno.mkdir(project);
    for (const path of await published()) {
      const to = join(copy, relative(ROOT, path));
      await Deno.mkdir(dirname(to), { recursive: true });
      await Deno.copyFile(path, to);
    }
    await use(project, copy);
    const { code, out, err } = await deno(["run", "-A", "--no-check", join(copy, "main.ts"), "--version"], folder);
    assertEquals([code, out], [0, `resnext ${config.version}\n`], err);
  });
});

Deno.test("the changelog knows the version", async () => {
  const text = await Deno.readTextFile(join(ROOT, "CHANGELOG.md"));
  assertMatch(config.version, /^\d+\.\d+\.\d+$/);
  assert(text.includes(`## ${config.version}\n`));
});
