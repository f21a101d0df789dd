/** What a config switch would do, judged by the configuration that `/diagnose` reports. */

import type { ConfigTarget } from '../target.ts';
import type { Diagnosis } from './pg-backup-api.ts';

/**
 * Checks whether server and model exist and belong together. The rules are those of `barman config-switch`
 * (barman.config, `ServerConfig.apply_model`).
 *
 * @returns a sentence for the operator
 */
export function rehearse(
  { servers, models }: Diagnosis,
  barman_server: string,
  target: ConfigTarget,
): string {
  const server = servers.get(barman_server);
  if (server === undefined) {
    return `Barman has no server ${barman_server}, so the switch would end as HTTP_ERROR; ${known('servers', servers)}`;
  }
  const active =
    server.active_model === null ? 'no model is active' : `model ${server.active_model} is active`;
  if (!('model' in target)) {
    return `a switch would drop the active model of ${barman_server} (now ${active})`;
  }
  const model = models.get(target.model);
  if (model === undefined) {
    return `Barman has no model ${target.model}, so the switch would end as CONFIG_SWITCH_FAILED; ${known('models', models)}`;
  }
  if (model.cluster !== server.cluster) {
    return (
      `model ${target.model} belongs to cluster ${model.cluster} and server ${barman_server} to ${server.cluster}, ` +
      `so the switch would end as CONFIG_SWITCH_FAILED; give both the same "cluster" in Barman's configuration`
    );
  }
  return server.active_model === target.model
    ? `model ${target.model} is already active on ${barman_server}; a switch would change nothing`
    : `a switch would apply model ${target.model} to ${barman_server} (now ${active})`;
}

function known(what: string, names: ReadonlyMap<string, unknown>): string {
  const shown = [...names.keys()].slice(0, 10).join(', ');
  return names.size === 0 ? `it has no ${what}` : `its ${what} are ${shown}${names.size > 10 ? ', …' : ''}`;
}
