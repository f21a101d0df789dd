/** The language of the documentation: what a page is measured by, and the words to avoid. No I/O. */

/** The most words of a sentence, characters of a line, and characters of a table's cell. */
export const LIMITS = { words: 30, line: 120, cell: 120, mean: 15 } as const;

/** What to write instead. Inline code and code blocks are not looked at. */
export const WORDS_TO_AVOID: readonly (readonly [avoid: RegExp, write: string])[] = [
  [/\b(?:tells?|told|telling)\b/i, 'log, report, return or notify'],
  [/\b(?:some|no)body\b/i, 'another …, no one, "unauthenticated"'],
  [/\bwhoever\b(?= else\b)/i, 'another …'],
  [
    /(?<!\bthere )\b(?:is|are) no (?:parameter|option|https|URL|conninfo|member|model|name|number)\b/i,
    'is not a …',
  ],
  [/\b(?:mend(?:s|ed)?|foresaw|foreseen)\b/i, 'fix'],
  [/\bturn(?:s|ed)? away\b/i, 'rejected'],
  [/\blets? in\b/i, 'accepted'],
  [/\bcould not be had\b/i, 'unavailable'],
  [/\balone\b/i, 'only'],
  [/\bbeside\b/i, 'alongside, in addition to'],
  [/\banew\b/i, 'again'],
  [/\bthrice\b/i, 'three times'],
  [/\bin so many words\b/i, 'explicitly'],
  [/\beach (?:minute|hour|day|(?:\d+|two|five|ten) (?:s|seconds|minutes|hours|days))\b/i, 'every …'],
  [/\b(?:as always|like always)\b/i, 'as usual'],
  [/\bas well\b(?! as\b)/i, 'also'],
  [/\bgo(?:es)? with the stage\b/i, 'is deleted together with the stage'],
  [/\bin (?:the|its|their) place(?: of)?\b/i, 'instead of'],
  [/\bif nothing else is said\b/i, 'by default'],
  [/\bha(?:s|ve|d)\b[^.;:]*\balready(?=[.,;:)]|$)/i, 'already has …'],
  [/\bit is so\b/i, 'how long it has been so'],
  [/\bhad begun before\b/i, 'running'],
  [/\bin question\b/i, 'name it'],
  // One word for one thing.
  // Patroni's own word is the leader lock.
  [/(?<!\bleader )\b(?:mutex|locks?|locked)\b/i, 'lease'],
  [/\b(?:dead[- ]letter|DLQ)\b/i, 'failure queue'],
  [/\bhooks?\b/i, 'callback'],
  [/\b(?:slave|secondary)\b/i, 'replica'],
  [/\bmasters?\b/i, 'primary'],
  [/\bsynchroni[sz](?:e[sd]?|ing|ation)\b/i, 'reconcile; in sync'],
  [/\b(?:steals?|stolen)\b/i, 'take over'],
  [/\b(?:suspend(?:s|ed)?|maintenance mode)\b/i, 'pause'],
  [/\btimeouts?\b/i, 'time-out'],
  [/\b(?:obsolete|outdated)\b/i, 'superseded, older'],
];

/** A line of a page, with its number. */
interface Line {
  readonly number: number;
  readonly text: string;
}

/** A sentence, its line, and its number of words. */
export interface Sentence {
  readonly line: number;
  readonly text: string;
  readonly words: number;
}

interface Page {
  /** The text of each paragraph and list item, with the number of its first line. */
  readonly paragraphs: readonly Line[];
  readonly headings: readonly Line[];
  readonly cells: readonly Line[];
  /** Every line outside code blocks and tables, as it is written. */
  readonly lines: readonly Line[];
}

/** The first line of a list's item. */
const ITEM = /^\s*(?:[-*]|\d+\.)\s+/;

/** Separates code blocks (left out), tables, headings and comments (left out) from paragraphs and list items. */
function partsOf(markdown: string): Page {
  const paragraphs: Line[] = [];
  const headings: Line[] = [];
  const cells: Line[] = [];
  const lines: Line[] = [];
  let paragraph: Line | undefined;
  let fence: string | undefined;
  const end = () => {
    if (paragraph) paragraphs.push(paragraph);
    paragraph = undefined;
  };
  for (const [index, text] of markdown.split('\n').entries()) {
    const number = index + 1;
    const [, ticks] = /^\s*(```+)/.exec(text) ?? [];
    if (ticks && (fence === undefined || text.trim() === fence)) {
      fence = fence === undefined ? ticks : undefined;
      end();
      continue;
    }
    if (fence !== undefined) continue;
    if (/^\s*\|/.test(text)) {
      end();
      const row = reduced(text).replaceAll('\\|', '¦').trim().slice(1, -1).split('|');
      for (const cell of row) if (/\w/.test(cell)) cells.push({ number, text: cell.trim() });
      continue;
    }
    lines.push({ number, text });
    if (/^#+ /.test(text)) {
      end();
      headings.push({ number, text: reduced(text.replace(/^#+ /, '')) });
    } else if (text.trim() === '' || /^\s*<!--.*-->$/.test(text)) end();
    else if (ITEM.test(text) || paragraph === undefined) {
      end();
      paragraph = {
        number,
        text: text
          .replace(ITEM, '')
          .replace(/^\s*>\s*/, '')
          .trim(),
      };
    } else paragraph = { ...paragraph, text: `${paragraph.text} ${text.replace(/^\s*>\s*/, '').trim()}` };
  }
  end();
  return { paragraphs, headings, cells, lines };
}

/** Reduces links to their text. */
const reduced = (text: string) => text.replaceAll(/!?\[((?:\\.|[^\]\\])*)\]\([^)]*\)/g, '$1');

/** Text as it is read: without marks; inline code, a URL, a path are one word each. */
const plain = (text: string) =>
  reduced(text)
    .replaceAll(/(`+)(?:(?!\1).)+\1/g, 'Code')
    .replaceAll(/\bhttps?:\/\/[^\s)>]+[^\s)>.,;:]/g, 'Url')
    .replaceAll(/\*\*|__|(?<!\w)[*_]|[*_](?!\w)/g, '')
    .replaceAll(/\b(?:e\.g|i\.e|etc|vs|cf|approx)\./gi, (abbreviation) => abbreviation.replaceAll('.', ''));

/** The sentences of paragraphs and list items. */
export function sentencesOf(markdown: string): Sentence[] {
  return partsOf(markdown).paragraphs.flatMap(({ number, text }) =>
    plain(text)
      .split(/(?<=[.!?][)"”']*)\s+/)
      .map((sentence) => ({
        line: number,
        text: sentence,
        words: sentence.split(/\s+/).filter((word) => /[\p{L}\d]/u.test(word)).length,
      }))
      .filter(({ words }) => words > 0),
  );
}

/** The mean number of words of sentences. */
export const meanOf = (sentences: readonly Sentence[]) =>
  sentences.reduce((sum, { words }) => sum + words, 0) / sentences.length;

/** What a page does not keep to: its line, the rule, and the text. */
export function problemsOf(markdown: string): string[] {
  const { paragraphs, headings, cells, lines } = partsOf(markdown);
  const problems: [line: number, problem: string][] = [];
  for (const { line, text, words } of sentencesOf(markdown)) {
    if (words > LIMITS.words) problems.push([line, `${words} words: ${text}`]);
    if ((text.match(/:(?=\s|$)/g) ?? []).length > 1) problems.push([line, `a second colon: ${text}`]);
    if ((text.match(/;/g) ?? []).length > 1) problems.push([line, `a second semicolon: ${text}`]);
    if (/\([^)]*\(/.test(text)) problems.push([line, `brackets in brackets: ${text}`]);
  }
  for (const { number, text } of lines) {
    const { length } = [...text];
    if (length > LIMITS.line) problems.push([number, `a line of ${length} characters: ${text}`]);
  }
  for (const { number, text } of cells) {
    const { length } = [...text];
    if (length > LIMITS.cell) problems.push([number, `a cell of ${length} characters: ${text}`]);
  }
  for (const { number, text } of [...paragraphs, ...headings, ...cells]) {
    for (const [avoid, write] of WORDS_TO_AVOID) {
      const [found] = avoid.exec(plain(text)) ?? [];
      if (found !== undefined) problems.push([number, `"${found}": write ${write}: ${text}`]);
    }
  }
  return problems.toSorted(([a], [b]) => a - b).map(([line, problem]) => `line ${line}: ${problem}`);
}
