import { assert, assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl } from "@std/path";

const ROOT = fromFileUrl(new URL("..", import.meta.url));

Deno.test("examples/resnet20.ts: a network of one's own learns", async () => {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "examples/resnet20.ts", "24", "32"],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
  const [head, ...lines] = new TextDecoder().decode(stdout).trimEnd().split("\n");
  // 0.27 M of the paper's table 6, and the three projections.
  assertMatch(head, /^ResNet-20: 272474 parameters, on ./);
  assertEquals(lines.length, 4);
  const losses = lines.map((line) => Number(line.match(/Loss: (\d+\.\d{4})/)![1]));
  assert(losses[0] > losses[1] && losses[1] > losses[2], lines.join("\n"));
  assert(losses[2] < 1.5, lines.join("\n"));
  assert(Number(lines[3].match(/Acc: (\d\.\d{4})$/)![1]) > 0.3, lines.join("\n"));
});
