/** Text that came from outside, for a log line, a response, a message or a terminal. */

/** Maximum length of one text in a log line or a response (characters). */
const MAX_LENGTH = 4_000;
/** How many names a message has at most; of the others it has their number. */
const MAX_NAMES = 10;
/**
 * Control characters (C0, DEL, C1: a terminal obeys them), those that reorder or hide text (format
 * characters, Unicode UAX #9), separators of lines, and lone surrogates.
 */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
/** A webhook secret (Standard Webhooks, "Signature scheme"), with whatever was appended to it. */
const SECRET = /whsec_[\w+/=-]+/g;
/** The shortest secret has 24 bytes: so many characters of base64, without its prefix. */
const SECRET_LENGTH = 32;

/** Returns one line in which each unprintable character is escaped as in JSON, such as `\u202e`. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) =>
    Array.from(
      { length: character.length },
      (_, index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, '0')}`,
    ).join(''),
  );
}

/** Returns the lines of a text, printable, without webhook secrets; for a terminal. JSON stays the same JSON. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n').replace(SECRET, 'whsec_…');
}

/** Returns the lines of a text as `printableLines` does, cut to 4,000 characters; for log and response. */
export function forLog(text: string): string {
  return printableLines(cut(text, MAX_LENGTH));
}

/** Returns a text, cut to a number of characters, with its length if it was longer. */
export function cut(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length)}… (${text.length} characters)` : text;
}

/** Returns the first ten names, and the number of the others. */
export function listOf(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES).map((name) => cut(name, 255));
  return `${shown.join(', ')}${names.length > MAX_NAMES ? ` and ${names.length - MAX_NAMES} more` : ''}`;
}

/**
 * Returns the key of a JSON object, quoted for a message; one that may be a secret, written in the wrong
 * place, is not shown.
 */
export function quotedKey(key: string): string {
  return mayBeSecret(key)
    ? `a key of ${key.length} characters (hidden: it may be a secret)`
    : JSON.stringify(key);
}

/** Returns the path to a value in JSON, such as `servers.main.node1`, without what may be a secret. */
export function pathOf(path: readonly { readonly key: unknown }[] | undefined): string {
  return (path ?? [])
    .map(({ key }) => (mayBeSecret(String(key)) ? `(hidden: it may be a secret)` : String(key)))
    .join('.');
}

function mayBeSecret(key: string): boolean {
  return key.length >= SECRET_LENGTH || key.includes('whsec_');
}
