/**
 * `npm run resources -- --stage S`: packages a stage, and prints its resources by the file that they are in.
 */

import { spawnSync } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { alarms } from './monitoring/alarms.ts';

interface Template {
  readonly Resources: Readonly<Record<string, { readonly Type: string }>>;
}

const ROOT = join(import.meta.dirname, '..');
const USAGE = 'Usage: npm run resources -- --stage STAGE [--param NAME=VALUE …]';
const GENERATED = 'serverless.yml, infra/function/function.yml';

/** Resource → the file of infra/ that it is in. */
function files(): Map<string, string> {
  const inYaml = globSync('infra/**/*.yml', { cwd: ROOT }).flatMap((file) => {
    const [, section = ''] = /^Resources:\n((?: .*\n)*)/m.exec(readFileSync(join(ROOT, file), 'utf8')) ?? [];
    return [...section.matchAll(/^ {2}(\w+):/gm)].map(([, name = '']) => [name, file] as const);
  });
  const inAlarms = Object.keys(alarms.Resources).map((name) => [name, 'infra/monitoring/alarms.ts'] as const);
  return new Map([...inYaml, ...inAlarms, ['Dashboard', 'infra/monitoring/dashboard.ts']]);
}

/** Returns file → its resources in a template. */
export function resourcesByFile({ Resources }: Template): Record<string, string[]> {
  const fileOf = files();
  const byFile = Object.groupBy(Object.keys(Resources), (name) => fileOf.get(name) ?? GENERATED);
  return byFile as Record<string, string[]>;
}

/** The first sentence of a file, which is a comment. */
function firstSentence(file: string): string {
  if (file === GENERATED) return 'What osls generates.';
  const text = readFileSync(join(ROOT, file), 'utf8');
  const [, comment = ''] = /^\/\*\*(.*?)\*\//s.exec(text) ?? /^((?:#.*\n)+)/.exec(text) ?? [];
  return comment
    .replaceAll(/^[ #*]+/gm, '')
    .trim()
    .replaceAll('\n', ' ')
    .replace(/\. .*/, '.');
}

/** Packages a stage. @returns its template @throws Error with the output of osls */
function packageStage(options: readonly string[]): Template {
  const osls = join(ROOT, 'node_modules/serverless/bin/serverless.js');
  const args = [osls, 'package', ...options];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${stdout}${stderr}`);
  return JSON.parse(
    readFileSync(join(ROOT, '.serverless/cloudformation-template-update-stack.json'), 'utf8'),
  );
}

function print(template: Template): void {
  for (const [file, names] of Object.entries(resourcesByFile(template))) {
    const rows = names.map((name) => `  ${name.padEnd(38)} ${template.Resources[name]?.Type}\n`);
    process.stdout.write(`${file}: ${firstSentence(file)}\n${rows.join('')}\n`);
  }
}

if (import.meta.main) {
  const options = process.argv.slice(2);
  try {
    if (options.includes('--help')) process.stdout.write(`${USAGE}\n`);
    else print(packageStage(options));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
    process.exitCode = 1;
  }
}
