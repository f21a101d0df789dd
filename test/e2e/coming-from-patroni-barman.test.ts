/** docs/how-to/coming-from-patroni-barman.md: its steps, on a folder instead of /etc/patroni. */

import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, inject, test } from 'vitest';
import { documentedBlock } from '../documentation.ts';
import { startFunction } from '../integration/function.ts';
import { startEndpoint } from './endpoint.ts';
import { asRoot } from './processes.ts';

const [BEFORE = '', AFTER = ''] = [
  ...readFileSync('docs/how-to/coming-from-patroni-barman.md', 'utf8').matchAll(/```yaml\n([\s\S]*?)```/g),
].map(([, block = '']) => block);

/** In the forms of Patroni's documentation ("Integration with other tools", "Replica imaging and bootstrap"). */
const OF_PATRONI = `bootstrap:
    method: barman
    barman:
        keep_existing_recovery_conf: true
        command: patroni_barman --api-url https://barman:7480 recover
        barman-server: main
        ssh-command: ssh postgres@node1
postgresql:
    callbacks:
        on_start: /bin/true
        on_role_change: >
            patroni_barman
                --api-url https://barman:7480
                config-switch
                --barman-server main
                --barman-model pg:node1
                --switch-when promoted
    # Replicas come from Barman.
    create_replica_methods:
        - barman
        - basebackup
    barman:
        command: patroni_barman --api-url https://barman:7480 recover
        barman-server: main
        ssh-command: ssh postgres@node1
`;
const IN_ONE_LINE = `postgresql:
  barman: {command: patroni_barman --api-url https://barman:7480 recover, barman-server: main}
  callbacks: # as Ansible writes them
    on_role_change: "patroni_barman --api-url https://barman:7480 config-switch --barman-server main --barman-model pg:node1 --switch-when promoted"
  listen: 127.0.0.1:5432
`;

/** As a person replaces the setting: from its key to the last line of its value. Prints the file. */
const REPLACE = `
import sys, yaml
text, block = open(sys.argv[1]).read(), open(sys.argv[2]).read()
value = lambda node, name: next((k, v) for k, v in node.value if k.value == name)
key, found = value(value(value(yaml.compose(text), "postgresql")[1], "callbacks")[1], "on_role_change")
end = found.end_mark.index
while not text[:end].endswith("\\n"): end += 1
kept = text[:end].rstrip(" ")
lines = [" " * key.start_mark.column + line[4:] for line in block.splitlines(True)]
print(text[:key.start_mark.index - key.start_mark.column] + "".join(lines) + text[len(kept):], end="")
`;
/** Patroni reads the file in this way. */
const READ = 'import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))';

interface PatroniFile {
  readonly postgresql: { readonly callbacks: Readonly<Record<string, string>> };
}

test.each([
  ['the example', BEFORE],
  ["Patroni's documented snippets", OF_PATRONI],
  ['a file with the callback in one line', IN_ONE_LINE],
])(
  'a node with %s › uses the function after the documented steps, keeps all else, and the way back restores it',
  async (_, before) => {
    const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-from-'));
    const download = join(folder, 'download');
    mkdirSync(download);
    await using run = await startFunction();
    await using endpoint = await startEndpoint(async (body, headers) => {
      const { statusCode, response } = await run.webhook(body, { headers });
      return { status: statusCode, response };
    });
    try {
      const here = (text: string) =>
        text
          .replaceAll('/etc/patroni', folder)
          .replaceAll('/var/log/patroni', folder)
          .replaceAll('https://…/config-switch', endpoint.url)
          // Only root may give files away.
          .replaceAll(/-o (root|postgres) /g, asRoot ? '$&' : '');
      const shell = (commands: string) =>
        execFileSync('bash', ['-uc', here(commands)], { cwd: download, encoding: 'utf8' });
      const python = (program: string, ...words: string[]) =>
        execFileSync(join(inject('tools'), 'python'), ['-c', program, ...words], { encoding: 'utf8' });
      const file = join(folder, 'patroni.yml');
      const read = () => JSON.parse(python(READ, file)) as PatroniFile;
      writeFileSync(file, here(before));
      writeFileSync(join(download, 'webhook-secret'), run.host.webhookSecret);
      copyFileSync('patroni/barman_config_switch.py', join(download, 'barman_config_switch.py'));
      shell(documentedBlock('docs/how-to/coming-from-patroni-barman.md', 'install -o root'));
      const { postgresql, ...rest } = read();

      // The stand-in has no Patroni to ask.
      const block = join(folder, 'block');
      writeFileSync(block, here(AFTER).replace('--follow-leader', '--barman-model pg:node1'));
      writeFileSync(file, python(REPLACE, file, block));
      const { callbacks, ...others } = read().postgresql;
      expect({ ...read(), postgresql: others }).toEqual({
        ...rest,
        postgresql: { ...postgresql, callbacks: undefined },
      });
      const { on_role_change: command = '', on_reload } = callbacks;
      expect(callbacks).toEqual({ ...postgresql.callbacks, on_role_change: command, on_reload });
      expect([on_reload, command.match(/patroni_barman|api-url|cert-file/)]).toEqual([command, null]);
      // It ends with 1 if there are differences.
      const diff = documentedBlock('docs/how-to/coming-from-patroni-barman.md', 'diff /etc/patroni').trim();
      const changed = shell(`${diff} || true`).split('\n');
      expect(changed.filter((line) => /^[<>] /.test(line)).every((line) => !line.includes('recover'))).toBe(
        true,
      );

      await promisify(execFile)('bash', ['-c', `${command} on_role_change primary main`]);
      expect(run.host.api.activeModel()).toBe('pg:node1');
      expect(readFileSync(join(folder, 'barman.log'), 'utf8')).toContain('CONFIG_SWITCH_DONE');
      shell(
        documentedBlock('docs/how-to/coming-from-patroni-barman.md', 'mv /etc/patroni/patroni.yml.before'),
      );
      expect(readFileSync(file, 'utf8')).toBe(here(before));
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
