/** The structure of the code: imports point downwards only, and in no circle. Types count, too. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { cruise, type ICruiseResult, type IForbiddenRuleType } from 'dependency-cruiser';
import { expect, test } from 'vitest';

const FUNCTION = '^functions/config-switch';

/**
 * From the top down. A module imports from lower layers, and within its own folder; never from another folder
 * of its layer.
 */
const LAYERS: readonly (readonly string[])[] = [
  ['(index|role-change|heartbeat-handler|inspection-handler|services|telemetry)\\.ts$'],
  ['(config-switch|hear)\\.ts$'],
  ['settings/'],
  ['event/', 'inspect/', 'reconcile/'],
  ['ledger/', 'barman/', 'patroni/'],
  ['http/'],
  ['(deadline|errors|exit-code|invocation|schema|target|text|version)\\.ts$'],
];

const layers = LAYERS.flatMap((layer, index) =>
  layer.map((part): IForbiddenRuleType => {
    const others = [...LAYERS.slice(0, index).flat(), ...layer.filter((other) => other !== part)];
    return {
      name: `${part} imports from lower layers only`,
      severity: 'error',
      from: { path: `${FUNCTION}/${part}` },
      to: { path: `${FUNCTION}/(${others.join('|') || 'none'})` },
    };
  }),
);

const FORBIDDEN: readonly IForbiddenRuleType[] = [
  ...layers,
  { name: 'no circle', severity: 'error', from: {}, to: { circular: true } },
  {
    name: 'every module of the function has a layer',
    severity: 'error',
    from: {},
    to: { path: `${FUNCTION}/`, pathNot: LAYERS.flat().map((part) => `${FUNCTION}/${part}`) },
  },
  {
    name: 'only adapters use the AWS SDK',
    severity: 'error',
    from: { path: FUNCTION, pathNot: `${FUNCTION}/(ledger/dynamodb|settings/)` },
    to: { path: '@aws-sdk' },
  },
  {
    name: 'only http/ uses undici',
    severity: 'error',
    from: { path: FUNCTION, pathNot: `${FUNCTION}/http/` },
    to: { path: '(^|/)undici(/|$)', pathNot: `${FUNCTION}/http/` },
  },
  {
    name: 'code imports no tests',
    severity: 'error',
    from: { path: '^(functions|cli|infra|patroni)/' },
    to: { path: '^test/' },
  },
  {
    name: 'the function imports neither commands nor infrastructure',
    severity: 'error',
    from: { path: '^functions/' },
    to: { path: '^(cli|infra)/' },
  },
  {
    name: 'stand-ins know no model',
    severity: 'error',
    from: { path: '^test/stand-ins/' },
    to: { path: '^test/model/' },
  },
];

async function violationsIn(baseDir: string, folders: string[]) {
  const { output } = await cruise(folders, {
    baseDir,
    validate: true,
    ruleSet: { forbidden: [...FORBIDDEN] },
    doNotFollow: { path: 'node_modules' },
    combinedDependencies: true,
  });
  const { modules, summary } = output as ICruiseResult;
  return {
    violations: summary.violations.map(({ from, to, rule }) => `${from} → ${to}: ${rule.name}`),
    /** Modules of the function that import something: one that cannot be parsed has no imports. */
    parsed: modules.filter(
      ({ source, dependencies }) => /^functions\//.test(source) && dependencies.length > 0,
    ).length,
  };
}

test('the tree › has imports downwards only, and none in a circle', async () => {
  const { violations, parsed } = await violationsIn(process.cwd(), ['functions', 'cli', 'infra', 'test']);
  expect(violations).toEqual([]);
  // dependency-cruiser reports success also if it can parse nothing, as without @swc/core.
  expect(parsed).toBeGreaterThan(35);
}, 60_000);

test.each<[string, Readonly<Record<string, string>>]>([
  [
    'patroni/ imports from barman/',
    {
      'functions/config-switch/patroni/a.ts':
        "import type { B } from '../barman/b.ts';\nexport type A = B;\n",
      'functions/config-switch/barman/b.ts': 'export type B = 1;\n',
    },
  ],
  [
    'reconcile/ is imported by event/',
    {
      'functions/config-switch/event/a.ts':
        "import type { B } from '../reconcile/b.ts';\nexport type A = B;\n",
      'functions/config-switch/reconcile/b.ts': 'export type B = 1;\n',
    },
  ],
  [
    'two modules import types from each other',
    {
      'functions/config-switch/event/a.ts': "import type { B } from './b.ts';\nexport type A = 1 | B;\n",
      'functions/config-switch/event/b.ts': "import type { A } from './a.ts';\nexport type B = 2 | A;\n",
    },
  ],
])('a planted violation is found (%s)', async (_, files) => {
  const folder = mkdtempSync(join(tmpdir(), 'tree-'));
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, path)), { recursive: true });
      writeFileSync(join(folder, path), text);
    }
    expect((await violationsIn(folder, ['functions'])).violations).not.toEqual([]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
