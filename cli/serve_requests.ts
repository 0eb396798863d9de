/** What `serve` answers to requests. Pictures come in, names go out as JSON; nothing of the machine is told. */

import { Buffer } from "node:buffer";
import { rank } from "../nn/classifier.ts";
import { haveSoftmax, LOGITS_NOT_FINITE } from "../nn/non_finite.ts";
import { quoted } from "../nn/json.ts";
import { type Answer, type ClassifyQueue, UnavailableError } from "./classify_queue.ts";
import { type Bodies, HttpError } from "./request_body.ts";

/** What is served. */
export interface Served {
  readonly queue: Pick<ClassifyQueue, "ask" | "state">;
  /** What `GET /` tells. */
  readonly describe: () => object;
  readonly names: readonly string[] | undefined;
  /** Labels a picture, where the request does not say. */
  readonly topk: number;
  /** Parts of a form. */
  readonly most: number;
  readonly bodies: Pick<Bodies, "read">;
  /** Told of what is no fault of a request. */
  readonly warn: (message: string) => void;
}

/** A picture of a request. */
interface Picture {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Answers a request; never rejects. */
export async function answer(request: Request, served: Served): Promise<Response> {
  // Asked for now: it tells of a client that goes away only if it is there by then.
  const { signal } = request;
  try {
    return await route(request, signal, served);
  } catch (error) {
    if (error instanceof HttpError) return json(error.status, { error: error.message }, error.headers);
    if (error instanceof UnavailableError) {
      const headers = { "retry-after": String(error.retryAfter) };
      return json(503, { error: `Cannot answer now: ${error.message}; try again` }, headers);
    }
    // Nobody hears this one.
    if (signal.aborted) return json(499, { error: "the client went away" });
    served.warn(error instanceof Error ? error.stack ?? error.message : String(error));
    return json(500, { error: "Cannot answer: the server failed; its owner finds the cause in its output" });
  }
}

async function route(request: Request, signal: AbortSignal, served: Served): Promise<Response> {
  const { pathname, searchParams } = addressOf(request);
  switch (pathname) {
    case "/":
      allow(request, "GET", "HEAD");
      return json(200, served.describe());
    case "/health": {
      allow(request, "GET", "HEAD");
      const { state } = served.queue;
      return state === "ready" ? json(200, { status: "ok" }) : json(503, { status: state }, { "retry-after": "1" });
    }
    case "/predict":
      allow(request, "POST");
      return await predict(request, signal, readTopk(searchParams.get("topk")) ?? served.topk, served);
    default:
      throw new HttpError(404, "Cannot find that: there are GET /, GET /health and POST /predict");
  }
}

/** A request's address, whose host is what the client wrote. @throws {HttpError} where that is none. */
function addressOf({ url }: Request): URL {
  const address = URL.parse(url);
  if (!address) throw new HttpError(400, "Cannot read the address: its host or path is none of HTTP");
  return address;
}

function allow(request: Request, ...methods: string[]): void {
  if (methods.includes(request.method)) return;
  throw new HttpError(405, `Cannot ${request.method} here: it takes ${methods.join(" and ")}`, {
    allow: methods.join(", "),
  });
}

function readTopk(text: string | null): number | undefined {
  if (text === null) return undefined;
  if (/^\d{1,9}$/.test(text) && Number(text) >= 1) return Number(text);
  throw new HttpError(400, "Cannot read topk: it must be a whole number of at least 1");
}

async function predict(request: Request, signal: AbortSignal, topk: number, served: Served): Promise<Response> {
  using body = await served.bodies.read(request);
  if (body.bytes.length === 0) {
    throw new HttpError(400, "Cannot find a picture: the body is empty; send its bytes, or a form with files");
  }
  const pictures = await picturesOf(body.bytes, request.headers.get("content-type") ?? "", served.most);
  const answers = await served.queue.ask(pictures.map(({ bytes }) => bytes), signal);
  const wrong = answers.findIndex((answer) => "logits" in answer && !haveSoftmax(answer.logits));
  if (wrong >= 0) {
    const message = `Cannot name what is on ${nameOf(pictures[wrong])}: ${LOGITS_NOT_FINITE}`;
    served.warn(message);
    throw new HttpError(500, message);
  }
  const told = answers.map((answer) => tell(answer, topk, served.names));
  if (told.length > 1) return json(200, { images: told.map((one, i) => ({ image: pictures[i].name, ...one })) });
  if ("error" in told[0]) return json(422, { error: `Cannot read the picture: ${told[0].error}` });
  return json(200, told[0]);
}

/** For messages. */
function nameOf({ name }: Picture): string {
  return name === "" ? "the picture" : quoted(name);
}

function tell(answer: Answer, topk: number, names: readonly string[] | undefined) {
  return "error" in answer ? { error: answer.error } : { predictions: rank(answer.logits, topk, names) };
}

/** The files of a form; anything else is one picture, whatever it is called: curl calls it a form by itself. */
async function picturesOf(bytes: Uint8Array<ArrayBuffer>, type: string, most: number): Promise<Picture[]> {
  if (!/^multipart\/form-data\b/i.test(type)) return [{ name: "", bytes }];
  const boundary = /;\s*boundary=("?)([\w'()+,./:=?-]{1,70})\1/i.exec(type)?.[2];
  if (boundary === undefined) throw noForm();
  // Parsing takes time by the square of the parts.
  if (!occursAtMost(most + 1, `--${boundary}`, bytes)) {
    throw new HttpError(413, `Cannot take the form: it may have at most ${most} parts`);
  }
  if (!isWhole(`\r\n--${boundary}`, bytes)) throw noForm();
  let form: FormData;
  try {
    const headers = { "content-type": `multipart/form-data; boundary="${boundary}"` };
    form = await new Response(bytes, { headers }).formData();
  } catch {
    throw noForm();
  }
  const files = [...form.values()].filter((value) => value instanceof File);
  if (files.length === 0) throw new HttpError(400, "Cannot find a picture: the form has no file");
  return await Promise.all(files.map(async (file) => ({ name: file.name, bytes: await file.bytes() })));
}

function noForm(): HttpError {
  return new HttpError(400, "Cannot read the form: it is no whole multipart/form-data");
}

/** Whether the last delimiter closes the form: the parser takes what stands before a cut for all. */
function isWhole(delimiter: string, bytes: Uint8Array<ArrayBuffer>): boolean {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = buffer.lastIndexOf(delimiter) + delimiter.length;
  return end >= delimiter.length && buffer.toString("latin1", end, end + 2) === "--";
}

function occursAtMost(times: number, text: string, bytes: Uint8Array<ArrayBuffer>): boolean {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = buffer.indexOf(text); at >= 0; at = buffer.indexOf(text, at + text.length)) {
    if (--times < 0) return false;
  }
  return true;
}

function json(status: number, value: object, headers: Readonly<Record<string, string>> = {}): Response {
  return new Response(`${JSON.stringify(value)}\n`, {
    status,
    headers: { "content-type": "application/json", "cache-control": "no-store", ...headers },
  });
}
