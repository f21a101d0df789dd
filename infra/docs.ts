/**
 * `npm run docs`: writes into docs/, between their markers, what stands elsewhere: stage parameters, alarms,
 * findings, the commands of the ledger, a chart; and the JSON Schemas of payload and response.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { documentedCommands } from '../cli/ledger.ts';
import { wrap } from '../cli/show.ts';
import { FINDINGS, type FindingClass } from '../functions/config-switch/inspect/findings.ts';
import { ALARMS, type Alarm, type Condition, conditionOf } from './monitoring/alarms.ts';
import { GROUPS, PARAMETERS, type Parameter } from './parameters/table.ts';
import { payloadSchema, responseSchema } from './schemas.ts';

const ROOT = join(import.meta.dirname, '..');
/** Of a line of text (characters). */
const WIDTH = 120;

/** Page → marker (`<!-- name -->` … `<!-- /name -->`) → what stands between them. */
const GENERATED: Readonly<Record<string, Readonly<Record<string, () => string>>>> = {
  'docs/reference/stage-parameters.md': Object.fromEntries(
    GROUPS.map((group) => [group, () => parametersOf(group)]),
  ),
  'docs/alarms.md': { alarms: alarmSections },
  'docs/operations.md': { ledger: documentedCommands },
  'docs/reference/findings.md': { findings: findingTables },
  'docs/performance.md': { 'end-to-end-chart': endToEndChart },
};

const COMPARISON: Readonly<Record<Condition['ComparisonOperator'], (threshold: string) => string>> = {
  GreaterThanOrEqualToThreshold: (threshold) => `${threshold} or more`,
  LessThanOrEqualToThreshold: (threshold) => `${threshold} or less`,
  LessThanThreshold: (threshold) => `less than ${threshold}`,
};
const STATISTIC: Readonly<Record<Condition['Statistic'], string>> = {
  Sum: 'sum',
  Minimum: 'minimum',
  Maximum: 'maximum',
};

/** A table of the parameters of a group, and a list of what the table has no room for. */
function parametersOf(group: Parameter['group']) {
  const parameters = Object.entries<Parameter>(PARAMETERS).filter(
    ([, parameter]) => parameter.group === group,
  );
  const rows = parameters.map(([name, { text, defaultInWords, ...rest }]) => {
    const value = rest.default === null ? '–' : `\`${rest.default}\``;
    return `| \`${name}\` | ${defaultInWords ?? ('default' in rest ? value : 'required')} | ${text} |`;
  });
  const notes = parameters.flatMap(([name, { notes: all = [] }]) => {
    const [first = '', ...others] = all;
    if (others.length === 0) return first === '' ? [] : wrap('- ', `\`${name}\`: ${first}`, WIDTH);
    return [`- \`${name}\`:`, ...all.flatMap((note) => wrap('  - ', note, WIDTH))];
  });
  const table = ['| parameter | default | what it is |', '| --- | --- | --- |', ...rows];
  return [...table, ...(notes.length > 0 ? ['', ...notes] : [])].join('\n');
}

/** From the table of the end-to-end tests: the longest time of each row. */
function endToEndChart() {
  const development = readFileSync(join(ROOT, 'docs/development.md'), 'utf8');
  const [, table = ''] =
    /\| event \| Barman followed after \|.*\n\|[- |]+\n((?:\|.*\n)+)/.exec(development) ?? [];
  const rows = [...table.matchAll(/^\| (.*?) \| (.*?) s\b/gm)].map(([, event = '', times = '']) => ({
    event: event.replace(/[,:].*/, '').replaceAll('`', ''),
    most: Number(/[\d.]+$/.exec(times)?.[0]),
  }));
  return [
    '```mermaid',
    'xychart-beta horizontal',
    '  title "Seconds until Barman has followed, at most"',
    `  x-axis [${rows.map(({ event }) => JSON.stringify(event)).join(', ')}]`,
    '  y-axis "s"',
    `  bar [${rows.map(({ most }) => most).join(', ')}]`,
    '```',
  ].join('\n');
}

/** What each class of findings says, from the rules' own text. */
const CLASSES: Readonly<Record<FindingClass, string>> = {
  ready:
    'A failover would not end with Barman streaming from the new leader, or there is no backup to recover from. Act this week.',
  archived: "WAL of the leader does not arrive in Barman's archive now. Act now.",
};

function findingTables() {
  return Object.entries(CLASSES)
    .flatMap(([name, text]) => [`## ${name}`, text, findingTable(name as FindingClass)])
    .join('\n\n');
}

function findingTable(ofClass: FindingClass) {
  const rows = Object.entries(FINDINGS)
    .filter(([, kind]) => kind.class === ofClass)
    .map(([name, { means }]) => `| \`${name}\` | ${means} |`);
  return ['| finding | what it means |', '| --- | --- |', ...rows].join('\n');
}

function alarmSections() {
  return Object.entries(ALARMS)
    .flatMap(([heading, alarms]) => [`## ${heading}`, ...Object.entries(alarms).map(alarmSection)])
    .join('\n\n');
}

function alarmSection([name, alarm]: [string, Alarm]) {
  const { description, advice } = alarm;
  const text = advice ? `${description} ${advice}` : description;
  return `### ${name}\n\n${text}\n\nAlarm condition: ${condition(alarm)}. It is raised within ${duration(alarm.within)}.`;
}

/** Minutes in words. */
function duration(minutes: number): string {
  const hours = Math.floor(minutes / 60);
  const parts = [hours > 0 && `${hours} h`, minutes % 60 > 0 && `${minutes % 60} minutes`];
  return parts.filter(Boolean).join(' and ');
}

/** The alarm's condition in words. */
function condition(alarm: Alarm) {
  const { Namespace, MetricName, unit, fill } = alarm;
  const { Statistic, ComparisonOperator, Threshold, Period, EvaluationPeriods } = conditionOf(alarm);
  const metric = Namespace.startsWith('AWS/') ? `${Namespace} ${MetricName}` : MetricName;
  const threshold = Threshold.toLocaleString('en-US') + (unit ? ` ${unit}` : '');
  const minutes = Period === 60 ? '1 minute' : `${Period / 60} minutes`;
  const periods = EvaluationPeriods === 1 ? 'within' : `in ${EvaluationPeriods} consecutive periods of`;
  const missing = fill === undefined ? '' : `, where no data counts as ${fill}`;
  const compared = COMPARISON[ComparisonOperator](threshold);
  return `the ${STATISTIC[Statistic]} of \`${metric}\` is ${compared} ${periods} ${minutes}${missing}`;
}

/** Files that are generated as a whole. */
const FILES: Readonly<Record<string, () => object>> = {
  'docs/schema/payload.json': payloadSchema,
  'docs/schema/response.json': responseSchema,
};

/**
 * Returns each page's path, with its text as it is and as it should be.
 *
 * @throws Error if a page has no markers
 */
export function pages(): { path: string; actual: string; expected: string }[] {
  const files = Object.entries(FILES).map(([path, generate]) => {
    const file = join(ROOT, path);
    const actual = existsSync(file) ? readFileSync(file, 'utf8') : '';
    return { path, actual, expected: `${JSON.stringify(generate(), null, 2)}\n` };
  });
  const texts = Object.entries(GENERATED).map(([path, parts]) => {
    const actual = readFileSync(join(ROOT, path), 'utf8');
    let expected = actual;
    for (const [name, generate] of Object.entries(parts)) {
      const between = new RegExp(`(?<=<!-- ${name} -->\n)[^]*(?=<!-- /${name} -->)`);
      if (!between.test(expected)) throw new Error(`${path} has no <!-- ${name} --> … <!-- /${name} -->`);
      expected = expected.replace(between, () => `\n${generate()}\n\n`);
    }
    return { path, actual, expected };
  });
  return [...texts, ...files];
}

if (import.meta.main) {
  for (const { path, expected } of pages()) writeFileSync(join(ROOT, path), expected);
}
