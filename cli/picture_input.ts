/** How pictures become what a network sees. */

import { imagenetStatistics } from "../data/folder.ts";
import { resizedSide } from "../data/pictures/transform.ts";
import type { CheckpointDescription, InputDescription } from "../nn/checkpoint.ts";
import { isPictures } from "./dataset.ts";

/** All of it, with the side that is inferred where a file tells none. */
export type PictureInput = Required<InputDescription>;

/**
 * What a network's file tells of it, ImageNet's way where that is nothing.
 *
 * Networks that learned from whole small images see a picture's whole centre. At another image size than its own a network
 * sees as much of a picture as at its own.
 */
export function pictureInput(
  { input, settings }: Pick<CheckpointDescription, "input" | "settings">,
  imageSize?: number,
): PictureInput {
  const known = { image_size: 224, ...imagenetStatistics, ...input }, { image_size: own } = known;
  const whole = settings !== undefined && !isPictures(settings.dataset);
  const side = known.resize_size ?? (whole ? own : resizedSide(own));
  const size = imageSize ?? own;
  // The usual side is rounded: the proportion behind it is taken, as of files that do not tell it.
  const usual = side === resizedSide(own);
  return { ...known, image_size: size, resize_size: usual ? resizedSide(size) : Math.round(size * side / own) };
}
