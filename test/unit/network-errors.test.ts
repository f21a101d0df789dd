import { expect, test } from 'vitest';
import { explainSdkError, networkFailureOf } from '../../functions/config-switch/http/network-errors.ts';

const errorOf = (properties: object) => Object.assign(new Error('so it is'), properties);

// The codes and their reasons are in failures.test.ts.
test.each(['CERT_HAS_EXPIRED', 'EPROTO'])(
  'a network error › of TLS means that nothing was sent (%s)',
  (code) => {
    expect(networkFailureOf(errorOf({ code }))).toMatchObject({ code, sent: false });
  },
);

const ROUTE = "the function's subnets need a route to SSM: a NAT";
test.each([
  ['with a remedy of its own', errorOf({ name: 'AccessDenied' }), 'AccessDenied; grant it'],
  ['with a remedy and a code', errorOf({ name: 'AccessDenied', code: 'X' }), 'AccessDenied; grant it'],
  ['of the service', errorOf({ name: 'InternalServerError' }), 'InternalServerError'],
  ['of the service, with a number', errorOf({ name: 'InternalServerError', code: 7 }), 'InternalServerError'],
  ['of the network', errorOf({ code: 'ECONNREFUSED' }), `ECONNREFUSED; ${ROUTE}`],
  ['that is a time-out', errorOf({ name: 'TimeoutError' }), `TimeoutError; ${ROUTE}`],
  [
    'of name resolution',
    errorOf({ code: 'EAI_AGAIN' }),
    'EAI_AGAIN; its host name could not be resolved; if the VPC has DNS servers of its own, set the stage parameter dns',
  ],
  ['that is not an Error', { name: 'AccessDenied', code: 'ECONNREFUSED' }, 'unknown error'],
])("an error of the AWS SDK › %s is explained in AWS's words, with the remedy", (_, error, explained) => {
  expect(explainSdkError(error, 'SSM', 'a NAT', { AccessDenied: 'grant it' })).toBe(explained);
});
