/** `npm run docs`: writes into docs/, between their markers, what stands elsewhere: stage parameters, alarms, a chart. */

const { readFileSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { ALARMS, DEFAULTS } = require('./monitoring/alarms.cjs');
const { PARAMETERS } = require('./parameters.cjs');

/** Page → marker (`<!-- name -->` … `<!-- /name -->`) → what stands between them. */
const GENERATED = {
  'docs/configuration.md': { parameters: parametersTable },
  'docs/alarms.md': { alarms: alarmSections },
  'docs/performance.md': { 'end-to-end-chart': endToEndChart },
};

const COMPARISON = {
  GreaterThanOrEqualToThreshold: (threshold) => `${threshold} or more`,
  LessThanOrEqualToThreshold: (threshold) => `${threshold} or less`,
  LessThanThreshold: (threshold) => `less than ${threshold}`,
};
const STATISTIC = { Sum: 'sum', Minimum: 'minimum', Maximum: 'maximum', SampleCount: 'number of samples' };

function parametersTable() {
  const rows = Object.entries(PARAMETERS).map(([name, { description, defaultInWords, ...rest }]) => {
    const value = rest.default === null ? '–' : `\`${rest.default}\``;
    return `| \`${name}\` | ${defaultInWords ?? ('default' in rest ? value : 'required')} | ${description} |`;
  });
  return ['| parameter | default | meaning |', '| --- | --- | --- |', ...rows].join('\n');
}

/** From the table of the end-to-end tests: the longest time of each row. */
function endToEndChart() {
  const development = readFileSync(join(__dirname, '../docs/development.md'), 'utf8');
  const [, table] = /\| event \| Barman followed after \|.*\n\|[- |]+\n((?:\|.*\n)+)/.exec(development);
  const rows = [...table.matchAll(/^\| (.*?) \| (.*?) s\b/gm)].map(([, event, times]) => ({
    event: event.replace(/[,:].*/, '').replaceAll('`', ''),
    most: Number(/[\d.]+$/.exec(times)[0]),
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

function alarmSections() {
  return Object.entries(ALARMS)
    .flatMap(([heading, alarms]) => [`## ${heading}`, ...Object.entries(alarms).map(alarmSection)])
    .join('\n\n');
}

function alarmSection([name, { description, advice, ...alarm }]) {
  const text = advice ? `${description} ${advice}` : description;
  return `### ${name}\n\n${text}\n\nAlarm condition: ${condition(alarm)}.`;
}

/** The alarm's condition in words. */
function condition({ Namespace, MetricName, unit, ...alarm }) {
  const { Statistic, ComparisonOperator, Threshold, Period, EvaluationPeriods, TreatMissingData } = {
    ...DEFAULTS,
    ...alarm,
  };
  const metric = Namespace.startsWith('AWS/') ? `${Namespace} ${MetricName}` : MetricName;
  const threshold = Threshold.toLocaleString('en-US') + (unit ? ` ${unit}` : '');
  const minutes = Period === 60 ? '1 minute' : `${Period / 60} minutes`;
  const periods = EvaluationPeriods === 1 ? 'within' : `in ${EvaluationPeriods} consecutive periods of`;
  const missing = TreatMissingData === 'breaching' ? ', or there is no data' : '';
  return `the ${STATISTIC[Statistic]} of \`${metric}\` is ${COMPARISON[ComparisonOperator](threshold)} ${periods} ${minutes}${missing}`;
}

/**
 * @returns each page's path, with its text as it is and as it should be
 * @throws Error if a page has no markers
 */
function pages() {
  return Object.entries(GENERATED).map(([path, parts]) => {
    const actual = readFileSync(join(__dirname, '..', path), 'utf8');
    let expected = actual;
    for (const [name, generate] of Object.entries(parts)) {
      const between = new RegExp(`(?<=<!-- ${name} -->\n)[^]*(?=<!-- /${name} -->)`);
      if (!between.test(expected)) throw new Error(`${path} has no <!-- ${name} --> … <!-- /${name} -->`);
      expected = expected.replace(between, () => `\n${generate()}\n\n`);
    }
    return { path, actual, expected };
  });
}

module.exports = { pages };

if (require.main === module) {
  for (const { path, expected } of pages()) writeFileSync(join(__dirname, '..', path), expected);
}
