/** Text in columns. */

/** A file's words, or its name, without what would steer the terminal. */
export function plain(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, "\u{fffd}");
}

/**
 * Lines of cells side by side, two spaces between; the first row is the head. Cells of a column that is listed in `left`
 * begin at one place, the others end at one. Cells are made plain.
 */
export function columns(
  cells: readonly (readonly string[])[],
  { left = [0] }: { left?: readonly number[] } = {},
): string[] {
  const rows = cells.map((row) => row.map(plain));
  const widths = rows.reduce<number[]>((most, row) => row.map((cell, i) => Math.max(most[i] ?? 0, cell.length)), []);
  return rows.map((row) =>
    row.map((cell, i) => left.includes(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ").trimEnd()
  );
}

/** 25,028,904. */
export function groupDigits(count: number): string {
  return count.toLocaleString("en-US");
}

/** A count with its noun: `1 epoch`, `3 epochs`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** A count in short: `4.23 G`, `25.0 M`, `128`. */
export function shortCount(count: number): string {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
    if (count >= size) return `${(count / size).toPrecision(3)} ${unit}`;
  }
  return String(count);
}

/** A value of the settings: `3, 4, 6, 3`; `kind cosine`; `flip true, mixup 0.2`. */
export function factText(value: unknown): string {
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object" && value !== null) {
    return Object.entries(value).map(([key, each]) => `${key} ${factText(each)}`).join(", ");
  }
  return String(value);
}
