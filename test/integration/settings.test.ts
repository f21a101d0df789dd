import { describe, expect, test } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import { MalformedParameter } from '../../functions/config-switch/settings/parameters.ts';
import { Settings } from '../../functions/config-switch/settings/settings.ts';
import type { BarmanHost } from '../stand-ins/barman-host.ts';
import type { CertificateAuthority } from '../stand-ins/certificates.ts';
import { loadFunction } from '../stand-ins/load-function.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import {
  at,
  expectNoSecretIn,
  type FunctionUnderTest,
  fakeClock,
  MINUTE,
  NODE1,
  PROMOTION,
  pass,
  SKIPPED,
  signal,
  startFunction,
} from './function.ts';

fakeClock();
/** Values are read again in the background, by the SDK with its retries. */
const SLOW = { timeout: 15_000 };

describe('SSM parameters', () => {
  test('are read once, by path, for any number of pages and invocations', async () => {
    await using run = await startFunction();
    for (let time = 0; time < 5; time += 1) await run.webhook(SKIPPED);
    const requests = run.ssm.requestsFor(run.host.path);
    expect(requests.map(({ operation }) => operation)).toEqual([
      'GetParametersByPath',
      'GetParametersByPath',
    ]);
  });

  test('older than five minutes are read again, and no request waits for that', async () => {
    await using run = await startFunction();
    await run.webhook(SKIPPED);
    const next = createSecret();
    run.host.put({ 'webhook-secret': next });
    pass(4 * MINUTE);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(200);
    pass(MINUTE);
    const before = run.ssm.requestsFor(run.host.path).length;
    run.ssm.delay = 400;
    const start = performance.now();
    expect((await run.webhook(SKIPPED)).statusCode).toBe(200);
    expect(
      run.ssm.requestsFor(run.host.path).length - before,
      'the second page is not read yet',
    ).toBeLessThan(2);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(200);
    expect(performance.now() - start).toBeLessThan(800);
    await expect.poll(() => run.ssm.requestsFor(run.host.path).length - before, SLOW).toBe(2);
    await expect.poll(async () => (await run.webhook(SKIPPED, { secret: next })).statusCode, SLOW).toBe(200);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(401);
  });

  test('older than ten minutes are read again before they are used', async () => {
    await using run = await startFunction();
    await run.webhook(SKIPPED);
    run.host.put({ 'webhook-secret': createSecret() });
    pass(10 * MINUTE);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(401);
  });

  test('stay in use while SSM is unavailable', async () => {
    await using run = await startFunction();
    await run.webhook(SKIPPED);
    run.ssm.faults.set(run.host.path, 'access denied');
    pass(6 * MINUTE);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    await expect.poll(run.log, SLOW).toContainEqual(
      expect.objectContaining({
        level: 'WARN',
        message: expect.stringContaining('the last good values stay in use'),
      }),
    );
    const before = run.ssm.requestsFor(run.host.path).length;
    await run.webhook(SKIPPED);
    expect(run.ssm.requestsFor(run.host.path).length, 'reads again only after a minute').toBe(before);
    run.ssm.faults.delete(run.host.path);
    pass(2 * MINUTE);
    await run.webhook(SKIPPED);
    await expect.poll(() => run.ssm.requestsFor(run.host.path).length, SLOW).toBeGreaterThan(before);
  });

  test('stay in use during a rotation, while the new certificate has no matching key yet', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const next = await run.host.ca.client('next');
    run.host.put({ 'client-cert': next.cert });
    pass(6 * MINUTE);
    expect((await run.webhook(NODE1)).response.exit_code).toBe(0);
    await expect.poll(run.log, SLOW).toContainEqual(
      expect.objectContaining({
        message: expect.stringContaining('client-key does not belong to client-cert'),
      }),
    );
    run.host.put({ 'client-key': next.key });
    pass(2 * MINUTE);
    const warnings = run.log().filter(({ level }) => level === 'WARN').length;
    expect((await run.webhook(SKIPPED)).response.exit_code).toBe(1);
    expect(run.log().filter(({ level }) => level === 'WARN')).toHaveLength(warnings);
  });

  test.each([
    ['url', { url: undefined }],
    ['webhook-secret', { 'webhook-secret': undefined }],
  ])('that are invalid at start (%s) are read again after five seconds', async (name, invalid) => {
    await using run = await startFunction();
    const valid = { [name]: run.ssm.parameters.get(`${run.host.path}${name}`) };
    run.host.put(invalid);
    const status = async () => (await run.webhook(PROMOTION)).statusCode;
    expect(await status()).not.toBe(200);
    run.host.put(valid);
    const before = run.ssm.requestsFor(run.host.path).length;
    expect(await status(), 'not at once: anyone can send a webhook').not.toBe(200);
    expect(run.ssm.requestsFor(run.host.path).length).toBe(before);
    pass(5_000);
    expect(await status()).toBe(200);
  });

  test.each(['webhook-secret', 'client-cert'])('that are deleted (%s) are no longer used', async (name) => {
    await using run = await startFunction();
    expect((await run.webhook(PROMOTION)).statusCode).toBe(200);
    run.host.put({ [name]: undefined });
    pass(10 * MINUTE);
    expect((await run.webhook(NODE1)).statusCode).not.toBe(200);
  });

  test('older than five minutes at the first use are read again', async () => {
    await using run = await startFunction();
    await run.invoke(SKIPPED);
    await expect.poll(() => run.ssm.requestsFor(run.host.path).length).toBe(2);
    const next = createSecret();
    run.host.put({ 'webhook-secret': next });
    pass(6 * MINUTE);
    expect((await run.webhook(SKIPPED, { secret: next })).statusCode).toBe(200);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(401);
  });

  test('that are unavailable are not requested by every webhook', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'access denied');
    expect((await run.webhook(SKIPPED)).statusCode).toBe(503);
    const before = run.ssm.requestsFor(run.host.path).length;
    expect((await run.webhook(SKIPPED)).statusCode).toBe(503);
    expect(run.ssm.requestsFor(run.host.path).length).toBe(before);
    run.ssm.faults.delete(run.host.path);
    pass(5_000);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(200);
  });

  test('that were unavailable at start are read at the first use', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'access denied');
    await run.invoke(SKIPPED);
    await expect.poll(() => run.ssm.requestsFor(run.host.path).length).toBeGreaterThan(0);
    run.ssm.faults.delete(run.host.path);
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
  });
});

describe('values that can no longer be read', () => {
  /** Runs a heartbeat every minute. @returns why pg-backup-api is unreachable, minute by minute */
  async function beats(run: FunctionUnderTest, minutes: number) {
    const reasons: (string | undefined)[] = [];
    for (let minute = 0; minute < minutes; minute += 1) {
      pass(MINUTE);
      reasons.push((await run.heartbeat()).unreachable);
    }
    return reasons;
  }
  const metric = (run: FunctionUnderTest) => run.metrics().at(-1);

  test('are reported after 15 minutes, while switches go on with the old ones', SLOW, async () => {
    await using run = await startFunction();
    await run.heartbeat();
    run.ssm.faults.set(run.host.path, 'access denied');
    // They are read again when they are five minutes old.
    expect(await beats(run, 19)).toEqual(Array(19).fill(undefined));
    expect(metric(run)).toMatchObject({ PgBackupApiUnreachable: 0 });
    const [reason] = await beats(run, 1);
    expect(reason).toMatch(
      /could not be read from SSM: .*; that has been so since 20.*Z, and an instance of the function that starts now has no values$/,
    );
    run.expectLog({ level: 'ERROR', message: expect.stringContaining(`; ${reason}`) });

    const now = at(0);
    const desired = { target: 'model pg:node1', version: `${now}#x`, cluster: 'main', recorded_at: now };
    await run.setItem({ desired });
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1, unreachable: reason });
    expect(metric(run)).toMatchObject({ PgBackupApiUnreachable: 1, OldestPendingAge: 0 });
    const { stage } = await run.ledger.all(signal());
    expect(stage.heartbeat?.unreachable).toBe(reason);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);

    run.ssm.faults.delete(run.host.path);
    expect(await beats(run, 1)).toEqual([undefined]);
    // Half an hour later a failure starts over.
    run.ssm.faults.set(run.host.path, 'access denied');
    pass(30 * MINUTE);
    expect(await beats(run, 2)).toEqual([undefined, undefined]);
  });

  test.each([
    ['client-key', 'no key', 'client-key is malformed'],
    ['url', 'barman:7480', 'url is not an https:// URL'],
    ['webhook-secret', 'whsec_', 'webhook-secret is malformed'],
  ])('are reported after 15 minutes if one is malformed (%s)', SLOW, async (name, malformed, problem) => {
    await using run = await startFunction();
    await run.heartbeat();
    const good = run.host.parameter(name);
    run.host.put({ [name]: malformed });
    expect(await beats(run, 19)).toEqual(Array(19).fill(undefined));
    expect(await beats(run, 1)).toEqual([
      expect.stringContaining(`SSM parameter ${run.host.path}${problem}`),
    ]);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    run.host.put({ [name]: good });
    expect(await beats(run, 1)).toEqual([undefined]);
  });

  test('are not reported as such by an instance that has none: its requests say why', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'access denied');
    expect((await run.heartbeat()).unreachable).toMatch(/could not be read from SSM: .* on its key$/);
  });
});

/** The problem, and the values that have it. */
type Wrong = [problem: string, values: (host: BarmanHost) => Promise<Record<string, string | undefined>>];
const value = (name: string, problem: string, value: string | undefined): Wrong => [
  `${name} ${problem}`,
  async () => ({ [name]: value }),
];
/** A parameter that has more than the whole certificates it begins with. */
const more = (name: string, rest: (ca: string) => string): Wrong => [
  `${name} is malformed`,
  async ({ ca, parameter }) => ({ [name]: `${parameter(name)}\n${rest(ca.cert)}` }),
];
const torn = (pem: string) => pem.slice(0, 300);
const damaged = (pem: string) => pem.replace(/\n.{10}/, '\n');
const clientKey = (ca: CertificateAuthority) => ca.client().then(({ key }) => ({ 'client-key': key }));
const tooShort: Wrong = [
  'client-cert cannot be used for TLS: ee key too small',
  async ({ ca }) => {
    const { cert, key } = await ca.weakClient();
    return { 'client-cert': cert, 'client-key': key };
  },
];

describe('a parameter', () => {
  test.each<Wrong>([
    value('url', 'is missing', '  '),
    value('url', 'is not an https:// URL', 'barman:7480'),
    value('url', 'is an http:// URL, which is not protected', 'http://127.0.0.1:7480'),
    value('url', 'has a user, a password', 'https://user:hunter2-hunter2-hunter2@barman'),
    value('client-cert', 'is missing', undefined),
    value('client-cert', 'is malformed', 'no certificate, but twenty characters'),
    more('client-cert', torn),
    more('client-cert', damaged),
    tooShort,
    value('client-key', 'is missing', undefined),
    value('client-key', 'is malformed', 'no key'),
    ['client-key does not belong to client-cert', ({ ca }) => clientKey(ca)],
    value('ca-cert', 'is missing', undefined),
    value('ca-cert', 'is malformed', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'),
    more('ca-cert', torn),
    more('ca-cert', damaged),
    [
      'patroni-client-key is missing',
      async ({ parameter }) => ({ 'patroni-client-cert': parameter('client-cert') }),
    ],
    [
      'patroni-client-cert is missing',
      async ({ parameter }) => ({ 'patroni-client-key': parameter('client-key') }),
    ],
  ])('is named if %s, without its value', async (problem, valuesOf) => {
    await using run = await startFunction();
    run.host.put(await valuesOf(run.host));
    const { connection, patroniTls } = await new Settings(run.host.path, () => {}).inspect(signal());
    const error = problem.startsWith('patroni-') ? patroniTls : connection;
    if (!(error instanceof HttpError)) throw new Error('nothing is wrong');
    expect(error.message).toMatch(`SSM parameter ${run.host.path}${problem}`);
    expect(error.message).not.toContain('hunter2');
    expectNoSecretIn(error.message);
    // Good values stay in use only instead of malformed ones.
    const deliberate = /is missing|not protected/.test(problem);
    expect(error instanceof MalformedParameter).toBe(!deliberate);
  });

  test('that TLS cannot use does not replace a good one', async () => {
    await using run = await startFunction();
    const [problem, valuesOf] = tooShort;
    await run.webhook(PROMOTION);
    run.host.put(await valuesOf(run.host));
    pass(6 * MINUTE);
    expect((await run.webhook(NODE1)).response.exit_code).toBe(0);
    const message = expect.stringMatching(`${problem}.*; the last good values stay in use`);
    await expect.poll(run.log, SLOW).toContainEqual(expect.objectContaining({ level: 'WARN', message }));
    await run.heartbeat();
    expect(run.metrics().at(-1)).toMatchObject({ PgBackupApiUnreachable: 0, CertificateDaysLeft: 89 });
  });

  test('that TLS cannot use is named at start, before anything is sent', async () => {
    await using run = await startFunction();
    const [problem, valuesOf] = tooShort;
    run.host.put(await valuesOf(run.host));
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code, response.recorded]).toEqual([502, 3, true]);
    expect(response.message).toContain(`${run.host.path}${problem}`);
    expect(await run.heartbeat()).toMatchObject({ unreachable: expect.stringContaining(problem) });
    expect(JSON.stringify(run.metrics())).not.toContain('null');
    expect(run.host.api.requests).toEqual([]);
    expect((await run.webhook(SKIPPED)).response.exit_code).toBe(1);
  });

  test('may be PEM with BEGIN X509 CERTIFICATE, comments, and a key in the same file', async () => {
    await using run = await startFunction();
    const old = (pem: string) => pem.replaceAll(' CERTIFICATE-', ' X509 CERTIFICATE-');
    const { ca, parameter } = run.host;
    run.host.put({
      'client-cert': `Bag Attributes\n${parameter('client-key')}\nsubject=CN\n${old(parameter('client-cert'))}`,
      'ca-cert': `# root\r\n${old(ca.cert).replaceAll('\n', '\r\n')}\n# the end\n`,
    });
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    await run.heartbeat();
    expect(run.metrics().at(-1)).toMatchObject({ PgBackupApiUnreachable: 0, CertificateDaysLeft: 89 });
  });
});

describe('a certificate that expires', () => {
  test('is named before a connection is made, and a new one is used at once', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const before = run.host.api.requests.length;
    pass(95 * 24 * 60 * MINUTE);
    // SSM still has it.
    expect((await run.webhook(NODE1)).response).toMatchObject({
      exit_code: 3,
      recorded: true,
      message: expect.stringMatching(/^the client certificate expired on 20.*Z; write a new one/),
    });
    await run.heartbeat();
    expect(run.metrics().at(-1)).toMatchObject({ PgBackupApiUnreachable: 1, CertificateDaysLeft: -6 });
    run.expectLog({ level: 'WARN', message: 'the certificate in the parameter client-cert has expired' });
    expect(run.host.api.requests.length, 'nothing was sent').toBe(before);

    pass(1_000);
    const { cert, key } = await run.host.ca.client('renewed', 200);
    run.host.put({ 'client-cert': cert, 'client-key': key });
    expect((await run.webhook(NODE1)).response.exit_code).toBe(0);
  });

  test('first is reported, whichever it is, and named in the log from 30 days on', async () => {
    await using run = await startFunction();
    await run.heartbeat();
    expect(JSON.stringify(run.log())).not.toContain('expires');
    const soon = await run.host.ca.client('patroni', 20);
    run.host.put({ 'patroni-client-cert': soon.cert, 'patroni-client-key': soon.key });
    pass(10 * MINUTE);
    const certificate = { parameter: 'patroni-client-cert', daysLeft: 19 };
    expect(await run.heartbeat()).toMatchObject({ certificate });
    expect(run.metrics().at(-1)).toMatchObject({ CertificateDaysLeft: 19 });
    run.expectLog({ message: 'the certificate in the parameter patroni-client-cert expires in 19 days' });
  });
});

describe('an invalid environment variable', () => {
  test.each([
    [{ PARAMETERS_PATH: undefined }, /PARAMETERS_PATH/],
    [{ PARAMETERS_PATH: '/barman-config-switch/prod' }, /PARAMETERS_PATH/],
    [{ PARAMETERS_PATH: '/p/', LEDGER_TABLE: undefined }, /LEDGER_TABLE/],
    [{ PARAMETERS_PATH: '/p/', LEDGER_TABLE: '' }, /LEDGER_TABLE/],
    [{ PARAMETERS_PATH: '/p/', LEDGER_TABLE: 't', MAX_RETRIES: '0' }, /MAX_RETRIES/],
    [{ PARAMETERS_PATH: '/p/', LEDGER_TABLE: 't', MAX_RETRIES: 'five' }, /MAX_RETRIES/],
  ])('%j stops the function at start', async (settings, words) => {
    await expect(loadFunction(settings)).rejects.toThrow(words);
  });
});
