/** What a command knows of a stage without asking AWS: its file, or the `npm start` that runs. And osls for it. */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';

const FOLDER = 'infra/stages';
/** The stage of `npm start`. */
export const LOCAL_STAGE = 'local';
/** Where a running `npm start` writes how to reach it. */
export const STATE_FILE = '.local/state.json';
/** An example to copy, and the stage of `npm start`. */
const NEVER_DEPLOYED = ['example.yml', `${LOCAL_STAGE}.yml`];

/** A running `npm start`. */
export interface Local {
  readonly pid: number;
  /** The route for webhooks. */
  readonly url: string;
  /** A webhook secret that may switch every Barman server. */
  readonly secret: string;
  /** Environment variables for the clients of AWS: endpoints and credentials. */
  readonly aws: Readonly<Record<`AWS_${string}`, string>>;
}

/** The options of every command that is for one stage. */
export const STAGE_OPTIONS = {
  stage: { type: 'string', value: 'STAGE', default: 'dev', help: 'the stage' },
  region: {
    type: 'string',
    value: 'REGION',
    help: "its region, instead of that in the stage's file, or in AWS_REGION, or eu-central-1",
  },
} as const;

/** The option of commands that package the stage. */
export const PARAM_OPTION = {
  param: {
    type: 'string',
    value: 'NAME=VALUE',
    multiple: true,
    help: 'a stage parameter, instead of that in the file of the stage',
  },
} as const;

/** Returns the file with the parameters of a stage. */
export function stageFile(stage: string): string {
  return `${FOLDER}/${stage}.yml`;
}

/** Returns the region in the file of the stage, if it names one */
function regionOf(stage: string): string | undefined {
  if (!existsSync(stageFile(stage))) return undefined;
  return /^region: *["']?([\w-]+)/m.exec(readFileSync(stageFile(stage), 'utf8'))?.[1];
}

/**
 * Returns the region of a stage, as infra/parameters/index.ts has it.
 *
 * @param region as given with `--region`
 * @param param as given with `--param`
 */
export function regionOfStage(
  stage: string,
  region: string | undefined,
  param: readonly string[] = [],
): string {
  const given = param.findLast((one) => one.startsWith('region='))?.slice('region='.length);
  return region ?? given ?? regionOf(stage) ?? process.env.AWS_REGION ?? 'eu-central-1';
}

/** Returns how to reach the `npm start` that runs. @throws Error if none does */
export function readLocal(): Local {
  try {
    const local = JSON.parse(readFileSync(STATE_FILE, 'utf8')) as Local;
    // One that was killed has left its file.
    process.kill(local.pid, 0);
    return local;
  } catch {
    throw new Error(
      'the function is not running: run `npm start` in another terminal, and wait until it takes role changes. ' +
        'A deployed stage is tried with patroni/barman_config_switch.py --dry-run',
    );
  }
}

/** Sets endpoints and credentials of a running `npm start`, for all clients of AWS in this process. */
export function useLocal(aws: Local['aws']): void {
  // A profile would come before the credentials.
  delete process.env.AWS_PROFILE;
  delete process.env.AWS_SESSION_TOKEN;
  Object.assign(process.env, aws);
}

/**
 * Returns the error for a stage that does not exist.
 *
 * @param missing what it lacks, as a sentence
 * @param remedy what to do if the name is right
 */
export function unknownStage(stage: string, missing: string, remedy: string): Error {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith('.yml') && !NEVER_DEPLOYED.includes(file));
  const known = files.map((file) => file.replace('.yml', '')).join(', ') || 'none';
  return new Error(`unknown stage ${stage}: ${missing} (${FOLDER} has: ${known}); ${remedy}`);
}

/**
 * Runs osls for a stage. Its output is that of the command.
 *
 * @param command of osls, e.g. `package`
 * @param region of the stage, if it is not that of its parameters
 * @param param as given with `--param`
 * @returns its exit status: 1 if a signal ended it
 */
export function osls(
  command: 'package' | 'remove',
  stage: string,
  region: string | undefined,
  param: readonly string[],
): number {
  const words = [
    ...[command, '--stage', stage],
    ...(region === undefined ? [] : ['--region', region]),
    ...param.flatMap((one) => ['--param', one]),
  ];
  const { status } = spawnSync(process.execPath, ['node_modules/serverless/bin/serverless.js', ...words], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return status ?? 1;
}
