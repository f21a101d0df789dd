/** Quantiles, and the tables and charts of docs/explanation/performance.md. */

import { readFileSync, writeFileSync } from 'node:fs';

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

export const median = (values: readonly number[]) => quantile(values, 0.5);
export const ms = (value: number) => `${Math.round(value)} ms`;
export const percent = (part: number) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
export const speedUp = (ratio: number) => `${ratio.toFixed(1)}×`;

const PAGE = 'docs/explanation/performance.md';

/** A row of a table: column → value. */
export type Row = Readonly<Record<string, string | number>>;

/**
 * Prints a table, and writes it into docs/explanation/performance.md if UPDATE_DOCS is set.
 *
 * @param name of the markers on the page
 * @param rows all with the same columns
 */
export function table(name: string, title: string, rows: readonly Row[]): void {
  const head = Object.keys(rows[0] ?? {});
  const lines = [head, head.map(() => '---'), ...rows.map((row) => Object.values(row))];
  publish(
    name,
    title,
    lines.map((cells) => `| ${cells.join(' | ')} |`),
  );
}

/**
 * Prints a chart with a line for each series (Mermaid), and writes it into that page if UPDATE_DOCS
 * is set.
 *
 * @param x the values of the x-axis, and its title
 * @param series name → values; lines have the colours of Mermaid's order, so the title has to say which is
 * which
 */
export function chart(
  name: string,
  title: string,
  x: { readonly title: string; readonly values: readonly number[] },
  series: readonly (readonly number[])[],
): void {
  const greatest = Math.max(...series.flat());
  const list = (values: readonly number[]) => `[${values.map((value) => Math.round(value)).join(', ')}]`;
  publish(name, title, [
    '```mermaid',
    'xychart-beta',
    `  title "${title}"`,
    `  x-axis "${x.title}" ${list(x.values)}`,
    `  y-axis "ms" 0 --> ${Math.ceil(greatest / 1_000) * 1_000}`,
    ...series.map((values) => `  line ${list(values)}`),
    '```',
  ]);
}

/** Adds a row to a table of docs/explanation/performance.md if UPDATE_DOCS is set. */
export function addRow(name: string, cells: readonly unknown[]): void {
  if (!process.env.UPDATE_DOCS) return;
  const page = readFileSync(PAGE, 'utf8');
  const end = `\n\n<!-- /${name} -->`;
  if (!page.includes(end)) throw new Error(`${PAGE} has no table ${name}`);
  writeFileSync(
    PAGE,
    page.replace(end, () => `\n| ${cells.join(' | ')} |${end}`),
  );
}

function publish(name: string, title: string, lines: readonly string[]): void {
  console.log(`\n${title}\n`);
  console.log(lines.join('\n'));
  if (!process.env.UPDATE_DOCS) return;
  const page = readFileSync(PAGE, 'utf8');
  const between = new RegExp(`(?<=<!-- ${name} -->\n)[\\s\\S]*?(?=<!-- /${name} -->)`);
  if (!between.test(page)) throw new Error(`${PAGE} has no <!-- ${name} --> … <!-- /${name} -->`);
  writeFileSync(
    PAGE,
    page.replace(between, () => `\n${lines.join('\n')}\n\n`),
  );
}
