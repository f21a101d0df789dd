/**
 * The parameters of a stage: from `--param name=value`, otherwise from `infra/stages/<stage>.yml`. A missing
 * or malformed one stops the deployment before anything is changed.
 */

import type { Osls } from '../osls.ts';
import { choose } from './choice.ts';
import { egressRules } from './network.ts';
import { readParameters } from './rules.ts';
import type { Parameters } from './table.ts';

/** For `custom.parameters`. @throws Error naming each problem */
export async function parameters({ options, resolveVariable }: Osls): Promise<Parameters> {
  const stage = String(await resolveVariable('sls:stage'));
  const inFile = (await resolveVariable(`file(infra/stages/${stage}.yml), null`)) as object | null;
  const inOptions = Object.fromEntries((options.param ?? []).map((pair) => pair.split(/=(.*)/s, 2)));
  const given = { ...inFile, ...inOptions };
  const region = options.region ?? given.region ?? process.env.AWS_REGION;
  return readParameters(stage, { ...given, region });
}

/** For `custom.chosen`. */
export const chosen = async (osls: Osls) => choose(await resolved(osls));

/** For the function's security group. */
export const egress = async (osls: Osls) => egressRules(await resolved(osls));

/** @returns the parameters, where `custom.parameters` is read already */
export async function resolved({ resolveVariable }: Osls): Promise<Parameters> {
  return (await resolveVariable('self:custom.parameters')) as Parameters;
}
