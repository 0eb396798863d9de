import { assert, assertEquals, assertMatch, assertNotEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { reportPage, type Verdict } from "../../cli/report/page.ts";
import { withFolder } from "../support.ts";
import { narrowCheckpoint, resnext, writeNarrow, writeOverflowing, writePictures } from "./support.ts";

const history = [1, 2, 3].map((epoch) => ({
  epoch,
  train_loss: 2 / epoch,
  test_loss: 2.2 / epoch,
  test_acc: [0.2, 0.6, 0.5][epoch - 1],
}));
const progress = { epoch: 3, step: 0, loss_sum: 0, rows: 0, history };

/** A browser, where there is one. */
async function chromium(): Promise<string | undefined> {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    try {
      if ((await new Deno.Command(name, { args: ["--version"] }).output()).success) return name;
    } catch {
      // Not installed under that name.
    }
  }
}
const browser = await chromium();

Deno.test("a report is one file with all that a run has to show", async () => {
  await withFolder(async (folder) => {
    await writeNarrow(folder, "best.safetensors", { progress });
    const { code, stdout, stderr } = await resnext(["report", folder]);
    assertEquals(code, 0, stderr);
    assertStringIncludes(stdout, `Wrote ${join(folder, "report.html")}`);
    const page = await Deno.readTextFile(join(folder, "report.html"));
    const titles = [...page.matchAll(/<h2>(.*?)<\/h2>/g)].map(([, title]) => title);
    assertEquals(titles, [
      ...["Loss", "Test accuracy", "Confusion", "Accuracy by class", "Most wrong", "First layer&#39;s filters"],
      ...["Settings and outcome", "Epochs", "Network"],
    ]);
    assertStringIncludes(page, "best 60.00 %");
    assertStringIncludes(page, '<tr class="best"><td>2</td>');
    assertStringIncludes(page, "layer2.0");
    assertMatch(page, /<figcaption><b>\w+<\/b> \d+ %<br>is \w+ \d+(\.\d+)? %/);
    const shares = [...page.matchAll(/<br>is \w+ (\d+(?:\.\d+)?) %/g)].map(([, share]) => Number(share));
    assertEquals(shares, shares.toSorted((a, b) => a - b), "the least likely labels first");
    assert(shares.length > 5 && shares[0] < shares.at(-1)!, String(shares));
    // Nothing is fetched: no address but those of pictures inside, and of XML's names.
    const addresses = [...page.matchAll(/(?:src|href)="([^"]*)"|url\(([^)]*)\)/g)].map(([, a, b]) => a ?? b);
    assert(addresses.length > 2 && addresses.every((address) => address.startsWith("data:image/png")), `${addresses}`);
    assert(!/<script|<link|@import/.test(page));
  });
});

Deno.test("a report does without the test set, and a run without an epoch has none", async () => {
  await withFolder(async (folder) => {
    await writeNarrow(folder, "last.safetensors", { progress });
    const out = join(folder, "page.html");
    const left = await resnext(["report", folder, "--no-judge", "--out", out]);
    assertEquals(left.code, 0, left.stderr);
    assertStringIncludes(await Deno.readTextFile(out), "The test set was left out.");
    await writeNarrow(folder);
    const none = await resnext(["report", folder]);
    assertEquals([none.code, none.stdout], [1, ""]);
    assertStringIncludes(none.stderr, "no epoch is done yet");
    const missing = await resnext(["report", join(folder, "nowhere")]);
    assertStringIncludes(missing.stderr, "error: Cannot find the run");
  });
});

Deno.test("a network whose logits are not finite is not reported on as if the test set were missing", async () => {
  await withFolder(async (folder) => {
    await writeOverflowing(folder, "best.safetensors", { progress });
    const { code, stdout, stderr } = await resnext(["report", folder]);
    assertEquals([code, stdout], [1, ""]);
    assertMatch(stderr, /^error: Cannot judge image 0: .* not finite; .*; --no-judge leaves the test set out\n$/);
    assertEquals((await resnext(["report", folder, "--no-judge"])).code, 0);
  });
});

Deno.test("the test set of a folder that has moved is found by --dataset, its pictures are named", async () => {
  await withFolder(async (folder) => {
    const dataset = `folder:${await writePictures(folder, "moved")}`;
    const { network, settings, ...rest } = narrowCheckpoint({ progress }).description;
    await writeNarrow(folder, "best.safetensors", {
      ...{ ...rest, class_names: ["a", "b"], network: { ...network, num_classes: 2 } },
      settings: { ...settings!, dataset: `folder:${join(folder, "gone")}` },
    });
    const args = ["report", folder, "--data-dir", folder];
    const gone = await resnext(args);
    assertMatch(
      gone.stderr,
      /^warning: Cannot find .*gone"; name where it is by --dataset folder:PATH; the report goes without the test set$/m,
    );
    const { code, stderr } = await resnext([...args, "--dataset", dataset]);
    assertEquals([code, stderr.includes("warning")], [0, false], stderr);
    const page = await Deno.readTextFile(join(folder, "report.html"));
    assertMatch(page, /[01] of 1 test images are right/);
    assertEquals(page.includes("val/a/1.png"), page.includes("0 of 1"), "named where it is wrong");
    const other = await resnext([...args, "--dataset", "shapes"]);
    assertMatch(other.stderr, /has 2 classes, the data set 10; choose another --dataset; the report goes without/);
  });
});

const nasty = '<img src="x" onerror=alert(1)>&';

/** A page of made-up numbers, with names that are no good HTML. */
function page(verdict: Partial<Verdict> = {}, epochs = history): string {
  const best = epochs.at(-2) ?? epochs[0];
  return reportPage({
    run: { path: "runs/a", name: nasty, epochs, bytes: 1 },
    best,
    facts: [["a", nasty]],
    headline: [["Best", "60 %"]],
    verdict: { images: 4, correct: 2, classNames: [nasty, "b"], confusion: [[1, 1], [1, 1]], wrong: [], ...verdict },
    layers: [["Layer", "Operation", "Output"], ["conv1", "conv2d", "1 x 1 x 1"]],
    made: "now",
  });
}

Deno.test("names are text, never HTML", () => {
  assert(!page().includes("<img"));
  assertStringIncludes(page(), "<h1>&lt;img src=&quot;x&quot; onerror=alert(1)&gt;&amp;</h1>");
});

Deno.test("a picture's file is told, where it has one", () => {
  const picture = {
    url: "data:,",
    width: 1,
    height: 1,
    label: "a",
    prediction: "b",
    confidence: 1,
    labelProbability: 0,
  };
  const told = page({ wrong: [{ ...picture, file: "val/a/<1>.png" }, picture] });
  const captions = [...told.matchAll(/<figcaption>(.*?)<\/figcaption>/g)].map(([, caption]) => caption);
  assertEquals(captions.map((caption) => caption.split("<br>").slice(2)), [["val/a/&lt;1&gt;.png"], []]);
});

Deno.test("a single epoch stands off the axis, its mark with room for words", () => {
  const [, chart] = /<h2>Test accuracy<\/h2>(.*?)<\/section>/s.exec(page({}, history.slice(0, 1)))!;
  const [, x] = /<circle[^>]* cx="([\d.]+)"/.exec(chart)!;
  assertEquals(Number(x), 52 + (560 - 52 - 24) / 2, "in the middle of the chart");
  assertStringIncludes(chart, "best 20.00 %");
});

Deno.test("of many classes the matrix draws its mistakes alone; of very many a list stands for it", () => {
  const verdictOf = (classes: number): Partial<Verdict> => {
    const classNames = Array.from({ length: classes }, (_, i) => `class ${i}`);
    return { classNames, confusion: classNames.map((_, i) => classNames.map((_, j) => j === 1 && i !== 2 ? 1 : 0)) };
  };
  const cells = (html: string) => [...html.matchAll(/<title>class \d+ taken for class \d+: 1<\/title>/g)].length;
  const rects = (html: string) => [...html.matchAll(/<rect/g)].length;
  const hundred = page(verdictOf(100));
  assertEquals(cells(hundred), 99);
  assert(rects(hundred) < 250, `${rects(hundred)}`);
  const thousand = page(verdictOf(1000));
  assertEquals(cells(thousand), 0);
  assert(thousand.length < 100_000, `${thousand.length}`);
  for (const html of [hundred, thousand]) assertStringIncludes(html, "Commonest mistakes");
});

Deno.test({
  name: "Chromium shows a report, light and dark, and prints it",
  ignore: browser === undefined,
  fn: async () => {
    await withFolder(async (folder) => {
      const file = join(folder, "report.html");
      await Deno.writeTextFile(file, page());
      const open = async (...args: string[]) => {
        const common = [
          "--headless=new",
          "--no-sandbox",
          "--disable-gpu",
          "--hide-scrollbars",
          "--window-size=900,700",
        ];
        const profile = `--user-data-dir=${join(folder, "profile")}`;
        const command = new Deno.Command(browser!, { args: [...common, profile, ...args, `file://${file}`] });
        const { code, stdout, stderr } = await command.output();
        assertEquals(code, 0, new TextDecoder().decode(stderr));
        return new TextDecoder().decode(stdout);
      };
      const dom = await open("--dump-dom");
      assertEquals([...dom.matchAll(/<svg/g)].length, [...page().matchAll(/<svg/g)].length);
      const pictures = [];
      for (const scheme of [1, 0]) {
        const shot = join(folder, `${scheme}.png`);
        await open(`--screenshot=${shot}`, `--blink-settings=preferredColorScheme=${scheme}`);
        pictures.push(await Deno.readFile(shot));
      }
      assert(pictures.every(({ length }) => length > 10_000));
      assertNotEquals(pictures[0], pictures[1], "dark is another picture than light");
      await open(`--print-to-pdf=${join(folder, "report.pdf")}`);
      assertEquals((await Deno.readTextFile(join(folder, "report.pdf"))).slice(0, 5), "%PDF-");
    });
  },
});

Deno.test("a report writes over a report alone, unless it is forced to", async () => {
  await withFolder(async (folder) => {
    await writeNarrow(folder, "last.safetensors", { progress });
    const report = (...more: string[]) => resnext(["report", folder, "--no-judge", ...more]);
    const before = await Deno.readFile(join(folder, "last.safetensors"));
    const refused = await report("--out", join(folder, "last.safetensors"));
    assertEquals(refused.code, 1);
    assertMatch(refused.stderr, /^error: Cannot write ".*": it exists; choose another file or add --force\n$/);
    assertEquals(await Deno.readFile(join(folder, "last.safetensors")), before);
    for (const out of [[], ["--out", join(folder, "page.html")]]) {
      assertEquals([(await report(...out)).code, (await report(...out)).code], [0, 0]);
    }
    await Deno.writeTextFile(join(folder, "notes.html"), "mine");
    assertEquals((await report("--out", join(folder, "notes.html"))).code, 1);
    assertEquals((await report("--out", join(folder, "notes.html"), "--force")).code, 0);
  });
});

Deno.test("a run whose checkpoints are gone is reported on without them", async () => {
  await withFolder(async (folder) => {
    const { description } = narrowCheckpoint();
    const config = { ...description, class_names: [], parameters: 1, device: "x", version: "1", started: "2026" };
    await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(config));
    await Deno.writeTextFile(join(folder, "metrics.jsonl"), JSON.stringify(history[0]));
    const { code, stderr } = await resnext(["report", folder]);
    assertEquals(code, 0, stderr);
    const page = await Deno.readTextFile(join(folder, "report.html"));
    assertStringIncludes(page, "There is no checkpoint to judge");
    assert(!page.includes("<h2>Network</h2>"));
  });
});
