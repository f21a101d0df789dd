/** What the benchmarks share: quantiles, and the tables of docs/performance.md. */

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

export const median = (values: readonly number[]) => quantile(values, 0.5);
export const ms = (value: number) => `${Math.round(value)} ms`;
export const percent = (part: number) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
export const speedUp = (ratio: number) => `${ratio.toFixed(1)}×`;

export function table(title: string, head: readonly string[], rows: readonly (readonly unknown[])[]): void {
  console.log(`\n${title}\n`);
  for (const cells of [head, head.map(() => '---'), ...rows]) console.log(`| ${cells.join(' | ')} |`);
}
