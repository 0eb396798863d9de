/** Weights from elsewhere, and networks that go elsewhere, as a user meets them. */

import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { publishedWeights } from "../../cli/download_weights.ts";
import { UserError } from "../../kernels/user_error.ts";
import { decodeCheckpoint } from "../../nn/checkpoint.ts";
import { describedNetwork } from "../../nn/described_network.ts";
import { weightsFileName } from "../../nn/networks.ts";
import { resnext as network } from "../../nn/resnext.ts";
import { encodeSafetensors, float32Tensor, toFloat32 } from "../../nn/safetensors.ts";
import { Counter } from "../../nn/state.ts";
import { formulaState } from "../parity/formula_state.ts";
import { withFolder } from "../support.ts";
import { narrowCheckpoint, resnext } from "./support.ts";

const fixtures = fromFileUrl(new URL("../fixtures/torch/", import.meta.url));
const SIZES = ["--arch", "resnext", "--depths", "1", "--channels", "16", "--base-width", "32", "--stem", "cifar"];

for (const form of ["zip", "legacy"]) {
  Deno.test(`a training script's .pth, ${form} form, becomes a checkpoint, safetensors and ONNX`, async () => {
    await withFolder(async (folder) => {
      const checkpoint = join(folder, "network.safetensors"), onnx = join(folder, "network.onnx");
      const into = await resnext([
        "checkpoint",
        "import",
        `${fixtures}network_${form}.pth`,
        ...SIZES,
        "--to",
        checkpoint,
      ]);
      assertEquals([into.code, into.stderr], [
        0,
        'Took "state_dict" of the checkpoint\nTook "module." off the names\n',
      ]);
      assertMatch(into.stdout, /^Wrote 32 tensors of resnext with 3 classes to /);

      const { description, state } = await decodeCheckpoint(await Deno.readFile(checkpoint), checkpoint);
      assertEquals(description.network, {
        arch: "resnext",
        num_classes: 3,
        cardinality: 2,
        layers: [1],
        channels: [16],
        base_width: 32,
        stem: "cifar",
      });
      const module = describedNetwork(description.network), expected = formulaState(module, 4000);
      for (const [name, entry] of module.stateEntries()) {
        const values = toFloat32(state.get(name)!);
        // The file's numbers are of half precision.
        const wanted = entry instanceof Counter ? [12] : new Float16Array(toFloat32(expected.get(name)!));
        assertEquals([...values], [...wanted], name);
      }

      const summary = await resnext(["checkpoint", "inspect", checkpoint]);
      assertStringIncludes(summary.stdout, "  stem             cifar");
      const words = ["checkpoint", "export", checkpoint, "--to", onnx, "--fold", "--image-size", "32"];
      const out = await resnext(words);
      assertEquals([out.code, out.stderr], [0, ""]);
      assertMatch(out.stdout, /^Wrote resnext as ONNX, batch norm folded, to .*network\.onnx\n$/);
      assertEquals((await Deno.stat(onnx)).size > 4 * module.parameterCount / 2, true);
      assertMatch((await resnext(words)).stderr, /^error: Cannot write .*it exists/);
    });
  });
}

Deno.test("a version of published weights is the one asked for, without one the best", () => {
  const file = (...asked: Parameters<typeof publishedWeights>) => weightsFileName(publishedWeights(...asked));
  assertEquals(file("resnext50_32x4d"), "resnext50_32x4d-1a0047aa.pth");
  assertEquals(file("resnext50_32x4d", "1"), "resnext50_32x4d-7cdf4587.pth");
  assertEquals(file("resnext50_32x4d", "timm"), "resnext50_32x4d.a1h_in1k.safetensors");
  const none = () => publishedWeights("resnext101_64x4d", "2");
  assertThrows(none, UserError, 'Option --version must be 1 or timm for resnext101_64x4d, not "2"');
});

Deno.test("inspect shows what a .pth holds; a hostile one is one line, exit 1", async () => {
  const shown = await resnext(["checkpoint", "inspect", `${fixtures}network_zip.pth`]);
  assertMatch(shown.stdout, /network_zip\.pth: PyTorch's weights, 32 tensors, 3,616 elements\n/);
  assertMatch(shown.stdout, /^layer1\.0\.conv2\.weight +F16 +\[4, 2, 3, 3\] +72$/m);
  await withFolder(async (folder) => {
    for (const form of ["zip", "legacy"]) {
      const to = join(folder, "to.safetensors");
      const args = ["checkpoint", "import", `${fixtures}evil_${form}.pth`, "--arch", "resnext50", "--to", to];
      const { code, stdout, stderr } = await resnext(args);
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^error: Cannot read .* it wants to call posix\.system \(os\.system\): refused, [^\n]*\n$/);
    }
    assertEquals([...Deno.readDirSync(folder)], []);
  });
});

Deno.test("safetensors of a wrapped network are read as a .pth is, and every command tells what was taken off", async () => {
  await withFolder(async (folder) => {
    const file = join(folder, "wrapped.safetensors"), to = join(folder, "to.safetensors");
    const plain = join(folder, "plain.safetensors");
    const { state } = narrowCheckpoint();
    const wrapped = new Map([...state].map(([name, tensor]) => [`module._orig_mod.${name}`, tensor]));
    await Deno.writeFile(file, encodeSafetensors({ tensors: wrapped, metadata: {} }));
    await Deno.writeFile(plain, encodeSafetensors({ tensors: state, metadata: {} }));
    const told = 'Took "module._orig_mod." off the names\n';

    const into = await resnext(["checkpoint", "import", file, "--to", to]);
    assertEquals([into.code, into.stderr], [0, told]);
    assertEquals((await decodeCheckpoint(await Deno.readFile(to), to)).state, new Map(state));
    const [shown, expected] = await Promise.all([file, plain].map((path) => resnext(["checkpoint", "inspect", path])));
    assertEquals([shown.code, shown.stderr], [0, told]);
    assertEquals(shown.stdout.replace(file, plain), expected.stdout);

    const data = ["--dataset", "shapes", "--image-size", "32", "--test-limit", "8"];
    const evaluated = await resnext(["eval", file, ...data, "--json"]);
    assertEquals([evaluated.code, evaluated.stderr], [0, told]);
    const run = ["--train-limit", "8", "--batch-size", "8", "--epochs", "1", "--out", join(folder, "run")];
    const trained = await resnext(["train", "--weights", file, ...data, ...run]);
    assertEquals(trained.code, 0, trained.stderr);
    assertMatch(
      trained.stdout,
      /^Weights {3}.*wrapped\.safetensors, .*\nWeights {3}took "module\._orig_mod\." off the/m,
    );
  });
});

Deno.test("weights of another network, and options of ONNX for other files, are refused", async () => {
  await withFolder(async (folder) => {
    const to = join(folder, "to.safetensors");
    const pth = `${fixtures}network_zip.pth`;
    const other = await resnext(["checkpoint", "import", pth, "--arch", "resnext50_32x4d", "--to", to]);
    assertEquals(other.code, 1);
    assertMatch(other.stderr, /^error: [^\n]*\n$/);
    const file = join(folder, "file.safetensors");
    assertEquals((await resnext(["checkpoint", "import", pth, ...SIZES, "--to", file])).code, 0);
    const fold = await resnext(["checkpoint", "export", file, "--to", to, "--fold"]);
    assertEquals(fold.code, 2);
    assertMatch(fold.stderr, /^error: Option --fold is of ONNX alone: end --to in \.onnx/);
    assertEquals([...Deno.readDirSync(folder)].length, 1);
  });
});

Deno.test("download weights: from a server here, checked against the network's shapes", async () => {
  const state = new Map(formulaState(network("resnext101_32x4d", { layers: [3, 4, 23, 3] }), 1));
  for (const [name, { dtype, shape }] of state) {
    if (dtype === "F32") {
      const values = new Float16Array(shape.reduce((product, size) => product * size, 1));
      state.set(name, { dtype: "F16", shape, bytes: new Uint8Array(values.buffer) });
    }
  }
  const whole = encodeSafetensors({ tensors: state, metadata: { format: "pt" } });
  state.set("fc.bias", float32Tensor(new Float32Array(3), [3]));
  const wrong = encodeSafetensors({ tensors: state, metadata: {} });
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (request) => new Response(request.url.endsWith("/whole") ? whole : wrong),
  );
  try {
    await withFolder(async (folder) => {
      const args = ["download", "weights", "resnext101_32x4d", "--data-dir", folder];
      const url = (path: string) => ["--url", `http://127.0.0.1:${server.addr.port}/${path}`];
      const refused = await resnext([...args, ...url("wrong")]);
      assertEquals([refused.code, refused.stdout], [1, ""]);
      assertMatch(refused.stderr, /^error: http.*\/wrong does not hold the weights of resnext101_32x4d: .*fc\.weight/m);
      const done = await resnext([...args, ...url("whole")]);
      assertEquals(done.code, 0, done.stderr);
      assertMatch(
        done.stdout,
        /are ready: .*resnext101_32x4d\.gluon_in1k\.safetensors\nSHA-256 [0-9a-f]{16}\.\.\. \(no/,
      );
      // Called again it looks at what is there, and asks nobody.
      const again = await resnext(args);
      assertEquals(again.code, 0, again.stderr);
      assertMatch(again.stdout, /^The weights of resnext101_32x4d are there: /);
    });
  } finally {
    await server.shutdown();
  }
});
