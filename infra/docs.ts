/**
 * `npm run docs`: writes into docs/, between their markers, what stands elsewhere: stage parameters, alarms,
 * findings, the commands of the ledger and a time line; the JSON Schemas of payload and response, and a picture.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { documentedCommands } from '../cli/ledger.ts';
import {
  FINDINGS,
  type FindingClass,
  type FindingKind,
} from '../functions/config-switch/inspect/findings.ts';
import { ledgerPicture, ledgerPictureInWords } from './ledger-picture.ts';
import { ALARMS, type Alarm, type Condition, conditionOf, DEFAULTS } from './monitoring/alarms.ts';
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
  'docs/reference/alarms.md': { alarms: alarmSections },
  'docs/reference/cli.md': { ledger: documentedCommands },
  'docs/reference/findings.md': { findings: findingTables },
  'docs/explanation/failover-time-line.md': { 'with-an-event': timeLineWithEvent },
  'docs/how-to/read-the-ledger.md': {
    picture: () => wrapped(`![${ledgerPictureInWords()}](../images/ledger.svg)`),
  },
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
    if (others.length === 0) return first === '' ? [] : wrapped(`\`${name}\`: ${first}`, '- ');
    return [`- \`${name}\`:`, ...all.map((note) => wrapped(note, '  - '))];
  });
  const table = ['| parameter | default | what it is |', '| --- | --- | --- |', ...rows];
  return [...table, ...(notes.length > 0 ? ['', ...notes] : [])].join('\n');
}

/** A failover's steps, to scale, from the benchmark with Patroni's defaults: medians (ms after the promotion). */
function timeLineWithEvent() {
  const page = readFileSync(join(ROOT, 'docs/explanation/performance.md'), 'utf8');
  const [, table = ''] = /<!-- failover-defaults -->([\s\S]*?)<!-- \/failover-defaults -->/.exec(page) ?? [];
  const row = /^\| SIGKILL of the leader \| `--follow-leader` \|.*$/m.exec(table)?.[0];
  if (row === undefined) throw new Error('docs/explanation/performance.md has no row of a failover');
  const [arrives = 0, asked = 0, responded = 0, streams = 0] = [...row.matchAll(/(\d+) ms/g)].map(
    ([, time]) => Number(time),
  );
  const known = arrives + asked;
  const task = (name: string, from: number, to: number) =>
    `  ${name} (${to - from} ms) : ${from}, ${to - from}ms`;
  return [
    '```mermaid',
    'gantt',
    '  title From the promotion until Barman streams',
    '  dateFormat x',
    '  axisFormat %Q ms',
    '  tickInterval 200millisecond',
    '  section Patroni',
    task('promotes and starts the callback', 0, arrives),
    '  section Function',
    task('asks Patroni who leads, until two answers agree', arrives, known),
    task('has Barman switch, and responds', known, responded),
    '  section Barman',
    task('connects to the new leader', responded, streams),
    '```',
  ].join('\n');
}

/** What each class of findings says, from the rules' own text. */
const CLASSES: Readonly<Record<FindingClass, string>> = {
  ready:
    'A failover would not end with Barman streaming from the new leader, or there is no backup to recover from.\nAct this week.',
  archived: "WAL of the leader does not arrive in Barman's archive now. Act now.",
};

function findingTables() {
  return Object.entries(CLASSES)
    .flatMap(([name, text]) => [`## ${name}`, text, findingTable(name as FindingClass)])
    .join('\n\n');
}

function findingTable(ofClass: FindingClass) {
  const kinds = Object.entries<FindingKind>(FINDINGS).filter(([, kind]) => kind.class === ofClass);
  const rows = kinds.map(([name, { means }]) => `| \`${name}\` | ${means} |`);
  const more = kinds.flatMap(([name, kind]) =>
    kind.more ? [wrapped(`\`${name}\`: ${kind.more}`, '- ')] : [],
  );
  return [...['| finding | what it means |', '| --- | --- |', ...rows], '', ...more].join('\n');
}

function alarmSections() {
  return Object.entries(ALARMS)
    .flatMap(([heading, alarms]) => [`## ${heading}`, ...Object.entries(alarms).map(alarmSection)])
    .join('\n\n');
}

/** The commands of a description, which has no Markdown, since it is sent by mail. */
const COMMANDS =
  /npm run ledger -- --stage STAGE(?: (?:check|redrive|set SERVER MODEL))?|barman receive-wal SERVER|(?:resume|pause) (?:SERVER|--all)/g;

function alarmSection([name, alarm]: [string, Alarm]) {
  const { description, advice = [], within } = alarm;
  const items = advice
    .map((text) => wrapped(text.trimStart(), text.startsWith(' ') ? '  - ' : '- '))
    .join('\n');
  const raised = `Raised within ${duration(within)}${isUsual(alarm) ? ` by ${metricOf(alarm)}` : `, if ${condition(alarm)}`}.`;
  return [`### ${name}`, wrapped(description.replace(COMMANDS, '`$&`')), items, wrapped(raised)]
    .filter(Boolean)
    .join('\n\n');
}

/** Returns a paragraph or a list item in lines of at most 120 characters; code is not broken. */
function wrapped(text: string, mark = ''): string {
  const [first = '', ...words] = text.match(/(?:`[^`]*`|\S)+/g) ?? [];
  const lines: string[] = [];
  let line = mark + first;
  for (const word of words) {
    if (line.length + 1 + word.length <= WIDTH) {
      line += ` ${word}`;
    } else {
      lines.push(line);
      line = ' '.repeat(mark.length) + word;
    }
  }
  return [...lines, line].join('\n');
}

/** Minutes in words. */
function duration(minutes: number): string {
  const hours = Math.floor(minutes / 60);
  const parts = [hours > 0 && `${hours} h`, minutes % 60 > 0 && `${minutes % 60} minutes`];
  return parts.filter(Boolean).join(' and ');
}

/** Returns whether the alarm has the condition that the introduction of the page names: one occurrence or more. */
function isUsual(alarm: Alarm) {
  const { TreatMissingData: _, ...usual } = DEFAULTS;
  const set = conditionOf(alarm);
  return Object.entries(usual).every(([key, value]) => set[key as keyof Condition] === value);
}

function metricOf({ Namespace, MetricName }: Alarm) {
  return `\`${Namespace.startsWith('AWS/') ? `${Namespace} ` : ''}${MetricName}\``;
}

/** The alarm's condition in words. */
function condition(alarm: Alarm) {
  const { unit, fill } = alarm;
  const { Statistic, ComparisonOperator, Threshold, Period, EvaluationPeriods } = conditionOf(alarm);
  const threshold = Threshold.toLocaleString('en-US') + (unit ? ` ${unit}` : '');
  const minutes = Period === 60 ? '1 minute' : `${Period / 60} minutes`;
  const periods = EvaluationPeriods === 1 ? 'within' : `in ${EvaluationPeriods} consecutive periods of`;
  const missing = fill === undefined ? '' : `, where no data counts as ${fill}`;
  const compared = COMPARISON[ComparisonOperator](threshold);
  return `the ${STATISTIC[Statistic]} of ${metricOf(alarm)} is ${compared} ${periods} ${minutes}${missing}`;
}

const json = (value: object) => `${JSON.stringify(value, null, 2)}\n`;
/** Files that are generated as a whole. */
const FILES: Readonly<Record<string, () => string>> = {
  'docs/schema/payload.json': () => json(payloadSchema()),
  'docs/schema/response.json': () => json(responseSchema()),
  'docs/images/ledger.svg': ledgerPicture,
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
    return { path, actual, expected: generate() };
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
