/**
 * Connection strings of PostgreSQL ("conninfo"): where they connect to. The rules are those of libpq 18:
 * PostgreSQL's documentation, "Connection Strings" and "Specifying Multiple Hosts", and libpq's fe-connect.c,
 * whose functions are named below.
 *
 * A password with a space and without quotes ends at that space, and libpq reads the rest as the next option.
 * So no error has text of a conninfo, and an option that libpq does not know has no name here.
 */

export interface Endpoint {
  /**
   * `hostaddr` if there is one, otherwise `host`, as written. A Unix socket's directory begins with "/" or "@".
   * Empty: none is given, and libpq uses a Unix socket in the directory that its build has for it.
   */
  readonly host: string;
  readonly port: number;
}

export interface Conninfo {
  /**
   * In the order in which libpq tries them. Empty: not seen, since `service` is set and the service file of
   * Barman's host may have them. Variables of Barman's environment, such as PGHOST, are not seen either.
   */
  readonly endpoints: readonly Endpoint[];
  /** Names of the options that it sets. */
  readonly options: readonly string[];
  /**
   * Number of options that libpq 18 rejects as unknown. They may be misspelt; but a newer libpq may know them,
   * so they are not an error.
   */
  readonly unknown: number;
}

type Option = readonly [name: string, value: string];

/** PostgreSQL's documentation, "Parameter Key Words"; `servicefile` comes with PostgreSQL 19. */
const OPTIONS: ReadonlySet<string> = new Set(
  `application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
  gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
  load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
  oauth_scope options passfile password port replication require_auth requirepeer scram_client_key
  scram_server_key service servicefile ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode
  sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni
  target_session_attrs tcp_user_timeout user`.split(/\s+/),
);
/** What every name above looks like; a newer libpq's, too. */
const OPTION_NAME = /^[a-z][a-z0-9_]*$/;
const DEFAULT_PORT = 5432;
/** As C's isspace has them in the C locale; in a regular expression, the last five are `\t-\r`. */
const SPACES = ' \t\n\v\f\r';

/**
 * Parses a conninfo, in either of its forms: `host=node1 port=5432` or `postgresql://node1:5432/`.
 *
 * @throws Error that says what is wrong, with names of options, but no other part of the text
 */
export function parseConninfo(text: string): Conninfo {
  if (text.includes('\0')) throw new Error('has a NUL character');
  const scheme = /^postgres(?:ql)?:\/\//.exec(text)?.[0];
  const values = new Map<string, string>();
  let unknown = 0;
  for (const [name, value] of scheme ? optionsOfUri(text.slice(scheme.length)) : optionsOfPairs(text)) {
    // An option that is set twice has its last value (conninfo_storeval).
    if (OPTIONS.has(name)) values.set(name, value);
    else if (name === 'requiressl') values.set('sslmode', value);
    else if (OPTION_NAME.test(name)) unknown += 1;
    else throw new Error('has an invalid name of an option');
  }
  // What the text does not set, the service may set.
  const seen = !values.has('service') || ['host', 'hostaddr', 'port'].every((name) => values.has(name));
  return { endpoints: seen ? endpointsOf(values) : [], options: [...values.keys()], unknown };
}

/** Splits the lists of hosts, addresses and ports (pqConnectOptions2). */
function endpointsOf(values: ReadonlyMap<string, string>): Endpoint[] {
  const hosts = entriesOf(values.get('host'));
  const addresses = entriesOf(values.get('hostaddr'));
  const ports = entriesOf(values.get('port')).map(parsePort);
  const count = addresses.length || hosts.length || 1;
  if (hosts.length > 0 && hosts.length !== count)
    throw new Error('host and hostaddr must have the same number of entries');
  if (ports.length > 1 && ports.length !== count)
    throw new Error('port must have one entry, or as many as there are hosts');
  return Array.from({ length: count }, (_, index) => ({
    host: checkedHost(addresses[index] || hosts[index] || ''),
    port: ports[ports.length === 1 ? 0 : index] ?? DEFAULT_PORT,
  }));
}

const entriesOf = (list = '') => (list === '' ? [] : list.split(','));

/** Reads a number as C's strtol does, with spaces round it (pqParseIntParam). Empty: the default. */
function parsePort(text: string): number {
  if (text === '') return DEFAULT_PORT;
  const port = /^[ \t-\r]*\+?\d+[ \t-\r]*$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) throw new Error('port must be a number from 1 to 65535');
  return port;
}

/**
 * Rejects a name that libpq would look up in vain. It may be a password, as in `host= password=…`: where a value
 * is missing, libpq takes the next word.
 */
function checkedHost(host: string): string {
  if (/^(?![/@]).*[@=]/s.test(host))
    throw new Error(`host has "@" or "=", perhaps of the next option: an empty value is ''`);
  return host;
}

/** Reads `name = value name = 'value'` (conninfo_parse). A backslash makes the next character a plain one. */
function* optionsOfPairs(text: string): Generator<Option> {
  // A name, its "=", and the quote that begins its value; each may be missing.
  const head = /[ \t-\r]*([^= \t-\r]*)[ \t-\r]*(=?)[ \t-\r]*('?)/y;
  let last = 'at the beginning';
  let at = 0;
  while (at < text.length) {
    head.lastIndex = at;
    const [whole = '', name = '', equals = '', quote = ''] = head.exec(text) ?? [];
    at += whole.length;
    // Only spaces were left.
    if (name === '' && equals === '') return;
    if (equals === '')
      throw new Error(`has no "=" ${last}: a value with spaces needs quotes, such as options='-c geqo=off'`);
    last = OPTIONS.has(name) ? `after ${name}` : 'after an unknown option';

    const end = quote || SPACES;
    let value = '';
    for (; at < text.length && !end.includes(text.charAt(at)); at += 1) {
      if (text[at] === '\\') at += 1;
      value += text.charAt(at);
    }
    if (quote !== '' && at >= text.length) throw new Error(`has a quote without its end ${last}`);
    at += quote.length;
    yield [name, value];
  }
}

/** Reads `user:password@host:port,host:port/dbname?name=value&…` (conninfo_uri_parse_options). */
function* optionsOfUri(text: string): Generator<Option> {
  const [userinfo = '', user = '', password = ''] = /^([^:@/]*)(?::([^@/]*))?@/.exec(text) ?? [];
  // In `user:p@ss@node1`, libpq takes ss@node1 for the host, and would look it up in vain. Hosts are shown.
  if (/^[^?]*@/.test(text.slice(userinfo.length)))
    throw new Error('has a second "@": write "@" and "/" in a password as %40 and %2F');
  const nextHost = /(?:\[([^\]]+)\]|((?!\[)[^:/?,]*))(?::([^/?,]*))?(,?)/y;
  nextHost.lastIndex = userinfo.length;
  const hosts: string[] = [];
  const ports: string[] = [];
  let end = userinfo.length;
  for (let more = true; more; ) {
    const [whole = '', ipv6, host = '', port = '', comma] = nextHost.exec(text) ?? [];
    hosts.push(ipv6 ?? host);
    ports.push(port);
    end += whole.length;
    more = comma === ',';
  }
  const rest = /^(?:\/([^?]*))?(?:\?(.*))?$/s.exec(text.slice(end));
  if (rest === null) throw new Error('host must have an IPv6 address as [ADDRESS] or [ADDRESS]:PORT');

  const [, dbname = '', parameters = ''] = rest;
  const parts = { user, password, host: hosts.join(','), port: ports.join(','), dbname };
  for (const [name, part] of Object.entries(parts)) if (part !== '') yield [name, decode(part, name)];

  // A "&" at the end is allowed (conninfo_uri_parse_params).
  for (const parameter of parameters === '' ? [] : parameters.replace(/&$/, '').split('&')) {
    const [encodedName, encodedValue, ...others] = parameter.split('=');
    if (encodedName === undefined || encodedValue === undefined || others.length > 0)
      throw new Error('has a parameter after "?" that is not NAME=VALUE');
    const name = decode(encodedName, 'a name after "?"');
    const value = decode(encodedValue, OPTIONS.has(name) ? name : 'a value after "?"');
    yield [name === 'ssl' && value === 'true' ? 'sslmode' : name, value];
  }
}

/** Decodes a part of a URI (conninfo_uri_decode); the name is for the error. What is not UTF-8 becomes U+FFFD. */
function decode(part: string, name: string): string {
  // libpq 15 has spaces as they are; libpq 18 ignores them round a part, and rejects them within it.
  const [word = '', ...others] = part.split(' ').filter((piece) => piece !== '');
  if (others.length > 0) throw new Error(`${name} has a space: write %20`);
  if (/%(?:00|(?![0-9a-f]{2}))/i.test(word))
    throw new Error(`${name} has a "%" without two hexadecimal digits, or %00: write "%" as %25`);
  return word.replace(/(?:%[0-9a-f]{2})+/gi, (bytes) =>
    Buffer.from(bytes.replaceAll('%', ''), 'hex').toString(),
  );
}
