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
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import random
import socket
import ssl
import stat
import sys
import threading
import time
import uuid
from typing import Any, Dict, List, NoReturn, Optional
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

#: For one attempt, s: API Gateway gives up after 30.
ATTEMPT_TIMEOUT = 35.0
#: The longest pause between two attempts, s.
MAX_PAUSE = 10.0
#: As much of an answer is read, bytes.
MAX_ANSWER = 64 * 1024
#: Of a secret, bytes (Standard Webhooks, "Signature scheme").
SECRET_SIZE = range(24, 65)
#: Where a secret may be instead of a file.
SECRET_VARIABLE = "BARMAN_CONFIG_SWITCH_SECRET"

logger = logging.getLogger("barman_config_switch")


class InvalidArgs(Exception):
    """An argument is wrong; the message names it and the remedy."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse ends with 2 for wrong arguments, which would read as CONFIG_SWITCH_FAILED."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgs(f"{message} ({self.prog} --help says more)")


class Target:
    """A URL to send to. Raises InvalidArgs."""

    def __init__(self, url: str, tls: Optional[ssl.SSLContext], allow_plain_http: bool) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidArgs(f"--url {url}: {error}")
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise InvalidArgs(f"--url {url}: give an address such as https://example.com/config-switch")
        if parts.username is not None or parts.fragment:
            raise InvalidArgs("--url: a user, a password or a fragment have no place in it")
        if parts.scheme == "http" and not (allow_plain_http or is_loopback(parts.hostname)):
            raise InvalidArgs(f"--url {url}: nothing protects http://; use https://, or --allow-plain-http")
        self.url = url
        self.host = parts.hostname
        self.port = port
        self.path = path_of(parts)
        self.tls = tls if parts.scheme == "https" else None

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=ATTEMPT_TIMEOUT)
        return http.client.HTTPSConnection(self.host, self.port, timeout=ATTEMPT_TIMEOUT, context=self.tls)


class Attempt:
    """How one attempt ended: for good, with an exit code, or not."""

    def __init__(self, exit_code: int, message: str, again: bool = False, retry_after: float = 0.0) -> None:
        self.exit_code = exit_code
        self.message = message
        self.again = again
        self.retry_after = retry_after


def main(argv: List[str]) -> int:
    """Runs the callback. Gives the exit code; raises nothing."""
    try:
        args = parse(argv)
        set_up_log(args.log_file)
        secrets = read_secrets(args.secret_file)
        tls = tls_context(args.ca_file, args.client_cert, args.client_key)
        targets = [Target(url, tls, args.allow_plain_http) for url in args.url]
    except InvalidArgs as error:
        print(f"barman_config_switch: {error}", file=sys.stderr)
        logger.error("%s", error)
        return INVALID_ARGS

    webhook_id = f"msg_{uuid.uuid4()}"
    codes = {}  # type: Dict[str, int]

    def run(target: Target) -> None:
        try:
            codes[target.url] = send(target, secrets, webhook_id, args)
        except Exception as error:
            # Whatever it is: Patroni's log is no place for a traceback, and it must not read as SKIPPED.
            logger.error("%s: %s: %s", target.url, type(error).__name__, error)

    threads = [threading.Thread(target=run, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        # An attempt may be in a call that has no time-out of its own, such as a look-up of a name.
        thread.join(max(0.0, args.max_time - elapsed()) + ATTEMPT_TIMEOUT)
    return max(codes.get(target.url, HTTP_ERROR) for target in targets)


def send(target: Target, secrets: List[bytes], webhook_id: str, args: argparse.Namespace) -> int:
    """Sends the role change until it has been answered for good. Gives the exit code."""
    attempt = 1
    while True:
        result = try_once(target, secrets, webhook_id, args)
        level = logging.INFO if result.exit_code <= 1 else logging.ERROR
        logger.log(level, "%s, attempt %d: %s", target.url, attempt, result.message)
        # Each pause is up to twice as long as the one before, and random: all nodes begin at the same moment.
        pause = max(
            result.retry_after, args.retry_wait + random.uniform(0, min(MAX_PAUSE, args.retry_wait * 2**attempt))
        )
        out_of_attempts = args.max_retries is not None and attempt >= args.max_retries
        if not result.again or out_of_attempts or elapsed() + pause > args.max_time:
            return result.exit_code
        time.sleep(pause)
        attempt += 1


def try_once(target: Target, secrets: List[bytes], webhook_id: str, args: argparse.Namespace) -> Attempt:
    """Sends the role change once."""
    body = json.dumps(payload(args)).encode()
    timestamp = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "barman_config_switch",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secrets, webhook_id, timestamp, body),
    }
    connection = target.connect()
    # A server that sends a byte now and then would never run into the time-out of a socket.
    watchdog = threading.Timer(ATTEMPT_TIMEOUT, cut, [connection])
    watchdog.daemon = True
    watchdog.start()
    try:
        connection.request("POST", target.path, body, headers)
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER)
        return judge(response.status, response.getheader("retry-after"), answer)
    except ssl.SSLError as error:
        return Attempt(
            HTTP_ERROR,
            f"TLS failed: {one_line(str(error))}; see --ca-file, --client-cert and the URL's name",
            again=True,
        )
    except (OSError, http.client.HTTPException) as error:
        return Attempt(HTTP_ERROR, "no answer: " + one_line(str(error) or type(error).__name__), again=True)
    finally:
        watchdog.cancel()
        connection.close()


def judge(status: int, retry_after: Optional[str], body: bytes) -> Attempt:
    """What an answer means."""
    try:
        pause = min(600.0, max(0.0, float(retry_after or 0)))
    except ValueError:
        pause = 0.0
    try:
        answer = json.loads(body.decode())
    except ValueError:
        answer = None
    exit_code = answer.get("exit_code") if isinstance(answer, dict) else None
    if type(exit_code) is int and exit_code in EXIT_CODES.values() and isinstance(answer, dict):
        recorded = answer.get("recorded") is True
        message = "{} {}{}".format(answer.get("exit_status"), answer.get("message"), " (recorded)" if recorded else "")
        return Attempt(exit_code, one_line(message), exit_code == HTTP_ERROR and not recorded, pause)
    if status == 401:
        message = "401: the signature was not accepted; the secret is not the function's, or this node's clock is wrong"
        return Attempt(HTTP_ERROR, message)
    message = "{}: {}".format(status, one_line(body.decode(errors="replace")))
    if 300 <= status < 400:
        return Attempt(HTTP_ERROR, message + " (redirects are not followed; correct the URL)")
    again = status == 429 or status >= 500 or status < 300
    return Attempt(HTTP_ERROR, message, again, pause)


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
    parser = ArgumentParser(
        prog="barman_config_switch.py", description="Tells barman-config-switch that the role of this node has changed."
    )
    parser.add_argument("--url", action="append", required=True, help="the function's; again for each Barman host")
    parser.add_argument("--secret-file", help=f"with the webhook secret; or it is in ${SECRET_VARIABLE}")
    parser.add_argument("--ca-file", help="CA certificates, PEM, in place of the system's")
    parser.add_argument("--client-cert", help="client certificate, PEM, if the API wants one")
    parser.add_argument("--client-key", help="its key, PEM, if it is not in the same file")
    parser.add_argument("--allow-plain-http", action="store_true", help="allow http:// beyond loopback")
    parser.add_argument("--retry-wait", type=seconds, default=2.0, help="the shortest pause, s (%(default)s)")
    parser.add_argument("--max-retries", type=count, help="attempts in all (as many as --max-time allows)")
    parser.add_argument("--max-time", type=seconds, default=600.0, help="for all attempts, s (%(default)s)")
    parser.add_argument("--log-file", help="in place of standard error")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and say what would be")
    commands = parser.add_subparsers(dest="command", metavar="config-switch")
    switch = commands.add_parser("config-switch", prog="barman_config_switch.py config-switch")
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
    return args


def seconds(text: str) -> float:
    """A number of seconds."""
    value = float(text)
    if not 0 <= value < 1e6:
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """A number of attempts."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
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
                    raise InvalidArgs(f"{where}: others can read it; chmod 600 it")
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
    """One line an attempt. Raises InvalidArgs."""
    try:
        handler = logging.FileHandler(file) if file else logging.StreamHandler()
    except OSError as error:
        raise InvalidArgs(f"--log-file {file}: {error.strerror}")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


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


def one_line(text: str) -> str:
    """Short, and harmless in a log."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= 500 else words[:500] + "…"


def cut(connection: http.client.HTTPConnection) -> None:
    """Ends a connection under whoever reads from it."""
    try:
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def elapsed() -> float:
    """Since the role changed, s."""
    return time.monotonic() - STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
