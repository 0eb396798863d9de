/** The order of names. */

/**
 * Compares strings by code points, as Python does: for `sort`, whose own order, by UTF-16 units, puts characters above U+FFFF
 * before those from U+E000 on.
 */
export function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i), y = b.charCodeAt(i);
    if (x !== y) return place(x) - place(y);
  }
  return a.length - b.length;
}

/** A unit's place in that order: halves of characters above U+FFFF come after all others. */
function place(unit: number): number {
  return unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit;
}
