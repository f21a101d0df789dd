"""Tests of the callback for Patroni nodes, over real sockets and real TLS.

UPDATE_DOCS=1 writes the table of its options into docs/reference/callback.md.
"""

import atexit
import base64
import contextlib
import email.message
import email.utils
import functools
import hashlib
import hmac
import http.server
import importlib.util
import io
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALLBACK = ROOT / "patroni" / "barman_config_switch.py"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
SWITCH = ["config-switch", "--barman-server", "main", "--barman-model", "pg:node1", "--switch-when", "promoted"]
FOLLOW_LEADER = ["config-switch", "--barman-server", "main", "--follow-leader", "--switch-when", "promoted"]
FROM_PATRONI = ["on_role_change", "primary", "main"]
#: An event bus, and the stage whose rule takes the events.
BUS = ["--event-bus", "patroni", "--stage", "prod"]
QUICK = ["--retry-wait", "0.01"]
#: Without the proxy settings and the secret of whoever runs the tests: Patroni passes neither.
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.lower().endswith("_proxy") and name != "BARMAN_CONFIG_SWITCH_SECRET"
}
#: The payload of the role change that the tests send, without its age.
ROLE_CHANGE = {
    "action": "on_role_change",
    "role": "primary",
    "cluster": "main",
    "barman_server": "main",
    "barman_model": "pg:node1",
    "switch_when": "promoted",
    "node": socket.gethostname()[:64],
}

spec = importlib.util.spec_from_file_location("barman_config_switch", str(CALLBACK))
callback = importlib.util.module_from_spec(spec)
spec.loader.exec_module(callback)


def response(exit_code, status=200, recorded=True, headers=()):
    """Returns status, body and headers of a response of the function."""
    name = callback.ExitCode(exit_code).name
    body = {"exit_code": exit_code, "exit_status": name, "message": "test message", "recorded": recorded}
    return status, json.dumps(body).encode(), dict(headers)


def settings(*options):
    """Returns the settings of a command line."""
    return callback.parse([*options, *SWITCH, *FROM_PATRONI])


def endpoint(url, *options):
    """Returns the endpoint of a URL."""
    given = settings("--url", url, *options)
    return callback.Endpoint(url, given, [b"secret"], callback.tls_context(given))


@functools.lru_cache(maxsize=None)
def certificates():
    """Creates a CA, certificates of it for a server and a client, and an encrypted key, in a folder."""
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, str(folder))

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=str(folder), check=True, stderr=subprocess.DEVNULL)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
    ca = ["-x509", "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem"]
    openssl(*new, "/CN=Test CA", *ca)
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    for name in ("server", "client"):
        openssl(*new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        openssl(*sign, "-extfile", "san", "-out", f"{name}.pem")
    openssl("pkey", "-in", "client.key", "-aes256", "-passout", "pass:word", "-out", "locked.key")
    return folder


def certificate(name):
    """Returns the path of one of the certificates or keys."""
    return str(certificates() / name)


def server_context():
    """Returns the TLS settings of a server with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate("server.pem"), certificate("server.key"))
    return context


class Function:
    """Stand-in for the function's HTTP API. Sends the given responses in order, and repeats the last one."""

    def __init__(self, *responses, context=None, host="127.0.0.1", keep_alive=False):
        self.requests = []
        self.arrived = threading.Event()
        function = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                function.requests.append((self.path, dict(self.headers), body, time.time()))
                turn = min(len(function.requests), len(responses)) - 1
                function.arrived.set()
                scripted = responses[turn]
                if callable(scripted):
                    scripted(self)
                    return
                status, content, headers = scripted
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

            def server_bind(self):
                # HTTPServer.server_bind would look up the host name, which can be slow.
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = self.server_address[:2]

            def handle_error(self, *_):
                pass

        self.host = f"[{host}]" if ":" in host else host
        self.server = Server((host, 0), Handler)
        self.scheme = "http"
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(
            target=self.server.serve_forever,
            kwargs={"poll_interval": 0.01},
            daemon=True,
        ).start()

    @property
    def address(self):
        return f"{self.host}:{self.server.server_port}"

    @property
    def url(self):
        return f"{self.scheme}://{self.address}/config-switch"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Proxy:
    """Stand-in for an HTTP proxy. Answers CONNECT with the status, and relays if that is 200."""

    def __init__(self, status="200 Connection established"):
        self.requests = []
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                lines = []
                while not lines or lines[-1]:
                    lines.append(self.rfile.readline().decode().rstrip())
                proxy.requests.append((lines[0], email.message_from_string("\n".join(lines[1:]))))
                self.wfile.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
                if status.startswith("200"):
                    host, port = lines[0].split()[1].rsplit(":", 1)
                    with socket.create_connection((host, int(port))) as function:
                        back = threading.Thread(target=self.relay, args=(function, self.connection), daemon=True)
                        back.start()
                        self.relay(self.connection, function)
                        back.join()

            def relay(self, source, target):
                try:
                    for data in iter(lambda: source.recv(65536), b""):
                        target.sendall(data)
                    target.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class FakeAws:
    """Stand-in for the aws command. Runs the given Python programs in order, and repeats the last one."""

    def __init__(self, folder, *programs):
        self.record = folder / "aws-calls"
        self.record.touch()
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        # No other folder: no test may find a real aws command.
        self.env = {"PATH": str(bin_folder)}
        script = bin_folder / "aws"
        script.write_text(
            f"#!{sys.executable}\n"
            "import json, os, signal, subprocess, sys\n"
            f"with open({str(self.record)!r}, 'a+') as record:\n"
            "    record.write(json.dumps({'arguments': sys.argv[1:], 'environment': dict(os.environ)}) + '\\n')\n"
            "    record.seek(0)\n"
            "    calls = len(record.readlines())\n"
            f"exec({programs!r}[min(calls, {len(programs)}) - 1])\n"
        )
        script.chmod(0o755)

    @property
    def calls(self):
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    @property
    def entries(self):
        """The entry of each call."""
        entries = []
        for call in self.calls:
            (entry,) = json.loads(call["arguments"][call["arguments"].index("--entries") + 1])
            entries.append(entry)
        return entries


#: Outputs of aws events put-events: EventBridge has accepted the event, or has not.
ACCEPTED = 'print(json.dumps({"FailedEntryCount": 0, "Entries": [{"EventId": "11710aed-b79e"}]}))'
THROTTLED = (
    'print(json.dumps({"FailedEntryCount": 1,'
    ' "Entries": [{"ErrorCode": "ThrottlingException", "ErrorMessage": "Slow"}]}))'
)


class CallbackTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, str(self.folder))
        self.secret_file = self.folder / "webhook-secret"
        self.write_secret(SECRET)

    def write_secret(self, text, mode=0o600):
        self.secret_file.write_text(text)
        self.secret_file.chmod(mode)

    def function(self, *responses, **options):
        function = Function(*responses, **options)
        self.addCleanup(function.close)
        return function

    def tls_function(self, *responses, **options):
        return self.function(*responses, context=server_context(), **options)

    def fifo(self):
        fifo = self.folder / "fifo"
        os.mkfifo(str(fifo))
        return fifo

    def unused_address(self):
        """Returns an address of which nothing listens at the port."""
        bound = socket.socket()
        self.addCleanup(bound.close)
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"

    def arguments(self, *options, switch=SWITCH, patroni=FROM_PATRONI):
        return ["--secret-file", str(self.secret_file), *options, *switch, *patroni]

    def run_callback(self, *options, env=None, **arguments):
        """Runs the callback in this process, without random delays. Returns the exit code and the output."""
        output = io.StringIO()
        with contextlib.ExitStack() as stack:
            for context in [
                mock.patch.dict(os.environ, {**ENV, **(env or {})}, clear=True),
                mock.patch.object(callback, "STARTED", callback.boot_time()),
                mock.patch.object(callback.random, "uniform", lambda low, _: low),
                mock.patch.object(callback.STDERR, "stream", output),
                contextlib.redirect_stderr(output),
            ]:
                stack.enter_context(context)
            code = callback.main(self.arguments(*options, **arguments))
        for handler in list(callback.logger.handlers):
            callback.logger.removeHandler(handler)
            handler.close()
        return self.checked(code, output.getvalue())

    def run_process(self, *options, env=None, stderr=subprocess.PIPE, **arguments):
        """Runs the callback as Patroni does. Returns the exit code and the output."""
        command = [sys.executable, str(CALLBACK), *self.arguments(*options, **arguments)]
        env = {**ENV, **(env or {})}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=env, timeout=60, check=False)
        return self.checked(done.returncode, (done.stdout + (done.stderr or b"")).decode())

    def checked(self, code, output):
        """Checks that the output has no traceback and no secret."""
        self.assertNotIn("Traceback", output)
        self.assertNotIn(SECRET[6:], output)
        return code, output

    # The request.

    def test_payload_has_the_fields_of_the_role_change(self):
        function = self.function(response(0))
        code, output = self.run_process("--url", function.url)
        self.assertEqual(code, 0, output)
        ((path, headers, body, _),) = function.requests
        self.assertEqual(path, "/config-switch")
        payload = json.loads(body.decode())
        self.assertGreaterEqual(payload.pop("age_ms"), 0)
        self.assertEqual(payload, ROLE_CHANGE)
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(headers["user-agent"], f"barman_config_switch/{callback.VERSION}")

    def test_payload_with_follow_leader_has_neither_model_nor_reset(self):
        function = self.function(response(0))
        code, output = self.run_process("--url", function.url, switch=FOLLOW_LEADER)
        self.assertEqual(code, 0, output)
        payload = json.loads(function.requests[0][2].decode())
        self.assertIs(payload["follow_leader"], True)
        self.assertFalse({"barman_model", "reset"} & set(payload))

    def test_other_actions_are_sent_and_retried_like_a_role_change(self):
        for action in ["on_reload", "on_start", "on_restart"]:
            with self.subTest(action=action):
                function = self.function((503, b"", {}), response(1, recorded=False))
                code, output = self.run_callback(
                    "--url", function.url, *QUICK, switch=FOLLOW_LEADER, patroni=[action, "replica", "main"]
                )
                self.assertEqual((code, len(function.requests)), (1, 2), output)
                self.assertIn("INFO: ", output.splitlines()[-1])
                payload = json.loads(function.requests[1][2].decode())
                self.assertEqual((payload["action"], payload["role"]), (action, "replica"))

    def test_node_is_the_host_name_cut_to_64_characters_and_absent_if_it_cannot_be_read(self):
        function = self.function(response(0))
        for name, expected in [
            ({"return_value": "db-1.example.com"}, "db-1.example.com"),
            ({"return_value": "x" * 65}, "x" * 64),
            ({"return_value": "caf\udce9"}, "caf\ufffd"),
            ({"side_effect": OSError("no host name")}, None),
            ({"side_effect": UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid")}, None),
        ]:
            with self.subTest(name=name), mock.patch.object(callback.socket, "gethostname", **name):
                code, output = self.run_callback("--url", function.url)
                self.assertEqual((code, len(output.splitlines())), (0, 1), output)
                self.assertEqual(json.loads(function.requests[-1][2].decode()).get("node"), expected)

    def test_payload_with_reset_and_dry_run_and_role_master(self):
        function = self.function(response(1))
        switch = ["config-switch", "--barman-server", "main", "--reset", "--switch-when", "always"]
        from_patroni = ["on_role_change", "master", "main"]
        code, _ = self.run_callback("--url", function.url, "--dry-run", switch=switch, patroni=from_patroni)
        self.assertEqual(code, 1)
        payload = json.loads(function.requests[0][2].decode())
        self.assertEqual((payload["reset"], payload["dry_run"], payload["role"]), (True, True, "master"))
        self.assertNotIn("barman_model", payload)

    def test_signature_matches_the_reference_example(self):
        # From the tests of the Standard Webhooks reference libraries.
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        signed = callback.signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        self.assertEqual(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")

    def test_each_attempt_has_a_new_signature_and_the_same_id(self):
        function = self.function(response(3, 502, recorded=False), response(3, 502, recorded=False), response(0))
        self.write_secret(f"{SECRET} {OTHER_SECRET}\n")
        code, output = self.run_callback("--url", function.url, *QUICK)
        self.assertEqual(code, 0, output)
        self.assertEqual(len({headers["webhook-id"] for _, headers, _, _ in function.requests}), 1)
        ages = [json.loads(body.decode())["age_ms"] for _, _, body, _ in function.requests]
        self.assertEqual(ages, sorted(set(ages)))
        for _, headers, body, arrived in function.requests:
            self.assertLess(abs(arrived - int(headers["webhook-timestamp"])), 5)
            signed = "{webhook-id}.{webhook-timestamp}.".format(**headers).encode() + body
            digests = [hmac.new(bytes(range(n, n + 32)), signed, hashlib.sha256).digest() for n in (0, 1)]
            expected = ["v1," + base64.b64encode(digest).decode() for digest in digests]
            self.assertEqual(headers["webhook-signature"].split(), expected)

    def test_each_role_change_has_an_id_of_its_own(self):
        function = self.function(response(0))
        for _ in range(2):
            self.run_process("--url", function.url)
        first, second = [headers["webhook-id"] for _, headers, _, _ in function.requests]
        self.assertNotEqual(first, second)

    # The response.

    def test_final_responses_are_not_retried(self):
        for exit_code, status, recorded in [
            (0, 200, True),
            (1, 200, False),
            (2, 502, True),
            (3, 502, True),
            (3, 503, True),
            (4, 400, False),
        ]:
            with self.subTest(exit_code=exit_code, status=status):
                function = self.function(response(exit_code, status, recorded))
                self.assertEqual(self.run_callback("--url", function.url, *QUICK)[0], exit_code)
                self.assertEqual(len(function.requests), 1)

    def test_temporary_failures_are_retried(self):
        for first in [
            response(3, 502, recorded=False),
            response(3, 504, recorded=False),
            response(3, 502, recorded="no"),
            (503, b'{"message":"Service Unavailable"}', {}),
            (429, b'{"message":"Too Many Requests"}', {}),
            (500, b"", {}),
            (200, b"<html>", {}),
            (200, b'{"exit_code":true}', {}),
            (200, b'{"exit_code":7}', {}),
            (200, b"\xff\xfe", {}),
            (200, b"[" * 60000, {}),
            (408, b"", {}),
            (401, b'{"message":"Unauthorized"}', {}),
            (403, b'{"message":"Forbidden"}', {}),
            (404, b'{"message":"Not Found"}', {}),
            response(4, 403, recorded=False),
            response(4, 404, recorded=False),
            (503, b"", {"retry-after": "\xb2", "date": "yesterday"}),
            (200, b"", {"content-length": "many"}),
            (200, b"zz\r\n", {"transfer-encoding": "chunked"}),
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000),
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 " + b"x" * 100000),
            lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
            lambda handler: handler.wfile.write(b"not HTTP\r\n\r\n"),
        ]:
            with self.subTest(first=first):
                function = self.function(first, response(0))
                code, output = self.run_callback("--url", function.url, *QUICK)
                self.assertEqual((code, len(function.requests)), (0, 2), output)
                self.assertEqual(len(output.splitlines()), 2, "one log line per attempt")

    def test_redirects_and_client_errors_are_not_retried(self):
        for status, message in [(301, "redirect"), (308, "redirect"), (400, "400"), (413, "413")]:
            with self.subTest(status=status):
                location = self.function(response(0))
                # The function never redirects: the body of a redirect is ignored, even if it looks valid.
                body = response(0)[1] if status < 400 else b"no"
                function = self.function((status, body, {"location": location.url}))
                code, output = self.run_callback("--url", function.url, *QUICK)
                self.assertEqual((code, len(function.requests), len(location.requests)), (3, 1, 0))
                self.assertIn(message, output)

    def test_refusals_end_with_their_own_exit_code_after_the_last_attempt(self):
        for refusal, expected in [
            ((401, b"", {}), 3),
            ((403, b"no", {}), 3),
            (response(4, 403, recorded=False), 4),
            (response(4, 404, recorded=False), 4),
        ]:
            with self.subTest(refusal=refusal):
                function = self.function(refusal)
                code, output = self.run_callback("--url", function.url, *QUICK, "--max-retries", "3")
                self.assertEqual((code, len(function.requests)), (expected, 3), output)
                self.assertIn("giving up", output.splitlines()[-1])

    def test_401_names_the_secret_or_the_clock_as_the_cause(self):
        def unauthorized(ahead):
            date = email.utils.formatdate(time.time() - ahead, usegmt=True)
            head = f"HTTP/1.1 401 Unauthorized\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n"
            return lambda handler: handler.wfile.write(head.encode())

        for ahead, message in [
            (0, "secret matches none.*webhook-secret and clusters/NAME; its log names.*clock is correct"),
            (-400, r"clock is (39|40)\d s slow"),
            (900, r"clock is 90\d s fast"),
        ]:
            with self.subTest(ahead=ahead):
                function = self.function(unauthorized(ahead))
                code, output = self.run_callback("--url", function.url, "--max-retries", "1")
                self.assertEqual((code, len(output.splitlines())), (3, 1))
                self.assertRegex(output, message)

    def test_wrong_clock_signs_with_the_time_of_a_verified_server(self):
        """A node whose clock is wrong would otherwise lose its role change."""

        def check_timestamp(ahead):
            def handle(handler):
                now = time.time() - ahead
                fresh = abs(int(handler.headers["webhook-timestamp"]) - now) <= 300
                status, body, _ = response(0) if fresh else (401, b"", {})
                date = email.utils.formatdate(now, usegmt=True)
                head = f"HTTP/1.1 {status} x\r\ndate: {date}\r\ncontent-length: {len(body)}\r\n\r\n"
                handler.wfile.write(head.encode() + body)

            return handle

        ca = ["--ca-file", certificate("ca.pem")]
        for ahead, message in [(360, r"36\d s fast"), (-100000, r"(99999|100000) s slow")]:
            with self.subTest(ahead=ahead):
                function = self.tls_function(check_timestamp(ahead))
                code, output = self.run_callback("--url", function.url, *ca, *QUICK)
                self.assertEqual((code, len(function.requests)), (0, 2), output)
                self.assertRegex(output, message + ".*signing with the server's time")
        # Without TLS anyone could answer with a time of the future, and use the signature then.
        function = self.function(check_timestamp(360))
        code, output = self.run_callback("--url", function.url, *QUICK, "--max-retries", "2")
        self.assertEqual((code, len(function.requests)), (3, 2), output)
        self.assertNotIn("signing with", output)

    def test_retry_after_is_the_minimum_delay(self):
        function = self.function(response(3, 503, recorded=False, headers={"retry-after": "40"}), response(0))
        with mock.patch.object(callback.Deadline, "wait"):
            code, output = self.run_callback("--url", function.url, *QUICK)
        self.assertEqual(code, 0)
        self.assertIn("retrying in 40.0 s", output)

    def test_dry_run_is_one_attempt_by_default(self):
        function = self.function(response(3, 502, recorded=False))
        self.assertEqual(self.run_callback("--url", function.url, "--dry-run")[0], 3)
        self.assertEqual(len(function.requests), 1)
        function = self.function(response(3, 502, recorded=False), response(1))
        code, _ = self.run_callback("--url", function.url, "--dry-run", "--max-retries", "2", *QUICK)
        self.assertEqual(code, 1)

    def test_huge_response_is_cut_in_the_log(self):
        function = self.function((200, b"x" * 1000000, {}))
        code, output = self.run_callback("--url", function.url, "--max-retries", "1")
        self.assertEqual(code, 3)
        self.assertLess(len(output), 2000)

    # Several URLs.

    def test_several_urls_are_called_in_parallel(self):
        second = self.function(response(0))

        def respond_after_the_second_request(handler):
            self.assertTrue(second.arrived.wait(30))
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + response(0)[1])

        first = self.function(respond_after_the_second_request)
        self.assertEqual(self.run_callback("--url", first.url, "--url", second.url)[0], 0)

    def test_greatest_exit_code_of_several_urls_is_returned(self):
        """An unavailable URL does not affect the others."""
        urls = []
        functions = [self.function((503, b"", {})), self.function(response(2, 502)), self.function(response(0))]
        for function in functions:
            urls += ["--url", function.url]
        self.assertEqual(self.run_callback(*urls, "--max-retries", "2", *QUICK)[0], 3)
        self.assertEqual([len(function.requests) for function in functions], [2, 1, 1])
        requests = [request for function in functions for request in function.requests]
        self.assertEqual(len({headers["webhook-id"] for _, headers, _, _ in requests}), 1)
        self.assertEqual(self.run_callback(*urls[2:])[0], 2)

    # Time.

    def test_max_time_ends_an_attempt_without_a_response(self):
        release = threading.Event()
        self.addCleanup(release.set)
        function = self.function(lambda handler: release.wait(30))
        code, output = self.run_callback("--url", function.url, "--max-time", "0.5")
        self.assertEqual((code, len(function.requests)), (3, 1))
        self.assertRegex(output, r"no response within 0\.\d s; giving up")

    def test_attempt_times_out_if_the_server_sends_one_byte_at_a_time(self):
        done = threading.Event()
        self.addCleanup(done.set)

        def send_slowly(handler):
            while not done.wait(0.02):
                handler.wfile.write(b"H")

        function = self.function(send_slowly, response(0))
        with mock.patch.object(callback, "HTTP_TIMEOUT", 0.3):
            code, output = self.run_callback("--url", function.url, *QUICK)
        self.assertEqual(code, 0, output)
        self.assertIn("attempt 1: no response within 0.3 s", output)

    def test_clock_does_not_stop_while_the_node_is_suspended(self):
        given = settings("--url", "https://x/")
        clock = getattr(time, "CLOCK_BOOTTIME", 7)
        with mock.patch.object(callback.time, "clock_gettime", lambda asked: {clock: callback.STARTED + 3600}[asked]):
            self.assertAlmostEqual(callback.payload(given)["age_ms"], 3600000, delta=1)
        with mock.patch.object(callback.time, "clock_gettime", side_effect=OSError):
            self.assertEqual(int(callback.boot_time()), int(time.monotonic()))

    def test_age_includes_the_time_to_connect(self):
        """Otherwise a slow connection would make an old role change look newer than it is."""
        ages = []

        def serve(listening):
            connection, _ = listening.accept()
            time.sleep(0.5)  # Simulates lost packets at the start of the TLS handshake.
            with server_context().wrap_socket(connection, server_side=True) as tls:
                request = b""
                while not request.endswith(b"}"):
                    request += tls.recv(65536)
                ages.append(json.loads(request.split(b"\r\n\r\n")[1].decode())["age_ms"])
                body = response(0)[1]
                tls.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1)
            server = threading.Thread(target=serve, args=(listening,))
            server.start()
            url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
            code, output = self.run_callback("--url", url, "--ca-file", certificate("ca.pem"))
            server.join()
        self.assertEqual(code, 0, output)
        self.assertGreaterEqual(ages[0], 500)

    def test_nothing_is_sent_if_connecting_takes_longer_than_the_time_limit(self):
        """The next attempt may be running."""
        function = self.function(response(0))
        late = endpoint(function.url).post(callback.Deadline(callback.boot_time()))
        self.assertEqual((late.exit_code, late.retry), (3, True))
        self.assertIn("timed out while connecting", late.message)
        self.assertEqual(function.requests, [])
        in_time = endpoint(function.url).post(callback.Deadline(callback.boot_time() + 30))
        self.assertEqual((in_time.exit_code, len(function.requests)), (0, 1))

    # The process.

    def test_kill_ends_the_process_at_once_and_leaves_no_files(self):
        release = threading.Event()
        self.addCleanup(release.set)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            with self.subTest(signal=number):
                function = self.function(lambda handler: release.wait(30))
                command = [sys.executable, str(CALLBACK), *self.arguments("--url", function.url)]
                before = sorted(os.listdir(str(self.folder)))
                with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENV) as process:
                    self.assertTrue(function.arrived.wait(30))
                    with open(f"/proc/{process.pid}/cmdline", "rb") as cmdline:
                        self.assertNotIn(SECRET[6:].encode(), cmdline.read(), "visible in ps")
                    process.send_signal(number)
                    self.assertEqual(process.wait(30), -number)
                    self.assertEqual(process.stderr.read(), b"")
                self.assertEqual(sorted(os.listdir(str(self.folder))), before)

    def test_connection_discards_unsent_data_when_the_process_is_killed(self):
        """Through a proxy, the connection to the proxy does."""
        function, proxy = self.tls_function(response(0), keep_alive=True), self.proxy()
        ca = ["--ca-file", certificate("ca.pem")]
        option = getattr(socket, "TCP_USER_TIMEOUT", 18)
        discard, close, found = callback.discard_when_killed, callback.close_normally, []

        def inspect(sock):
            linger = struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
            address = "{}:{}".format(*sock.getpeername())
            found.append((address, type(sock), linger, sock.getsockopt(socket.IPPROTO_TCP, option)))

        def patched(name, change):
            return mock.patch.object(callback, name, lambda sock: (change(sock), inspect(sock)))

        for options, address in [([], function.address), (["--proxy", proxy.address], proxy.address)]:
            with patched("discard_when_killed", discard), patched("close_normally", close):
                result = endpoint(function.url, *ca, *options).attempt(callback.Deadline(callback.boot_time() + 30))
            self.assertEqual(result.exit_code, 0, result.message)
            # Until the response; then the connection is closed normally.
            expected = [(address, ssl.SSLSocket, linger, 5000) for linger in ((1, 0), (0, 0))]
            self.assertEqual([found.pop(0), found.pop(0), *found], expected)

    # EventBridge.

    def aws(self, *programs):
        return FakeAws(self.folder, *programs)

    def test_event_bus_gets_the_role_change_without_a_secret(self):
        aws = self.aws(ACCEPTED)
        self.secret_file.unlink()
        code, output = self.run_callback(*BUS, env=aws.env)
        self.assertEqual(code, 0, output)
        self.assertIn("event bus patroni, attempt 1: accepted by EventBridge, not confirmed", output)
        (call,) = aws.calls
        self.assertEqual(call["arguments"][:2], ["events", "put-events"])
        for option in ("--cli-connect-timeout", "--cli-read-timeout"):
            limit = int(call["arguments"][call["arguments"].index(option) + 1])
            self.assertTrue(0 < limit < callback.AWS_TIMEOUT)
        self.assertEqual(call["environment"]["AWS_MAX_ATTEMPTS"], "1")
        (entry,) = aws.entries
        payload = json.loads(entry.pop("Detail"))
        # No Time: EventBridge dates the event by AWS's clock, whatever this node's clock says.
        self.assertEqual(
            entry, {"Source": "patroni.prod", "DetailType": "Patroni role change", "EventBusName": "patroni"}
        )
        self.assertGreaterEqual(payload.pop("age_ms"), 0)
        self.assertEqual(payload, ROLE_CHANGE)

    def test_event_bus_is_tried_again_with_a_new_age_until_eventbridge_accepts(self):
        failures = [
            (THROTTLED, "not accepted.*ThrottlingException.*Slow"),
            ("sys.exit('An error occurred (AccessDeniedException)')", r"exit status 1: .*AccessDeniedException"),
            ("print('{')", "unexpected output"),
            ("print('[]')", "unexpected output"),
            ("print('{}')", "unexpected output"),
            ("print(json.dumps({'FailedEntryCount': 1}))", "not accepted"),
            ("sys.stdout.buffer.write(b'\\xff')", "unexpected output"),
            ("os.kill(os.getpid(), signal.SIGKILL)", "exit status -9"),
        ]
        aws = self.aws(*[program for program, _ in failures], ACCEPTED)
        code, output = self.run_callback(*BUS, *QUICK, env=aws.env)
        lines = output.splitlines()
        self.assertEqual((code, len(lines)), (0, len(failures) + 1), output)
        for (_, message), line in zip(failures, lines):
            self.assertRegex(line, message)
        ages = [json.loads(entry["Detail"])["age_ms"] for entry in aws.entries]
        self.assertEqual(ages, sorted(set(ages)))

    def test_event_bus_that_never_accepts_is_an_http_error(self):
        aws = self.aws(THROTTLED)
        for script, message in [(None, "not accepted"), ("#!/nowhere\n", "No such file or directory.*aws")]:
            with self.subTest(script=script):
                if script:
                    (self.folder / "bin" / "aws").write_text(script)
                code, output = self.run_callback(*BUS, "--max-retries", "2", *QUICK, env=aws.env)
                self.assertEqual((code, len(output.splitlines())), (3, 2))
                self.assertRegex(output, f"attempt 2: .*{message}.*; giving up")

    def test_aws_is_killed_with_its_children_at_the_time_limit(self):
        """They could deliver the event later, with an age_ms that was computed long ago."""
        fifo = self.fifo()
        reader = os.open(str(fifo), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        aws = self.aws()
        script = f"#!/bin/sh\nexec 3>{fifo}\n{shutil.which('sleep')} 600 &\necho started >&3\nwait\n"
        (self.folder / "bin" / "aws").write_text(script)
        with mock.patch.object(callback, "AWS_TIMEOUT", 1.0):
            code, output = self.run_callback(*BUS, "--max-retries", "1", env=aws.env)
        self.assertEqual((code, len(output.splitlines())), (3, 1), output)
        self.assertIn("aws was killed after 1.0 s", output)
        self.assertEqual(os.read(reader, 100), b"started\n")
        # The end of the file: no process has the FIFO open for writing.
        self.assertEqual(select.select([reader], [], [], 10)[0], [reader])
        self.assertEqual(os.read(reader, 100), b"")

    def test_aws_that_prints_without_end_is_killed_and_its_output_is_not_kept(self):
        limit = callback.MAX_RESPONSE_SIZE
        for stream in ("stdout", "stderr"):
            with self.subTest(stream=stream):
                shutil.rmtree(str(self.folder / "bin"), ignore_errors=True)
                aws = self.aws(f"while True: sys.{stream}.write('x' * 65536)")
                code, output = self.run_callback(*BUS, "--max-retries", "1", env=aws.env)
                self.assertEqual((code, len(output.splitlines())), (3, 1), output)
                self.assertRegex(output, f"aws was killed after .* s: it had printed more than {limit} bytes;")

    def test_aws_may_print_as_much_as_is_read(self):
        """More than a pipe takes at once, on both of its outputs."""
        padding = callback.MAX_RESPONSE_SIZE - 200
        aws = self.aws(f"sys.stderr.write('x' * {padding}); print(' ' * {padding}); {ACCEPTED}")
        self.assertEqual(self.run_callback(*BUS, env=aws.env)[0], 0)

    def test_aws_that_closes_its_output_and_does_not_end_is_killed_at_the_time_limit(self):
        aws = self.aws("os.close(1); os.close(2)\nimport time\ntime.sleep(600)")
        with mock.patch.object(callback, "AWS_TIMEOUT", 1.0):
            code, output = self.run_callback(*BUS, "--max-retries", "1", env=aws.env)
        self.assertEqual(code, 3)
        self.assertIn("aws was killed after 1.0 s; giving up", output)

    def test_missing_aws_command_is_an_error_that_names_the_remedy(self):
        code, output = self.run_callback(*BUS, env={"PATH": "/nowhere"})
        self.assertEqual(code, 4)
        self.assertRegex(output, "command aws .*/nowhere.*install the AWS CLI")

    def test_session_token_in_an_error_of_aws_is_not_logged(self):
        """AWS returns the signed headers if the signature does not match."""
        aws = self.aws("sys.exit('(SignatureDoesNotMatch) host:events\\nx-amz-security-token:IQoJ+/a=\\nhost')")
        code, output = self.run_callback(*BUS, "--max-retries", "1", env=aws.env)
        self.assertEqual(code, 3)
        self.assertIn("SignatureDoesNotMatch", output)
        self.assertNotIn("IQoJ", output)

    # TLS.

    def test_tls_verifies_the_server(self):
        function = self.tls_function(response(0))
        self.assertEqual(self.run_callback("--url", function.url, "--ca-file", certificate("ca.pem"))[0], 0)
        code, output = self.run_callback("--url", function.url, "--max-retries", "1")
        self.assertEqual(code, 3, "unknown CA")
        self.assertIn("TLS failed", output)
        self.assertEqual(len(function.requests), 1)

    @unittest.skipUnless(hasattr(ssl, "TLSVersion"), "Python 3.7")
    def test_tls_is_1_2_or_newer(self):
        self.assertEqual(callback.tls_context(settings("--url", "https://x/")).minimum_version, ssl.TLSVersion.TLSv1_2)

    def test_mutual_tls_sends_the_client_certificate(self):
        context = server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate("ca.pem"))
        function = self.function(response(0), context=context)
        common = ["--url", function.url, "--ca-file", certificate("ca.pem"), "--max-retries", "1"]
        client = ["--client-cert", certificate("client.pem"), "--client-key", certificate("client.key")]
        self.assertEqual(self.run_callback(*common, *client)[0], 0)
        self.assertEqual(self.run_callback(*common)[0], 3)

    def test_certificate_of_another_host_is_rejected(self):
        function, proxy = self.tls_function(response(0)), self.proxy()
        url = function.url.replace("127.0.0.1", "localhost")
        ca = ["--ca-file", certificate("ca.pem")]
        for options, message in [
            ([], "attempt 2: TLS failed"),
            (["--proxy", proxy.address], f"attempt 2: TLS through proxy {proxy.address} failed"),
        ]:
            with self.subTest(options=options):
                code, output = self.run_callback("--url", url, *ca, *options, "--max-retries", "2", *QUICK)
                self.assertEqual((code, function.requests), (3, []))
                self.assertIn(message, output)
        self.assertEqual(len(proxy.requests), 2)

    def test_encrypted_client_key_is_an_error_without_a_prompt(self):
        client = ["--client-cert", certificate("client.pem"), "--client-key", certificate("locked.key")]
        code, output = self.run_process("--url", "https://example.com/", *client)
        self.assertEqual(code, 4)
        self.assertIn("--client-cert", output)

    # Proxy.

    def proxy(self, *arguments):
        proxy = Proxy(*arguments)
        self.addCleanup(proxy.close)
        return proxy

    def test_proxy_is_used_with_connect_and_its_credentials(self):
        function, proxy = self.tls_function(response(0)), self.proxy()
        ca = ["--ca-file", certificate("ca.pem")]
        url = f"http://us%40er:pass%3Aword@{proxy.address}"
        for options, env in [
            (["--proxy", url], {}),
            (["--proxy", url + "/"], {"NO_PROXY": "*"}),
            ([], {"HTTPS_PROXY": url}),
            ([], {"https_proxy": url.replace("http://", "")}),
            ([], {"HTTPS_PROXY": url, "NO_PROXY": "example.com"}),
        ]:
            with self.subTest(options=options, env=env):
                code, output = self.run_callback("--url", function.url, *ca, *options, env=env)
                self.assertEqual(code, 0, output)
                ((request, headers),) = proxy.requests
                self.assertRegex(request, f"^CONNECT {function.address} HTTP/1")
                authorization = "Basic " + base64.b64encode(b"us@er:pass:word").decode()
                self.assertEqual(headers.get_all("proxy-authorization"), [authorization])
                ((path, headers, _, _),) = function.requests
                self.assertEqual((path, headers["Host"]), ("/config-switch", function.address))
                self.assertNotIn("proxy-authorization", {name.lower() for name in headers})
                proxy.requests.clear()
                function.requests.clear()

    def test_proxy_of_the_environment_is_not_used_for_excluded_hosts_and_plain_http(self):
        ca = ["--ca-file", certificate("ca.pem")]
        unused = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
        for function, env in [
            (self.tls_function(response(0)), {"NO_PROXY": "example.com, 127.0.0.1"}),
            (self.tls_function(response(0)), {"no_proxy": "*"}),
            (self.function(response(0)), {}),
        ]:
            with self.subTest(env=env):
                code, output = self.run_callback("--url", function.url, *ca, env={**unused, **env})
                self.assertEqual(code, 0, output)

    def test_proxy_option_is_used_for_plain_http_too(self):
        function, proxy = self.function(response(0)), self.proxy()
        code, output = self.run_callback("--url", function.url, "--proxy", proxy.address)
        self.assertEqual((code, len(proxy.requests)), (0, 1), output)
        self.assertIsNone(proxy.requests[0][1]["proxy-authorization"])

    def test_refusal_of_the_proxy_is_a_failed_attempt_that_names_the_proxy(self):
        function = self.tls_function(response(0))
        for status in ("407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"):
            with self.subTest(status=status):
                proxy = self.proxy(status)
                url = f"http://us3r:pass-word@{proxy.address}"
                options = ["--proxy", url, "--max-retries", "2", *QUICK]
                code, output = self.run_callback("--url", function.url, *options)
                self.assertEqual((code, len(proxy.requests), function.requests), (3, 2, []))
                self.assertRegex(output, f"attempt 2: .*proxy {proxy.address}.*{status}")
                self.assertNotRegex(output, "pass-word|us3r|" + base64.b64encode(b"us3r:pass-word").decode())

    def test_refused_connection_is_a_failed_attempt_that_names_the_proxy(self):
        address = self.unused_address()
        for options, message in [
            (["--url", f"http://{address}/"], "attempt 2: request failed: .*refused"),
            (["--url", "https://x/", "--proxy", address], f"attempt 2: request through proxy {address} .*refused"),
        ]:
            with self.subTest(options=options):
                code, output = self.run_callback(*options, "--max-retries", "2", *QUICK)
                self.assertEqual(code, 3)
                self.assertRegex(output, message)

    def test_invalid_proxy_is_rejected_without_showing_its_password(self):
        for url, message in [
            ("https://us3r:pass-word@proxy:3128", "only http:// proxies"),
            ("socks5://us3r:pass-word@proxy:1080", "only http:// proxies"),
            ("http://us3r:pass-word@", "not the URL of a proxy"),
            ("http://us3r:pass-word@proxy:port", "not the URL of a proxy"),
            ("http://us3r:pass-word@a..b:3128", "not the URL of a proxy"),
            ("http://us3r:pass-word@[::1", "not the URL of a proxy"),
            ("http://us3r:12/pass-word@proxy:3128", "percent-encode"),
            ("http://us3r:12#pass-word@proxy:3128", "percent-encode"),
            ("http://us3r:pass-word/@proxy:3128", "percent-encode"),
            ("http://us3r:12?pass-word@proxy:3128", "percent-encode"),
        ]:
            for source, options, env in [("--proxy", ["--proxy", url], {}), ("HTTPS_PROXY", [], {"HTTPS_PROXY": url})]:
                with self.subTest(url=url, source=source):
                    code, output = self.run_callback("--url", "https://x/", "--max-retries", "1", *options, env=env)
                    self.assertEqual(code, 4, output)
                    self.assertRegex(output, f"{source}: .*{message}")
                    self.assertNotRegex(output, "pass-word|us3r")

    def test_password_of_a_misspelt_option_is_not_shown(self):
        code, output = self.run_callback("--url", "https://x/", "--prox", "http://us3r:pass/word@proxy:3128")
        self.assertEqual(code, 4)
        self.assertIn("proxy:3128", output)
        self.assertNotRegex(output, "us3r|pass|word")

    # URLs.

    def test_url_without_a_port_uses_the_default_port(self):
        for url, expected in [
            ("https://example.com/", ("example.com", 443)),
            ("http://localhost/", ("localhost", 80)),
            ("https://[::1]/", ("::1", 443)),
        ]:
            with self.subTest(url=url):
                connection = endpoint(url).connection()
                self.assertEqual((connection.host, connection.port), expected)

    def test_url_with_an_ipv6_address(self):
        try:
            function = self.function(response(0), host="::1")
        except OSError:
            self.skipTest("IPv6 is not available")
        self.assertEqual(self.run_callback("--url", function.url)[0], 0)
        self.assertRegex(function.requests[0][1]["Host"], r"^\[::1\]:\d+$")

    def test_url_without_a_path_requests_the_root(self):
        function = self.function(response(0))
        url = function.url.replace("/config-switch", "?stage=prod")
        self.assertEqual(self.run_callback("--url", url)[0], 0)
        self.assertEqual(function.requests[0][0], "/?stage=prod")

    # Arguments.

    def test_invalid_arguments_are_named_and_a_secret_among_them_is_not_shown(self):
        url = ["--url", "https://example.com/config-switch"]
        for options, arguments, message in [
            ([], {}, "--url"),
            (["--url", "example.com"], {}, "--url example.com"),
            (["--url", "http://example.com/"], {}, "--allow-plain-http"),
            (["--url", "https://example.com:port/"], {}, "--url"),
            (["--url", "http://[::1/"], {}, "--url"),
            (["--url", "https://a..b/"], {}, "--url"),
            (["--url", "https://example.com/a b"], {}, "--url"),
            (["--url", "https://example.com/\xe9"], {}, "--url"),
            (["--url", "https://example.com/#x"], {}, "--url"),
            (["--ur", "https://example.com/"], {}, "config-switch"),
            ([*url, "--retry-wait", "0"], {}, "--retry-wait"),
            ([*url, "--max-time", "nan"], {}, "--max-time"),
            ([*url, "--retry-wait", "soon"], {}, "--retry-wait"),
            ([*url, "--max-retries", "0"], {}, "--max-retries"),
            ([*url, "--ca-file", "/nowhere"], {}, "--ca-file /nowhere"),
            ([*url, "--client-cert", "/nowhere"], {}, "--client-cert /nowhere"),
            ([*url, "--client-key", "/nowhere"], {}, "--client-key"),
            ([*url, "--secret-file", "/nowhere"], {}, "--secret-file /nowhere"),
            ([*url, "--surprise"], {}, "--surprise"),
            ([*url, "--secret", SECRET], {}, "config-switch"),
            ([*url, "--secret-file", SECRET], {}, "--secret-file"),
            (["--url", SECRET], {}, "--url"),
            ([*url, SECRET], {}, "config-switch"),
            ([*url, *BUS], {}, "--event-bus"),
            ([*url, "--stage", "prod"], {}, "--stage is for --event-bus"),
            (BUS[:2], {}, "--event-bus requires --stage"),
            ([*BUS[:3], "prod-eu"], {}, '--stage: "prod-eu" is not the name of a stage'),
            ([*BUS, "--dry-run"], {}, "--dry-run requires --url"),
            ([*BUS, "--ca-file", "/nowhere"], {}, "--ca-file requires --url"),
            ([*BUS, "--client-cert", "/nowhere"], {}, "--client-cert requires --url"),
            ([*BUS, "--client-key", "/nowhere"], {}, "--client-key requires --url"),
            ([*BUS, "--allow-plain-http"], {}, "--allow-plain-http requires --url"),
            ([*BUS, "--proxy", "proxy:3128"], {}, "--proxy requires --url"),
            (url, {"switch": [], "patroni": []}, "config-switch"),
            (url, {"patroni": []}, "action"),
            (url, {"patroni": ["on_stop", "primary", "main"]}, "on_stop"),
            (url, {"switch": SWITCH[:3] + SWITCH[5:]}, "--barman-model"),
            (url, {"switch": [*SWITCH, "--reset"]}, "--reset"),
            (url, {"switch": [*SWITCH, "--follow-leader"]}, "--follow-leader"),
            (url, {"switch": [*FOLLOW_LEADER, "--reset"]}, "--reset"),
            (url, {"switch": [*SWITCH[:-1], "sometimes"]}, "sometimes"),
        ]:
            with self.subTest(options=options, arguments=arguments):
                code, output = self.run_callback(*options, **arguments)
                self.assertEqual((code, len(output.splitlines())), (4, 1), output)
                self.assertIn(message, output)
        code, output = self.run_process("--surprise")
        self.assertEqual((code, len(output.splitlines())), (4, 1), output)

    def test_name_that_nothing_replaces_is_rejected_with_what_patroni_does(self):
        for text in ["pg:$HOSTNAME", "pg:${PATRONI_NAME}", "pg:{{ inventory_hostname }}", "pg:%h", "pg:`hostname`"]:
            for option, receiver in [("--barman-model", "--url"), ("--barman-server", "--event-bus")]:
                with self.subTest(text=text, option=option):
                    switch = [*SWITCH]
                    switch[switch.index(option) + 1] = text
                    code, output = self.run_callback(
                        receiver, "https://x/", switch=switch, patroni=["on_reload", "replica", "main"]
                    )
                    self.assertEqual((code, len(output.splitlines())), (4, 1), output)
                    self.assertIn(f'{option}: "{text}" cannot be', output)
                    self.assertRegex(
                        output, "without a shell .* PATRONI_.* write the name itself, or use --follow-leader"
                    )

    def test_name_that_patroni_has_split_is_rejected_with_its_first_word(self):
        """Patroni splits the command line as a shell does, but replaces nothing."""
        switch = [*SWITCH[:4], "pg:{{", "inventory_hostname", "}}", *SWITCH[5:]]
        code, output = self.run_callback("--url", "https://x/", "--dry-run", switch=switch)
        self.assertEqual(code, 4)
        self.assertRegex(output, '--barman-model: "pg:{{" .* use --follow-leader')

    def test_name_that_barman_cannot_have_is_rejected(self):
        for text in ["", "-x", ".x", "pg/node1", "pg node1", "main\n", "Köln", "x" * 256]:
            for option in ["--barman-model", "--barman-server"]:
                with self.subTest(text=text, option=option):
                    switch = [*SWITCH[:1], f"{option}={text}", *SWITCH[1:]]
                    code, output = self.run_callback("--url", "https://x/", switch=switch)
                    self.assertEqual((code, len(output.splitlines())), (4, 1), output)
                    self.assertRegex(output, f'{option}: "{text.strip()}" cannot be .* at most 255 characters ')
                    self.assertNotIn("shell", output)
        code, output = self.run_process("--url", "https://x/", switch=[*SWITCH[:4], b"caf\xe9", *SWITCH[5:]])
        self.assertEqual(code, 4)
        self.assertIn('--barman-model: "caf\ufffd" cannot be', output)

    def test_every_name_that_barman_can_have_is_accepted(self):
        function = self.function(response(0))
        for text in ["m", "0", "_", "pg:node1.example.com", "a@b+c~d=e,f-g_h", "x" * 255]:
            with self.subTest(text=text):
                switch = ["config-switch", "--barman-server", text, "--barman-model", text, *SWITCH[5:]]
                self.assertEqual(self.run_callback("--url", function.url, switch=switch)[0], 0)
                payload = json.loads(function.requests[-1][2].decode())
                self.assertEqual((payload["barman_server"], payload["barman_model"]), (text, text))

    def test_unexpected_error_is_an_http_error(self):
        """Python would exit with 1, which means CONFIG_SWITCH_SKIPPED."""
        with mock.patch.object(callback, "tls_context", side_effect=OSError("no CA certificates")):
            code, output = self.run_callback("--url", "https://example.com/")
        self.assertEqual(code, 3)
        self.assertIn("OSError: no CA certificates", output)

    def test_password_in_the_url_is_not_shown(self):
        for url in ["https://a:pass-word@x/", "ftp://a:pass-word@x/", "https://a:pass-word@x y/", "a:pass-word@x"]:
            with self.subTest(url=url):
                code, output = self.run_callback("--url", url)
                self.assertEqual(code, 4)
                self.assertIn("--url", output)
                self.assertNotIn("pass-word", output)
        self.assertEqual(endpoint("https://x/a@b").path, "/a@b")

    def test_invalid_secret_file_is_rejected(self):
        for text, mode, message in [
            (SECRET, 0o640, "chmod 600"),
            (SECRET, 0o604, "chmod 600"),
            ("", 0o600, "no secret"),
            ("secret", 0o600, "whsec_"),
            ("whsec_short", 0o600, "whsec_"),
            ("whsec_!!!!", 0o600, "whsec_"),
            ("whsec_\xe9", 0o600, "whsec_"),
            (f"{SECRET} secret", 0o600, "whsec_"),
        ]:
            with self.subTest(text=text, mode=oct(mode)):
                self.write_secret(text, mode)
                code, output = self.run_callback("--url", "https://example.com/")
                self.assertEqual(code, 4)
                self.assertRegex(output, f"--secret-file {self.secret_file}: .*{message}")

    def test_input_that_is_not_a_regular_file_is_rejected(self):
        """Opening a FIFO would wait for a writer for ever."""
        fifo = self.fifo()
        for option, before in [
            ("--secret-file", []),
            ("--ca-file", []),
            ("--client-cert", []),
            ("--client-key", ["--client-cert", certificate("client.pem")]),
        ]:
            for file in (fifo, self.folder):
                with self.subTest(option=option, file=file.name):
                    code, output = self.run_callback("--url", "https://example.com/", *before, option, str(file))
                    self.assertEqual(code, 4)
                    self.assertIn(f"{option} {file}: not a regular file", output)

    def test_secret_is_read_from_the_environment_without_a_file(self):
        function = self.function(response(0))
        command = [sys.executable, str(CALLBACK), *self.arguments("--url", function.url)[2:]]
        name = "BARMAN_CONFIG_SWITCH_SECRET"
        for env, expected in [({name: SECRET}, 0), ({name: "whsec_ä"}, 4), ({}, 4)]:
            with self.subTest(env=env):
                done = subprocess.run(command, env={**ENV, **env}, stderr=subprocess.PIPE, timeout=60, check=False)
                self.assertEqual((done.returncode, len(function.requests)), (expected, 1))
        self.assertIn(b"--secret-file", done.stderr)

    # The log.

    def test_log_file_replaces_standard_error(self):
        function = self.function(response(2, 502, recorded=False))
        log = self.folder / "log"
        self.assertEqual(self.run_process("--url", function.url, "--log-file", str(log)), (2, ""))
        expected = r"^\S+ \S+ ERROR: http://\S+, attempt 1: CONFIG_SWITCH_FAILED test message"
        self.assertRegex(log.read_text(), expected)

    def test_level_is_warning_if_the_function_continues_by_itself_and_error_if_not(self):
        for exit_code, status, recorded, level in [
            (0, 200, True, "INFO"),
            (1, 200, False, "INFO"),
            (2, 502, True, "WARNING"),
            (2, 502, False, "ERROR"),
            (3, 202, True, "WARNING"),
            (3, 504, False, "ERROR"),
            (4, 400, False, "ERROR"),
        ]:
            with self.subTest(exit_code=exit_code, recorded=recorded):
                function = self.function(response(exit_code, status, recorded))
                code, output = self.run_callback("--url", function.url, "--max-retries", "1")
                self.assertEqual(code, exit_code)
                self.assertRegex(output, rf"^\S+ \S+ {level}: http://\S+, attempt 1: ")

    def test_invalid_arguments_are_logged_to_the_file_and_to_standard_error(self):
        log = self.folder / "log"
        code, output = self.run_callback("--url", "ftp://x", "--log-file", str(log))
        self.assertEqual((code, len(output.splitlines())), (4, 1))
        self.assertEqual(log.read_text(), output)

    def test_command_line_that_is_rejected_is_logged_to_the_file_and_to_standard_error(self):
        model = [word.replace("pg:node1", "pg:$HOSTNAME") for word in SWITCH]
        log = self.folder / "log"
        for option in (["--log-file", str(log)], [f"--log-file={log}"]):
            for arguments, named in [
                ({"switch": model}, "--barman-model"),
                ({"switch": [*SWITCH, "--surprise"]}, "unrecognized arguments: --surprise"),
                ({"patroni": ()}, "required: action"),
            ]:
                with self.subTest(option=option, named=named):
                    code, output = self.run_process("--url", "https://x/", *option, **arguments)
                    self.assertEqual((code, len(output.splitlines())), (4, 1), output)
                    self.assertIn(named, output)
                    self.assertEqual(log.read_text(), output)
                    log.unlink()

    def test_command_line_that_is_rejected_is_logged_to_standard_error_if_it_has_no_usable_log_file(self):
        for option, lines in [((), 1), (("--log-file=",), 1), (("--log-file", "/nowhere/log"), 2)]:
            with self.subTest(option=option):
                code, output = self.run_process("--surprise", *option)
                self.assertEqual((code, len(output.splitlines())), (4, lines), output)
                self.assertIn("--url", output)
        code, output = self.run_process(switch=(), patroni=("--log-file",))
        self.assertEqual((code, len(output.splitlines())), (4, 1), output)

    def test_role_change_is_sent_even_if_the_log_cannot_be_written(self):
        function = self.function(response(0))
        code, output = self.run_callback("--url", function.url, "--log-file", "/nowhere/log")
        self.assertEqual(code, 0)
        self.assertIn("--log-file /nowhere/log: No such file or directory", output)
        self.assertEqual(self.run_process("--url", function.url, "--log-file", "/dev/full"), (0, ""))
        with open("/dev/full", "w") as full:
            self.assertEqual(self.run_process("--url", function.url, stderr=full)[0], 0)
            self.assertEqual(self.run_process("--surprise", stderr=full)[0], 4)
        self.assertEqual(len(function.requests), 3)

    def test_log_file_that_is_not_a_regular_file_is_replaced_by_standard_error(self):
        """Opening a FIFO would wait for a reader for ever, and writing to it for a slow reader."""
        function, fifo = self.function(response(0)), self.fifo()
        for reader in (False, True):
            with self.subTest(reader=reader):
                if reader:
                    self.addCleanup(os.close, os.open(str(fifo), os.O_RDONLY | os.O_NONBLOCK))
                code, output = self.run_callback("--url", function.url, "--log-file", str(fifo))
                self.assertEqual((code, len(output.splitlines())), (0, 2), output)
                self.assertIn(f"--log-file {fifo}: not a regular file; logging to standard error", output)
                self.assertIn("CONFIG_SWITCH_DONE", output)

    def test_log_file_may_be_standard_output_standard_error_or_null(self):
        function = self.function(response(0))
        for file, lines in [("/dev/stdout", 1), ("/dev/stderr", 1), ("/dev/null", 0)]:
            with self.subTest(file=file):
                code, output = self.run_process("--url", function.url, "--log-file", file)
                self.assertEqual((code, len(output.splitlines())), (0, lines), output)

    def test_arguments_and_locale_that_are_not_utf_8(self):
        status, body, _ = response(0)
        function = self.function((status, body.replace(b"test", "Zürich".encode()), {}))
        log = self.folder / "log"
        options = ["--log-file", str(log)]
        # Without UTF-8 mode, Python 3.7 and newer decode arguments as Python 3.6 does.
        for env in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}):
            for scope, cluster in [("Köln 🐘".encode(), "Köln 🐘"), (b"caf\xe9", "caf\ufffd")]:
                with self.subTest(env=env, scope=scope):
                    patroni = ["on_role_change", "primary", scope]
                    done = self.run_process("--url", function.url, *options, patroni=patroni, env=env)
                    self.assertEqual(done, (0, ""))
                    self.assertEqual(json.loads(function.requests[-1][2].decode())["cluster"], cluster)
        code, _ = self.run_process(b"--url", b"ftp://\xe9", *options, env={"LC_ALL": "C"})
        lines = log.read_text(encoding="utf-8").splitlines()
        self.assertEqual((code, len(lines)), (4, 7))
        self.assertTrue(all("Zürich message" in line for line in lines[:6]), lines)

    def test_log_has_one_printable_line_per_attempt_for_any_response(self):
        forged = "\x1b[2J\r\nforged \u2028 line"
        malicious = {"exit_code": 0, "exit_status": "DONE\n", "message": forged, "recorded": True}
        function = self.function((503, b"\r\n\x00\xff" * 100, {}), (200, json.dumps(malicious).encode(), {}))
        code, output = self.run_callback("--url", function.url, *QUICK)
        self.assertEqual((code, len(output.splitlines())), (0, 2))
        self.assertTrue(all(character.isprintable() or character == "\n" for character in output), output)


class RetryTest(unittest.TestCase):
    """Tests when attempts are made, with a simulated clock."""

    def setUp(self):
        self.now = callback.STARTED
        for patch in [
            mock.patch.object(callback, "boot_time", lambda: self.now),
            mock.patch.object(callback.time, "sleep", self.sleep),
            mock.patch.object(callback.logger, "log"),
            mock.patch.object(callback.logger, "warning"),
        ]:
            patch.start()
            self.addCleanup(patch.stop)

    def sleep(self, delay):
        self.now += delay

    def send(self, *results, options=()):
        """Sends with the results in order, of which the last one is repeated.

        Returns the exit code and the delays between the attempts (s).
        """
        self.now, started_at, limits = callback.STARTED, [], []
        receiver = callback.Receiver("https://x/", 45, settings("--url", "https://x/", *options))

        def attempt(deadline):
            started_at.append(self.now)
            limits.append(deadline.left())
            result = results[min(len(started_at), len(results)) - 1]
            if isinstance(result, Exception):
                raise result
            return result

        with mock.patch.object(receiver, "attempt", attempt):
            receiver.send()
        self.assertTrue(all(0 < limit < 45.001 for limit in limits), limits)
        return receiver.exit_code, [after - before for before, after in zip(started_at, started_at[1:])]

    def evaluate(self, status, **header):
        message = email.message.Message()
        for name, value in header.items():
            message[name.replace("_", "-")] = value
        return callback.evaluate(status, message, b"")

    def test_delays_grow_and_are_random(self):
        for fraction in (0, 0.5, 1):
            between = lambda low, high: low + fraction * (high - low)  # noqa: B023, E731
            with mock.patch.object(callback.random, "uniform", between):
                code, delays = self.send(self.evaluate(503))
            self.assertEqual(code, 3)
            for delay, limit in zip(delays, (4, 8, 10, 10)):
                self.assertAlmostEqual(delay, 2 + fraction * limit)

    def test_attempts_end_after_ten_minutes(self):
        _, delays = self.send(self.evaluate(503))
        self.assertTrue(all(1.99 <= delay <= 12.01 for delay in delays))
        self.assertTrue(588 < self.now - callback.STARTED < 600)
        self.assertTrue(49 <= len(delays) <= 299)

    def test_thousands_of_attempts_are_possible(self):
        with mock.patch.object(callback.random, "uniform", lambda low, high: low):
            code, delays = self.send(self.evaluate(503), options=["--retry-wait", "0.01", "--max-retries", "5000"])
        self.assertEqual((code, len(delays)), (3, 4999))

    def test_pause_ends_at_the_time_limit_if_the_machine_was_suspended(self):
        """time.sleep stands still meanwhile: the rest of the pause would exceed --max-time."""
        slept = []

        def sleep(delay):
            slept.append(delay)
            self.now += 700

        with mock.patch.object(callback.time, "sleep", sleep):
            code, delays = self.send(self.evaluate(503, retry_after="60"))
        self.assertEqual((code, delays), (3, []))
        self.assertLessEqual(sum(slept), 1)

    def test_attempt_that_cannot_be_started_is_a_failed_attempt(self):
        """RLIMIT_NPROC, or memory."""
        done = callback.Attempt(0, "done")
        code, delays = self.send(RuntimeError("can't start new thread"), MemoryError(), done)
        self.assertEqual((code, len(delays)), (0, 2))
        self.assertEqual(self.send(RuntimeError("can't start new thread"), options=["--max-retries", "3"])[0], 3)

    def test_url_without_a_thread_does_not_affect_the_others(self):
        start, failures = threading.Thread.start, [RuntimeError("can't start new thread")] * 2

        def fail_first(thread):
            if failures:
                raise failures.pop()
            start(thread)

        receiver = callback.Receiver("https://x/", 45, settings("--url", "https://x/", "--max-retries", "3"))
        ran = threading.Event()
        with mock.patch.object(receiver, "send", ran.set):
            with mock.patch.object(callback.threading.Thread, "start", fail_first):
                self.assertIsNotNone(receiver.send_in_thread())
            self.assertTrue(ran.wait(10))
            with mock.patch.object(callback.threading.Thread, "start", side_effect=RuntimeError):
                self.assertIsNone(receiver.send_in_thread())
        self.assertEqual(receiver.exit_code, 3)

    def test_retry_after_is_seconds_or_a_date_and_at_most_one_minute(self):
        date = email.utils.formatdate(1e9, usegmt=True)
        later, earlier = (email.utils.formatdate(1e9 + s, usegmt=True) for s in (40, -40))
        for header, minimum in [
            ({"retry_after": "30"}, 30),
            ({"retry_after": "3600"}, 60),
            ({"retry_after": later, "date": date}, 40),
            ({"retry_after": earlier, "date": date}, 2),
            ({"retry_after": "-5"}, 2),
            ({"retry_after": "nan"}, 2),
            ({"retry_after": "soon"}, 2),
            ({"retry_after": " "}, 2),
        ]:
            with self.subTest(header=header):
                _, (delay,) = self.send(self.evaluate(503, **header), callback.Attempt(0, "done"))
                self.assertTrue(minimum - 0.01 <= delay <= minimum + 10.01, delay)


class OptionsTest(unittest.TestCase):
    """Tests the table of options."""

    def test_settings_have_an_attribute_for_each_option(self):
        given = settings("--url", "https://x/")
        before = {callback.attribute(option) for option in callback.OPTIONS}
        after = {callback.attribute(option) for option in callback.SWITCH_OPTIONS}
        self.assertEqual(set(callback.Settings.__annotations__), before | {"role_change"})
        self.assertEqual(set(vars(given)), before | after | {"role_change"})

    def test_documentation_has_the_options(self):
        page = ROOT / "docs" / "reference" / "callback.md"
        actual = page.read_text(encoding="utf-8")
        table = "\n".join(self.table())
        marks = r"(?<=<!-- callback -->\n).*(?=<!-- /callback -->)"
        expected, places = re.subn(marks, lambda _: f"\n{table}\n\n", actual, flags=re.DOTALL)
        self.assertEqual(places, 1)
        if os.environ.get("UPDATE_DOCS"):
            page.write_text(expected, encoding="utf-8")
        else:
            self.assertEqual(actual, expected, f"{page} is stale; set UPDATE_DOCS=1 to write it")

    def test_documentation_has_the_time_limit_of_aws(self):
        page = (ROOT / "docs" / "how-to" / "eventbridge.md").read_text(encoding="utf-8")
        self.assertIn(f"killed after {callback.AWS_TIMEOUT:.0f} s", page)

    def table(self):
        """Returns the rows of the table in docs/reference/callback.md."""
        yield "| option | before or after `config-switch` | meaning |"
        yield "| --- | --- | --- |"
        for place, options in [("before", callback.OPTIONS), ("after", callback.SWITCH_OPTIONS)]:
            for name, keywords in options.items():
                if name.startswith("--"):
                    one_of = ", ".join(f"`{choice}`" for choice in keywords.get("choices", []))
                    meaning = keywords.get("help", f"one of {one_of}") % keywords
                    required = "required; " if keywords.get("required") else ""
                    yield f"| `{name}` | {place} | {required}{meaning} |"


if __name__ == "__main__":
    unittest.main()
