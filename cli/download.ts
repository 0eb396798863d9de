/** `resnext download WHAT`: brings a data set, or a network's weights, into the data directory. */

import { cifar100Publication, cifar10Publication, fetchPublication } from "../data/cifar_download.ts";
import { dataDirectory } from "../data/directory.ts";
import type { Progress } from "../data/meter.ts";
import { defineCommand, usageError } from "./command.ts";
import { dataDirOption } from "./invocation.ts";
import { downloadWeights, WEIGHTS_VERSIONS, weightsNames } from "./download_weights.ts";
import { formatBytes, formatDuration, ProgressLine } from "./progress.ts";

/** What can be downloaded. */
const PUBLICATIONS = {
  cifar10: { title: "CIFAR-10", publication: cifar10Publication },
  cifar100: { title: "CIFAR-100", publication: cifar100Publication },
} as const;

/** The command. */
export const downloadCommand = defineCommand({
  name: "download",
  summary: "Download a data set or weights, or check what is there",
  details: "Goes on with a download that broke off, and checks every file's md5. Called again, it checks the files " +
    "and fetches anew what is missing or damaged.\n\n" +
    "`download weights NAME` brings torchvision's or timm's weights of a network, checked by SHA-256 where it is " +
    "published and by the network's own shapes; `networks` lists them.",
  positionals: [
    { name: "what", doc: "A data set, or weights", choices: ["cifar10", "cifar100", "weights"] },
    { name: "name", doc: "The network, for weights", choices: weightsNames, optional: true },
  ],
  options: {
    url: {
      type: "string",
      doc: "Another address of the archive or of the weights: http, https, file or a path",
      placeholder: "URL",
      otherwise: "the official one",
    },
    version: {
      type: "choice",
      choices: WEIGHTS_VERSIONS,
      otherwise: "the best of the network",
      doc: "Of weights: torchvision's first or second, or timm's",
    },
    dataDir: dataDirOption,
  },
  examples: [
    "download cifar10",
    "download cifar10 --url file:///mnt/cifar-10-binary.tar.gz --data-dir data",
    "download weights resnext50_32x4d",
  ],
  run: async ({ args: { what, name }, options }) => {
    const line = new ProgressLine();
    const say = (text: string) => {
      line.clear();
      console.error(text);
    };
    const common = {
      dataDirectory: dataDirectory(options.dataDir),
      url: options.url,
      onNotice: (text: string) => say(`${text[0].toUpperCase()}${text.slice(1)}`),
      onProgress: (progress: Progress) => line.update(describeProgress(progress)),
    };
    if (what === "weights") {
      if (!name) throw usageError(`Missing argument NAME: one of ${weightsNames.join(", ")}`, "resnext download");
      console.log(await downloadWeights(name, options.version, common).finally(() => line.clear()));
      return;
    }
    if (name) throw usageError(`Unexpected argument ${JSON.stringify(name)}`, "resnext download");
    if (options.version) throw usageError("Option --version is of weights alone", "resnext download");
    const { title, publication } = PUBLICATIONS[what];
    const { present, mended, directory } = await fetchPublication(common, publication).finally(() => line.clear());
    const count = publication.content.files.length;
    if (present) {
      console.log(`${title} is there: ${count} files in ${directory}, every md5 is right`);
    } else {
      if (mended.length < count) say(`Replaced: ${mended.join("; ")}`);
      console.log(`${title} is ready: ${count} files in ${directory}, every md5 is right`);
    }
  },
});

/** Such as `Downloading 12.3 MB of 170.1 MB (7 %), 5.1 MB/s, 31s left`. */
export function describeProgress({ bytes, total, bytesPerSecond, secondsLeft }: Progress): string {
  const share = total ? ` of ${formatBytes(total)} (${Math.floor(bytes / total * 100)} %)` : "";
  const left = secondsLeft === undefined ? "" : `, ${formatDuration(secondsLeft)} left`;
  return `Downloading ${formatBytes(bytes)}${share}, ${formatBytes(bytesPerSecond)}/s${left}`;
}
