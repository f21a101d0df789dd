/** What a config switch would do, judged by the configuration that `/diagnose` reports. */

import { type ConfigTarget, nameOf } from '../target.ts';
import { listOf } from '../text.ts';
import type { ConninfoOption, DiagnosedModel, DiagnosedServer, Diagnosis } from './diagnosis.ts';

/**
 * Checks whether server and model exist and belong together, and whether Barman would work with them. The
 * rules are those of `barman config-switch` (barman.config, `ServerConfig.apply_model`) and of `barman cron`,
 * which skips servers that are inactive or disabled (barman.cli, `cron`).
 *
 * @param leader whose target it is, if the role change follows the leader
 * @returns a sentence for the operator; it names no server or model of other clusters
 */
export function rehearse(
  { servers, models }: Pick<Diagnosis, 'servers' | 'models'>,
  barman_server: string,
  target: ConfigTarget,
  leader?: string,
): string {
  // The sender has not named the model.
  const of = leader === undefined ? '' : `, of the leader ${leader}`;
  const name = `${nameOf(target)}${of && `${of},`}`;
  const server = servers.get(barman_server);
  if (server === undefined) {
    return (
      `Barman has no server ${barman_server}, so the switch would end as HTTP_ERROR; ` +
      `it has ${count(servers.size, 'server')}; \`barman list-servers\` on the Barman host shows their names`
    );
  }
  const active =
    server.active_model === null ? 'no model is active' : `model ${server.active_model} is active`;
  const model = 'model' in target ? models.get(target.model) : undefined;
  if ('model' in target) {
    const failed = 'so the switch would end as CONFIG_SWITCH_FAILED';
    if (model === undefined) {
      return `Barman has no ${nameOf(target)}${of}, ${failed}; ${knownModels(models, server.cluster)}`;
    }
    if (model.cluster !== server.cluster) {
      return (
        `${name} belongs to cluster ${model.cluster} and server ${barman_server} to ${server.cluster}, ` +
        `${failed}; give both the same "cluster" in Barman's configuration`
      );
    }
  }
  const obstacles = obstaclesTo(barman_server, server, model);
  const unchanged = 'model' in target && server.active_model === target.model;
  if (obstacles.length > 0) {
    const ends = unchanged
      ? `${name} is already active on ${barman_server}, but WAL may not flow`
      : `a switch to ${name} would end as CONFIG_SWITCH_DONE, but WAL may not flow`;
    return `${ends}: ${obstacles.join('; ')} (now ${active})`;
  }
  if (!('model' in target)) {
    return `a switch would drop the active model of ${barman_server}${leader === undefined ? '' : ` for the leader ${leader}`} (now ${active})`;
  }
  return unchanged
    ? `${name} is already active on ${barman_server}; a switch would change nothing`
    : `a switch would apply ${name} to ${barman_server} (now ${active})`;
}

/** Returns what keeps Barman from receiving WAL although a switch is DONE, each with its remedy. */
function obstaclesTo(
  name: string,
  server: DiagnosedServer,
  model: DiagnosedModel | undefined,
): readonly string[] {
  const obstacles: string[] = [];
  // A model may set the first two as well.
  if (!(model?.active ?? server.active)) {
    obstacles.push(`server ${name} is inactive; set "active = true" in Barman's configuration`);
  }
  if (server.errors > 0) {
    obstacles.push(
      `Barman finds ${count(server.errors, 'error')} in the configuration of server ${name} as it is now` +
        `${server.disabled ? ', and has disabled it' : ''}; \`barman check ${name}\` on the Barman host shows them`,
    );
  } else if (model?.disabled ?? server.disabled) {
    obstacles.push(`server ${name} is disabled; set "disabled = false" in Barman's configuration`);
  }
  if (server.passive) {
    obstacles.push(
      `server ${name} is passive (primary_ssh_command): it copies from another Barman host; switch it there`,
    );
  }
  const needed: readonly ConninfoOption[] = server.streaming_archiver
    ? ['conninfo', 'streaming_conninfo']
    : ['conninfo'];
  const missing = needed.filter((option) => model?.connections?.has(option) === false);
  if (missing.length > 0) {
    obstacles.push(
      `the model does not set ${missing.join(' and ')}, so Barman would use what server ${name} has there; ` +
        'add it to the model',
    );
  }
  return obstacles;
}

/** Names the models of a cluster, and counts those of others. */
function knownModels(models: Diagnosis['models'], cluster: string): string {
  const own = [...models].filter(([, model]) => model.cluster === cluster).map(([name]) => name);
  const others = models.size - own.length;
  const names = own.length > 0 ? `: ${listOf(own)}` : '';
  return `cluster ${cluster} has ${count(own.length, 'model')}${names}; other clusters have ${others || 'none'}`;
}

function count(number: number, noun: string): string {
  return `${number || 'no'} ${noun}${number === 1 ? '' : 's'}`;
}
