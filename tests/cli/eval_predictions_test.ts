import { assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { predictionsText } from "../../cli/eval_predictions.ts";
import type { Judgement } from "../../nn/judge.ts";
import { withFolder } from "../support.ts";
import { resnext, writeNarrow, writePictures } from "./support.ts";

const JUDGEMENTS: Judgement[] = [
  { image: 0, label: 0, prediction: 1, confidence: 0.75, labelProbability: 0.25 },
  { image: 1, label: 1, prediction: 1, confidence: 0.5, labelProbability: 0.5 },
];

Deno.test("a line an image: JSON, or cells that are quoted where they must be", () => {
  // Two classes of one name stay apart by their numbers.
  const classNames = ['crane, "bird"', 'crane, "bird"'], files = ["val/a\nb.jpg", "val/c.jpg"];
  const csv = predictionsText("x.CSV", JUDGEMENTS, { classNames, files });
  assertEquals(
    csv,
    "image,file,class,label,label_probability,predicted_class,predicted_label,predicted_probability,correct\n" +
      '0,"val/a\nb.jpg",0,"crane, ""bird""",0.25,1,"crane, ""bird""",0.75,false\n' +
      '1,val/c.jpg,1,"crane, ""bird""",0.5,1,"crane, ""bird""",0.5,true\n',
  );
  const [first, second] = predictionsText("x.jsonl", JUDGEMENTS, { classNames: ["a", "b"] }).split("\n");
  assertEquals(JSON.parse(first), {
    image: 0,
    ...{ class: 0, label: "a", label_probability: 0.25 },
    ...{ predicted_class: 1, predicted_label: "b", predicted_probability: 0.75 },
    correct: false,
  });
  assertEquals(JSON.parse(second).correct, true);
  // Without files the column stays, empty.
  assertMatch(predictionsText("x.csv", JUDGEMENTS, { classNames: ["a", "b"] }), /^0,,0,a,0\.25,1,b,0\.75,false$/m);
});

Deno.test("eval writes what each image is taken for, and the same numbers as without", async () => {
  await withFolder(async (folder) => {
    const file = await writeNarrow(folder), out = join(folder, "predictions.jsonl");
    const plain = await resnext(["eval", file, "--json"]);
    const { code, stdout, stderr } = await resnext(["eval", file, "--json", "--predictions", out]);
    assertEquals([code, stderr, stdout], [0, "", plain.stdout]);
    const { confusion } = JSON.parse(plain.stdout);
    const rows = (await Deno.readTextFile(out)).trimEnd().split("\n").map((line) => JSON.parse(line));
    assertEquals(rows.map(({ image }) => image), Array.from({ length: 20 }, (_, i) => i));
    for (const { class: label, predicted_class } of rows) confusion[label][predicted_class]--;
    assertEquals(new Set(confusion.flat()), new Set([0]));

    const link = join(folder, "link.csv"), nowhere = join(folder, "nowhere.csv");
    await Deno.symlink(file, link);
    await Deno.symlink(join(folder, "gone"), nowhere);
    await Deno.mkdir(join(folder, "folder.csv"));
    const cases: [string[], number, RegExp][] = [
      [[out], 1, /Cannot write ".*predictions\.jsonl": it exists; choose another file or add --force\n$/],
      [[link, "--force"], 1, /Cannot write ".*link\.csv": it is the file that is read; choose another file\n$/],
      [[join(folder, "folder.csv"), "--force"], 1, /Cannot write ".*folder\.csv": it is a folder; name a file\n$/],
      [
        [nowhere, "--force"],
        1,
        /Cannot write ".*nowhere\.csv": it is a link to nothing; remove it or name another file\n$/,
      ],
      [[join(folder, "none", "a.csv")], 1, /Cannot write ".*a\.csv": no such file or directory\n$/],
      [[join(folder, "a.txt")], 2, /Option --predictions must end in \.csv or \.jsonl, not as ".*a\.txt" does/],
    ];
    const before = await Deno.readTextFile(out);
    await Promise.all(cases.map(async ([args, wanted, message]) => {
      const { code, stdout, stderr } = await resnext(["eval", file, "--predictions", ...args]);
      assertEquals([code, stdout], [wanted, ""]);
      assertMatch(stderr, message);
    }));
    assertEquals(await Deno.readTextFile(out), before);
  });
});

Deno.test("pictures are told by their files", async () => {
  await withFolder(async (folder) => {
    const dataset = `folder:${await writePictures(folder, "pictures")}`;
    const network = { arch: "resnext50", num_classes: 2, cardinality: 2, layers: [1], channels: [16] };
    const file = await writeNarrow(folder, "a.safetensors", { network, class_names: ["a", "b"] });
    const out = join(folder, "predictions.csv");
    const args = ["--dataset", dataset, "--data-dir", folder, "--predictions", out];
    const { code, stdout, stderr } = await resnext(["eval", file, ...args]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /\n\nWrote what each image is taken for to .*predictions\.csv\n$/);
    assertMatch(await Deno.readTextFile(out), /\n0,val\/a\/1\.png,0,a,0\.\d+,[01],[ab],0\.\d+,(true|false)\n$/);
  });
});
