#!/usr/bin/env python3
"""Patroni's on_role_change callback for barman-config-switch: tells it that the role of this node has changed.

Copy this one file to each database node; it needs Python 3.6 or newer and nothing else. In patroni.yml:

    postgresql:
      callbacks:
        on_role_change: >-
          /etc/patroni/barman_config_switch.py --url https://.../config-switch --secret-file /etc/patroni/webhook-secret
          config-switch --barman-server main --barman-model pg:node1 --switch-when promoted

Patroni appends "on_role_change ROLE SCOPE". The words are those of patroni_barman. What is not recorded yet is sent
again, for ten minutes; once it is recorded, barman-config-switch drives on by itself.

It ends with the ExitCode of the answer, of several URLs with the greatest: 0 done, 1 skipped, 2 failed, 3 no answer or
an HTTP error, 4 wrong arguments or an invalid payload.
"""

import argparse
import base64
import binascii
import email.message
import email.utils
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
import signal
import socket
import ssl
import stat
import sys
import threading
import time
import uuid
from typing import Any, Callable, Dict, List, NoReturn, Optional
from urllib.parse import SplitResult, urlsplit

#: By the monotonic clock, s: the role has changed right before.
STARTED = time.monotonic()

EXIT_CODES = {
    "CONFIG_SWITCH_DONE": 0,
    "CONFIG_SWITCH_SKIPPED": 1,
    "CONFIG_SWITCH_FAILED": 2,
    "HTTP_ERROR": 3,
    "INVALID_ARGS": 4,
}
HTTP_ERROR = EXIT_CODES["HTTP_ERROR"]
INVALID_ARGS = EXIT_CODES["INVALID_ARGS"]

#: To connect to one address, s; while packets are lost, another address or another attempt may do.
CONNECT_TIMEOUT = 10.0
#: For one attempt, connecting included, s: API Gateway gives up 30 after it got the request.
ATTEMPT_TIMEOUT = 45.0
#: The most that the pauses between attempts grow to, s.
MAX_PAUSE = 10.0
#: As long a Retry-After is heeded, s: Barman must not follow the old primary because a proxy said "in an hour".
MAX_RETRY_AFTER = 60.0
#: How far from the server's clock a webhook may be dated, s (Standard Webhooks, "Verifying signatures").
TOLERANCE = 300
#: As much of an answer is read, bytes.
MAX_ANSWER = 64 * 1024
#: Of a secret, bytes (Standard Webhooks, "Signature scheme").
SECRET_SIZE = range(24, 65)
#: Where a secret may be instead of a file.
SECRET_VARIABLE = "BARMAN_CONFIG_SWITCH_SECRET"

logger = logging.getLogger("barman_config_switch")
STDERR = logging.StreamHandler()
# A log that cannot be written, a full disk say, is no reason for tracebacks, nor for Barman not to follow.
logging.raiseExceptions = False


class InvalidArgs(Exception):
    """An argument is wrong; the message names it and the remedy."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse ends with 2 for wrong arguments, which would read as CONFIG_SWITCH_FAILED."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgs(f"{message} ({self.prog} --help says more)")


class LogLine(logging.Formatter):
    """One line, whatever a server sent; no secret, wherever somebody wrote it."""

    def format(self, record: logging.LogRecord) -> str:
        return re.sub(r"whsec_[\w+/=-]*", "whsec_…", one_line(super().format(record), 4000))


class Target:
    """A URL to send to. Raises InvalidArgs."""

    def __init__(self, url: str, tls: ssl.SSLContext, allow_plain_http: bool) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError as error:
            raise InvalidArgs(f"--url {url}: {error}")
        if parts.scheme not in ("https", "http") or not host:
            raise InvalidArgs(f"--url {url}: give an address such as https://example.com/config-switch")
        if not re.fullmatch("[!-~]+", url):
            raise InvalidArgs(f"--url {url}: letters beyond ASCII, and spaces, have no place in it; use %XX")
        if parts.username is not None or parts.fragment:
            raise InvalidArgs("--url: a user, a password or a fragment have no place in it")
        if parts.scheme == "http" and not (allow_plain_http or is_loopback(host)):
            raise InvalidArgs(f"--url {url}: nothing protects http://; use https://, or --allow-plain-http")
        self.url = url
        self.host = host
        self.port = port
        self.path = path_of(parts)
        self.tls = tls if parts.scheme == "https" else None

    def connection(self) -> http.client.HTTPConnection:
        """To where the URL says; not connected yet."""
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=CONNECT_TIMEOUT)
        return http.client.HTTPSConnection(self.host, self.port, timeout=CONNECT_TIMEOUT, context=self.tls)


class Attempt:
    """How one attempt ended: for good, with an exit code, or not."""

    def __init__(self, exit_code: int, message: str, again: bool = False, pause: float = 0.0) -> None:
        self.exit_code = exit_code
        self.message = one_line(message, 500)
        self.again = again
        self.pause = pause


def main(argv: List[str]) -> int:
    """Runs the callback. Gives the exit code, whatever happens: Python's own 1 would read as CONFIG_SWITCH_SKIPPED."""
    try:
        return run(argv)
    except InvalidArgs as error:
        logger.addHandler(STDERR)  # Beside the log file: somebody may be trying it by hand.
        logger.error("%s", error)
        return INVALID_ARGS
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, error)
        return HTTP_ERROR


def run(argv: List[str]) -> int:
    """Sends the role change to each URL. Gives the greatest exit code. Raises InvalidArgs."""
    STDERR.setFormatter(LogLine("%(asctime)s %(levelname)s: %(message)s"))
    args = parse(argv)
    set_up_log(args.log_file)
    secrets = read_secrets(args.secret_file)
    tls = tls_context(args.ca_file, args.client_cert, args.client_key)
    targets = [Target(url, tls, args.allow_plain_http) for url in args.url]

    webhook_id = f"msg_{uuid.uuid4()}"
    codes = [HTTP_ERROR] * len(targets)

    def send_to(index: int) -> None:
        try:
            codes[index] = send(targets[index], secrets, webhook_id, args)
        except Exception as error:  # No thread could be started, say; the other URLs go on.
            logger.error("%s: %s: %s", targets[index].url, type(error).__name__, error)

    threads = [threading.Thread(target=send_to, args=(index,), daemon=True) for index in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(codes)


def send(target: Target, secrets: List[bytes], webhook_id: str, args: argparse.Namespace) -> int:
    """Sends the role change until it has been answered for good. Gives the exit code."""
    attempts = 0
    while True:
        attempts += 1
        limit = max(0.0, min(ATTEMPT_TIMEOUT, args.max_time - elapsed()))
        result = within(limit, functools.partial(try_once, target, secrets, webhook_id, args, elapsed() + limit))
        # Each pause is up to twice as long as the one before, and random: all nodes begin at the same moment.
        growth = min(MAX_PAUSE, args.retry_wait * 2 ** min(attempts, 20))
        pause = max(result.pause, args.retry_wait) + random.uniform(0, growth)
        out_of_attempts = attempts == args.max_retries or elapsed() + pause >= args.max_time
        message = f"{target.url}, attempt {attempts}: {result.message}"
        if result.again and not out_of_attempts:
            logger.warning("%s; again in %.1f s", message, pause)
            time.sleep(pause)
            continue
        level = logging.INFO if result.exit_code <= EXIT_CODES["CONFIG_SWITCH_SKIPPED"] else logging.ERROR
        logger.log(level, "%s%s", message, "; given up" if result.again else "")
        return result.exit_code


def within(limit: float, attempt: Callable[[], Attempt]) -> Attempt:
    """Gives up on an attempt: the look-up of a name, or a server that sends a byte now and then, heeds no time-out."""
    results = []  # type: List[Attempt]
    thread = threading.Thread(target=lambda: results.append(attempt()), daemon=True)
    thread.start()
    thread.join(limit)
    return results[0] if results else Attempt(HTTP_ERROR, f"no answer within {limit:.1f} s", again=True)


def try_once(
    target: Target, secrets: List[bytes], webhook_id: str, args: argparse.Namespace, deadline: float
) -> Attempt:
    """Sends the role change once; raises nothing."""
    try:
        connection = target.connection()
        try:
            connection.connect()
            connection.sock.settimeout(ATTEMPT_TIMEOUT)
            if elapsed() >= deadline:  # Nobody waits for it any more; the next attempt may be on its way.
                raise socket.timeout("timed out while connecting")
            # Only now: had connecting not been counted in, an old role change would look like a new one.
            body = json.dumps(payload(args)).encode()
            connection.request("POST", target.path, body, headers(secrets, webhook_id, body))
            response = connection.getresponse()
            return judge(response.status, response.headers, response.read(MAX_ANSWER))
        finally:
            connection.close()
    except (ssl.SSLError, ssl.CertificateError) as error:
        message = f"TLS failed: {error}; see --ca-file, --client-cert and the URL's name"
    except Exception as error:  # A socket's, http.client's; whatever it is, it is no answer.
        message = f"no answer: {error or type(error).__name__}"
    return Attempt(HTTP_ERROR, message, again=True)


def judge(status: int, header: email.message.Message, body: bytes) -> Attempt:
    """What an answer means."""
    if 300 <= status < 400:
        return Attempt(HTTP_ERROR, f"{status}: redirects are not followed; correct the URL")
    now = seconds_of(header.get("date", ""))
    if status == 401:
        return Attempt(HTTP_ERROR, f"401: {why_rejected(now)}")
    pause = retry_after(header.get("retry-after", ""), now or time.time())
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        answer = None
    exit_code = answer.get("exit_code") if isinstance(answer, dict) else None
    if type(exit_code) is int and exit_code in EXIT_CODES.values() and isinstance(answer, dict):
        recorded = answer.get("recorded") is True
        message = "{} {}{}".format(answer.get("exit_status"), answer.get("message"), " (recorded)" if recorded else "")
        return Attempt(exit_code, message, exit_code == HTTP_ERROR and not recorded, pause)
    again = status in (408, 429) or status >= 500 or status < 300
    return Attempt(HTTP_ERROR, f"{status}: {body.decode(errors='replace')}", again, pause)


def why_rejected(now: Optional[float]) -> str:
    """The likely cause of a 401; now is what the server's clock says, s since the epoch."""
    secret = "the secret is none of those in the function's parameter webhook-secret"
    if now is None:
        return f"{secret}, or this node's clock is wrong"
    ahead = time.time() - now
    if abs(ahead) <= TOLERANCE:
        return f"{secret} (this node's clock is right)"
    return (
        f"this node's clock is {abs(ahead):.0f} s {'fast' if ahead > 0 else 'slow'}; set it (the secret may be right)"
    )


def retry_after(header: str, now: float) -> float:
    """How long to wait at least, s: a number of seconds, or until a date."""
    wait = float(header) if re.fullmatch("[0-9]{1,9}", header) else (seconds_of(header) or now) - now
    return min(MAX_RETRY_AFTER, max(0.0, wait))


def seconds_of(date: str) -> Optional[float]:
    """A date of HTTP, s since the epoch; None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # Which of them, depends on the version of Python.
        return None


def headers(secrets: List[bytes], webhook_id: str, body: bytes) -> Dict[str, str]:
    """What goes with a body that is sent now."""
    timestamp = int(time.time())
    return {
        "content-type": "application/json",
        "user-agent": "barman_config_switch",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secrets, webhook_id, timestamp, body),
    }


def payload(args: argparse.Namespace) -> Dict[str, Any]:
    """The role change, as barman-config-switch wants it."""
    wish = {"reset": True} if args.reset else {"barman_model": args.barman_model}  # type: Dict[str, Any]
    return {
        "action": args.action,
        "role": args.role,
        "cluster": args.cluster,
        "barman_server": args.barman_server,
        **wish,
        "switch_when": args.switch_when,
        "age_ms": int(elapsed() * 1000),
        **({"dry_run": True} if args.dry_run else {}),
    }


def signature(secrets: List[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The webhook-signature header of Standard Webhooks, with each secret."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digests = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def parse(argv: List[str]) -> argparse.Namespace:
    """Reads the command line. Raises InvalidArgs."""
    # No abbreviations: --secret would be --secret-file, and take a secret for a name.
    parser = ArgumentParser(
        prog="barman_config_switch.py",
        description="Tells barman-config-switch that the role of this node has changed.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", action="append", required=True, help="the function's; again for each Barman host")
    parser.add_argument("--secret-file", help=f"with the webhook secret; or it is in ${SECRET_VARIABLE}")
    parser.add_argument("--ca-file", help="CA certificates, PEM, in place of the system's")
    parser.add_argument("--client-cert", help="client certificate, PEM, if the API wants one")
    parser.add_argument("--client-key", help="its key, PEM, if it is not in the same file")
    parser.add_argument("--allow-plain-http", action="store_true", help="allow http:// beyond loopback")
    parser.add_argument("--retry-wait", type=seconds, default=2.0, help="the shortest pause, s (%(default)s)")
    parser.add_argument("--max-retries", type=count, help="attempts in all (as many as --max-time allows; dry: 1)")
    parser.add_argument("--max-time", type=seconds, default=600.0, help="for all of it, s (%(default)s)")
    parser.add_argument("--log-file", help="in place of standard error")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and say what would be")
    commands = parser.add_subparsers(dest="command", metavar="config-switch")
    switch = commands.add_parser("config-switch", prog="barman_config_switch.py config-switch", allow_abbrev=False)
    switch.add_argument("--barman-server", required=True, help="the server in Barman's configuration")
    wish = switch.add_mutually_exclusive_group(required=True)
    wish.add_argument("--barman-model", help="the model to apply")
    wish.add_argument("--reset", action="store_true", help="drop the active model")
    switch.add_argument("--switch-when", required=True, choices=["promoted", "demoted", "leader", "always"])
    switch.add_argument("action", choices=["on_role_change"], help="these three come from Patroni")
    switch.add_argument("role")
    switch.add_argument("cluster")
    args = parser.parse_args(argv)
    if args.command is None:
        parser.error("the command config-switch is missing")
    if args.dry_run and args.max_retries is None:
        args.max_retries = 1  # Somebody waits for it, and nothing is lost.
    return args


def seconds(text: str) -> float:
    """A number of seconds."""
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} must be more than 0, and less than 1000000")
    return value


def count(text: str) -> int:
    """A number of attempts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more: it counts the first attempt too")
    return value


def read_secrets(file: Optional[str]) -> List[bytes]:
    """The webhook secrets; more than one while they are rotated. Raises InvalidArgs, without their values."""
    if file is None:
        where = f"${SECRET_VARIABLE}"
        text = os.environ.get(SECRET_VARIABLE, "")
        if not text.strip():
            raise InvalidArgs(f"no secret: give --secret-file, or set {where}")
    else:
        where = f"--secret-file {file}"
        try:
            with open(file, encoding="ascii") as opened:
                if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                    raise InvalidArgs(
                        f"{where}: its group or others can use it; give it to Patroni's user, and chmod 600 it"
                    )
                text = opened.read()
        except OSError as error:
            raise InvalidArgs(f"{where}: {error.strerror}")
        except UnicodeDecodeError:
            raise InvalidArgs(f"{where}: it is not text") from None
    form = "it has to hold whsec_ and 24 to 64 bytes in base64"
    secrets = []
    for word in text.split():
        try:
            secret = base64.b64decode(word[len("whsec_") :], validate=True)
        except binascii.Error:
            secret = b""
        if not word.startswith("whsec_") or len(secret) not in SECRET_SIZE:
            raise InvalidArgs(f"{where}: {form}")
        secrets.append(secret)
    if not secrets:
        raise InvalidArgs(f"{where}: it is empty; {form}")
    return secrets


def tls_context(ca_file: Optional[str], client_cert: Optional[str], client_key: Optional[str]) -> ssl.SSLContext:
    """TLS 1.2 or newer that verifies the server. Raises InvalidArgs."""
    if client_key and not client_cert:
        raise InvalidArgs("--client-key: give its --client-cert too")
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
            # Without a password given, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(client_cert, client_key, password="")
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgs(f"--client-cert {client_cert}: {error}")
    return context


def set_up_log(file: Optional[str]) -> None:
    """One line an attempt, to a file or to standard error, which is Patroni's own log."""
    handler = STDERR  # type: logging.Handler
    problem = None
    if file:
        try:
            handler = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            problem = error.strerror
    handler.setFormatter(STDERR.formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if problem:
        logger.error("--log-file %s: %s; logging here instead", file, problem)


def path_of(parts: SplitResult) -> str:
    """What goes into the request line."""
    return (parts.path or "/") + ("?" + parts.query if parts.query else "")


def is_loopback(host: str) -> bool:
    """Whether a host is this one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def one_line(text: str, most: int) -> str:
    """Not longer than so many letters, and harmless in a log."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= most else words[:most] + "…"


def elapsed() -> float:
    """Since the role changed, s."""
    return time.monotonic() - STARTED


if __name__ == "__main__":
    # Ctrl-C ends it without a traceback; and an attempt that was given up is not waited for at the end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os._exit(main(sys.argv[1:]))
