/**
 * A stand-in for `jsr:@std/path` over `node:path`, which it agrees with: the functions this project uses, so that it
 * runs on a machine that reaches no JSR. deno.json's `links` puts it in the real package's place.
 *
 * @module
 */

import * as path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/** What separates the parts of a path here: `/`, or `\` on Windows. */
export const SEPARATOR: "/" | "\\" = path.sep;

/** The path of a `file:` URL. */
export function fromFileUrl(url: string | URL): string {
  const parsed = url instanceof URL ? url : new URL(url);
  if (parsed.protocol !== "file:") {
    throw new TypeError(`URL must be a file URL: received "${parsed.protocol}"`);
  }
  return fileURLToPath(parsed);
}

/** The `file:` URL of an absolute path. */
export function toFileUrl(absolute: string): URL {
  if (!path.isAbsolute(absolute)) throw new TypeError(`Path must be absolute: received "${absolute}"`);
  return pathToFileURL(absolute);
}

function pathOf(pathOrUrl: string | URL): string {
  return pathOrUrl instanceof URL ? fromFileUrl(pathOrUrl) : pathOrUrl;
}

/** The last part of a path, without `suffix` where it ends so. */
export function basename(path_: string | URL, suffix?: string): string {
  return path.basename(pathOf(path_), suffix);
}

/** All of a path but its last part. */
export function dirname(path_: string | URL): string {
  return path.dirname(pathOf(path_));
}

/** Joins parts to one normalized path. */
export function join(path_: string | URL, ...parts: string[]): string {
  return path.join(pathOf(path_), ...parts);
}

/** Makes an absolute path, from right to left until one is absolute; else below the working directory. */
export function resolve(...parts: string[]): string {
  return path.resolve(...parts);
}

/** The way from one path to another. */
export function relative(from: string, to: string): string {
  return path.relative(from, to);
}
