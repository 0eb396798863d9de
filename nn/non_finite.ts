/** Logits that are no numbers any more: no class, probability or loss follows from them, and none is told. */

import { UserError } from "../kernels/user_error.ts";
import type { LabelledImages } from "./labelled_images.ts";
import { quoted } from "./json.ts";

/** Why there is no result, and what to do, for the end of a message. */
export const LOGITS_NOT_FINITE =
  "the network's logits are not finite; use precision f32 instead of f16, or other weights: these may be damaged";

/** A network gave an image logits that are not finite. */
export class NonFiniteError extends UserError {
  /** Told apart by it. */
  override name = "NonFiniteError";

  /** For messages. @param action What cannot be done, such as `judge image 3`. */
  constructor(action: string, why: string = LOGITS_NOT_FINITE) {
    super(`Cannot ${action}: ${why}`);
  }
}

/** Whether logits have a softmax: no NaN or infinity among them. A negative infinity is a probability of 0, but not in all. */
export function haveSoftmax(logits: ArrayLike<number>): boolean {
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    if (!(logits[i] < Infinity)) return false;
    largest = Math.max(largest, logits[i]);
  }
  return largest > -Infinity;
}

/** An image of a set, for messages: by its file, where it has one. */
export function imageName({ files }: LabelledImages, image: number): string {
  return files ? quoted(files[image]) : `image ${image}`;
}
