#!/usr/bin/env python3
"""Patroni's callback: notifies barman-config-switch that the role of this node has changed.

Copy this file to each database node. It requires Python 3.6 or newer and no other package. In patroni.yml,
the same on every node:

    postgresql:
      callbacks:
        on_role_change: &callback >-
          /etc/patroni/barman_config_switch.py
          --url https://.../config-switch --secret-file /etc/patroni/webhook-secret
          config-switch --barman-server main --follow-leader --switch-when promoted
        on_reload: *callback

Patroni appends "ACTION ROLE SCOPE". The command and its options have the same names as in patroni_barman;
--follow-leader is an addition. on_reload reports only that the callback of this node works. With
--event-bus NAME --stage STAGE instead of --url, the aws command puts the role change on an event bus of
EventBridge.

If a request fails in a way that may be temporary (no connection, 401, 403, 404, 429, 5xx), it is sent again
for up to ten minutes (--max-time). A role change that the response reports as recorded is not sent again:
the function applies it.

The exit code is the ExitCode in the response; with several URLs, the greatest one. Over EventBridge, 0 means
that it has accepted the event: the result of the switch is in the function's log.
"""

import argparse
import base64
import contextlib
import email.message
import email.utils
import errno
import hashlib
import hmac
import http.client
import ipaddress
import itertools
import json
import logging
import os
import random
import re
import selectors
import shutil
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from enum import IntEnum
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit


def boot_time() -> float:
    """Returns a time (s) by a clock that neither jumps nor stops.

    CLOCK_MONOTONIC stands still while the machine is suspended, so Linux's CLOCK_BOOTTIME is used; Python 3.6
    has no name for it.
    """
    if sys.platform.startswith("linux"):
        try:
            return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", 7))
        except OSError:
            pass
    return time.monotonic()


#: That of package.json, for the User-Agent.
VERSION = "1.0.0"
#: Start of this process (s, see boot_time). Patroni starts it right after the role change.
STARTED = boot_time()
#: Identifies the role change in all attempts, and on all URLs.
WEBHOOK_ID = f"msg_{uuid.uuid4()}"

#: Time limit for connecting to one address (s): if packets are lost, another address or attempt may succeed.
CONNECT_TIMEOUT = 10.0
#: Time limit of an attempt over HTTP, with connecting (s). API Gateway responds after 30 s at the latest.
HTTP_TIMEOUT = 45.0
#: Time limit of an attempt with the aws command (s). age_ms does not include it.
AWS_TIMEOUT = 20.0
#: Upper limit of the random part of the delay between attempts (s).
MAX_RANDOM_DELAY = 10.0
#: Upper limit for Retry-After (s): a proxy that asks for an hour must not keep Barman on the old primary.
MAX_RETRY_AFTER = 60.0
#: Difference between the clocks (s) that may make webhook-timestamp stale: Standard Webhooks ("Verifying
#: signatures") tolerates 300 s, and an attempt may be on its way for HTTP_TIMEOUT.
MAX_CLOCK_ERROR = 300 - HTTP_TIMEOUT
#: How long sent data may stay unacknowledged before the kernel closes the connection (ms).
TCP_USER_TIMEOUT = 5000
#: Maximum size of a response, and of what aws prints (bytes); the rest is not read.
MAX_RESPONSE_SIZE = 64 * 1024
#: Valid sizes of a decoded secret (bytes); Standard Webhooks, "Signature scheme".
SECRET_SIZES = range(24, 65)
#: What the name of a Barman server or model looks like, for the function and for Barman.
BARMAN_NAME = "[A-Za-z0-9_][A-Za-z0-9_.:@+~=,-]*"
#: Maximum length of such a name (characters).
MAX_NAME_LENGTH = 255
#: What the name of a stage looks like.
STAGE_NAME = "[a-z][a-z0-9]{0,19}"
#: Maximum length of the host name (characters; hostname(7)).
MAX_NODE_LENGTH = 64
#: Environment variable that holds the secret if --secret-file is not given.
SECRET_VARIABLE = "BARMAN_CONFIG_SWITCH_SECRET"
#: Statuses that are retried although they are refusals: right after a rotation the function may know only
#: the old secret, and a deployment may be in progress.
RETRIED_REFUSALS = (401, 403, 404)

logger = logging.getLogger("barman_config_switch")
STDERR = logging.StreamHandler()
# If the log cannot be written (the disk is full), the request is still sent, and no traceback is printed.
logging.raiseExceptions = False


class ExitCode(IntEnum):
    """The exit codes of patroni.scripts.barman.config_switch."""

    CONFIG_SWITCH_DONE = 0
    CONFIG_SWITCH_SKIPPED = 1
    CONFIG_SWITCH_FAILED = 2
    HTTP_ERROR = 3
    INVALID_ARGS = 4


def seconds(text: str) -> float:
    """Parses a number of seconds."""
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0 and less than 1000000")
    return value


def count(text: str) -> int:
    """Parses a number of attempts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or greater, as it includes the first attempt")
    return value


def barman_name(text: str) -> str:
    """Parses the name of a Barman server or model."""
    if len(text) <= MAX_NAME_LENGTH and re.fullmatch(BARMAN_NAME, text):
        return text
    reason = (
        "cannot be the name of a Barman server or model: that starts with a letter, a digit or _, followed by"
        f" these or any of . : @ + ~ = , - and has at most {MAX_NAME_LENGTH} characters"
    )
    if re.search("[$%{`]", text):
        reason += (
            "; Patroni starts callbacks without a shell and removes PATRONI_* from their environment, so nothing"
            " is replaced: write the name itself, or use --follow-leader"
        )
    raise argparse.ArgumentTypeError(f'"{one_line(utf8(text), 300)}" {reason}')


def stage_name(text: str) -> str:
    """Parses the name of a stage."""
    if re.fullmatch(STAGE_NAME, text):
        return text
    reason = "is not the name of a stage: that is a lower-case letter, followed by at most 19 of these or digits"
    raise argparse.ArgumentTypeError(f'"{one_line(utf8(text), 300)}" {reason}')


#: The options before config-switch, and their keywords for argparse: the table of docs/reference/callback.md.
OPTIONS: Dict[str, Dict[str, Any]] = {
    "--url": dict(action="append", help="URL of the function; repeat for each Barman host"),
    "--event-bus": dict(help="name or ARN of an EventBridge event bus, instead of --url; requires the aws command"),
    "--stage": dict(type=stage_name, help="stage of the function, such as prod; required with --event-bus"),
    "--secret-file": dict(help=f"file with the webhook secret (default: ${SECRET_VARIABLE})"),
    "--ca-file": dict(help="CA certificates (PEM) to use instead of the system's"),
    "--client-cert": dict(help="client certificate (PEM), if the API requires one"),
    "--client-key": dict(help="its private key (PEM), if it is in another file"),
    "--proxy": dict(help="URL of an HTTP proxy for each --url (default: $HTTPS_PROXY, except $NO_PROXY)"),
    "--allow-plain-http": dict(action="store_true", help="allow http:// for hosts other than loopback"),
    "--retry-wait": dict(type=seconds, default=2.0, help="minimum delay between attempts (s; default: %(default)s)"),
    "--max-retries": dict(
        type=count,
        help="maximum number of attempts, including the first (default: limited by --max-time; with --dry-run: 1)",
    ),
    "--max-time": dict(type=seconds, default=600.0, help="time limit for all attempts (s; default: %(default)s)"),
    "--log-file": dict(help="file to log to instead of standard error"),
    "--dry-run": dict(action="store_true", help="change nothing; report what would happen"),
}
#: The options after config-switch, and what Patroni appends.
SWITCH_OPTIONS: Dict[str, Dict[str, Any]] = {
    "--barman-server": dict(type=barman_name, required=True, help="server name in Barman's configuration"),
    "--barman-model": dict(type=barman_name, help="model to apply"),
    "--reset": dict(action="store_true", help="drop the active model"),
    "--follow-leader": dict(
        action="store_true", help="apply the model of the leader; the function asks Patroni who that is"
    ),
    "--switch-when": dict(required=True, choices=["promoted", "demoted", "leader", "always"]),
    # The others report only that the callback of this node works.
    "action": dict(
        choices=["on_role_change", "on_reload", "on_start", "on_restart"],
        help="Patroni appends this argument and the next two",
    ),
    "role": {},
    "cluster": {},
}
#: One of the first two is required, and one of the last three; they exclude each other.
ALTERNATIVES = ("--url", "--event-bus", "--barman-model", "--reset", "--follow-leader")
#: Options that require --url.
URL_OPTIONS = ("--ca-file", "--client-cert", "--client-key", "--proxy", "--allow-plain-http")


class Settings:
    """The command line: parse() sets an attribute for each row of OPTIONS."""

    url: List[str]
    event_bus: Optional[str]
    stage: Optional[str]
    secret_file: Optional[str]
    ca_file: Optional[str]
    client_cert: Optional[str]
    client_key: Optional[str]
    proxy: Optional[str]
    allow_plain_http: bool
    retry_wait: float
    max_retries: Optional[int]
    max_time: float
    log_file: Optional[str]
    dry_run: bool
    #: What follows config-switch, by the names that the payload has, too.
    role_change: Dict[str, Any]


class InvalidArgs(Exception):
    """An argument is invalid; the message names it and says how to fix it."""


class Deadline(NamedTuple):
    """The end of a time limit: of the whole callback, of an attempt, or of the delay before the next one.

    end: in s, see boot_time
    """

    end: float

    def within(self, limit: float) -> "Deadline":
        """Returns the deadline of a part that starts now: after its own limit (s), or at this one."""
        return Deadline(min(self.end, boot_time() + limit))

    def left(self) -> float:
        """Returns the time that is left (s), 0 after the deadline."""
        return max(0.0, self.end - boot_time())

    def wait(self) -> None:
        """Waits until the deadline. In steps: time.sleep stands still while the machine is suspended."""
        while self.left() > 0:
            time.sleep(min(1.0, self.left()))


class Attempt(NamedTuple):
    """The result of one attempt.

    exit_code: the exit code if no further attempt is made
    message: for the log
    retry: whether another attempt may succeed
    retry_after: minimum delay before that attempt, as requested by the server (s)
    recorded: whether the function applies the role change by itself, whatever the exit code
    """

    exit_code: int
    message: str
    retry: bool = False
    retry_after: float = 0.0
    recorded: bool = False


class OneLineFormatter(logging.Formatter):
    """Formats each record as one line, whatever a server sent, and masks secrets.

    AWS's error for a wrong signature contains the signed headers, and so the session token. An invalid
    argument may be a URL with a password.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = re.sub(r"://\S*@", "://…@", super().format(record))
        return re.sub(r"(whsec_|security-token:)[\w+/=-]*", r"\1…", one_line(text, 4000))


class ArgumentParser(argparse.ArgumentParser):
    """Raises InvalidArgs: argparse itself would exit with 2, which means CONFIG_SWITCH_FAILED."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgs(f"{message} (see {self.prog} --help)")

    def add_options(self, options: Dict[str, Dict[str, Any]]) -> None:
        """Adds the options of a table."""
        alternatives = self.add_mutually_exclusive_group(required=True)
        for name, keywords in options.items():
            (alternatives if name in ALTERNATIVES else self).add_argument(name, **keywords)


def main(argv: List[str]) -> int:
    """Sends the role change to the event bus, or to all URLs in parallel, and returns the greatest exit code.

    Catches every exception: Python would exit with 1, which means CONFIG_SWITCH_SKIPPED.
    """
    STDERR.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s: %(message)s"))
    receivers: List[Receiver]
    try:
        try:
            settings = parse(argv)
        except InvalidArgs:
            set_up_log(find_log_file(argv))  # Patroni starts the callback, and the operator reads that file.
            raise
        set_up_log(settings.log_file)
        if settings.event_bus is not None:
            receivers = [EventBus(settings)]
        else:
            secrets, tls = read_secrets(settings.secret_file), tls_context(settings)
            receivers = [Endpoint(url, settings, secrets, tls) for url in settings.url]
        # The last one is served by the main thread, so that a single one needs no other.
        threads = [receiver.send_in_thread() for receiver in receivers[:-1]]
        receivers[-1].send()
        for thread in filter(None, threads):
            thread.join()
        return max(receiver.exit_code for receiver in receivers)
    except InvalidArgs as error:
        logger.addHandler(STDERR)  # In addition to the log file, for an operator who runs it in a terminal.
        logger.error("%s", error)
        return ExitCode.INVALID_ARGS
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, error)
        return ExitCode.HTTP_ERROR


def parse(argv: List[str]) -> Settings:
    """Parses the command line. Raises InvalidArgs."""
    # No abbreviations: --secret would be read as --secret-file, and a secret as a file name.
    description = "Notifies barman-config-switch that the role of this node has changed."
    parser = ArgumentParser(description=description, allow_abbrev=False)
    parser.add_options(OPTIONS)
    commands = parser.add_subparsers(metavar="config-switch")
    commands.required = True  # Python 3.6 has no parameter for it.
    commands.add_parser("config-switch", allow_abbrev=False).add_options(SWITCH_OPTIONS)
    settings = parser.parse_args(argv, namespace=Settings())
    if settings.event_bus is None and settings.stage is not None:
        parser.error("--stage is for --event-bus; a --url is that of a stage already")
    if settings.event_bus is not None:
        if settings.stage is None:
            parser.error("--event-bus requires --stage, the stage of the function: it takes only its own events")
        if settings.dry_run:
            parser.error("--dry-run requires --url: EventBridge does not return what would happen")
        for option in URL_OPTIONS:
            if getattr(settings, attribute(option)):
                parser.error(f"{option} requires --url: the aws command of --event-bus has its own settings")
    if settings.dry_run and settings.max_retries is None:
        settings.max_retries = 1  # An operator waits for the result, and no role change can be lost.
    given = {name: getattr(settings, name) for name in map(attribute, [*SWITCH_OPTIONS, "--dry-run"])}
    settings.role_change = {name: utf8(value) for name, value in given.items() if value not in (None, False)}
    return settings


def find_log_file(argv: List[str]) -> Optional[str]:
    """Returns the value of --log-file in a command line that is invalid otherwise, None if it has none."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--log-file")
    try:
        found: Optional[str] = parser.parse_known_args(argv)[0].log_file
        return found
    except InvalidArgs:  # Its value is missing.
        return None


def utf8(value: Any) -> Any:
    """Returns an argument as UTF-8, which Patroni's YAML is; what is no UTF-8 becomes U+FFFD.

    Python 3.6 decodes arguments as ASCII under LANG=C. The function rejects the lone surrogates that result
    from that, and the role change would be lost for the name of a scope.
    """
    if not isinstance(value, str):
        return value
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        return value.encode(errors="surrogateescape").decode(errors="replace")


def attribute(option: str) -> str:
    """Returns the name that argparse gives the value of an option."""
    return option.lstrip("-").replace("-", "_")


class Receiver:
    """A URL or an event bus that the role change is sent to.

    name: for the log
    timeout: time limit of an attempt (s)
    """

    def __init__(self, name: str, timeout: float, settings: Settings) -> None:
        self.name = name
        self.timeout = timeout
        self.settings = settings
        self.deadline = Deadline(STARTED + settings.max_time)
        #: That of the last attempt.
        self.exit_code: int = ExitCode.HTTP_ERROR

    def attempt(self, deadline: Deadline) -> Attempt:
        """Sends the role change once, and returns at the deadline at the latest."""
        raise NotImplementedError

    def send(self) -> None:
        """Sends the role change with retries. Raises nothing: the other receivers are not affected."""
        for attempts in itertools.count(1):
            try:
                result = self.attempt(self.deadline.within(self.timeout))
            except Exception as error:  # No thread or process could be started: later there may be room.
                result = failed(f"{type(error).__name__}: {error}")
            if not self.wait_for_retry(attempts, result):
                self.exit_code = result.exit_code
                return

    def send_in_thread(self) -> Optional[threading.Thread]:
        """Starts a thread that sends the role change. Returns None if none could be started in time."""
        for attempts in itertools.count(1):
            thread = threading.Thread(target=self.send, daemon=True)
            try:
                thread.start()
                return thread
            except (RuntimeError, MemoryError) as error:
                if not self.wait_for_retry(attempts, failed(f"no thread could be started: {error}")):
                    break
        return None

    def wait_for_retry(self, attempts: int, result: Attempt) -> bool:
        """Logs an attempt, and waits until the next one is due. Returns whether there is one.

        The range of the delay's random part doubles with each attempt. All nodes start at the same moment:
        spread them.

        attempts: the number of attempts up to now
        result: that of the last one
        """
        message = f"{self.name}, attempt {attempts}: {one_line(result.message, 500)}"
        wait = self.settings.retry_wait
        random_delay = random.uniform(0, min(MAX_RANDOM_DELAY, wait * 2 ** min(attempts, 20)))
        delay = max(result.retry_after, wait) + random_delay
        if result.retry and attempts != self.settings.max_retries and delay < self.deadline.left():
            logger.warning("%s; retrying in %.1f s", message, delay)
            self.deadline.within(delay).wait()
            if self.deadline.left() > 0:
                return True
        failure = logging.WARNING if result.recorded else logging.ERROR
        level = logging.INFO if result.exit_code <= ExitCode.CONFIG_SWITCH_SKIPPED else failure
        logger.log(level, "%s%s", message, "; giving up" if result.retry else "")
        return False


class EventBus(Receiver):
    """An EventBridge event bus. Raises InvalidArgs if the aws command is missing."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(f"event bus {settings.event_bus}", AWS_TIMEOUT, settings)
        if shutil.which("aws") is None:
            path = os.environ.get("PATH", "")
            remedy = "install the AWS CLI, or add its directory to the PATH of Patroni's service"
            raise InvalidArgs(f"--event-bus: command aws not found in PATH ({path}); {remedy}")

    def attempt(self, deadline: Deadline) -> Attempt:
        """Puts the role change on the event bus with one aws process, which is killed at the deadline."""
        entry = {
            "Source": f"patroni.{self.settings.stage}",
            "DetailType": "Patroni role change",
            "EventBusName": self.settings.event_bus,
            "Detail": json.dumps(payload(self.settings)),
            # No Time: without it AWS's clock dates the event. The clock of this node may be wrong.
        }
        command = ["aws", "events", "put-events", "--entries", json.dumps([entry]), "--output", "json"]
        # Shorter than the attempt (s), so that aws can name the cause.
        command += ["--cli-connect-timeout", "5", "--cli-read-timeout", "10"]
        limit = deadline.left()
        with subprocess.Popen(
            command,
            # aws's own retries would send the same age_ms again.
            env={**os.environ, "AWS_MAX_ATTEMPTS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                output, errors = read_all([process.stdout, process.stderr], deadline)
                process.wait(deadline.left())
            except (subprocess.TimeoutExpired, TooMuchOutput) as error:
                os.killpg(process.pid, signal.SIGKILL)  # With its children: aws may be a script.
                reason = f": {error}" if isinstance(error, TooMuchOutput) else ""
                return failed(f"aws was killed after {limit - deadline.left():.1f} s{reason}")
        return evaluate_put(process.returncode, output, errors.decode(errors="replace"))


class TooMuchOutput(Exception):
    """A command printed more than MAX_RESPONSE_SIZE."""


def read_all(pipes: List[Any], deadline: Deadline) -> List[bytes]:
    """Returns what a process writes to some pipes until it closes them.

    Raises subprocess.TimeoutExpired at the deadline, and TooMuchOutput once it is too much for the memory of
    a database node.
    """
    outputs = [bytearray() for _ in pipes]
    with selectors.DefaultSelector() as selector:
        for pipe, output in zip(pipes, outputs):
            selector.register(pipe, selectors.EVENT_READ, output)
        while selector.get_map():
            if deadline.left() == 0:
                raise subprocess.TimeoutExpired("aws", 0)
            for key, _ in selector.select(min(1.0, deadline.left())):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
                if len(key.data) > MAX_RESPONSE_SIZE:
                    raise TooMuchOutput(f"it had printed more than {MAX_RESPONSE_SIZE} bytes")
    return [bytes(output) for output in outputs]


class Endpoint(Receiver):
    """A validated URL of the function, with its TLS settings and proxy.

    Raises InvalidArgs if the URL is invalid, or is http:// beyond loopback without --allow-plain-http.
    """

    def __init__(self, url: str, settings: Settings, secrets: List[bytes], tls: ssl.SSLContext) -> None:
        super().__init__(url, HTTP_TIMEOUT, settings)
        authority = re.split("[/?#]", url.split("://", 1)[-1])[0]
        if "@" in authority:  # First, and without the URL: no message may show the password.
            raise InvalidArgs("--url: a user name or password is not allowed in the URL")
        try:
            parts = urlsplit(url)
            self.host = (parts.hostname or "").encode("idna").decode()
            self.port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise InvalidArgs(f"--url {url}: {error}")
        if parts.scheme not in ("https", "http") or not self.host:
            raise InvalidArgs(f"--url {url}: not an https:// URL; for example: https://example.com/config-switch")
        if not re.fullmatch("[!-~]+", url):
            raise InvalidArgs(f"--url {url}: spaces and non-ASCII characters must be percent-encoded (%XX)")
        if parts.fragment:
            raise InvalidArgs(f"--url {url}: a fragment is not allowed")
        if parts.scheme == "http" and not (settings.allow_plain_http or is_loopback(self.host)):
            raise InvalidArgs(f"--url {url}: http:// is not encrypted; use https://, or pass --allow-plain-http")
        #: For the request line (RFC 9112, 3.2.1).
        self.path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        self.proxy = find_proxy(settings.proxy, parts)
        #: For messages.
        self.route = f" through proxy {self.proxy.host}:{self.proxy.port}" if self.proxy else ""
        self.tls = tls if parts.scheme == "https" else None
        self.secrets = secrets
        #: Added to this node's clock for signing (s), once the server has rejected a timestamp.
        self.clock_correction = 0.0

    def attempt(self, deadline: Deadline) -> Attempt:
        """Sends the role change once, in a thread that is given up at the deadline.

        A socket's timeout does not cover name resolution, nor a server that sends one byte at a time.
        """
        limit = deadline.left()
        results: List[Attempt] = []
        thread = threading.Thread(target=lambda: results.append(self.post(deadline)), daemon=True)
        thread.start()
        thread.join(limit)
        return results[0] if results else failed(f"no response within {limit:.1f} s")

    def post(self, deadline: Deadline) -> Attempt:
        """Sends the role change, unless connecting takes until the deadline. Raises nothing."""
        try:
            with contextlib.closing(self.connection()) as connection:
                connection.connect()
                connection.sock.settimeout(self.timeout)  # Ends the thread of an attempt that was given up.
                discard_when_killed(connection.sock)
                if deadline.left() == 0:  # The next attempt may be running.
                    raise socket.timeout("timed out while connecting")
                return self.request(connection)
        except (ssl.SSLError, ssl.CertificateError) as error:
            remedy = "check --ca-file, --client-cert and the host name in --url"
            return failed(f"TLS{self.route} failed: {error}; {remedy}")
        except Exception as error:  # Network and protocol errors, anything else: there is no valid response.
            return failed(f"request{self.route} failed: {error or type(error).__name__}")

    def request(self, connection: http.client.HTTPConnection) -> Attempt:
        """Signs the role change, sends it over a connection, and evaluates the response."""
        # Built after connecting: without that time in age_ms, an old role change would look newer than it is.
        body = json.dumps(payload(self.settings)).encode()
        timestamp = int(time.time() + self.clock_correction)
        headers = {
            "content-type": "application/json",
            "user-agent": f"barman_config_switch/{VERSION}",
            "webhook-id": WEBHOOK_ID,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self.secrets, WEBHOOK_ID, timestamp, body),
        }
        connection.request("POST", self.path, body, headers)
        response = connection.getresponse()
        content = response.read(MAX_RESPONSE_SIZE)
        close_normally(connection.sock)
        result = evaluate(response.status, response.headers, content)
        # Anyone but a server that TLS has verified could make this node sign a timestamp of the future.
        if response.status == 401 and self.tls:
            self.clock_correction = -clock_error(parse_http_date(response.headers.get("date", "")))
            if self.clock_correction:
                result = result._replace(message=f"{result.message}; signing with the server's time")
        return result

    def connection(self) -> http.client.HTTPConnection:
        """Returns a new connection that is not connected yet."""
        host, port = (self.proxy.host, self.proxy.port) if self.proxy else (self.host, self.port)
        if self.tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, context=self.tls)
        if self.proxy:
            connection.set_tunnel(self.host, self.port, self.proxy.headers)
        return connection


def failed(reason: str) -> Attempt:
    """Returns an attempt without a valid response; another one may succeed."""
    return Attempt(ExitCode.HTTP_ERROR, reason, retry=True)


def discard_when_killed(sock: socket.socket) -> None:
    """Makes the kernel discard unsent data if this process is killed, or the network is silent for 5 s.

    Otherwise TCP keeps sending for a dead process: the request of an old role change could arrive after that
    of a newer one, with an age_ms that was computed long ago (tcp(7), socket(7)).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 18), TCP_USER_TIMEOUT)


def close_normally(sock: Optional[socket.socket]) -> None:
    """Ends discard_when_killed after the response: closing resets the connection otherwise."""
    if sock is not None:  # http.client has closed it already if the response ended the connection.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


def evaluate(status: int, header: email.message.Message, body: bytes) -> Attempt:
    """Returns the exit code that a response means, and whether to retry."""
    if 300 <= status < 400:
        return Attempt(ExitCode.HTTP_ERROR, f"{status}: redirects are not followed; correct --url")
    server_time = parse_http_date(header.get("date", ""))
    retry_after = parse_retry_after(header.get("retry-after", ""), server_time or time.time())
    refused = status in RETRIED_REFUSALS
    try:
        response = json.loads(body.decode())
    except (ValueError, RecursionError):
        response = None
    exit_code = response.get("exit_code") if isinstance(response, dict) else None
    if type(exit_code) is int and exit_code in list(ExitCode):
        recorded = response.get("recorded") is True
        suffix = " (recorded)" if recorded else ""
        message = f"{response.get('exit_status')} {response.get('message')}{suffix}"
        retry = refused or exit_code == ExitCode.HTTP_ERROR and not recorded
        return Attempt(exit_code, message, retry, retry_after, recorded)
    retry = refused or status in (408, 429) or status >= 500 or status < 300
    text = explain_unauthorized(server_time) if status == 401 else body.decode(errors="replace")
    return Attempt(ExitCode.HTTP_ERROR, f"{status}: {text}", retry, retry_after)


def evaluate_put(exit_status: int, output: bytes, errors: str) -> Attempt:
    """Returns what the result of aws means. It ends with 0 also if EventBridge has not accepted the event."""
    if exit_status != 0:
        return failed(f"aws ended with exit status {exit_status}: {errors}")
    try:
        response = json.loads(output.decode())
        entries = json.dumps(response.get("Entries"))
        if response["FailedEntryCount"] == 0:
            return Attempt(ExitCode.CONFIG_SWITCH_DONE, f"accepted by EventBridge, not confirmed {entries}")
        return failed(f"not accepted by EventBridge {entries}")
    except (ValueError, RecursionError, AttributeError, KeyError):
        return failed(f"unexpected output of aws: {output.decode(errors='replace')}")


def explain_unauthorized(server_time: Optional[float]) -> str:
    """Returns the likely cause of a 401.

    server_time: the server's clock (s since the epoch), None if unknown
    """
    parameters = "parameters webhook-secret and clusters/NAME; its log names those that it has tried"
    wrong_secret = f"the secret matches none in the function's {parameters}"
    if server_time is None:
        return f"{wrong_secret}, or this node's clock is wrong"
    ahead = clock_error(server_time)
    if not ahead:
        return f"{wrong_secret} (this node's clock is correct)"
    error = f"{abs(ahead):.0f} s {'fast' if ahead > 0 else 'slow'}"
    return f"this node's clock is {error}; correct it (the secret may be valid)"


def clock_error(server_time: Optional[float]) -> float:
    """Returns how far this node's clock is ahead (s), 0 if the function accepts that, or it is unknown."""
    ahead = 0.0 if server_time is None else time.time() - server_time
    return ahead if abs(ahead) > MAX_CLOCK_ERROR else 0.0


def parse_retry_after(header: str, now: float) -> float:
    """Returns the delay of a Retry-After header (s), 0 if it is missing or invalid (RFC 9110, 10.2.3).

    header: a number of seconds, or a date
    now: the server's clock (s since the epoch)
    """
    delay = float(header) if re.fullmatch("[0-9]{1,9}", header) else (parse_http_date(header) or now) - now
    return min(MAX_RETRY_AFTER, max(0.0, delay))


def parse_http_date(date: str) -> Optional[float]:
    """Returns an HTTP date in s since the epoch, None if it is invalid."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # The exception depends on the Python version.
        return None


def payload(settings: Settings) -> Dict[str, Any]:
    """Returns the role change in the payload format of barman-config-switch, with its age and sender."""
    return {**settings.role_change, **node(), "age_ms": int((boot_time() - STARTED) * 1000)}


def node() -> Dict[str, str]:
    """Returns the field node: the host name. Without it the role change is still sent."""
    try:
        return {"node": utf8(socket.gethostname())[:MAX_NODE_LENGTH]}
    except Exception:  # Whatever it is: the field is only for the operator.
        return {}


def signature(secrets: List[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """Returns the webhook-signature header of Standard Webhooks: one signature per secret."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digests = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def read_secrets(file: Optional[str]) -> List[bytes]:
    """Returns the decoded webhook secrets from a file, or from the environment if file is None.

    There are several during a rotation. Raises InvalidArgs; its message contains no secret.
    """
    source, text = f"${SECRET_VARIABLE}", os.environ.get(SECRET_VARIABLE, "")
    if file is not None:
        source = f"--secret-file {file}"
        check_file("--secret-file", file, private=True)
        try:
            with open(file, encoding="ascii", errors="replace") as opened:
                text = opened.read()
        except OSError as error:
            raise InvalidArgs(f"{source}: {error.strerror}")
    if not text.strip():
        raise InvalidArgs(f"{source}: no secret; pass --secret-file, or set ${SECRET_VARIABLE}")
    secrets = []
    for word in text.split():
        try:
            secret = base64.b64decode(word[len("whsec_") :], validate=True)
        except ValueError:
            secret = b""
        if not word.startswith("whsec_") or len(secret) not in SECRET_SIZES:
            raise InvalidArgs(f"{source}: malformed secret; expected whsec_… with 24 to 64 bytes in base64")
        secrets.append(secret)
    return secrets


def check_file(option: str, file: str, private: bool = False) -> None:
    """Raises InvalidArgs if a file is not regular, or is private and others than its owner have access.

    Opening a FIFO would wait until another process opens it.
    """
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        raise InvalidArgs(f"{option} {file}: {error.strerror}")
    if not stat.S_ISREG(mode):
        raise InvalidArgs(f"{option} {file}: not a regular file; copy its content into one")
    if private and stat.S_IMODE(mode) & 0o077:
        remedy = "chown it to Patroni's user and chmod 600 it"
        raise InvalidArgs(f"{option} {file}: its group or others have access; {remedy}")


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Returns a TLS context that requires TLS 1.2 or newer and verifies the server. Raises InvalidArgs."""
    ca_file, client_cert, client_key = settings.ca_file, settings.client_cert, settings.client_key
    if client_key and not client_cert:
        raise InvalidArgs("--client-key requires --client-cert")
    for option, file in (("--ca-file", ca_file), ("--client-cert", client_cert), ("--client-key", client_key)):
        if file:
            check_file(option, file)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidArgs(f"--ca-file {ca_file}: {error}")
    try:
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # novermin
    except AttributeError:  # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    if client_cert:
        try:
            # With password=None, OpenSSL would prompt for the password of an encrypted key in the terminal.
            context.load_cert_chain(client_cert, client_key, password="")
        except OSError as error:
            raise InvalidArgs(f"--client-cert {client_cert}: {error}")
    return context


def set_up_log(file: Optional[str]) -> None:
    """Logs one line per attempt to a file, or to standard error, which is Patroni's own log."""
    handler: logging.Handler = STDERR
    problem = None
    try:
        if file == "/dev/stdout":  # It may be a pipe or a socket.
            handler = logging.StreamHandler(open(1, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif file and file != "/dev/stderr":
            mode = os.stat(file).st_mode if os.path.exists(file) else stat.S_IFREG
            if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):  # A FIFO without a reader would block.
                raise OSError(errno.EINVAL, "not a regular file")
            handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        problem = error.strerror
    handler.setFormatter(STDERR.formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if problem:
        logger.error("--log-file %s: %s; logging to standard error instead", file, problem)


class Proxy(NamedTuple):
    """An HTTP proxy, and the headers that authenticate this node to it."""

    host: str
    port: int
    headers: Dict[str, str]


def find_proxy(url: Optional[str], parts: SplitResult) -> Optional[Proxy]:
    """Returns the proxy for a URL of the function: that of --proxy, or for https:// that of the environment.

    Raises InvalidArgs; its message contains no password.

    url: that of --proxy; "http://" may be absent
    parts: the URL of the function
    """
    source = "--proxy"
    if url is None and parts.scheme == "https" and not urllib.request.proxy_bypass(parts.netloc):
        source, url = "HTTPS_PROXY", urllib.request.getproxies().get("https")
    if url is None:
        return None
    try:
        proxy = urlsplit(url if "://" in url else f"http://{url}")
        port = http.client.HTTP_PORT if proxy.port is None else proxy.port
        host = (proxy.hostname or "").encode("idna").decode()
        user, password = unquote_to_bytes(proxy.username or ""), unquote_to_bytes(proxy.password or "")
    except ValueError:
        host = ""
    if not host or proxy.path not in ("", "/") or proxy.query or proxy.fragment:
        expected = "expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT; percent-encode special characters"
        raise InvalidArgs(f"{source}: not the URL of a proxy; {expected}")
    if proxy.scheme != "http":
        raise InvalidArgs(f"{source}: only http:// proxies are supported")
    credentials = base64.b64encode(user + b":" + password).decode()
    return Proxy(host, port, {} if proxy.username is None else {"Proxy-Authorization": f"Basic {credentials}"})


def is_loopback(host: str) -> bool:
    """Returns whether a host name or IP address is loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def one_line(text: str, max_length: int) -> str:
    """Returns the text as one line of printable characters, cut to max_length characters."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= max_length else line[:max_length] + "…"


if __name__ == "__main__":
    # Ctrl-C exits without a traceback. os._exit ends the threads of attempts that timed out at once: Python's
    # own shutdown is not safe beside them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os._exit(main(sys.argv[1:]))
