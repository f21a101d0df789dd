/**
 * The part of CloudWatch Logs' filter patterns that the documentation uses, by AWS's "Filter pattern syntax": a JSON
 * pattern compares fields with strings, in which `*` matches any text, and `||` joins comparisons. Anything else is an
 * error.
 */

import { fieldOf, type Line } from './logs-insights.ts';

/** @returns whether a line has what the pattern asks for @throws Error for a pattern that is not known here */
export function matches(pattern: string, line: Line): boolean {
  const [, inner] = /^\{ (.*) \}$/.exec(pattern) ?? [];
  if (inner === undefined) throw new Error(`not a JSON pattern: ${pattern}`);
  return inner.split(' || ').some((comparison) => {
    const [, name, text] = /^\(?\$\.([\w.]+) = "([\w*]+)"\)?$/.exec(comparison) ?? [];
    if (name === undefined || text === undefined) throw new Error(`not a comparison: ${comparison}`);
    const value = fieldOf(line, name);
    return typeof value === 'string' && new RegExp(`^${text.replaceAll('*', '.*')}$`, 's').test(value);
  });
}
