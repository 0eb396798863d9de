/** `resnext download DATASET`: brings a data set into the data directory. */

import { cifar100Publication, cifar10Publication, fetchPublication } from "../data/cifar_download.ts";
import { dataDirectory } from "../data/directory.ts";
import type { Progress } from "../data/meter.ts";
import { defineCommand } from "./command.ts";
import { formatBytes, formatDuration, ProgressLine } from "./progress.ts";

/** What can be downloaded. */
const PUBLICATIONS = {
  cifar10: { title: "CIFAR-10", publication: cifar10Publication },
  cifar100: { title: "CIFAR-100", publication: cifar100Publication },
} as const;

/** The command. */
export const downloadCommand = defineCommand({
  name: "download",
  summary: "Download a data set, or check the one that is there",
  details: "Goes on with a download that broke off, and checks every file's md5. Called again, it checks the files " +
    "and fetches anew what is missing or damaged.",
  positionals: [{ name: "dataset", doc: "The data set", choices: ["cifar10", "cifar100"] }],
  options: {
    url: {
      type: "string",
      doc: "Another address of the archive: http, https, file or a path",
      placeholder: "URL",
      otherwise: "the official one, on www.cs.toronto.edu",
    },
    dataDir: {
      type: "string",
      doc: "The data directory",
      placeholder: "DIR",
      otherwise: "$RESNEXT_DATA, else resnext in the user's cache directory",
    },
  },
  examples: ["download cifar10", "download cifar10 --url file:///mnt/cifar-10-binary.tar.gz --data-dir data"],
  run: async ({ args: { dataset }, options }) => {
    const { title, publication } = PUBLICATIONS[dataset];
    const line = new ProgressLine();
    const say = (text: string) => {
      line.clear();
      console.error(text);
    };
    const { present, mended, directory } = await fetchPublication({
      dataDirectory: dataDirectory(options.dataDir),
      url: options.url,
      onNotice: (text) => say(`${text[0].toUpperCase()}${text.slice(1)}`),
      onProgress: (progress) => line.update(describeProgress(progress)),
    }, publication).finally(() => line.clear());
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
