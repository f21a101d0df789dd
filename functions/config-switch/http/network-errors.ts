/**
 * The codes of network and TLS errors, in words and with their remedies: of our own requests and of those of
 * the AWS SDK.
 */

/** What an error of the network means. */
export interface NetworkFailure {
  /**
   * `unreachable`: no connection, or an open one on which nothing arrives; `untrusted`: the server's
   * certificate does not verify; `tls`: no TLS session; `cut off`: the connection was closed; `unusable`: the
   * response is not HTTP, too large or incomplete
   */
  readonly kind: 'unreachable' | 'untrusted' | 'tls' | 'cut off' | 'unusable';
  /** Such as ECONNREFUSED. */
  readonly code: string;
  /** The reason, as in "it is unreachable: …". */
  readonly reason: string;
  /** Whether a request may have arrived: the error is not one of connecting. */
  readonly sent: boolean;
}

/** What to say of EAI_AGAIN, after "its host name ". */
const UNRESOLVED =
  'could not be resolved; if the VPC has DNS servers of its own, set the stage parameter dns';

/**
 * While connecting, these mean that nothing was sent. The kernel also reports them on an open connection
 * (ip(7), tcp(7)).
 */
const UNREACHABLE: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'the connection was refused',
  ENOTFOUND: 'its host name does not exist',
  EAI_AGAIN: `its host name ${UNRESOLVED}`,
  EHOSTUNREACH: 'there is no route to the host',
  ENETUNREACH: 'there is no route to its network',
  ETIMEDOUT: 'the connection timed out',
  UND_ERR_CONNECT_TIMEOUT: 'the connection timed out',
};
const CUT_OFF: Readonly<Record<string, string>> = {
  ECONNRESET: 'the connection was reset',
  EPIPE: 'the connection was closed',
  ECONNABORTED: 'the connection was closed',
  UND_ERR_SOCKET: 'the connection was closed',
};
/** OpenSSL's codes for a server certificate that does not verify, and Node's for one of another host. */
const UNTRUSTED =
  /^(CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_|HOSTNAME_MISMATCH|ERR_TLS_CERT)/;

/**
 * Finds out what an error of a request means.
 *
 * @param error what undici threw
 * @returns undefined for an error that did not come from the network
 */
export function networkFailureOf(error: unknown): NetworkFailure | undefined {
  const code = codeOf(error);
  if (code === undefined || !(error instanceof Error)) return undefined;
  const unreachable = UNREACHABLE[code];
  if (unreachable !== undefined) {
    const open = 'syscall' in error && (error.syscall === 'read' || error.syscall === 'write');
    return { kind: 'unreachable', code, reason: unreachable, sent: open };
  }
  if (UNTRUSTED.test(code)) {
    // Without Node's advice to start it with --use-system-ca: a CA is given in the parameters.
    const [reason = ''] = error.message.split('; if the root CA');
    return { kind: 'untrusted', code, reason, sent: false };
  }
  if (code.startsWith('ERR_SSL_') || code.startsWith('ERR_OSSL_') || code === 'EPROTO') {
    const reason =
      'reason' in error && typeof error.reason === 'string' ? error.reason : 'no common protocol';
    return { kind: 'tls', code, reason, sent: false };
  }
  const cutOff = CUT_OFF[code];
  if (cutOff !== undefined) return { kind: 'cut off', code, reason: cutOff, sent: true };
  // Also a socket error that is not in the tables above.
  return { kind: 'unusable', code, reason: error.message, sent: true };
}

/** Who reads an error, and can do something about it: the function's operator, or who runs a command. */
export type Reader = 'function' | 'command';

/** Errors of the SDK, and of AWS, that mean that there are no valid credentials. */
const NO_CREDENTIALS =
  /^(Credentials|TokenProvider|ExpiredToken|InvalidClientTokenId|InvalidAccessKeyId|UnrecognizedClient|InvalidSignature|SignatureDoesNotMatch)/;

/**
 * Explains an error of the AWS SDK to the function's operator.
 *
 * @param error what the SDK threw: errors of the service have a name, those of the network a code
 * @param service such as SSM
 * @param route what may lead to it, such as "a gateway endpoint or a NAT"
 * @param remedies error name → what to do, or a text instead of the name
 * @param reader `command`: it is explained to who runs a command instead, whose role and network are others
 * @returns the cause in AWS's words, and the remedy
 */
export function explainSdkError(
  error: unknown,
  service: string,
  route: string,
  remedies: Readonly<Record<string, string>>,
  reader: Reader = 'function',
): string {
  if (reader === 'command') return explainToOperator(error, service);
  const name = error instanceof Error ? error.name : 'unknown error';
  const remedy = remedies[name];
  if (remedy !== undefined) return `${name}; ${remedy}`;
  const code =
    error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
  if (code === 'EAI_AGAIN') return `${code}; its host name ${UNRESOLVED}`;
  if (code === undefined && name !== 'TimeoutError') return name;
  return `${code ?? name}; the function's subnets need a route to ${service}: ${route}`;
}

/**
 * Explains an error of the AWS SDK to who runs a command.
 *
 * @returns the cause in AWS's words, which name the role and the resource, and the remedy
 */
export function explainToOperator(error: unknown, service: string): string {
  if (!(error instanceof Error)) return String(error);
  const { name, message } = error;
  const words = `${name}: ${message}`;
  if (NO_CREDENTIALS.test(name)) {
    return `${words}; sign in to AWS, for example with \`aws sso login\`, and set AWS_PROFILE to your profile; \`aws sts get-caller-identity\` shows who you are`;
  }
  if (/^AccessDenied/.test(name))
    return `${words}; your role lacks a permission: see docs/reference/permissions.md`;
  const code = codeOf(error);
  if (code === undefined && name !== 'TimeoutError') return words;
  const region = process.env.AWS_REGION;
  return `${code ?? name}; there is no connection from here to ${service} in ${region}; check --region, and your network`;
}

/** Returns the code of an error or, if several addresses were tried, of one of its errors. */
function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  // The code of undici's HTTPParserError is undefined.
  if (error instanceof Error && error.name === 'HTTPParserError') return error.name;
  if ('code' in error && typeof error.code === 'string') return error.code;
  if (error instanceof AggregateError) return error.errors.map(codeOf).find((code) => code !== undefined);
  return undefined;
}
