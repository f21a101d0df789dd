import { expect, test, vi } from 'vitest';
import {
  explainSdkError,
  explainToOperator,
  networkFailureOf,
} from '../../functions/config-switch/http/network-errors.ts';

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

const SIGN_IN =
  '; sign in to AWS, for example with `aws sso login`, and set AWS_PROFILE to your profile; `aws sts get-caller-identity` shows who you are';
const NO_WAY = '; there is no connection from here to SSM in eu-central-1; check --region, and your network';
test.each([
  [
    'without credentials',
    errorOf({ name: 'CredentialsProviderError' }),
    `CredentialsProviderError: so it is${SIGN_IN}`,
  ],
  [
    'with a session that has ended',
    errorOf({ name: 'ExpiredTokenException' }),
    `ExpiredTokenException: so it is${SIGN_IN}`,
  ],
  [
    'with credentials that are wrong',
    errorOf({ name: 'UnrecognizedClientException' }),
    `UnrecognizedClientException: so it is${SIGN_IN}`,
  ],
  [
    'with a role that may not',
    errorOf({ name: 'AccessDeniedException' }),
    'AccessDeniedException: so it is; your role lacks a permission: see docs/reference/permissions.md',
  ],
  ['of the network', errorOf({ code: 'ENOTFOUND' }), `ENOTFOUND${NO_WAY}`],
  ['that is a time-out', errorOf({ name: 'TimeoutError' }), `TimeoutError${NO_WAY}`],
  ['of the service', errorOf({ name: 'ThrottlingException' }), 'ThrottlingException: so it is'],
  ['that is not an Error', 'so it is', 'so it is'],
])('an error of the AWS SDK › %s is explained to who runs a command', (_, error, explained) => {
  vi.stubEnv('AWS_REGION', 'eu-central-1');
  expect(explainToOperator(error, 'SSM')).toBe(explained);
  expect(explainSdkError(error, 'SSM', 'a NAT', { AccessDeniedException: 'grant it' }, 'command')).toBe(
    explained,
  );
  vi.unstubAllEnvs();
});
