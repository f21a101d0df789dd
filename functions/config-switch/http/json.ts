/** JSON of a response, within bounds: 16 MB of `[` would cost a gigabyte, and the function has one. */

/** `/diagnose` of Barman has 8 levels. */
const MAX_DEPTH = 64;
/** Of all levels together; `/diagnose` has one in about 30 bytes. As empty objects they cost some 40 MB. */
const MAX_VALUES = 1_000_000;

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
const OPEN = new Set([0x5b, 0x7b]);
const CLOSE = new Set([0x5d, 0x7d]);

/**
 * Parses JSON of at most 64 levels and a million values; more is not even parsed.
 *
 * @throws SyntaxError that says what the text is instead: "not JSON", "JSON of more than 64 levels"
 */
export function parseJson(text: string): unknown {
  checkSize(text);
  try {
    return JSON.parse(text);
  } catch {
    // Without the parser's message, which quotes the text.
    throw new SyntaxError('not JSON');
  }
}

/** Counts brackets and commas outside strings; in what is not JSON they mean nothing. @throws SyntaxError */
function checkSize(text: string): void {
  let depth = 0;
  let values = 1;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code === QUOTE) {
      index = endOfString(text, index);
    } else if (code === COMMA) {
      values += 1;
    } else if (OPEN.has(code)) {
      depth += 1;
      values += 1;
    } else if (CLOSE.has(code)) {
      depth -= 1;
    }
    if (depth > MAX_DEPTH) throw new SyntaxError(`JSON of more than ${MAX_DEPTH} levels`);
    if (values > MAX_VALUES) throw new SyntaxError(`JSON of more than ${MAX_VALUES} values`);
  }
}

/** Returns the index of the quote that ends a string, or the end of the text. */
function endOfString(text: string, start: number): number {
  for (let end = start + 1; end < text.length; end += 1) {
    const code = text.charCodeAt(end);
    if (code === QUOTE) return end;
    if (code === BACKSLASH) end += 1;
  }
  return text.length;
}
