#!/usr/bin/env python3
"""Patroni's on_role_change callback: notifies barman-config-switch that the role of this node has changed.

Copy this file to each database node. It requires Python 3.6 or newer and no other package. In patroni.yml:

    postgresql:
      callbacks:
        on_role_change: >-
          /etc/patroni/barman_config_switch.py --url https://.../config-switch --secret-file /etc/patroni/webhook-secret
          config-switch --barman-server main --barman-model pg:node1 --switch-when promoted

Patroni appends "on_role_change ROLE SCOPE". The command and its options have the same names as in patroni_barman.

If a request fails in a way that may be temporary (no connection, 401, 403, 404, 429, 5xx), it is sent again for up to
ten minutes (--max-time). A role change that the response reports as recorded is not sent again: the function applies
it.

With --event-bus NAME instead of --url, the aws command puts the role change on an EventBridge event bus. Exit code 0
means then that EventBridge has accepted it: the result of the switch is in the function's log.

The exit code is the ExitCode in the response; with several URLs, the greatest one: 0 done, 1 skipped, 2 failed,
3 no valid response or HTTP error, 4 invalid arguments or invalid payload.
"""

import argparse
import base64
import binascii
import email.message
import email.utils
import errno
import functools
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import random
import re
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
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit


def boot_time() -> float:
    """Returns a time (s) by a clock that neither jumps nor stops.

    CLOCK_MONOTONIC stands still while the machine is suspended, so Linux's CLOCK_BOOTTIME is used; Python 3.6 has no
    name for it.
    """
    if sys.platform.startswith("linux"):
        try:
            return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", 7))
        except OSError:
            pass
    return time.monotonic()


#: Start of this process (s, see boot_time). Patroni starts it right after the role change.
STARTED = boot_time()

EXIT_CODES = {
    "CONFIG_SWITCH_DONE": 0,
    "CONFIG_SWITCH_SKIPPED": 1,
    "CONFIG_SWITCH_FAILED": 2,
    "HTTP_ERROR": 3,
    "INVALID_ARGS": 4,
}
HTTP_ERROR = EXIT_CODES["HTTP_ERROR"]
INVALID_ARGS = EXIT_CODES["INVALID_ARGS"]

#: Time limit for connecting to one address (s). If packets are lost, another address or attempt may succeed.
CONNECT_TIMEOUT = 10.0
#: Time limit of an attempt, including connecting (s). API Gateway responds 30 s after the request at the latest.
ATTEMPT_TIMEOUT = 45.0
#: Time limits of the aws command: to connect, to wait for data, and in total (s). age_ms does not include them.
AWS_CONNECT_TIMEOUT = 5
AWS_READ_TIMEOUT = 10
AWS_TIMEOUT = 20.0
#: Upper limit of the random part of the delay between attempts (s).
MAX_RANDOM_DELAY = 10.0
#: Upper limit for Retry-After (s): a proxy that asks for an hour must not keep Barman on the old primary.
MAX_RETRY_AFTER = 60.0
#: Maximum difference between webhook-timestamp and the server's clock (s); Standard Webhooks, "Verifying signatures".
TIMESTAMP_TOLERANCE = 300
#: Difference between the clocks (s) that may make a timestamp stale: an attempt may be on its way for ATTEMPT_TIMEOUT.
MAX_CLOCK_ERROR = TIMESTAMP_TOLERANCE - ATTEMPT_TIMEOUT
#: How long sent data may stay unacknowledged before the kernel closes the connection (ms).
TCP_USER_TIMEOUT = 5000
#: Maximum response size (bytes); the rest is not read.
MAX_RESPONSE_SIZE = 64 * 1024
#: Valid sizes of a decoded secret (bytes); Standard Webhooks, "Signature scheme".
SECRET_SIZES = range(24, 65)
#: Environment variable that holds the secret if --secret-file is not given.
SECRET_VARIABLE = "BARMAN_CONFIG_SWITCH_SECRET"

#: Statuses that are retried although they are refusals: right after a rotation the function may know only the old
#: secret, and a deployment may be in progress.
RETRIED_REFUSALS = (401, 403, 404)
#: A minimum delay of zero (s).
NO_DELAY = 0.0

logger = logging.getLogger("barman_config_switch")
STDERR = logging.StreamHandler()
# If the log cannot be written, for example on a full disk, the request is still sent, and no traceback is printed.
logging.raiseExceptions = False


class InvalidArgs(Exception):
    """An argument is invalid; the message names it and says how to fix it."""


class ArgumentParser(argparse.ArgumentParser):
    """Raises InvalidArgs for invalid arguments: argparse would exit with 2, which means CONFIG_SWITCH_FAILED."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgs(f"{message} (see {self.prog} --help)")


class OneLineFormatter(logging.Formatter):
    """Formats each record as one line, whatever a server sent, and masks secrets.

    AWS's error for a wrong signature contains the signed headers, and so the session token. An invalid argument may be
    a URL with a password.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = re.sub(r"://\S*@", "://…@", super().format(record))
        return re.sub(r"(whsec_|security-token:)[\w+/=-]*", r"\1…", one_line(text, 4000))


class Proxy(NamedTuple):
    """An HTTP proxy, and the headers that authenticate this node to it."""

    host: str
    port: int
    headers: Dict[str, str]


class Endpoint:
    """A validated URL to send to, with its TLS settings and proxy.

    Raises InvalidArgs if the URL is invalid, or is http:// beyond loopback without --allow-plain-http.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, allow_plain_http: bool, proxy_url: Optional[str] = None) -> None:
        authority = re.split("[/?#]", url.split("://", 1)[-1])[0]
        if "@" in authority:  # First, and without the URL: no message may show the password.
            raise InvalidArgs("--url: a user name or password is not allowed in the URL")
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError as error:
            raise InvalidArgs(f"--url {url}: {error}")
        if parts.scheme not in ("https", "http") or not host:
            raise InvalidArgs(f"--url {url}: not an https:// URL; for example: https://example.com/config-switch")
        if not re.fullmatch("[!-~]+", url):
            raise InvalidArgs(f"--url {url}: spaces and non-ASCII characters must be percent-encoded (%XX)")
        if parts.fragment:
            raise InvalidArgs(f"--url {url}: a fragment is not allowed")
        if parts.scheme == "http" and not (allow_plain_http or is_loopback(host)):
            raise InvalidArgs(f"--url {url}: http:// is not encrypted; use https://, or pass --allow-plain-http")
        self.url = url
        self.host = host
        if port is None:
            port = http.client.HTTPS_PORT if parts.scheme == "https" else http.client.HTTP_PORT
        self.port = port
        self.proxy = find_proxy(proxy_url, parts)
        #: For messages.
        self.route = f" through proxy {self.proxy.host}:{self.proxy.port}" if self.proxy else ""
        self.path = request_target(parts)
        self.tls = tls if parts.scheme == "https" else None
        #: Added to this node's clock for signing (s); see correct_clock.
        self.clock_correction = 0.0

    def correct_clock(self, server_time: Optional[float]) -> None:
        """Makes the next attempt sign with the server's time if this node's clock is wrong.

        Only for a server that TLS has verified: anyone else could make this node sign a timestamp of the future.
        """
        error = 0.0 if server_time is None else server_time - time.time()
        self.clock_correction = error if self.tls is not None and abs(error) > MAX_CLOCK_ERROR else 0.0

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


class Attempt:
    """The result of one attempt.

    exit_code: the exit code if no further attempt is made
    message: for the log
    retry: whether another attempt may succeed
    retry_after: minimum delay before that attempt, as requested by the server (s)
    """

    def __init__(self, exit_code: int, message: str, retry: bool = False, retry_after: float = 0.0) -> None:
        self.exit_code = exit_code
        self.message = one_line(message, 500)
        self.retry = retry
        self.retry_after = retry_after


def main(argv: List[str]) -> int:
    """Runs the callback and returns the exit code.

    Catches every exception: Python would exit with 1, which means CONFIG_SWITCH_SKIPPED.
    """
    try:
        return run(argv)
    except InvalidArgs as error:
        logger.addHandler(STDERR)  # In addition to the log file, for an operator who runs it in a terminal.
        logger.error("%s", error)
        return INVALID_ARGS
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, error)
        return HTTP_ERROR


def run(argv: List[str]) -> int:
    """Sends the role change to the event bus, or to all URLs in parallel, and returns the greatest exit code.

    Raises InvalidArgs.
    """
    STDERR.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s: %(message)s"))
    args = parse(argv)
    set_up_log(args.log_file)
    if args.event_bus is not None:
        check_aws_command()
        return send(f"event bus {args.event_bus}", functools.partial(put_event, args), args)
    secrets = read_secrets(args.secret_file)
    tls = tls_context(args.ca_file, args.client_cert, args.client_key)
    endpoints = [Endpoint(url, tls, args.allow_plain_http, args.proxy) for url in args.url]

    webhook_id = f"msg_{uuid.uuid4()}"
    codes = [HTTP_ERROR] * len(endpoints)

    def send_to(index: int) -> None:
        try:
            attempt = functools.partial(post_event, endpoints[index], secrets, webhook_id, args)
            codes[index] = send(endpoints[index].url, attempt, args)
        except Exception as error:  # The other URLs are not affected.
            logger.error("%s: %s: %s", endpoints[index].url, type(error).__name__, error)

    # The last URL is served by the main thread, so that a single one needs no other.
    others = range(len(endpoints) - 1)
    threads = [
        thread for thread in (start_thread(send_to, index, endpoints[index], args) for index in others) if thread
    ]
    send_to(len(endpoints) - 1)
    for thread in threads:
        thread.join()
    return max(codes)


def start_thread(
    target: Callable[[int], None], index: int, endpoint: Endpoint, args: argparse.Namespace
) -> Optional[threading.Thread]:
    """Starts the thread of one URL. If none can be started (RLIMIT_NPROC, memory), this counts as a failed attempt.

    Returns None after the last attempt.
    """
    attempts = 0
    while True:
        attempts += 1
        thread = threading.Thread(target=target, args=(index,), daemon=True)
        try:
            thread.start()
            return thread
        except (RuntimeError, MemoryError) as error:
            delay = next_delay(attempts, NO_DELAY, args)
            logger.warning("%s, attempt %d: no thread could be started: %s", endpoint.url, attempts, error)
            if delay is None or not pause(delay, args):
                return None


def next_delay(attempts: int, minimum: float, args: argparse.Namespace) -> Optional[float]:
    """Returns the delay before the next attempt (s), None if there is none.

    The range of its random part doubles with each attempt. All nodes start at the same moment: spread them.
    """
    random_delay = random.uniform(0, min(MAX_RANDOM_DELAY, args.retry_wait * 2 ** min(attempts, 20)))
    delay = max(minimum, args.retry_wait) + random_delay
    return None if attempts == args.max_retries or elapsed() + delay >= args.max_time else delay


def pause(delay: float, args: argparse.Namespace) -> bool:
    """Waits (s), but not beyond --max-time. Returns whether time is left.

    In steps: while the machine is suspended, time.sleep stands still, but --max-time does not.
    """
    max_time = args.max_time  # type: float
    end = min(max_time, elapsed() + delay)
    while elapsed() < end:
        time.sleep(max(0.0, min(1.0, end - elapsed())))
    return elapsed() < max_time


def send(receiver: str, attempt: Callable[[float], Attempt], args: argparse.Namespace) -> int:
    """Sends the role change with retries, and returns the exit code.

    receiver: for the log
    attempt: makes one attempt; its parameter is the time limit (s)
    """
    attempts = 0
    while True:
        attempts += 1
        result = attempt(max(0.0, min(ATTEMPT_TIMEOUT, args.max_time - elapsed())))
        delay = next_delay(attempts, result.retry_after, args) if result.retry else None
        message = f"{receiver}, attempt {attempts}: {result.message}"
        if delay is not None:
            logger.warning("%s; retrying in %.1f s", message, delay)
            if pause(delay, args):
                continue
        level = logging.INFO if result.exit_code <= EXIT_CODES["CONFIG_SWITCH_SKIPPED"] else logging.ERROR
        logger.log(level, "%s%s", message, "; giving up" if result.retry else "")
        return result.exit_code


def put_event(args: argparse.Namespace, limit: float) -> Attempt:
    """Puts the role change on the event bus with one aws process, which is killed after the limit (s)."""
    entry = {
        "Source": "patroni",
        "DetailType": "Patroni role change",
        "EventBusName": args.event_bus,
        "Detail": json.dumps(payload(args)),
        # No Time: without it AWS's clock dates the event, and not the clock of this node, which may be wrong.
    }
    command = ["aws", "events", "put-events", "--entries", json.dumps([entry]), "--output", "json"]
    command += ["--cli-connect-timeout", str(AWS_CONNECT_TIMEOUT), "--cli-read-timeout", str(AWS_READ_TIMEOUT)]
    limit = min(limit, AWS_TIMEOUT)
    try:
        process = subprocess.Popen(
            command,
            # aws's own retries would send the same age_ms again.
            env={**os.environ, "AWS_MAX_ATTEMPTS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, MemoryError) as error:
        return Attempt(HTTP_ERROR, f"aws could not be started: {error}", retry=True)
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # With its children: aws may be a script.
        process.wait()
        return Attempt(HTTP_ERROR, f"aws was killed after {limit:.1f} s", retry=True)
    return evaluate_put(process.returncode, output, errors.decode(errors="replace"))


def evaluate_put(exit_status: int, output: bytes, errors: str) -> Attempt:
    """Returns what the result of aws means. It ends with 0 also if EventBridge has not accepted the event."""
    if exit_status != 0:
        return Attempt(HTTP_ERROR, f"aws ended with exit status {exit_status}: {errors}", retry=True)
    try:
        response = json.loads(output.decode())
        entries = json.dumps(response.get("Entries"))
        if response["FailedEntryCount"] == 0:
            return Attempt(EXIT_CODES["CONFIG_SWITCH_DONE"], f"accepted by EventBridge, not confirmed {entries}")
        message = f"not accepted by EventBridge {entries}"
    except (ValueError, RecursionError, AttributeError, KeyError):
        message = f"unexpected output of aws: {output.decode(errors='replace')}"
    return Attempt(HTTP_ERROR, message, retry=True)


def post_event(
    endpoint: Endpoint, secrets: List[bytes], webhook_id: str, args: argparse.Namespace, limit: float
) -> Attempt:
    """Sends the role change to a URL once, for at most limit (s)."""
    deadline = elapsed() + limit
    return run_with_timeout(limit, functools.partial(try_once, endpoint, secrets, webhook_id, args, deadline))


def run_with_timeout(limit: float, attempt: Callable[[], Attempt]) -> Attempt:
    """Runs an attempt in a thread and stops waiting for it after the limit (s).

    A socket's timeout does not cover name resolution, nor a server that sends one byte at a time.
    """
    results = []  # type: List[Attempt]
    thread = threading.Thread(target=lambda: results.append(attempt()), daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:  # RLIMIT_NPROC, or memory: later there may be room.
        return Attempt(HTTP_ERROR, f"no thread could be started: {error}", retry=True)
    thread.join(limit)
    return results[0] if results else Attempt(HTTP_ERROR, f"no response within {limit:.1f} s", retry=True)


def try_once(
    endpoint: Endpoint, secrets: List[bytes], webhook_id: str, args: argparse.Namespace, deadline: float
) -> Attempt:
    """Sends the role change once. Raises nothing.

    deadline: nothing is sent after it (s since the role change)
    """
    try:
        connection = endpoint.connection()
        try:
            connection.connect()
            connection.sock.settimeout(ATTEMPT_TIMEOUT)
            discard_when_killed(connection.sock)
            if elapsed() >= deadline:  # run_with_timeout has returned, and the next attempt may be running.
                raise socket.timeout("timed out while connecting")
            # Built after connecting: age_ms must include that time, or an old role change would look newer than it is.
            body = json.dumps(payload(args)).encode()
            timestamp = int(time.time() + endpoint.clock_correction)
            connection.request("POST", endpoint.path, body, headers(secrets, webhook_id, timestamp, body))
            response = connection.getresponse()
            content = response.read(MAX_RESPONSE_SIZE)
            close_normally(connection.sock)
            result = evaluate(response.status, response.headers, content)
            if response.status == 401:
                endpoint.correct_clock(parse_http_date(response.headers.get("date", "")))
                if endpoint.clock_correction:
                    result.message += "; signing with the server's time"
            return result
        finally:
            connection.close()
    except (ssl.SSLError, ssl.CertificateError) as error:
        message = f"TLS{endpoint.route} failed: {error}; check --ca-file, --client-cert and the host name in --url"
    except Exception as error:  # Network errors, HTTP protocol errors, anything else: there is no valid response.
        message = f"request{endpoint.route} failed: {error or type(error).__name__}"
    return Attempt(HTTP_ERROR, message, retry=True)


def discard_when_killed(sock: socket.socket) -> None:
    """Makes the kernel discard unsent data when this process is killed, or the network does not acknowledge it for 5 s.

    Otherwise TCP keeps sending for a dead process: the request of an old role change could arrive after that of a newer
    one, with an age_ms that was computed long ago (tcp(7), socket(7)).
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
        return Attempt(HTTP_ERROR, f"{status}: redirects are not followed; correct --url")
    server_time = parse_http_date(header.get("date", ""))
    retry_after = parse_retry_after(header.get("retry-after", ""), server_time or time.time())
    try:
        response = json.loads(body.decode())
    except (ValueError, RecursionError):
        response = None
    exit_code = response.get("exit_code") if isinstance(response, dict) else None
    if type(exit_code) is int and exit_code in EXIT_CODES.values() and isinstance(response, dict):
        recorded = response.get("recorded") is True
        suffix = " (recorded)" if recorded else ""
        message = "{} {}{}".format(response.get("exit_status"), response.get("message"), suffix)
        retry = status in RETRIED_REFUSALS or exit_code == HTTP_ERROR and not recorded
        return Attempt(exit_code, message, retry, retry_after)
    retry = status in (408, 429) or status in RETRIED_REFUSALS or status >= 500 or status < 300
    text = explain_unauthorized(server_time) if status == 401 else body.decode(errors="replace")
    return Attempt(HTTP_ERROR, f"{status}: {text}", retry, retry_after)


def explain_unauthorized(server_time: Optional[float]) -> str:
    """Returns the likely cause of a 401.

    server_time: the server's clock (s since the epoch), None if unknown
    """
    wrong_secret = "the secret does not match the function's parameter webhook-secret"
    if server_time is None:
        return f"{wrong_secret}, or this node's clock is wrong"
    ahead = time.time() - server_time
    if abs(ahead) <= MAX_CLOCK_ERROR:
        return f"{wrong_secret} (this node's clock is correct)"
    error = f"{abs(ahead):.0f} s {'fast' if ahead > 0 else 'slow'}"
    return f"this node's clock is {error}; correct it (the secret may be valid)"


def parse_retry_after(header: str, now: float) -> float:
    """Returns the delay that a Retry-After header asks for (s), 0 if it is missing or invalid (RFC 9110, 10.2.3).

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


def headers(secrets: List[bytes], webhook_id: str, timestamp: int, body: bytes) -> Dict[str, str]:
    """Returns the request headers, signed with the current time."""
    return {
        "content-type": "application/json",
        "user-agent": "barman_config_switch",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secrets, webhook_id, timestamp, body),
    }


def payload(args: argparse.Namespace) -> Dict[str, Any]:
    """Returns the role change in the payload format of barman-config-switch."""
    target = {"reset": True} if args.reset else {"barman_model": args.barman_model}  # type: Dict[str, Any]
    return {
        "action": args.action,
        "role": args.role,
        "cluster": args.cluster,
        "barman_server": args.barman_server,
        **target,
        "switch_when": args.switch_when,
        "age_ms": int(elapsed() * 1000),
        **({"dry_run": True} if args.dry_run else {}),
    }


def signature(secrets: List[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """Returns the webhook-signature header of Standard Webhooks: one signature per secret."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digests = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def parse(argv: List[str]) -> argparse.Namespace:
    """Parses the command line. Raises InvalidArgs."""
    # No abbreviations: --secret would be read as --secret-file, and a secret as a file name.
    parser = ArgumentParser(
        prog="barman_config_switch.py",
        description="Notifies barman-config-switch that the role of this node has changed.",
        allow_abbrev=False,
    )
    receiver = parser.add_mutually_exclusive_group(required=True)
    receiver.add_argument("--url", action="append", help="URL of the function; repeat for each Barman host")
    receiver.add_argument(
        "--event-bus", help="name or ARN of the EventBridge event bus to use instead of --url; requires the aws command"
    )
    parser.add_argument("--secret-file", help=f"file with the webhook secret (default: ${SECRET_VARIABLE})")
    parser.add_argument("--ca-file", help="CA certificates (PEM) to use instead of the system's")
    parser.add_argument("--client-cert", help="client certificate (PEM), if the API requires one")
    parser.add_argument("--client-key", help="its private key (PEM), if it is in another file")
    parser.add_argument("--proxy", help="URL of an HTTP proxy for each --url (default: $HTTPS_PROXY, except $NO_PROXY)")
    parser.add_argument("--allow-plain-http", action="store_true", help="allow http:// for hosts other than loopback")
    parser.add_argument(
        "--retry-wait",
        type=seconds,
        default=2.0,
        help="minimum delay between attempts, in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--max-retries",
        type=count,
        help="maximum number of attempts, including the first (default: limited by --max-time; with --dry-run: 1)",
    )
    parser.add_argument(
        "--max-time", type=seconds, default=600.0, help="time limit for all attempts, in seconds (default: %(default)s)"
    )
    parser.add_argument("--log-file", help="file to log to instead of standard error")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; report what would happen")
    commands = parser.add_subparsers(dest="command", metavar="config-switch")
    switch = commands.add_parser("config-switch", prog="barman_config_switch.py config-switch", allow_abbrev=False)
    switch.add_argument("--barman-server", required=True, help="server name in Barman's configuration")
    target = switch.add_mutually_exclusive_group(required=True)
    target.add_argument("--barman-model", help="model to apply")
    target.add_argument("--reset", action="store_true", help="drop the active model")
    switch.add_argument("--switch-when", required=True, choices=["promoted", "demoted", "leader", "always"])
    switch.add_argument("action", choices=["on_role_change"], help="Patroni appends this argument and the next two")
    switch.add_argument("role")
    switch.add_argument("cluster")
    args = parser.parse_args(argv)
    if args.command is None:
        parser.error("missing command: config-switch")
    if args.event_bus is not None and args.dry_run:
        parser.error("--dry-run requires --url: EventBridge does not return what would happen")
    for option in ("--ca-file", "--client-cert", "--client-key", "--proxy", "--allow-plain-http"):
        if args.event_bus is not None and getattr(args, option[2:].replace("-", "_")):
            parser.error(f"{option} requires --url: the aws command of --event-bus has its own settings")
    if args.dry_run and args.max_retries is None:
        args.max_retries = 1  # An operator waits for the result, and no role change can be lost.
    return args


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


def read_secrets(file: Optional[str]) -> List[bytes]:
    """Returns the decoded webhook secrets from a file, or from the environment if file is None.

    There are several during a rotation. Raises InvalidArgs; its message contains no secret.
    """
    if file is None:
        source = f"${SECRET_VARIABLE}"
        text = os.environ.get(SECRET_VARIABLE, "")
        if not text.strip():
            raise InvalidArgs(f"no secret; pass --secret-file or set {source}")
    else:
        source = f"--secret-file {file}"
        check_regular_file("--secret-file", file)
        try:
            with open(file, encoding="ascii") as opened:
                if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                    raise InvalidArgs(
                        f"{source}: its group or others have access; chown it to Patroni's user and chmod 600 it"
                    )
                text = opened.read()
        except OSError as error:
            raise InvalidArgs(f"{source}: {error.strerror}")
        except UnicodeDecodeError:
            raise InvalidArgs(f"{source}: not an ASCII text file") from None
    expected = "expected whsec_… with 24 to 64 bytes in base64"
    secrets = []
    for word in text.split():
        try:
            secret = base64.b64decode(word[len("whsec_") :], validate=True)
        except binascii.Error:
            secret = b""
        if not word.startswith("whsec_") or len(secret) not in SECRET_SIZES:
            raise InvalidArgs(f"{source}: malformed secret; {expected}")
        secrets.append(secret)
    if not secrets:
        raise InvalidArgs(f"{source}: empty; {expected}")
    return secrets


def check_aws_command() -> None:
    """Raises InvalidArgs if the aws command is missing."""
    if shutil.which("aws") is None:
        path = os.environ.get("PATH", "")
        remedy = "install the AWS CLI, or add its directory to the PATH of Patroni's service"
        raise InvalidArgs(f"--event-bus: command aws not found in PATH ({path}); {remedy}")


def check_regular_file(option: str, file: str) -> None:
    """Raises InvalidArgs if the file is not a regular one: opening a FIFO waits until another process opens it."""
    try:
        regular = stat.S_ISREG(os.stat(file).st_mode)
    except OSError as error:
        raise InvalidArgs(f"{option} {file}: {error.strerror}")
    if not regular:
        raise InvalidArgs(f"{option} {file}: not a regular file; copy its content into one")


def tls_context(ca_file: Optional[str], client_cert: Optional[str], client_key: Optional[str]) -> ssl.SSLContext:
    """Returns a TLS context that requires TLS 1.2 or newer and verifies the server. Raises InvalidArgs."""
    if client_key and not client_cert:
        raise InvalidArgs("--client-key requires --client-cert")
    files = {"--ca-file": ca_file, "--client-cert": client_cert, "--client-key": client_key}
    for option, file in files.items():
        if file:
            check_regular_file(option, file)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgs(f"--ca-file {ca_file}: {error}")
    try:
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # novermin
    except AttributeError:  # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    if client_cert:
        try:
            # With password=None, OpenSSL would prompt for the password of an encrypted key in the terminal.
            context.load_cert_chain(client_cert, client_key, password="")
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgs(f"--client-cert {client_cert}: {error}")
    return context


def set_up_log(file: Optional[str]) -> None:
    """Logs one line per attempt to a file, or to standard error, which is Patroni's own log."""
    handler = STDERR  # type: logging.Handler
    problem = None
    if file and file != "/dev/stderr":
        try:
            handler = open_log(file)
        except OSError as error:
            problem = error.strerror
    handler.setFormatter(STDERR.formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if problem:
        logger.error("--log-file %s: %s; logging to standard error instead", file, problem)


def open_log(file: str) -> logging.Handler:
    """Returns a handler that appends to a file. Raises OSError."""
    if file == "/dev/stdout":  # It may be a pipe or a socket.
        return logging.StreamHandler(open(1, "w", encoding="utf-8", closefd=False))
    mode = os.stat(file).st_mode if os.path.exists(file) else stat.S_IFREG
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):  # A FIFO without a reader would block.
        raise OSError(errno.EINVAL, "not a regular file")
    return logging.FileHandler(file, encoding="utf-8")


def find_proxy(proxy_url: Optional[str], parts: SplitResult) -> Optional[Proxy]:
    """Returns the proxy for a URL: that of --proxy, or for https:// that of the environment. None: connect directly."""
    if proxy_url is not None:
        return parse_proxy("--proxy", proxy_url)
    environment = urllib.request.getproxies().get("https")
    if not environment or parts.scheme != "https" or urllib.request.proxy_bypass(parts.netloc):
        return None
    return parse_proxy("HTTPS_PROXY", environment)


def parse_proxy(source: str, url: str) -> Proxy:
    """Parses the URL of a proxy; "http://" may be absent. Raises InvalidArgs; its message contains no password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = http.client.HTTP_PORT if parts.port is None else parts.port
        host = (parts.hostname or "").encode("idna").decode()
        user = unquote_to_bytes(parts.username or "")
        password = unquote_to_bytes(parts.password or "")
    except ValueError:
        host = ""
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        expected = "expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT; percent-encode special characters"
        raise InvalidArgs(f"{source}: not the URL of a proxy; {expected}")
    if parts.scheme != "http":
        raise InvalidArgs(f"{source}: only http:// proxies are supported")
    credentials = base64.b64encode(user + b":" + password).decode()
    return Proxy(host, port, {} if parts.username is None else {"Proxy-Authorization": f"Basic {credentials}"})


def request_target(parts: SplitResult) -> str:
    """Returns path and query of a URL, for the request line (RFC 9112, 3.2.1)."""
    return (parts.path or "/") + ("?" + parts.query if parts.query else "")


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


def elapsed() -> float:
    """Returns the time since the role change (s)."""
    return boot_time() - STARTED


if __name__ == "__main__":
    # Ctrl-C exits without a traceback. os._exit does not wait for the threads of attempts that timed out.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os._exit(main(sys.argv[1:]))
