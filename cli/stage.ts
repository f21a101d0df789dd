/** What a command knows of a stage without asking AWS: its file. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';

const FOLDER = 'infra/stages';
/** An example to copy, and the stage of `npm start`. */
const NEVER_DEPLOYED = ['example.yml', 'local.yml'];

/** The options of every command that is for one stage. */
export const STAGE_OPTIONS = {
  stage: { type: 'string', value: 'STAGE', default: 'dev', help: 'the stage' },
  region: {
    type: 'string',
    value: 'REGION',
    help: "its region, instead of that in the stage's file, or in AWS_REGION, or eu-central-1",
  },
} as const;

/** Returns the file with the parameters of a stage. */
export function stageFile(stage: string): string {
  return `${FOLDER}/${stage}.yml`;
}

/** Returns the region in the file of the stage, if it names one */
export function regionOf(stage: string): string | undefined {
  if (!existsSync(stageFile(stage))) return undefined;
  return /^region: *["']?([\w-]+)/m.exec(readFileSync(stageFile(stage), 'utf8'))?.[1];
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
