/** A worker that reads and prepares one picture after the other; see `pool.ts`, which speaks to it. */

/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />

import { readWithin } from "../files.ts";
import { MOST_PICTURE_BYTES } from "./limits.ts";
import { PixelBudget } from "./budget.ts";
import { UserError } from "../../kernels/user_error.ts";
import { preparePicture } from "./decode.ts";
import type { PictureAnswer, PictureRequest } from "./pool.ts";

self.onmessage = async ({ data: { id, source, transform, budget } }: MessageEvent<PictureRequest>) => {
  let answer: PictureAnswer;
  try {
    const bytes = typeof source === "string" ? await readWithin(source, MOST_PICTURE_BYTES) : source;
    answer = { id, ...await preparePicture(bytes, transform, new PixelBudget(budget)) };
  } catch (error) {
    const unread = error instanceof UserError || (error instanceof Error && error.name in Deno.errors);
    answer = { id, error: explain(error), ...(unread && { unread }) };
  }
  self.postMessage(answer, "pixels" in answer ? [answer.pixels.buffer] : []);
};
self.postMessage("ready");

/** What libvips says, in the words of the rest and on one line. */
function explain(error: unknown): string {
  if (error instanceof UserError) return error.message.replaceAll(/^Cannot read ".*": |; name .*$/gs, "");
  if (error instanceof Deno.errors.NotFound) return "no such file";
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  const text = error instanceof Error ? error.message : String(error);
  if (text.includes("unsupported image format")) return "its format is not known";
  if (text.includes("exceeds pixel limit")) return "it has too many pixels";
  if (text.startsWith("timeout: ")) return "it takes too long to decode";
  if (/^(Array buffer allocation failed|Invalid typed array length)/.test(text)) return "it does not fit the memory";
  const [line] = text.split("\n").filter((line) => !/^Input .* corrupt header: *$/.test(line));
  const detail = line?.replace(/^Input .* corrupt header: /, "").replace(/^(VipsJpeg|vipspng|\w+load\w*): */, "");
  if (/^it /.test(text)) return text;
  return !detail || detail === "Unknown error" ? "it is damaged" : `it is damaged (${detail})`;
}
