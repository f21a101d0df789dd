/**
 * The part of CloudWatch Logs Insights' query language that the dashboard uses, by AWS's "CloudWatch Logs Insights
 * language query syntax": fields of nested JSON have dots between their names, and `latest` returns the value in the log
 * event with the latest timestamp. Anything else is an error.
 */

export type Line = Readonly<Record<string, unknown>>;
export type Rows = Readonly<Record<string, unknown>>[];

/** @returns the value of a discovered field, such as `ledger.state`; the event's time is the line's own here */
export function fieldOf(line: Line, name: string): unknown {
  const path = name === '@timestamp' ? ['timestamp'] : name.split('.');
  return path.reduce<unknown>((value, key) => Object(value)[key], line);
}

/**
 * @param query the commands after SOURCE
 * @param lines of a log, in the order of their times
 * @throws Error for a command that is not known here
 */
export function evaluate(query: string, lines: readonly Line[]): Rows {
  return query.split(/\s*\|\s*/).reduce<Rows>(
    (rows, command) => {
      const [, word = '', rest = ''] = /^(\w+) (.*)$/.exec(command) ?? [];
      switch (word) {
        case 'filter': {
          const [, name = ''] = /^ispresent\(([\w.@]+)\)$/.exec(rest) ?? fail(command);
          return rows.filter((row) => fieldOf(row, name) !== undefined);
        }
        case 'fields':
          return rows.map((row) =>
            Object.fromEntries(rest.split(/, /).map((name) => [name, fieldOf(row, name)])),
          );
        case 'stats':
          return stats(rest, rows);
        case 'sort': {
          const [, name = '', order] = /^([\w.@]+) (asc|desc)$/.exec(rest) ?? fail(command);
          const sorted = rows.toSorted((a, b) => String(a[name]).localeCompare(String(b[name])));
          return order === 'asc' ? sorted : sorted.reverse();
        }
        case 'limit':
          return rows.slice(0, Number(rest));
        default:
          return fail(command);
      }
    },
    [...lines],
  );
}

function stats(text: string, rows: Rows): Rows {
  const [, list = '', by = ''] = /^(.*) by ([\w.]+)$/.exec(text) ?? fail(text);
  const columns = list.split(/, /).map((column) => {
    const [, name = '', alias = ''] = /^latest\(([\w.]+)\) as (\w+)$/.exec(column) ?? fail(column);
    return [name, alias] as const;
  });
  return [...Map.groupBy(rows, (row) => fieldOf(row, by))].map(([value, group]) => ({
    [by]: value,
    ...Object.fromEntries(columns.map(([name, alias]) => [alias, fieldOf(group.at(-1) ?? {}, name)])),
  }));
}

function fail(what: string): never {
  throw new Error(`not a command that is known here: ${what}`);
}
