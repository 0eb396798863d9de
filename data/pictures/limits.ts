/** How much of a picture's file is read. */

/** Bytes of a file, or of stdin: what the largest picture that is decoded takes without compression, at three a pixel. */
export const MOST_PICTURE_BYTES = 2 ** 29 + 2 ** 20;
