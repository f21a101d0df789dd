/** docs/tutorial.md as steps: what to run where, and what is printed. No I/O. */

/** A block of shell commands, or of settings for a file. */
export interface Step {
  /** As the page names it, such as `node1` or `each node`. */
  readonly host: string;
  readonly user?: string;
  readonly heading: string;
  /** The file to which a block of YAML is added; undefined: `text` is run. */
  readonly file?: string;
  readonly text: string;
  /** The block that shows the output; undefined: the page does not show it. */
  readonly output?: string;
}

/** A host, and the user if it is not root. */
const WHERE =
  /\b[Oo]n\s+\*\*(your\s+machine|the\s+Barman\s+host|node1|node2|each\s+node)\*\*(?:\s+as\s+`(\w+)`)?/g;

/** @returns the steps, in the order of the page @throws Error if a step has no host */
export function stepsOf(page: string): Step[] {
  const blocks = [...page.matchAll(/^```(sh|yaml)\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?/gms)];
  return blocks.map(({ index, 1: kind, 2: text = '', 3: output }) => {
    const before = page.slice(0, index);
    const [, host, user] = [...before.matchAll(WHERE)].at(-1) ?? [];
    const [, heading = ''] = [...before.matchAll(/^#+ (.*)$/gm)].at(-1) ?? [];
    if (host === undefined) throw new Error(`no host is named before: ${text}`);
    const file = kind === 'yaml' ? [...before.matchAll(/`(\/etc\/[^`]+)`/g)].at(-1)?.[1] : undefined;
    return {
      host: host.replace(/\s+/, ' '),
      heading,
      text,
      ...(user !== undefined && { user }),
      ...(file !== undefined && { file }),
      ...(output !== undefined && { output }),
    };
  });
}

/** What differs from run to run. */
const VARYING: readonly (readonly [RegExp, string])[] = [
  [/elapsed time: [^)]+/, 'elapsed time'],
  [/\b[0-9a-f]{8,}\b/gi, 'ID'],
  [/\d+(?:\.\d+)?(?=\D|$)/g, '0'],
  // The width of a column follows its values.
  [/ {2,}|-{3,}|─+/g, '  '],
  [/\b0(?:ms|[smhd])\b/g, '0s'],
];
const shapeOf = (line: string) =>
  VARYING.reduce((text, [from, to]) => text.replace(from, to), line.trimEnd());

/**
 * Compares what the page shows with what was printed. A line `…` stands for any lines.
 *
 * @returns what was printed, cut as the page cuts it; undefined if the page shows something else
 */
export function shown(output: string, printed: string): string | undefined {
  const lines = printed.trimEnd().split('\n');
  const expected = output.trimEnd().split('\n');
  const match = (want: number, have: number): string[] | undefined => {
    const line = expected[want];
    if (line === undefined) return have === lines.length ? [] : undefined;
    if (line === '…') {
      for (let next = have; next <= lines.length; next += 1) {
        const rest = match(want + 1, next);
        if (rest) return ['…', ...rest];
      }
      return undefined;
    }
    const actual = lines[have];
    if (actual === undefined || shapeOf(actual) !== shapeOf(line)) return undefined;
    const rest = match(want + 1, have + 1);
    return rest && [actual.trimEnd(), ...rest];
  };
  return match(0, 0)
    ?.map((line) => `${line}\n`)
    .join('');
}
