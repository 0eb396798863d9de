/** `resnext serve`: names what is on the pictures that come by HTTP. */

import { PicturePool } from "../data/pictures/pool.ts";
import { UserError } from "../kernels/user_error.ts";
import {
  type ClassifierFile,
  classifierOptions,
  type OpenClassifier,
  openClassifier,
  readClassifier,
} from "./classifier.ts";
import { ClassifyQueue } from "./classify_queue.ts";
import { defineCommand } from "./command.ts";
import { HttpListener } from "./http_listener.ts";
import { Interruptible } from "./interrupt.ts";
import { Bodies } from "./request_body.ts";
import { answer, type Served } from "./serve_requests.ts";
import { reopenDevice } from "./train_safety.ts";

/** Pictures that may wait; a request may bring as many. */
const MOST_WAITING = 1024;
/** Bytes that the bodies of all requests may take, however few a request may. */
const MOST_BYTES = 2 ** 29;
/** Seconds that a request's body may stand still. */
const IDLE_SECONDS = 60;
/** Seconds that bodies which have begun to arrive are waited for when the server stops. */
const LAST_SECONDS = 5;
/** Seconds that clients then have to take their answers. */
const CLOSE_SECONDS = 2;

/** The command. */
export const serveCommand = defineCommand({
  name: "serve",
  summary: "Name what is on pictures that come by HTTP",
  details:
    "POST a picture to /predict, or a form with several: the answer is JSON, as predict --json prints it. Pictures that " +
    "arrive together share a batch. GET / tells what is served, GET /health whether it answers. It listens on this " +
    "machine alone unless --host says otherwise, asks nobody for a password, and speaks no HTTPS: put a proxy before " +
    "it where others can reach it. Ctrl-C answers the requests that were begun, then ends.",
  positionals: [{ name: "network", doc: "A checkpoint, or weights: safetensors or PyTorch's .pth" }],
  options: {
    host: { type: "string", default: "127.0.0.1", placeholder: "ADDRESS", doc: "Address to listen on; 0.0.0.0 is all" },
    port: { type: "integer", min: 0, max: 65535, default: 8000, doc: "Port to listen on; 0 takes any free one" },
    topk: { type: "integer", min: 1, default: 5, doc: "Labels a picture, unless a request says ?topk=N" },
    ...classifierOptions,
    batchSize: { type: "integer", min: 1, default: 16, doc: "Pictures a batch, at most" },
    maxBytes: { type: "integer", min: 1, max: 2 ** 30, default: 20_000_000, doc: "Bytes of a request, at most" },
    verbose: { type: "boolean", doc: "Print a line a request on stderr" },
    json: { type: "boolean", doc: "Print a JSON object when ready instead" },
  },
  examples: [
    "serve runs/first/best.safetensors",
    "serve resnext50_32x4d.pth --port 0 --json",
    "serve best.safetensors --host 0.0.0.0 --batch-size 64",
  ],
  run: async ({ args, options }) => {
    const file = await readClassifier(args.network, options, "resnext serve");
    using interruptible = new Interruptible({ notice: "Stopping when what was begun is answered; again: at once" });
    const warn = (message: string) => console.error(`warning: ${message}`);
    const pool = new PicturePool();
    const queue = new ClassifyQueue({
      open: (again) => openWarm(file, options.batchSize, again ? interruptible.signal : undefined),
      pool,
      transform: file.transform,
      most: MOST_WAITING,
      warn,
    });
    const bodies = new Bodies({
      maxBytes: options.maxBytes,
      totalBytes: Math.max(MOST_BYTES, 2 * options.maxBytes),
      idleSeconds: IDLE_SECONDS,
    });
    const served: Served = {
      queue,
      describe: () => describe(file, queue, options),
      names: file.network.description.class_names,
      topk: options.topk,
      most: MOST_WAITING,
      bodies,
      warn,
    };
    // A port that is taken is told before the device is opened; until that is, requests are told to come again.
    const handler = options.verbose ? logged(served) : (request: Request) => answer(request, served);
    const host = options.host.replace(/^\[(.*)\]$/, "$1");
    const listener = new HttpListener({ host, port: options.port, handler, warn });
    try {
      await Promise.all([queue.start(), tryDecoder(pool, file)]);
      const url = urlOf(host, listener.port);
      if (options.json) console.log(JSON.stringify({ type: "ready", url, ...describe(file, queue, options) }));
      else printReady(file, queue, url);
      await stopped(interruptible.signal);
      // Shutting down cuts off bodies that are not there yet.
      await bodies.stop(LAST_SECONDS);
      await listener.close(CLOSE_SECONDS);
      return interruptible.came!.exitCode;
    } finally {
      queue.close();
    }
  },
});

/** Batches of one picture are for those that come alone, and one size lies between. */
async function openWarm(file: ClassifierFile, batchSize: number, reopening?: AbortSignal): Promise<OpenClassifier> {
  const between = Math.round(Math.sqrt(batchSize));
  const sizes = [...new Set([1, between, batchSize])];
  const classifier = await openClassifier(file, sizes, reopening && await reopenDevice(reopening));
  try {
    await classifier.warmUp();
    return classifier;
  } catch (error) {
    classifier[Symbol.dispose]();
    throw error;
  }
}

/** Starts the decoder's workers; where they cannot decode, that is told at once. @throws {UserError} */
async function tryDecoder(pool: PicturePool, { transform }: ClassifierFile): Promise<void> {
  const gif = Uint8Array.fromBase64("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7");
  for (const result of await Promise.all(Array.from({ length: pool.depth }, () => pool.prepare(gif, transform)))) {
    if ("error" in result) throw new UserError(`Cannot decode pictures: ${result.error}`);
  }
}

/** What of the options is told. */
interface Limits {
  readonly batchSize: number;
  readonly maxBytes: number;
}

function describe({ network, input, precision }: ClassifierFile, queue: ClassifyQueue, limits: Limits) {
  const { arch, num_classes } = network.description.network;
  return {
    arch,
    classes: num_classes,
    image_size: input.image_size,
    precision,
    device: queue.device ?? null,
    batch_size: limits.batchSize,
    max_bytes: limits.maxBytes,
    usage: "POST /predict?topk=N with a picture as the body, or a multipart/form-data of files; GET /health",
  };
}

function printReady({ network, input }: ClassifierFile, queue: ClassifyQueue, url: string): void {
  const { arch, num_classes } = network.description.network;
  console.log(`Device    ${queue.device}`);
  console.log(`Serving ${arch}, ${num_classes} classes, input ${input.image_size}x${input.image_size}, at ${url}`);
  console.log(`Try: curl --data-binary @cat.jpg ${url}predict`);
}

/** Of an address that stands for all of the machine's, the one that works on it. */
function urlOf(host: string, port: number): string {
  const reachable = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return `http://${reachable.includes(":") ? `[${reachable}]` : reachable}:${port}/`;
}

function stopped(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

/** A line a request. */
function logged(served: Served): (request: Request) => Promise<Response> {
  return async (request) => {
    const begun = performance.now(), address = URL.parse(request.url);
    const response = await answer(request, served);
    const took = Math.round(performance.now() - begun);
    const path = address ? address.pathname + address.search : "-";
    console.error(`${new Date().toISOString()} ${request.method} ${path} ${response.status} ${took} ms`);
    return response;
  };
}
