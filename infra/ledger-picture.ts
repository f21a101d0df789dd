/** docs/images/ledger.svg: what `npm run ledger` prints for the example, with numbers at what is explained. */

import { asTable } from '../cli/show.ts';
import { EXAMPLE, NOW } from './ledger-example.ts';

/** What is explained: a text that is printed, on which side of it its number stands, and a few words. */
interface CallOut {
  readonly at: RegExp;
  readonly side: 'left' | 'above' | 'right' | 'below';
  readonly label: string;
}

const CALL_OUTS: readonly CallOut[] = [
  { at: /^heartbeat/, side: 'left', label: 'the last heartbeat, and what it found' },
  { at: /STATE/, side: 'above', label: 'the state; in sync is good' },
  { at: /DESIRED/, side: 'above', label: 'the model of the newest role change' },
  { at: /APPLIED/, side: 'above', label: 'the model that Barman was last set to' },
  { at: /LEADER/, side: 'above', label: 'the leader that Patroni names' },
  { at: /STREAMING/, side: 'above', label: 'whether Barman streams WAL from it' },
  { at: /READY/, side: 'above', label: 'whether a failover would work' },
  { at: /^ {2}- the next/, side: 'left', label: 'what is wrong with the server above' },
  { at: /retry crm$/, side: 'right', label: 'what to do next' },
  { at: /^ {2}- node3/, side: 'left', label: 'a finding of the last inspection' },
  { at: /(?<=pg:node2 )4m/, side: 'below', label: 'how long it has been so' },
];

/** Characters, lines, and what is around them (px). A line's text is stretched to the width of its characters. */
const [CHARACTER, LINE, LEFT, RIGHT, TOP] = [7.5, 20, 36, 24, 30];
/** Between the line of the heartbeat and the table, for the numbers of the columns. */
const GAP = 28;

const STYLE = [
  'text{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2328}',
  '.n{font-size:11px;font-weight:bold;text-anchor:middle;fill:#fff}',
  'circle{fill:#0969da}rect{fill:#f6f8fa}rect,path{stroke:#d0d7de}',
  '@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#0d1117}circle{fill:#58a6ff}',
  'rect{fill:#161b22}rect,path{stroke:#30363d}}',
].join('');

/** Returns the picture, as SVG. It has its own background, since a page's may differ from what the browser prefers. */
export function ledgerPicture(): string {
  const lines = asTable(EXAMPLE, NOW, 80).split('\n');
  const [width, end] = [LEFT + 80 * CHARACTER + RIGHT, TOP + GAP + lines.length * LINE];
  const y = (index: number) => TOP + index * LINE + (index > 0 ? GAP : 0);
  const printed = lines.map(
    (line, index) =>
      `<text x="${LEFT}" y="${y(index)}" textLength="${[...line].length * CHARACTER}">${escaped(line)}</text>`,
  );
  const numbers = CALL_OUTS.map(({ at, side }, index) => {
    const row = lines.findIndex((line) => at.test(line));
    const found = at.exec(lines[row] ?? '');
    if (!found) throw new Error(`npm run ledger does not print ${at}`);
    const [from, middle] = [
      LEFT + found.index * CHARACTER,
      LEFT + (found.index + found[0].length / 2) * CHARACTER,
    ];
    return {
      left: () => number(index, LEFT / 2, y(row)),
      above: () => number(index, from + 8, y(row) - LINE),
      right: () => number(index, LEFT + (found.index + found[0].length + 3) * CHARACTER, y(row)),
      below: () => number(index, middle, y(row) + LINE),
    }[side]();
  });
  const half = Math.ceil(CALL_OUTS.length / 2);
  const labels = CALL_OUTS.flatMap(({ label }, index) => {
    const x = index < half ? LEFT / 2 : Math.round(0.54 * width);
    const line = end + 42 + (index % half) * 24;
    return [number(index, x, line), `<text x="${x + 16}" y="${line}">${escaped(label)}</text>`];
  });
  const height = end + 42 + half * 24;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}">`,
    `<title>${ledgerPictureInWords()}</title>`,
    `<style>${STYLE}</style>`,
    `<rect x=".5" y=".5" width="${width - 1}" height="${height - 1}" rx="6"/>`,
    ...printed,
    `<path d="M0 ${end + 14}H${width}"/>`,
    ...numbers,
    ...labels,
    '</svg>\n',
  ].join('\n');
}

/** Returns what the picture says, for those who do not see it. */
export function ledgerPictureInWords(): string {
  const labels = CALL_OUTS.map(({ label }, index) => `(${index + 1}) ${label}.`);
  return `The output of npm run ledger, with numbers. ${labels.join(' ')}`;
}

/** A number in a circle, on a line of text. @param y of the line's base (px) */
function number(index: number, x: number, y: number): string {
  return `<circle cx="${x}" cy="${y - 4}" r="8.5"/><text class="n" x="${x}" y="${y}">${index + 1}</text>`;
}

function escaped(text: string): string {
  // Of several spaces, a browser would show one.
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('  ', '\u00a0\u00a0');
}
