/** JSON from files that nobody vouches for: no two meanings, no depth without end, and words that are safe to print. */

/** Deeper than anything that is written here or by others' tools. */
const MAX_DEPTH = 64;

/**
 * Parses JSON that has one meaning: a key that an object has twice is refused, where `JSON.parse` takes the last and other
 * readers the first.
 *
 * @throws {SyntaxError} with a predicate for its message: `is not JSON`, `has the key ... twice` or `is nested too deep`.
 */
export function parseStrictJson(text: string): unknown {
  checkDepth(text);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError("is not JSON", { cause });
  }
  checkKeys(text);
  return value;
}

const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\]:,]/gs;

/** Before parsing: what is nested a million deep costs more than its bytes. */
function checkDepth(text: string): void {
  let depth = 0;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]]/gs)) {
    if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
    if (depth > MAX_DEPTH) throw new SyntaxError("is nested too deep");
  }
}

/** After parsing: the text is JSON, so that a string before a colon is a key. */
function checkKeys(text: string): void {
  const open: (Set<string> | undefined)[] = [];
  let last = "";
  for (const [token] of text.matchAll(TOKENS)) {
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(undefined);
    else if (token === "}" || token === "]") open.pop();
    else if (token === ":") {
      const keys = open[open.length - 1]!, key: string = JSON.parse(last);
      if (keys.has(key)) throw new SyntaxError(`has the key ${quoted(key)} twice`);
      keys.add(key);
    }
    last = token;
  }
}

/** What a file says, for a message: short, in quotes, without the bytes that would steer a terminal. */
export function quoted(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(clipped(value)) : clipped(described(value));
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g, "\u{fffd}");
}

function described(value: unknown): string {
  if (Array.isArray(value)) {
    return `[${
      value.slice(0, 9).map((item) =>
        typeof item === "object" ? "..." : typeof item === "string" ? JSON.stringify(item) : item
      )
    }]`;
  }
  return typeof value === "object" && value !== null ? "an object" : String(value);
}

function clipped(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
