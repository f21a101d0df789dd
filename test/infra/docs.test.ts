/** The documentation: generated parts are up to date, links resolve, commands exist, the README is short. */

import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { pages } from '../../infra/docs.ts';
import { ALARMS, type Alarm } from '../../infra/monitoring/alarms.ts';
import { commandsOf, documentedBlock, shellBlocks } from '../documentation.ts';
import { shown, stepsOf } from '../e2e/tutorial/page.ts';

const DOCUMENTS = globSync('**/*.md', { exclude: ['node_modules'] }).toSorted();
const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };

/** Commands that no test runs, and why. */
const NOT_RUN: Readonly<Record<string, string>> = {
  'npm cit': 'it runs the tests',
  'UPDATE_DOCS=1 npm run e2e -- test/e2e/tutorial.test.ts': 'it writes outputs into a page',
  'patronictl edit-config --force -s slots.barman=null CLUSTER':
    'test/e2e/inspection.test.ts removes all slots in this way',
  'psql -c "SELECT slot_name, active FROM pg_replication_slots"': 'it only shows the slots',
  'barman receive-wal --stop SERVER': 'test/e2e/inspection.test.ts runs it',
  'psql -w "host=10.0.1.13 user=barman dbname=postgres connect_timeout=5" -c "SELECT 1"':
    'Barman connects in this way in all end-to-end tests, without a password',
  'psql -w "host=10.0.1.13 user=streaming_barman dbname=postgres connect_timeout=5 replication=true" -c "IDENTIFY_SYSTEM"':
    'the same',
  'psql -c "SELECT application_name, client_addr, state FROM pg_stat_replication"':
    'it only shows the receivers',
  'git checkout COMMIT && npm ci && npm run deploy -- --stage prod':
    'it is the deployment of docs/how-to/set-up.md, from another commit',
  'npm run package -- --stage prod':
    'test/infra/template.test.ts packages stages, and names parameters that are wrong',
  'aws dynamodb update-table --no-deletion-protection-enabled --table-name barman-config-switch-prod':
    'test/e2e/deployment.test.ts runs it for other tables',
  'npm run remove -- --stage prod':
    'test/e2e/deployment.test.ts runs it, as docs/how-to/remove-a-stage.md has it',
  'npm run remove -- --stage prod --yes': 'the same',
  'npm run ledger -- --stage prod check': 'test/e2e/deployment.test.ts runs it',
  'npm run ledger -- --stage prod': 'test/integration/ledger-tool.test.ts runs it',
  'patronictl edit-config --force -s slots.barman.type=physical hr':
    'test/e2e/observation.test.ts runs it for another cluster',
  'patronictl edit-config --force -s slots.barman_dr.type=physical main':
    'test/e2e/observation.test.ts runs it for another slot',
  'patronictl reload --force hr': 'test/e2e/callbacks.test.ts runs it for another cluster',
  ...Object.fromEntries(
    commandsOf(documentedBlock('docs/how-to/terraform.md', 'terraform init')).map((command) => [
      command,
      "no test reaches Terraform's registry; test/e2e/lint.test.ts reads the file",
    ]),
  ),
};
/** Commands inside sentences and tables that stand in no block, by how they begin: where they run, or why not. */
const INLINE: Readonly<Record<string, string>> = {
  'aws cloudformation delete-stack': 'test/e2e/deployment.test.ts runs it',
  'aws dynamodb update-table': 'test/e2e/deployment.test.ts runs it; the emulator has no customer keys',
  'aws ec2 delete-vpc-endpoints': 'npm run remove prints it',
  'barman config-switch': 'test/e2e/observation.test.ts runs it',
  'barman diagnose': 'test/e2e/inspection.test.ts runs it',
  'barman receive-wal --reset': 'test/e2e/wal.test.ts runs it',
  'barman show-servers': 'it only shows the configuration',
  'chmod ': 'test/e2e/patroni.test.ts disables callbacks in another way',
  'patronictl list': 'it only shows the cluster',
  'patronictl show-config': 'it only shows the configuration',
  'patronictl reload': 'test/e2e/callbacks.test.ts runs it',
  'patronictl switchover': 'test/e2e/patroni.test.ts runs it',
  'pg-backup-api status': 'a package of EDB, which is in no registry',
  'systemctl edit patroni': 'it opens an editor',
  'systemctl enable --now pg-backup-api': 'a package of EDB, which is in no registry',
  'terraform ': "no test reaches Terraform's registry",
  'python3 test/patroni/': 'test/e2e/callback.test.ts runs it',
  'npx vitest run test/': 'it runs tests',
};
/** What the tests take from the documentation: a block or a command, the page, and how it begins. */
const TAKEN = globSync('test/**/*.ts').flatMap((file) => [
  ...readFileSync(file, 'utf8').matchAll(/documented(Block|Command)\(\s*'([^']+)',\s*'([^']+)'/g),
]);

const TUTORIAL = 'docs/tutorial.md';
/** test/e2e/tutorial.test.ts runs them. */
const STEPS = stepsOf(readFileSync(TUTORIAL, 'utf8'));

/** A document without its code blocks. */
const proseOf = (path: string) => readFileSync(path, 'utf8').replace(/^```.*?^```$/gms, '');

/** The anchors that GitHub gives the headings of a document. */
function anchorsOf(path: string): string[] {
  const headings = proseOf(path).match(/^#+ .*$/gm) ?? [];
  const anchors = headings.map((heading) =>
    heading
      .replace(/^#+ /, '')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, '')
      .replaceAll(' ', '-'),
  );
  return anchors.map((anchor, index) => {
    const before = anchors.slice(0, index).filter((one) => one === anchor).length;
    return before === 0 ? anchor : `${anchor}-${before}`;
  });
}

test.each(pages())('$path › is what npm run docs generates', ({ path, actual, expected }) => {
  expect(actual, `${path} is stale; run: npm run docs`).toBe(expected);
});

describe.each(DOCUMENTS)('%s', (path) => {
  test('links to files and headings that exist', () => {
    for (const [, target = ''] of proseOf(path).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [file = '', anchor] = target.split('#');
      const linked = file === '' ? path : join(dirname(path), file);
      expect(existsSync(linked), target).toBe(true);
      if (anchor !== undefined) expect(anchorsOf(linked), target).toContain(anchor);
    }
  });

  test('has only shell commands that a test takes from it', () => {
    const taken = TAKEN.filter(([, , page]) => page === path);
    for (const block of shellBlocks(path)) {
      if (path === TUTORIAL && STEPS.some(({ text }) => text === block)) continue;
      if (taken.some(([, what, , start = '']) => what === 'Block' && documentedBlock(path, start) === block))
        continue;
      const rest = commandsOf(block).filter(
        (command) => !taken.some(([, , , start = '']) => command.startsWith(start)) && !(command in NOT_RUN),
      );
      expect(rest).toEqual([]);
    }
  });

  test('says the region of its aws commands: in each of them, or once', () => {
    const regional = shellBlocks(path)
      .flatMap(commandsOf)
      .filter((command) => /\baws (?!iam )/.test(command) && !/--region |^\s*echo /.test(command));
    if (regional.length > 0) {
      expect(readFileSync(path, 'utf8'), regional.join('\n')).toContain('export AWS_DEFAULT_REGION=');
    }
  });

  test('names npm scripts that exist', () => {
    for (const [command, script] of readFileSync(path, 'utf8').matchAll(/npm run ([a-z0-9:-]+)/g)) {
      expect(Object.keys(scripts), command).toContain(script);
    }
  });
});

test('commands inside sentences and tables › stand in a block too, are of the CLI, or are listed with the reason', () => {
  const inBlocks = DOCUMENTS.flatMap(shellBlocks)
    .join('\n')
    .replace(/\\\n\s*/g, '');
  const ofLedger = commandsOf(documentedBlock('docs/reference/cli.md', 'npm run ledger')).map((command) =>
    command.trim(),
  );
  const known = (command: string) =>
    inBlocks.includes(command) ||
    Object.keys(INLINE).some((start) => command.startsWith(start)) ||
    (command.startsWith('npm run ledger')
      ? [...ofLedger, 'npm run ledger -- --help', 'npm run ledger -- check'].includes(
          command.replace(' STAGE', ' prod'),
        )
      : // The test of npm scripts has the others.
        /^npm (run|test|start)\b/.test(command));
  const inline = DOCUMENTS.filter((path) => path !== 'CHANGELOG.md').flatMap((path) =>
    [
      ...proseOf(path).matchAll(
        /`((?:npm|npx|aws|patronictl|barman|psql|systemctl|git|install|openssl|chmod|terraform|python3|pg-backup-api) [^`]+)`/g,
      ),
    ].map(([, command = '']) => command.replace(/\s+/g, ' ')),
  );
  expect(inline.length).toBeGreaterThan(100);
  expect(inline.filter((command) => !known(command))).toEqual([]);
  expect(Object.keys(INLINE).filter((start) => !inline.some((one) => one.startsWith(start)))).toEqual([]);
});

test('README.md and docs/faq.md › have the versions of docs/reference/requirements.md, and the costs of docs/reference/costs.md', () => {
  const requirements = readFileSync('docs/reference/requirements.md', 'utf8');
  const versions = [...requirements.matchAll(/^\| (\w[\w.-]*)[^|]* \| (\d[\d.]*) \|/gm)];
  const [readme, faq] = ['README.md', 'docs/faq.md'].map((path) => readFileSync(path, 'utf8')) as [
    string,
    string,
  ];
  const [, answer = ''] = /### Which versions do I need\?\n([\s\S]*?)###/.exec(faq) ?? [];
  expect(versions.map(([, name]) => name)).toEqual(
    expect.arrayContaining(['Barman', 'pg-backup-api', 'Patroni', 'Python', 'Node.js']),
  );
  for (const [, name = '', version = ''] of versions.filter(([, name]) =>
    /^(Barman|pg-|Patroni|Python|Node)/.test(name ?? ''),
  )) {
    expect(readme).toMatch(new RegExp(`^\\| ${name}[^|]* \\| ${version}\\b`, 'm'));
    expect(answer).toMatch(new RegExp(`${name}[^.]* ${version}\\b`));
  }
  const [, most, least] =
    /^\| together .* \| (\d+); (\d+) \|$/m.exec(readFileSync('docs/reference/costs.md', 'utf8')) ?? [];
  expect(faq).toContain(`About ${least} to ${most} USD per month`);
});

test('CHANGELOG.md › begins with the version of package.json and of the lock file, and its date', () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
  expect([lock.version, lock.packages[''].version]).toEqual([version, version]);
  const [, newest] = /^## (.*)$/m.exec(readFileSync('CHANGELOG.md', 'utf8')) ?? [];
  expect(newest).toMatch(/^\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d$/);
  expect(newest).toContain(`[${version}]`);
});

test('docs/development.md › names every npm script', () => {
  const text = readFileSync('docs/development.md', 'utf8');
  // npm runs those that begin with "post" itself.
  for (const script of Object.keys(scripts).filter((name) => !name.startsWith('post'))) {
    expect(text).toMatch(new RegExp(`\`npm (run )?${script}\``));
  }
});

test('docs/how-to/set-up.md › keeps all secrets in a folder that Git ignores, and removes it', () => {
  const page = 'docs/how-to/set-up.md';
  // What is written or read on the machine that deploys; `install` runs on the nodes.
  const blocks = shellBlocks(page).filter((block) => !block.includes('install '));
  const files = [...blocks.join('\n').matchAll(/(?:> |file:\/\/)([^\s"]+)/g)].map(([, file]) => file);
  expect(files.length).toBeGreaterThan(3);
  expect(files.filter((file) => !file?.startsWith('secrets/'))).toEqual([]);
  expect(readFileSync('.gitignore', 'utf8').split('\n')).toContain('secrets/');
  expect(commandsOf(blocks[0] ?? '')).toEqual(['umask 077', 'mkdir secrets']);
  expect(blocks.at(-1)).toBe('rm -r secrets\n');
});

test('README.md › has at most 140 lines', () => {
  expect(readFileSync('README.md', 'utf8').trimEnd().split('\n').length).toBeLessThanOrEqual(140);
});

test('docs/reference/environment-variables.md › has each environment variable of the function, and each attribute of the ledger is in docs/explanation/protocol.md', () => {
  const variables = /interface Environment \{([\s\S]*?)\n\}/.exec(
    readFileSync('functions/config-switch/services.ts', 'utf8'),
  )?.[1];
  const attributes = /const Item = v\.object\(\{([\s\S]*?)\n\}\)/.exec(
    readFileSync('functions/config-switch/ledger/item.ts', 'utf8'),
  )?.[1];
  for (const [page, text, form] of [
    ['docs/reference/environment-variables.md', variables, /readonly (\w+)\??:/g],
    ['docs/explanation/protocol.md', attributes, /^ {2}(\w+): v\./gm],
  ] as const) {
    const all = [...(text ?? '').matchAll(form)].map(([, name]) => name);
    expect(all.length).toBeGreaterThan(4);
    for (const name of all) expect(readFileSync(page, 'utf8'), `${name} in ${page}`).toContain(`\`${name}\``);
  }
});

test('docs/reference/ › counts all alarms in the costs, and explains the metrics that they watch', () => {
  const alarms = Object.values(ALARMS).flatMap((group) => Object.values(group));
  const { length } = alarms;
  expect(readFileSync('docs/reference/costs.md', 'utf8')).toMatch(
    new RegExp(`^\\| \\[alarms\\].* ${length} × 0\\.10; .* ${(length / 10).toFixed(2)} \\|$`, 'm'),
  );
  const metrics = readFileSync('docs/reference/metrics.md', 'utf8');
  for (const { MetricName } of alarms.filter(({ Namespace }) => !Namespace.startsWith('AWS/'))) {
    expect(metrics).toContain(`\`${MetricName}\``);
  }
});

test('docs/reference/alarms.md › names in its introduction the alarms of states, and those of what enters a state', () => {
  const [introduction = ''] = readFileSync('docs/reference/alarms.md', 'utf8').split('<!-- alarms -->');
  const [, states = '', others = ''] = introduction.split('\n- **');
  for (const [name, { isState, MetricName }] of Object.values(ALARMS).flatMap(Object.entries)) {
    if (isState && MetricName !== 'CertificateDaysLeft') expect(states).toContain(`[${name}](#${name})`);
    if (MetricName.endsWith('Entered')) expect(others).toContain(`[${name}](#${name})`);
  }
});

test('docs/explanation/performance.md › has a place for each table of the benchmarks', () => {
  const page = readFileSync('docs/explanation/performance.md', 'utf8');
  const sources = globSync('test/bench/*.ts').map((path) => readFileSync(path, 'utf8'));
  const names = sources.flatMap((source) =>
    [...source.matchAll(/\b(?:table|chart)\(\s*'([\w-]+)'/g)].map(([, name]) => name),
  );
  expect(names.length).toBeGreaterThan(10);
  for (const name of names) expect(page).toContain(`<!-- ${name} -->`);
});

test('docs/explanation › has the times of the alarms', () => {
  const alarms = Object.values(ALARMS).flatMap(Object.entries<Alarm>);
  const within = new Map(alarms.map(([name, alarm]) => [name, alarm.within]));
  const named = globSync('docs/explanation/*.md').flatMap((path) => [
    ...readFileSync(path, 'utf8').matchAll(/alarms\.md#([\w-]+)\) \((\d+) minutes(?: after)?\)/g),
  ]);
  expect(named.length).toBeGreaterThan(20);
  for (const [, name = '', minutes] of named) expect(Number(minutes), name).toBe(within.get(name));
});

test('README.md › has the speed-up that docs/explanation/performance.md has', () => {
  const page = readFileSync('docs/explanation/performance.md', 'utf8');
  const ratio = (time: string) => new RegExp(`^\\| ${time} \\|.* ([\\d.]+×) \\|$`, 'm').exec(page)?.[1];
  const readme = readFileSync('README.md', 'utf8').replaceAll(/\s+/g, ' ');
  expect(readme).toContain(
    `[${ratio('300 ms')}](docs/explanation/performance.md#compared-with-patroni_barman) as fast as \`patroni_barman\` for an operation of 300 ms, ${ratio('1200 ms')} for one of 1200 ms`,
  );
});

describe('docs/tutorial.md', () => {
  test('names the host of each step, and shows what is printed in at least half of them', () => {
    expect(STEPS.length).toBeGreaterThan(30);
    expect(STEPS.filter(({ output }) => output !== undefined).length).toBeGreaterThan(STEPS.length / 2);
  });

  test.each([
    [
      'an output with other times, numbers and ids',
      'node1  4m ago\nid 0a1b2c3d',
      'node1  12s ago\nid 99887766',
      true,
    ],
    ['an output of which it leaves lines out', 'first\n…\nlast', 'first\nsecond\nthird\nlast', true],
    ['an output with other words', 'main in sync', 'main pending', false],
    ['an output with one more line', 'first', 'first\nsecond', false],
    ['an output with one line less', 'first\nsecond', 'first', false],
  ])('shows %s: compared', (_, page, printed, isShown) => {
    expect(shown(page, printed) !== undefined).toBe(isShown);
  });
});
